"""How many visual tokens of an image survive: one budget, one rounding rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foveate.core.settings import plain_setting
from foveate.errors import BudgetError

__all__ = ["BUDGET", "Budget", "parse_budget"]

# The settings that make a budget, of every method too.
BUDGET = ("keep_tokens", "keep_ratio", "keep_information", "keep_min", "keep_max")
_KINDS = BUDGET[:3]
_BOUNDS = BUDGET[3:]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A per-image budget: a count, a share of the image's visual tokens, or of their information.

    Args:
        keep_tokens: visual tokens to keep of each image, at least 1.
        keep_ratio: share of each image's visual tokens to keep, in (0, 1].
        keep_information: share of each image's information that as many tokens could hold as are
            kept, in (0, 1], see `core.information_share`: few of a blank page, many of a dense one;
            1 keeps all.
        keep_min, keep_max: bounds to what keep_information keeps: an integer is a count, which an
            image with fewer tokens does not reach; a fraction is a share of the image's tokens, in
            (0, 1]. None is no bound; at least one token stays.

    Exactly one of the first three. Numbers of numpy and torch become Python's.

    Raises:
        BudgetError: if several or none are given, bounds without keep_information or that cross, or
            a value is no number or out of range.

    Example:
        >>> Budget(keep_ratio=0.25).count(576)
        144
        >>> print(Budget(keep_information=0.95, keep_min=16, keep_max=0.5))
        information=95%:16..50%
    """

    keep_tokens: int | None = None
    keep_ratio: float | None = None
    keep_information: float | None = None
    keep_min: int | float | None = None
    keep_max: int | float | None = None

    def __post_init__(self) -> None:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            got = {0: "none", 2: "both"}.get(len(given), "all")
            of = given or _KINDS
            raise BudgetError(
                f"got {got} of {', '.join(of[:-1])} and {of[-1]}; give exactly one, "
                "e.g. keep_tokens=128, keep_ratio=0.25 or keep_information=0.95."
            )
        self._make_plain()
        (kind,) = given
        if self.keep_tokens is not None and self.keep_tokens < 1:
            raise BudgetError(f"keep_tokens={self.keep_tokens} is below 1; keep at least 1 token.")
        if kind != "keep_tokens" and not 0.0 < (share := getattr(self, kind)) <= 1.0:
            fix = "for a count use keep_tokens" if kind == "keep_ratio" else "write 0.95 for 95 %"
            raise BudgetError(f"{kind}={share} is outside (0, 1]; {fix}.")
        self._check_bounds(kind)

    def _make_plain(self) -> None:
        """Numbers of other libraries become Python's."""
        kinds = (int, float, float, int | float, int | float)
        fixes = ("for a share use keep_ratio", "", "", *["a count is 16, a share 0.1"] * 2)
        for name, kind, fix in zip(BUDGET, kinds, fixes, strict=True):
            value = getattr(self, name)
            if value is not None:
                value = plain_setting(name, value, kind, BudgetError, fix=fix, example=0.25)
                object.__setattr__(self, name, value)

    def _check_bounds(self, kind: str) -> None:
        low, high = self.keep_min, self.keep_max
        for name, value in zip(_BOUNDS, (low, high), strict=True):
            if value is None:
                continue
            if kind != "keep_information":
                raise BudgetError(
                    f"{name}={value} bounds what keep_information keeps, and the budget is "
                    f"{kind}={getattr(self, kind)}; leave {name} out, or use keep_information."
                )
            if value < 1 if isinstance(value, int) else not 0.0 < value <= 1.0:
                raise BudgetError(
                    f"{name}={value} is neither a count of at least 1 nor a share in (0, 1]; "
                    f"write e.g. {name}=16 or {name}=0.1."
                )
        if low is not None and high is not None and type(low) is type(high) and low > high:
            raise BudgetError(f"keep_min={low} is above keep_max={high}; swap them.")

    @property
    def needs_states(self) -> bool:
        """Whether an image's count depends on what its tokens are, not on their number alone."""
        return self.keep_information not in (None, 1.0)

    @property
    def keeps_all(self) -> bool:
        """Whether no image can lose a token."""
        is_one = self.keep_ratio == 1.0 or self.keep_information == 1.0
        return is_one and self.keep_max in (None, 1.0)

    def count(self, num_tokens: int, image: int = 0) -> int:
        """Number of visual tokens to keep of an image that has `num_tokens`.

        A share is rounded half up and never below 1. `image` only names the image in the error.

        Raises:
            BudgetError: if keep_tokens exceeds the tokens of the image, or the number alone does
                not say (`needs_states`).
        """
        if self.needs_states:
            raise BudgetError(
                f"the budget {self} depends on what is in image {image}, and how many visual "
                "tokens stay must be known here before they are; use keep_ratio or keep_tokens."
            )
        return self.most(num_tokens, image)

    def most(self, num_tokens: int, image: int = 0) -> int:
        """`count`, or the most that it can be.

        Raises:
            BudgetError: if keep_tokens exceeds the tokens of the image, or the bounds cross there.
        """
        if self.keep_information is not None:
            return self.within(num_tokens, num_tokens, image)
        if self.keep_ratio is not None:
            return _share_of(num_tokens, self.keep_ratio)
        assert self.keep_tokens is not None
        if self.keep_tokens > num_tokens:
            raise BudgetError(
                f"keep_tokens={self.keep_tokens} exceeds the {num_tokens} visual tokens of "
                f"image {image}; lower it or use keep_ratio."
            )
        return self.keep_tokens

    def within(self, wanted: int, num_tokens: int, image: int = 0) -> int:
        """`wanted` tokens of an image that has `num_tokens`, held between keep_min and keep_max.

        Raises:
            BudgetError: if keep_min is above keep_max for an image of this size.
        """
        low, high = (
            default if bound is None else _bound_of(num_tokens, bound)
            for bound, default in ((self.keep_min, 1), (self.keep_max, num_tokens))
        )
        if low > high:
            raise BudgetError(
                f"keep_min={self.keep_min} is {low} and keep_max={self.keep_max} is {high} of the "
                f"{num_tokens} visual tokens of image {image}; lower keep_min or raise keep_max."
            )
        return min(max(wanted, low), high)

    def __str__(self) -> str:
        if self.keep_information is not None:
            text = f"information={_percent(self.keep_information)}"
            bounds = "..".join(map(_bound, (self.keep_min, self.keep_max)))
            return text if bounds == ".." else f"{text}:{bounds}"
        if self.keep_ratio is not None:
            return _percent(self.keep_ratio)
        return f"{self.keep_tokens} tokens"


def _percent(share: float) -> str:
    return f"{100 * share:g}%"


def _bound(value: int | float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else _percent(value)


def _share_of(num_tokens: int, share: float) -> int:
    return max(1, math.floor(share * num_tokens + 0.5))


def _bound_of(num_tokens: int, bound: int | float) -> int:
    """A bound as a count."""
    if isinstance(bound, int):
        return min(bound, num_tokens)
    return _share_of(num_tokens, bound)


def parse_budget(keep: str | int | float) -> Budget:
    """Read a budget as people write it: "64" and 64 are counts, "25%", "0.25" and 0.25 shares.

    "information=95%" is a share of the information; "information=95%:16..50%" keeps at least 16
    tokens and at most half, "information=95%:16.." and "information=95%:..50%" have one bound.

    Raises:
        BudgetError: if it is none of these, or an impossible one.
    """
    if not isinstance(keep, str):
        number = plain_setting(
            "keep", keep, int | float, BudgetError, fix="write 64 for a count, 0.25 or '25%'"
        )
        is_count = isinstance(number, int)
        return Budget(keep_tokens=number) if is_count else Budget(keep_ratio=number)
    if "=" in keep:
        return _parse_information(keep)
    number = _number(keep)
    if number is None:
        raise BudgetError(
            f"budget {keep!r} is not a count or a share; write 64, 25%, 0.25 or information=95%."
        )
    return Budget(keep_tokens=number) if isinstance(number, int) else Budget(keep_ratio=number)


def _parse_information(keep: str) -> Budget:
    """ "information=95%:16..50%"."""
    word, _, rest = keep.partition("=")
    share, colon, bounds = rest.partition(":")
    low, dots, high = bounds.partition("..")
    numbers = [_number(text) for text in (share, low, high)]
    is_there = [True, bool(low.strip()), bool(high.strip())]
    has_bounds = bool(dots) and any(is_there[1:]) if colon else True
    is_read = [
        (number is not None) == there for number, there in zip(numbers, is_there, strict=True)
    ]
    if word.strip() != "information" or not has_bounds or not all(is_read):
        raise BudgetError(
            f"budget {keep!r} is not a share of the information; write information=95%, or with "
            "bounds information=95%:16..50%, information=95%:16.. or information=95%:..50%."
        )
    share_held, least, most = numbers
    return Budget(keep_information=share_held, keep_min=least, keep_max=most)


def _number(text: str) -> int | float | None:
    """ "64" is an integer, "25%" and "0.25" are fractions; None for anything else."""
    text = text.strip()
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100
        return float(text) if "." in text else int(text)
    except ValueError:
        return None
