"""What a run knew about each visual token of an image at each of its steps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.carve.engine.run import Run
from foveate.core.rank import descending_rank
from foveate.errors import InputError

__all__ = ["StepScores", "step_scores"]


@dataclass(frozen=True, kw_only=True)
class StepScores:
    """One step of a run, in the numbering of the image's N tokens.

    Args:
        layer: first decoder layer that saw what the step left.
        scores: name -> [N] float32, NaN for tokens that were gone before; empty where the method
            decides without a score for each token.
        ranks: name -> [N] int64, 1 for the highest score, 0 for tokens that were gone before.
        kept: [N] bool, tokens that the step left.
    """

    layer: int
    scores: dict[str, Tensor]
    ranks: dict[str, Tensor]
    kept: Tensor


def step_scores(run: Run, image: int = 0) -> tuple[StepScores, ...]:
    """The steps of the last prefill at which an image lost tokens, first to last.

    Args:
        run: after a prefill.
        image: number of the image in `run.plans`.

    Raises:
        InputError: there is no such image.
    """
    if not 0 <= image < len(run.plans):
        raise InputError(
            f"image {image} does not exist; the last prefill had {len(run.plans)}, counted from 0."
        )
    span = run.plans[image].span
    columns = span.tokens.cpu()
    found = []
    for layer, groups in sorted(run.decisions.items()):
        for group in groups:
            tokens = group.tokens.cpu()
            # An image is in a group if its sample's row starts at one of its columns.
            own = (group.samples[:, 0].cpu() == span.sample) & torch.isin(tokens[:, 0], columns)
            for row in own.nonzero()[:, 0].tolist():
                places = torch.searchsorted(columns, tokens[row])
                plan = group.plan.image(row)
                kept = torch.zeros(span.num_tokens, dtype=torch.bool)
                kept[places[plan.keep_idx[0].cpu()]] = True
                scores, ranks = {}, {}
                for name, score in plan.scores.items():
                    own_score = score[0].float().cpu()
                    scores[name] = _spread(own_score, places, span.num_tokens, float("nan"))
                    rank = descending_rank(own_score) + 1
                    ranks[name] = _spread(rank, places, span.num_tokens, 0)
                found.append(StepScores(layer=layer, scores=scores, ranks=ranks, kept=kept))
    return tuple(found)


def _spread(values: Tensor, places: Tensor, num_tokens: int, blank: float) -> Tensor:
    """[N] with `values` at `places`."""
    out = torch.full((num_tokens,), blank, dtype=values.dtype)
    out[places] = values
    return out
