"""Each method on an example small enough to work out by hand."""

from __future__ import annotations

import torch

import foveate
from foveate.core.visual import VisualTokens


def tokens(hidden: list[list[float]], attention: list[float] | None = None) -> VisualTokens:
    row = None if attention is None else torch.tensor(attention).view(1, 1, -1)
    return VisualTokens(hidden=torch.tensor(hidden).unsqueeze(0), attention=row, grids=(None,))


def test_tokencarve() -> None:
    """Orthogonal-ish rows, so that the information score is the row norm.

    T = 2 of 6, R = 3, A = {best}, B = {next two}, one merge.
    information 6 5 4 3 2 1 (ranks 0..5); attention ranks 1 0 2 3 4 5. With equal weights the fused
    scores are (5+6)/2, (6+5)/2, 4, 3, 2, 1: tokens 0 and 1 tie, the lower index comes first. So
    top = 0 1 2, A = {0}, B = {1, 2}; the one more similar to token 0 is merged into it.
    """
    hidden = torch.diag(torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    hidden[2, 0] = 1e-3  # token 2 leans towards token 0, token 1 does not
    attention = [0.2, 0.3, 0.15, 0.1, 0.05, 0.01]
    visual = tokens(hidden.tolist(), attention)
    plan = foveate.TokenCarve(keep_tokens=2).plan(visual, 2)
    assert plan.keep_idx.tolist() == [[0, 1]]
    assert plan.merge_src.tolist() == [[2]]
    assert plan.merge_dst.tolist() == [[0]]
    torch.testing.assert_close(plan.apply(visual.hidden)[0, 0], (hidden[0] + hidden[2]) / 2)
    torch.testing.assert_close(
        plan.scores["fused"][0], torch.tensor([5.5, 5.5, 4.0, 3.0, 2.0, 1.0]).double()
    )


def test_tokencarve_attention_output_is_scored_but_layer_output_is_merged() -> None:
    hidden = torch.eye(4)
    visual = VisualTokens(
        hidden=hidden.unsqueeze(0),
        attention=torch.tensor([[[0.1, 0.1, 0.1, 0.1]]]),
        attention_output=torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])).unsqueeze(0),
    )
    method = foveate.TokenCarve(
        keep_tokens=1,
        attention_weight=0.0,
        merge_fraction=0.0,
        information_input="attention_output",
    )
    assert method.plan(visual, 1).keep_idx.tolist() == [[3]]


def test_fastv() -> None:
    """Mean over heads, then the highest."""
    visual = VisualTokens(
        hidden=torch.zeros(1, 4, 2),
        attention=torch.tensor([[[0.6, 0.0, 0.1, 0.3], [0.0, 0.2, 0.5, 0.3]]]),
    )
    plan = foveate.FastV(keep_tokens=2).plan(visual, 2)  # means .30 .10 .30 .30: ties by index
    assert plan.keep_idx.tolist() == [[0, 2]]


def test_divprune() -> None:
    """Unit vectors at 0, 10, 90 and 180 degrees.

    The point whose nearest neighbour is farthest: 90 (80 degrees from 10) against 180 (90 from 90):
    180 first. Farthest from it is 0 (180 degrees), then 90.
    """
    angles = torch.tensor([0.0, 10.0, 90.0, 180.0]).deg2rad()
    visual = tokens(torch.stack([angles.cos(), angles.sin()], dim=-1).tolist())
    assert foveate.DivPrune(keep_tokens=1).plan(visual, 1).keep_idx.tolist() == [[3]]
    assert foveate.DivPrune(keep_tokens=2).plan(visual, 2).keep_idx.tolist() == [[0, 3]]
    assert foveate.DivPrune(keep_tokens=3).plan(visual, 3).keep_idx.tolist() == [[0, 2, 3]]


def test_uniform_grid() -> None:
    """A 4 x 4 grid to 4 tokens: the 2 x 2 grid of cell centres."""
    visual = VisualTokens(hidden=torch.zeros(1, 16, 2), grids=((4, 4),))
    plan = foveate.UniformGrid(keep_tokens=4).plan(visual, 4)
    assert plan.keep_idx.tolist() == [[5, 7, 13, 15]]


def test_average_pooling() -> None:
    """A row of 6 tokens to 2: cells of three around tokens 1 and 4."""
    visual = VisualTokens(hidden=torch.arange(6.0).view(1, 6, 1), grids=((1, 6),))
    plan = foveate.AveragePooling(keep_tokens=2).plan(visual, 2)
    assert plan.keep_idx.tolist() == [[1, 4]]
    assert plan.apply(visual.hidden).flatten().tolist() == [1.0, 4.0]
    assert plan.num_dropped == 0


def test_random_depends_on_seed_and_serial_only() -> None:
    def kept(seed: int, *serials: int) -> list[list[int]]:
        visual = VisualTokens(hidden=torch.zeros(len(serials), 50, 2), serials=serials)
        plan = foveate.RandomTokens(keep_tokens=10, seed=seed).plan(visual, 10)
        return plan.keep_idx.tolist()

    assert kept(0, 4, 7) == [*kept(0, 4), *kept(0, 7)]
    assert kept(0, 4) != kept(0, 7)
    assert kept(0, 4) != kept(1, 4)


def test_noop_keeps_everything() -> None:
    visual = VisualTokens(hidden=torch.zeros(2, 5, 3))
    assert foveate.NoOp().plan(visual, 5).keep_idx.tolist() == [[0, 1, 2, 3, 4]] * 2
