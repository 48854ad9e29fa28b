"""The shape of a text encoder, checked on construction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from foveate.errors import InputError
from foveate.vist.encoder.labels import NUM_CLASSES

__all__ = ["TextEncoderConfig"]


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Shape of a `TextEncoder`.

    Args:
        height, patch, patches: geometry of a strip in pixels, pixels and patches.
        slots: places for characters per patch (see foveate.vist.encoder.labels); divides `patch`.
        stem_width, stem_reach: channels of the stem, and columns that its first layer sees.
        width, layers, heads, ff_mult: of the transformer.
        conv: patches that the depthwise convolution of a layer sees, odd.
        slot_width: channels per slot before the character classes.
        num_classes: classes of characters, with blank and other.
        token_width, tokens: width of the LLM's input embeddings that the token head points at, and
            how many tokens per patch it names; tokens=0 leaves the head out.

    Raises:
        InputError: if a value cannot be.
    """

    height: int = 14
    patch: int = 14
    patches: int = 256
    slots: int = 7
    stem_width: int = 128
    stem_reach: int = 12
    width: int = 192
    layers: int = 4
    heads: int = 6
    ff_mult: int = 4
    conv: int = 7
    slot_width: int = 64
    num_classes: int = NUM_CLASSES
    token_width: int = 576
    tokens: int = 2

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name in ("layers", "tokens") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name}={value!r}; give an integer of at least {least}.")
        for name, whole, part in (
            ("slots", self.patch, self.slots),
            ("heads", self.width, self.heads),
        ):
            if whole % part:
                raise InputError(f"{name}={part} does not divide {whole}; choose a divisor of it.")
        if self.conv % 2 == 0:
            raise InputError(f"conv={self.conv} is even; choose an odd number of patches.")

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> TextEncoderConfig:
        """The inverse of `to_dict`; an unknown field is an error."""
        unknown = sorted(set(fields) - set(cls.__dataclass_fields__))
        if unknown:
            raise InputError(f"unknown fields {unknown} in an encoder's config; remove them.")
        return cls(**fields)
