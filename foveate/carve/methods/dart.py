"""DART: keep what least duplicates a few pivots (Wen et al., arXiv:2502.11494)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.carve.method import Method
from foveate.carve.needs import Need
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.rows import gather_rows
from foveate.core.similarity import inverse_length
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


@dataclass(frozen=True, kw_only=True)
class Dart(Method):
    """Duplication-aware reduction: pivots, then for each pivot the tokens least like it.

    Pivots are the visual and the text tokens whose keys in the layer before the cut have the
    largest L1 norm. In turn each takes those of the tokens still left whose cosine with it is
    lowest, cosines being of the states behind the decoder's final norm. All take equally many, the
    first ones one more where it must be, and the visual pivots are kept too.

    The authors' T leaves the pivots out and is rounded down to a multiple of their number: their
    T = 24 with 4 + 4 pivots keeps 28 tokens, which is the budget here. Their turns follow the
    iteration order of a Python set of the pivots' places in the prompt, and so do these.

    Args:
        visual_pivots: visual tokens that are pivots, and kept. Never more than the budget.
        text_pivots: text tokens that are pivots.
        pivots_by: "keys", or "states": the L2 norm of the residual stream, which needs no layer
            before the cut, so that prune_layer can be 0.
        states: what cosines are of: "normed", or "raw", without the final norm.
    """

    name = "dart"
    summary = "keeps the tokens least like a few visual and text pivots"
    paper = "arXiv:2502.11494"
    fidelity = (
        "as the authors' code at its last commit (xqy1111111/DART@5a19452); the budget counts the "
        "pivots, which theirs keeps beyond it, and what their rounding loses is given out"
    )

    visual_pivots: int = 4
    text_pivots: int = 4
    pivots_by: Literal["keys", "states"] = "keys"
    states: Literal["normed", "raw"] = "normed"
    early_cache: Literal["compact", "full"] = "full"

    def __post_init__(self) -> None:
        if self.visual_pivots < 1 or self.text_pivots < 0:
            raise MethodError(
                f"visual_pivots={self.visual_pivots}, text_pivots={self.text_pivots}; "
                "use at least 1 and 0."
            )
        if self.pivots_by == "keys" and self.prune_layer == 0:
            raise MethodError(
                f"{self.name} finds pivots by the keys of the layer before prune_layer, and "
                "prune_layer=0 has none; use prune_layer=1 or more, or pivots_by='states'."
            )
        super().__post_init__()

    @property
    def needs(self) -> frozenset[Need]:
        found: set[Need] = {"text"} if self.text_pivots else set()
        if self.pivots_by == "keys":
            found.add("keys")
        if self.states == "normed":
            found.add("normed")
        return frozenset(found)

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        n = visual.num_tokens
        states = (visual.hidden if visual.normed is None else visual.normed).float()
        pivots = top_k(self._size(visual.hidden, visual.keys), min(self.visual_pivots, keep))
        features, places = gather_rows(states, pivots), pivots
        if self.text_pivots and visual.text is not None and visual.text.shape[1]:
            assert visual.text_mask is not None
            size = self._size(visual.text, visual.text_keys).masked_fill(
                ~visual.text_mask, -torch.inf
            )
            text = top_k(size, min(self.text_pivots, size.shape[1]))
            normed = visual.text if visual.text_normed is None else visual.text_normed
            features = torch.cat([features, gather_rows(normed, text).float()], dim=1)
            # Text stands behind the image; where there is less of it than pivots, none.
            number = visual.text_mask.cumsum(dim=1) - 1
            behind = torch.where(visual.text_mask, n + number, -1).gather(1, text)
            places = torch.cat([places, behind], dim=1)
        # In the order of the cosine: a pivot's own length changes nothing.
        likeness = features @ states.transpose(1, 2)
        likeness *= inverse_length(states).unsqueeze(1)  # [G, P, N]
        # A pivot passes over less than `keep` tokens that others took.
        order = likeness.sort(dim=-1, stable=True).indices[..., :keep].cpu()
        starts = visual.starts or (0,) * visual.num_images
        chosen = []
        for image, (own, all_places) in enumerate(
            zip(pivots.tolist(), places.tolist(), strict=True)
        ):
            turns = [order[image, i].tolist() for i in turn_order(all_places, starts[image])]
            chosen.append(take_blocks(turns, own, keep))
        return keep_only(torch.tensor(chosen, device=states.device), n)

    def _size(self, states: Tensor, keys: Tensor | None) -> Tensor:
        if self.pivots_by == "states":
            return -inverse_length(states)  # in its order
        assert keys is not None
        return keys.float().abs().sum(dim=-1)


def turn_order(places: Sequence[int], start: int) -> list[int]:
    """Numbers of the pivots in the order of their turns: that of a set of places in the prompt.

    Args:
        places: of each pivot, counted from the image's first token; negative for none.
        start: of the image.
    """
    number = {start + place: i for i, place in enumerate(places) if place >= 0}
    # Of a list: of a dictionary CPython makes a set of another size, so of another order.
    return [number[place] for place in set(list(number))]  # noqa: C414


def take_blocks(orders: list[list[int]], taken: list[int], keep: int) -> list[int]:
    """Each chooser in turn takes a block of what is first in its order and still there.

    Args:
        orders: of each chooser, its first `keep` tokens, best first.
        taken: before the first turn.
        keep: how many in all, with those.
    """
    chosen, is_taken = list(taken), set(taken)
    each, more = divmod(keep - len(taken), len(orders))
    for number, order in enumerate(orders):
        block = [token for token in order if token not in is_taken][: each + (number < more)]
        is_taken.update(block)
        chosen += block
    return chosen
