"""What each image of a request keeps: what the server says, what the request asks, or by its age.

A budget is part of the name under which vLLM's caches know an image, and its kept tokens are part
of the prompt. So a prompt hits the prefix cache up to the first image whose budget has changed: a
client that names a budget for every image and never changes it hits it all the way. Ages are for
clients that name none: they say what image i of n keeps from i and n alone, so that any replica
says the same without remembering a conversation. An image is read anew whenever it ages, and what
is behind it with it; one that has reached the last share never changes again, and neither does the
prompt before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.core.budget import Budget, parse_budget
from foveate.core.frames import Frames
from foveate.core.settings import plain_setting
from foveate.errors import BudgetError

__all__ = [
    "Ages",
    "budget_field",
    "budgets_asked",
    "kept",
    "methods_of_items",
    "parse_ages",
    "read_ages",
    "read_budgets",
    "with_budget",
    "write_budgets",
]

_SHARES = ("keep_ratio", "keep_tokens")
_KNOWN = (*_SHARES, "ages", "age_step")
_FIX = 'write e.g. "mm_processor_kwargs": {"foveate": {"keep_ratio": 0.1}}'


@dataclass(frozen=True, kw_only=True)
class Ages:
    """Shares of their tokens that images keep by their age in a conversation.

    Args:
        shares: of the newest images, of those before, and so on; all older ones keep the last.
            Each in (0, 1], none above the one before it.
        step: images that age together. The newest `step` images or fewer have the first share;
            1 means that the last image alone is new.

    Raises:
        BudgetError: a share or the step is out of range, or shares rise.

    Example:
        >>> [str(budget) for budget in Ages(shares=(1.0, 0.25, 0.1)).of(4)]
        ['10%', '10%', '25%', '100%']
        >>> [str(budget) for budget in Ages(shares=(0.5, 0.1), step=2).of(3)]
        ['10%', '10%', '50%']
    """

    shares: tuple[float, ...]
    step: int = 1

    def __post_init__(self) -> None:
        shares = plain_setting(
            "ages", self.shares, tuple[float, ...], BudgetError, example=[1, 0.25, 0.1]
        )
        step = plain_setting("age_step", self.step, int, BudgetError)
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "step", step)
        if not shares:
            raise BudgetError("ages=[] has no share; write e.g. ages=[1, 0.25, 0.1].")
        for share in shares:
            if not 0 < share <= 1:
                raise BudgetError(
                    f"ages has the share {share}, which is outside (0, 1]; write 0.1 for 10 %."
                )
        if list(shares) != sorted(shares, reverse=True):
            raise BudgetError(
                f"ages={list(shares)} rise; older images cannot keep more than newer ones, so "
                "write the largest share first."
            )
        if step < 1:
            raise BudgetError(f"age_step={step} is below 1; 1 lets every image age by itself.")

    def of(self, num_images: int) -> list[Budget]:
        """The budgets of the images of a prompt, in its order."""
        newest = (num_images - 1) // self.step
        ages = (newest - i // self.step for i in range(num_images))
        return [Budget(keep_ratio=self.shares[min(age, len(self.shares) - 1)]) for age in ages]


def parse_ages(text: str, step: int = 1) -> Ages:
    """Read shares as people write them: "100%,25%,10%" or "1.0,0.25,0.1".

    Raises:
        BudgetError: one is no share, or see `Ages`.
    """
    budgets = [parse_budget(part) for part in text.split(",")]
    for part, budget in zip(text.split(","), budgets, strict=True):
        if budget.keep_ratio is None:
            raise BudgetError(
                f"ages {text!r} has {part.strip()!r}, which is no share of an image's tokens; "
                "write e.g. 100%,25%,10%."
            )
    return Ages(shares=tuple(budget.keep_ratio or 0.0 for budget in budgets), step=step)


def budgets_asked(asked: Any, num_images: int) -> tuple[list[Budget] | None, Budget | None]:
    """What a request says of its images.

    Args:
        asked: its `mm_processor_kwargs["foveate"]`: one of "keep_ratio" and "keep_tokens", a number
            or a list with one of each image, or "ages" with or without "age_step". None: nothing.
        num_images: of the request.

    Returns:
        (a budget for each image, or None where the server's holds; the budget of videos, which
        only a single number speaks of, or None).

    Raises:
        BudgetError: it has another form, or impossible values.
    """
    if asked is None:
        return None, None
    if not isinstance(asked, Mapping):
        raise BudgetError(f'"foveate": {asked!r} in a request is no object; {_FIX}.')
    for name in asked:
        if name not in _KNOWN:
            raise BudgetError(
                f'"foveate" in a request has no setting {name!r}; it has {", ".join(_KNOWN)}. The '
                "method is the server's."
            )
    given = {name: value for name, value in asked.items() if value is not None}
    ages = read_ages(given)
    names = [name for name in _SHARES if name in given]
    if len(names) + (ages is not None) != 1:
        raise BudgetError(
            f'"foveate" in a request has {" and ".join(given) or "nothing"}; give exactly one of '
            f"keep_ratio, keep_tokens and ages: {_FIX}."
        )
    if ages is not None:
        return ages.of(num_images), None
    (name,) = names
    value = given[name]
    if not isinstance(value, (list, tuple)):
        budget = Budget(**{name: value})
        return [budget] * num_images, budget
    if len(value) != num_images:
        raise BudgetError(
            f"{name} in a request has {len(value)} entries, and the request has {num_images} "
            "images; give one of each image, in the order of the prompt, or a single number."
        )
    return [Budget(**{name: one}) for one in value], None


def read_ages(settings: Mapping[str, Any]) -> Ages | None:
    """The "ages" of an entry or a request; None without.

    Raises:
        BudgetError: impossible values, or "age_step" alone.
    """
    if settings.get("ages") is None:
        if settings.get("age_step") is not None:
            raise BudgetError(
                f"age_step={settings['age_step']} is given without ages; write e.g. "
                '"ages": [1, 0.1], or leave it out.'
            )
        return None
    step = settings.get("age_step")
    return Ages(shares=settings["ages"], step=1 if step is None else step)


def with_budget(method: Method, budget: Budget) -> Method:
    """The method with another budget.

    Raises:
        BudgetError: it takes none.
        MethodError: it cannot have this one.
    """
    made = replace(method, **asdict(budget))
    if made.budget != budget:
        raise BudgetError(
            f"{method.name} keeps {made.budget} of every image, whatever is asked for, and got "
            f"{budget}; serve with another method, or ask for no budget."
        )
    return made


def kept(
    method: Method, server: Method, num_tokens: int, frames: Frames | None, item: int, kind: str
) -> int:
    """Tokens that an item of a request keeps.

    Args:
        method: as the request has it.
        server: as the server has it, which is the most there is room for.
        num_tokens: of the item, before.
        frames: of a video.
        item: its number in the request, for errors.
        kind: "image" or "video", for errors.

    Raises:
        BudgetError: it is more than the item has, or than the server's; or the method leaves it
            whole whatever the budget.
    """
    keep = method.count(num_tokens, frames, item)
    if method.budget == server.budget:
        return keep
    try:
        most = server.count(num_tokens, frames, item)
    except BudgetError:  # a count that is above this item's tokens
        most = num_tokens
    if keep > most:
        raise BudgetError(
            f"the request asks for {method.budget}, {keep} of the {num_tokens} visual tokens of "
            f"{kind} {item}, and this server keeps at most {most} ({server.budget}); ask for less, "
            "or start the server with more."
        )
    if keep > method.budget.count(num_tokens, item):
        why = method.remark(num_tokens, frames) or f"{server.name} keeps more than its budget"
        raise BudgetError(
            f"the request asks for {method.budget} of {kind} {item}, and {why}; leave "
            '"foveate" out of the request.'
        )
    return keep


def methods_of_items(
    server: Method,
    of_videos: Method,
    ages: Ages | None,
    asked: Any,
    counts: Mapping[str, int],
) -> dict[str, Sequence[Method]]:
    """The method of every image and video of a request, with its budget in it.

    Args:
        server: for images, `of_videos`: for videos, as the server has them.
        ages: the server's.
        asked: see `budgets_asked`.
        counts: images and videos of the request.

    Raises:
        BudgetError: see `budgets_asked`.
        MethodError: the method cannot have such a budget.
    """
    num_images = counts.get("image", 0)
    budgets, video = budgets_asked(asked, num_images)
    if budgets is None and ages is not None:
        budgets = ages.of(num_images)
    images = (
        [server] * num_images
        if budgets is None
        else [with_budget(server, budget) for budget in budgets]
    )
    each = of_videos if video is None else with_budget(of_videos, video)
    return {"image": images, "video": [each] * counts.get("video", 0)}


def budget_field(kind: str) -> str:
    """Under which the budgets of images, or of videos, travel from the processor to the model."""
    return f"foveate_{kind}_budget"


def write_budgets(methods: Iterable[Method]) -> Tensor:
    """[items, 2] float64: keep_tokens and keep_ratio of each, 0 for the one that is not given."""
    rows = [(method.budget.keep_tokens or 0, method.budget.keep_ratio or 0) for method in methods]
    return torch.tensor(rows, dtype=torch.float64)


def read_budgets(rows: Tensor) -> list[Budget]:
    """Undo `write_budgets`."""
    return [
        Budget(keep_tokens=int(tokens)) if tokens else Budget(keep_ratio=ratio)
        for tokens, ratio in rows.tolist()
    ]
