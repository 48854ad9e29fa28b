"""How many visual tokens of an image survive: one budget, one rounding rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foveate.core.settings import plain_setting
from foveate.errors import BudgetError


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A per-image budget, given either as a count or as a share of the image's visual tokens.

    Args:
        keep_tokens: visual tokens to keep of each image, at least 1.
        keep_ratio: share of each image's visual tokens to keep, in (0, 1].

    Numbers of numpy and torch become Python's.

    Raises:
        BudgetError: if both or neither are given, or a value is no number or out of range.

    Example:
        >>> Budget(keep_ratio=0.25).count(576)
        144
    """

    keep_tokens: int | None = None
    keep_ratio: float | None = None

    def __post_init__(self) -> None:
        if (self.keep_tokens is None) == (self.keep_ratio is None):
            got = "both" if self.keep_tokens is not None else "neither"
            raise BudgetError(
                f"got {got} of keep_tokens and keep_ratio; give exactly one, "
                "e.g. keep_tokens=128 or keep_ratio=0.25."
            )
        if self.keep_tokens is not None:
            keep_tokens = plain_setting(
                "keep_tokens", self.keep_tokens, int, BudgetError, fix="for a share use keep_ratio"
            )
            object.__setattr__(self, "keep_tokens", keep_tokens)
            if keep_tokens < 1:
                raise BudgetError(f"keep_tokens={keep_tokens} is below 1; keep at least 1 token.")
        else:
            keep_ratio = plain_setting(
                "keep_ratio", self.keep_ratio, float, BudgetError, example=0.25
            )
            object.__setattr__(self, "keep_ratio", keep_ratio)
            if not 0.0 < keep_ratio <= 1.0:
                raise BudgetError(
                    f"keep_ratio={keep_ratio} is outside (0, 1]; for a count use keep_tokens."
                )

    def count(self, num_tokens: int, image: int = 0) -> int:
        """Number of visual tokens to keep of an image that has `num_tokens`.

        A share is rounded half up and never below 1. `image` only names the image in the error.

        Raises:
            BudgetError: if keep_tokens exceeds the tokens of the image.
        """
        if self.keep_ratio is not None:
            return max(1, math.floor(self.keep_ratio * num_tokens + 0.5))
        assert self.keep_tokens is not None
        if self.keep_tokens > num_tokens:
            raise BudgetError(
                f"keep_tokens={self.keep_tokens} exceeds the {num_tokens} visual tokens of "
                f"image {image}; lower it or use keep_ratio."
            )
        return self.keep_tokens

    def __str__(self) -> str:
        if self.keep_ratio is not None:
            return f"{100 * self.keep_ratio:g}%"
        return f"{self.keep_tokens} tokens"


def parse_budget(keep: str | int | float) -> Budget:
    """Read a budget as people write it: "64" and 64 are counts, "25%", "0.25" and 0.25 shares.

    Raises:
        BudgetError: if it is none of these, or an impossible one.
    """
    if not isinstance(keep, str):
        number = plain_setting(
            "keep", keep, int | float, BudgetError, fix="write 64 for a count, 0.25 or '25%'"
        )
        is_count = isinstance(number, int)
        return Budget(keep_tokens=number) if is_count else Budget(keep_ratio=number)
    cleaned = keep.strip()
    try:
        if cleaned.endswith("%"):
            return Budget(keep_ratio=float(cleaned[:-1]) / 100)
        if "." in cleaned:
            return Budget(keep_ratio=float(cleaned))
        return Budget(keep_tokens=int(cleaned))
    except BudgetError:
        raise
    except ValueError:
        raise BudgetError(
            f"budget {keep!r} is not a count or a share; write 64, 25% or 0.25."
        ) from None
