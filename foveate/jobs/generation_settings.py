"""How an answer is generated, read from the generation settings that lmms-eval tasks have."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foveate.errors import InputError

__all__ = ["GenerationSettings"]

logger = logging.getLogger(__name__)

# lmms-eval's own wrapper of LLaVA takes this where a task says nothing.
MAX_NEW_TOKENS = 1024
MOST = (1 << 31) - 1  # of tokens or beams: what torch and vLLM count in 32 bit
KNOWN = (
    "max_new_tokens",
    "until",
    "do_sample",
    "temperature",
    "top_p",
    "top_k",
    "num_beams",
    "repetition_penalty",
    "min_new_tokens",
    "length_penalty",
)
# Settings of some tasks that are for other wrappers, and why they do nothing here.
WITHOUT_EFFECT = {
    "image_aspect_ratio": "pictures are shaped by the model_args setting of that name",
    "max_agentic_steps": "lmms-eval counts the steps itself",
    "seed": "lmms-eval seeds torch itself (--seed)",
    "skip_special_tokens": "special tokens are always left out",
    "visual_cot": "only tasks of type generate_visual_cot read it",
}


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """One way to generate; requests that share it share batches.

    Args:
        until: texts that end an answer.
        arguments: of `model.generate`, as sorted (name, value) pairs.
    """

    until: tuple[str, ...] = ()
    arguments: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> GenerationSettings:
        """Read a task's `generation_kwargs`.

        Answers are greedy unless `temperature` is above 0 and `do_sample` is not false, or
        `do_sample` is true and there is no `temperature`.

        Raises:
            InputError: an unknown setting, or a value of the wrong kind.
        """
        given = {key: value for key, value in settings.items() if value is not None}
        for key in sorted(given):
            if key in WITHOUT_EFFECT:
                logger.warning(
                    "generation setting %s=%r does nothing: %s", key, given[key],
                    WITHOUT_EFFECT[key],
                )  # fmt: skip
                del given[key]
        if "stop_sequences" in given:
            given.setdefault("until", given.pop("stop_sequences"))
        unknown = sorted(set(given) - set(KNOWN))
        if unknown:
            raise InputError(
                f"generation settings hold {unknown[0]}={given[unknown[0]]!r}, which is unknown; "
                f"use {', '.join(KNOWN)}."
            )
        until = given.pop("until", ())
        arguments: dict[str, Any] = {"max_new_tokens": MAX_NEW_TOKENS, "num_beams": 1, **given}
        for key in ("max_new_tokens", "num_beams"):
            value = arguments[key]
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{key}={value!r} is not a whole number of at least 1; give one.")
            if value > MOST:
                raise InputError(f"{key} is above the limit of {MOST:,}; lower it.")
        return cls(
            until=_texts(until),
            arguments=tuple(sorted(_sampling(arguments).items())),
        )


def _sampling(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same with one clear decision between greedy and sampled answers."""
    given = arguments.get("temperature")
    try:
        temperature = None if given is None else float(given)
    except (TypeError, ValueError):
        raise InputError(f"temperature={given!r} is not a number; use 0 for greedy.") from None
    may_sample = bool(arguments.get("do_sample", temperature is not None))
    if may_sample and (temperature is None or temperature > 0):
        return {**arguments, "do_sample": True}
    # None, not left out: the checkpoint's own generation config may hold sampling settings.
    return {**arguments, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}


def _texts(until: Any) -> tuple[str, ...]:
    texts = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"until={until!r} is neither a text nor a list of texts; give one.")
    return tuple(text for text in texts if text)
