"""What is to answer: model, method and how prompts are made, read from `name=value` settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from foveate.assets import EMBEDDED
from foveate.carve.method import Method
from foveate.carve.spec import method_class, parse_method
from foveate.core.budget import BUDGET, Budget
from foveate.errors import InputError

__all__ = ["AnswererSettings"]

AspectRatio = Literal["original", "pad"]


@dataclass(frozen=True, kw_only=True)
class AnswererSettings:
    """Settings of a CarvedAnswerer.

    Args:
        pretrained: a folder or hub id, or "embedded" for the model that comes with foveate.
        method: what to keep.
        device, dtype: as for foveate.models.load.load_vlm.
        attn_implementation: attention kernel as transformers names it; None takes its default.
        batch_size: requests that are answered at once.
        system_prompt: a system turn before every question; "" for none.
        image_aspect_ratio: "original" leaves pictures to the processor; "pad" first puts each on a
            square of the processor's mean colour, as LLaVA-1.5 was evaluated.
        min_pixels, max_pixels: of a picture, for Qwen-VL; None leaves the checkpoint's own.

    Raises:
        InputError: a value that cannot be.
    """

    pretrained: str
    method: Method
    device: str = "auto"
    dtype: str = "auto"
    attn_implementation: str | None = None
    batch_size: int = 1
    system_prompt: str = ""
    image_aspect_ratio: AspectRatio = "original"
    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.image_aspect_ratio not in get_args(AspectRatio):
            raise InputError(
                f"image_aspect_ratio={self.image_aspect_ratio!r} is unknown; use "
                f"{' or '.join(get_args(AspectRatio))}."
            )
        if self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size} is below 1; use at least 1.")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> AnswererSettings:
        """Read settings; what is not one of this class is one of the method.

        Raises:
            InputError: a setting that neither this class nor the method has, one that is missing,
                or a value of the wrong kind.
            MethodError, BudgetError: as the method says.
        """
        given = {key: _unquoted(value) for key, value in settings.items()}
        for name, example in (("pretrained", EMBEDDED), ("method", "tokencarve")):
            if name not in given:
                raise InputError(f"{name} is missing; give e.g. {name}={example}.")
        own_names = [field.name for field in fields(cls)]
        own = {key: given.pop(key) for key in own_names if key in given}
        own["method"] = _method(str(own["method"]), given, own_names)
        own["pretrained"] = str(own["pretrained"])
        for key in ("batch_size", "min_pixels", "max_pixels"):
            if key in own:
                own[key] = _whole_number(key, own[key])
        for key in ("device", "dtype", "system_prompt", "image_aspect_ratio"):
            if key in own:
                own[key] = str(own[key])
        return cls(**own)


def _method(name: str, settings: dict[str, Any], own_names: list[str]) -> Method:
    """The method from its name and the settings that are left."""
    cls = method_class(name)
    if cls is not None:
        _check_known(settings, own_names, name, [field.name for field in fields(cls)])
        return cls.from_dict(settings)
    # A stack of methods, or a method with settings in brackets.
    _check_known(settings, own_names, f"the budget of {name!r}", list(BUDGET))
    budget = {key: settings.get(key) for key in BUDGET}
    return parse_method(name, Budget(**budget))


def _check_known(
    settings: dict[str, Any], own_names: list[str], whose: str, known: list[str]
) -> None:
    for key, value in settings.items():
        if key not in known:
            raise InputError(
                f"got {key}={value!r}, which is no setting here; there are {', '.join(own_names)}, "
                f"and of {whose}: {', '.join(known)}."
            )


def _whole_number(key: str, value: Any) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal():
        raise InputError(f"{key}={value!r} is not a whole number; give one, e.g. {key}=8.")
    return int(text)


def _unquoted(value: Any) -> Any:
    """lmms-eval keeps the quotes around values that hold commas."""
    is_quoted = isinstance(value, str) and len(value) > 1 and value[0] == value[-1]
    return value[1:-1] if is_quoted and value[0] in "'\"" else value
