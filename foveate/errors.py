"""Every error foveate raises on purpose. Each message says what was got, the limit, and the fix."""


class FoveateError(Exception):
    """Base of all foveate errors; the command line prints these without a traceback."""


class BudgetError(FoveateError, ValueError):
    """A token budget that is impossible, contradictory or missing."""


class MethodError(FoveateError, ValueError):
    """An unknown method, or a method configured with values it cannot run with."""


class UnsupportedModelError(FoveateError, TypeError):
    """A model whose anatomy foveate does not know, or that has no visual tokens."""


class UnsupportedModeError(FoveateError, RuntimeError):
    """A way of calling the model (cache type, chunked prefill) that cannot be carved."""


class CarvedCacheError(FoveateError, RuntimeError):
    """A carved KV cache was used without the run that carved it attached."""


class MemoryCacheError(FoveateError, RuntimeError):
    """A KV cache that holds a memory was used without the run that reads it attached."""


class NotFiredError(FoveateError, RuntimeError):
    """Images were asked about, and nothing was compressed although the budget asks for it."""


class AttachError(FoveateError, RuntimeError):
    """attach/detach was called in the wrong order."""


class InputError(FoveateError, ValueError):
    """A file, image or checkpoint given by the user that cannot be used."""


class ConfigError(FoveateError, ValueError):
    """A configuration whose values are impossible or contradict each other."""


class WindowError(InputError):
    """A prompt that is longer than the model's window."""


class DeclinedError(FoveateError, RuntimeError):
    """Rendering a text would cost more tokens than the text itself."""


class TrainingError(FoveateError, ArithmeticError):
    """A training run that cannot go on: its losses are no longer numbers."""


def check_least(error: type[FoveateError], settings: object, **least: int) -> None:
    """Raise `error` if a setting is below the least that it can be."""
    for name, low in least.items():
        value = getattr(settings, name)
        if value < low:
            raise error(f"{name}={value} is below {low}; raise it.")


def check_unicode(what: str, text: str) -> None:
    """Raise InputError if a text holds half a character, which no tokenizer takes.

    Bytes of a command line that are no UTF-8 become such halves, and JSON can write them.
    """
    half = next((mark for mark in text if "\ud800" <= mark <= "\udfff"), None)
    if half is not None:
        raise InputError(
            f"{what} holds U+{ord(half):04X}, half a character: it is no UTF-8, or was cut; write "
            "it anew."
        )
