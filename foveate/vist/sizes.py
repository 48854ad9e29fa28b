"""How large the sizes of a configuration may be: whoever reads one from a file multiplies them."""

from __future__ import annotations

from typing import Any

from foveate.errors import ConfigError, InputError

__all__ = ["check_latents", "check_size", "most_of"]

MOST_SIZE = 1 << 16  # widths, and whatever is not named here
MOST = {
    "layers": 1 << 10,
    "num_layers": 1 << 10,
    "layer": 1 << 10,
    "heads": 1 << 10,
    "ff_mult": 1 << 6,
    "num_latents": 1 << 12,  # a strip of 256 patches shows some 700 characters
    "max_pages": 1 << 20,
    "intermediate_size": 1 << 20,
}


def most_of(name: str) -> int:
    """The largest value that a size of this name may have, far above what any sound file holds."""
    return MOST.get(name, MOST_SIZE)


def check_size(owner: str, name: str, value: Any, least: int = 1) -> None:
    """Raise ConfigError unless a size is a whole number from `least` to `most_of(name)`.

    Args:
        owner: whose size, e.g. "ResamplerConfig".
        name: of the field.
        value: anything.
        least: 1, or 0 where that means none; negative where it counts from the end.
    """
    is_count = isinstance(value, int) and not isinstance(value, bool)
    if not is_count or value < least:
        wanted = "a positive integer" if least == 1 else f"a whole number, {least} or more"
        raise ConfigError(f"{owner} got {name}={repr(value)[:40]}; use {wanted}.")
    most = most_of(name)
    if value > most:
        raise ConfigError(
            f"{owner} got {name}={repr(value)[:40]}, above the limit of {most:,}; lower it."
        )


def check_latents(num_latents: Any) -> None:
    """Raise InputError unless a document may be read with so many latents a page; None may."""
    is_count = isinstance(num_latents, int) and not isinstance(num_latents, bool)
    most = most_of("num_latents")
    if num_latents is not None and (not is_count or not 1 <= num_latents <= most):
        raise InputError(
            f"num_latents={repr(num_latents)[:40]}; use a whole number of at least 1 and at most "
            f"{most:,}, or None for the trained one."
        )
