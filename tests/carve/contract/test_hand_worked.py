"""Each method on an example small enough to work out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import foveate
from foveate.carve.methods.apet import approximation_error
from foveate.carve.methods.dart import take_blocks, turn_order
from foveate.core.greedy.coverage import greedy_coverage
from foveate.core.greedy.determinant import greedy_log_det
from foveate.core.plan import KeepPlan, compose, merge_to_owners
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError


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


def test_tokencarve_behind_the_vision_tower() -> None:
    """The same fusion with the tower's attention in place of the last prompt token's."""
    hidden = torch.diag(torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]))
    hidden[2, 0] = 1e-3
    attention = [0.2, 0.3, 0.15, 0.1, 0.05, 0.01]
    inside = tokens(hidden.tolist(), attention)
    behind = VisualTokens(hidden=inside.hidden, vision_attention=torch.tensor([attention]))
    method = foveate.TokenCarve(keep_tokens=2, where="encoder")
    assert method.needs == {"vision_attention"}
    assert method.layers(8, 0) == (0,)
    expected = foveate.TokenCarve(keep_tokens=2).plan(inside, 2)
    assert method.plan(behind, 2).to_dict() == expected.to_dict()


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


def test_visionzip() -> None:
    """8 tokens to 4, a half contextual: 2 dominant by attention, 2 contextual of the other 6.

    Dominant: tokens 5 and 2. Of the rest 0 1 3 4 6 7 every third from the first is contextual:
    tokens 0 and 4. Keys of 1 and 3 point as token 0's, those of 6 and 7 as token 4's. The states
    are 1 to 8: token 0 becomes 1 + mean(2, 4), token 4 becomes 5 + mean(7, 8).
    """
    east, north = [1.0, 0.1], [0.1, 1.0]
    visual = VisualTokens(
        hidden=torch.arange(1.0, 9.0).view(1, 8, 1),
        vision_attention=torch.tensor([[0.1, 0.1, 0.3, 0.0, 0.0, 0.4, 0.1, 0.0]]),
        vision_keys=torch.tensor([[east, [1.0, 0.0], east, east, north, north, [0.0, 2.0], north]]),
    )
    method = foveate.VisionZip(keep_tokens=4, contextual_fraction=0.5)
    plan = method.plan(visual, 4)
    assert plan.keep_idx.tolist() == [[0, 2, 4, 5]]
    assert plan.merge_src.tolist() == [[1, 3, 6, 7]]
    assert plan.merge_dst.tolist() == [[0, 0, 4, 4]]
    assert plan.apply(visual.hidden).flatten().tolist() == [4.0, 3.0, 12.5, 6.0]


def test_dart() -> None:
    """Pivots: the visual token of the largest key (0, east) and the text token (north); 3 to keep.

    The first turn is the visual pivot's: the token least like east is 4 (west). Then the text's:
    of those left, the one least like north is 5 (south).
    """
    compass = [[3.0, 0.0], [1.0, 0.2], [0.2, 1.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]
    visual = VisualTokens(
        hidden=torch.tensor([compass]),
        normed=torch.tensor([compass]),
        keys=torch.tensor([[[3.0, -2.0], [4.5, 0.0], [0, 0], [1, 1], [0, 0], [4.0, 0.5]]]),
        text=torch.tensor([[[0.0, 2.0]]]),
        text_normed=torch.tensor([[[0.0, 1.0]]]),
        text_keys=torch.tensor([[[1.0, 1.0]]]),
        text_mask=torch.tensor([[True]]),
    )
    method = foveate.Dart(keep_tokens=3, visual_pivots=1, text_pivots=1)
    assert method.plan(visual, 3).keep_idx.tolist() == [[0, 4, 5]]


def test_darts_turns_are_blocks_in_the_order_of_a_set() -> None:
    """Places 9, 1 and 8 of a prompt: a set of them runs 8, 9, 1, as it counts modulo 8."""
    assert turn_order([9, 1, 8], 0) == [2, 0, 1]
    assert turn_order([7, -1, 6], 2) == [2, 0]
    # One is taken, 5 are to come: three of the first, which passes over 4, two of the second.
    orders = [[4, 1, 2, 3, 0, 5], [2, 5, 1, 0, 3, 4]]
    assert take_blocks(orders, [4], 6) == [4, 1, 2, 3, 5, 0]


def test_cdpruner() -> None:
    """Relevance is the cosine with the text (north): 0, 0.6, 1, 1, scaled to the same.

    Tokens 2 and 3 are one and the same, so after 2 nothing is left of 3. Token 1 keeps
    0.6^2 (1 - 0.6^2) = 0.2304 of its square, token 0 has relevance 0.
    """
    visual = VisualTokens(
        hidden=torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.0, 1.0]]]),
        text=torch.tensor([[[0.0, 5.0]]]),
        text_mask=torch.tensor([[True]]),
    )
    method = foveate.CdPruner(keep_tokens=2)
    plan = method.plan(visual, 2)
    assert plan.keep_idx.tolist() == [[1, 2]]
    torch.testing.assert_close(plan.scores["relevance"], torch.tensor([[0.0, 0.6, 1.0, 1.0]]))
    relevance = torch.tensor([0.0, 0.6, 1.0, 1.0])
    kernel = relevance[:, None] * (visual.hidden[0] @ visual.hidden[0].T) * relevance
    _, gains = greedy_log_det(kernel[None].double(), 2)
    torch.testing.assert_close(gains, torch.tensor([[1.0, 0.2304]]).double())


def test_mmtok_covers_text_first_then_image() -> None:
    """Two text tokens, east and north; with alpha = 0 the two tokens that match them are kept."""
    visual = VisualTokens(
        hidden=torch.tensor([[[-1.0, 0.0], [1.0, 0.0], [0.7, 0.7], [0.0, 1.0], [0.0, -1.0]]]),
        vision_features=torch.ones(1, 5, 3),
        text=torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]),
        text_mask=torch.tensor([[True, True]]),
    )
    method = foveate.MmTok(keep_tokens=2, alpha=0.0)
    assert method.plan(visual, 2).keep_idx.tolist() == [[1, 3]]


def test_coverage_counts_what_is_not_covered_yet() -> None:
    """Sums are 5, 4, 3; after the first item the second adds 0 and the third 3."""
    covers = torch.tensor([[3.0, 2.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    assert greedy_coverage(covers, 3).tolist() == [0, 2, 1]


def test_pyramiddrop() -> None:
    """16 tokens, a mean of 4 over two equal stages: q = (sqrt(3) - 1) / 2, so 5.86 and 2.14."""
    method = foveate.PyramidDrop(keep_tokens=4, stages=2, prune_layer=2)
    assert method.layers(6, 0) == (2, 4)
    assert method.keeps(4, 16, (2, 4), 6) == (6, 2)
    visual = tokens([[0.0]] * 4, [0.1, 0.4, 0.3, 0.2])
    assert method.plan(visual, 2).keep_idx.tolist() == [[1, 2]]


def test_sparsevlm() -> None:
    """Text token 0 resembles the image and rates it, text token 1 does not.

    Scores are the attention of token 0 alone: 0.4, 0.3, 0.2, 0.1, 0, 0 for tokens 0 to 5. Of 3 to
    keep one is a cluster: 4 are cut, of which int(0.5 * 4) + 1 = 3 come back (2, 3, 4), in
    int(0.2 * 3) + 1 = 1 cluster. With one neighbour, itself, all are as dense: the first leads.
    """
    image = [[1.0, 0.0], [1.0, 0.0], [0.9, -0.5], [1.0, 0.3], [1.0, 0.3], [1.0, 0.0]]
    visual = VisualTokens(
        hidden=torch.tensor([image]),
        entering=VisualTokens(
            hidden=torch.tensor([image]),
            text=torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
            text_mask=torch.tensor([[True, True]]),
        ),
        text_attention=torch.tensor([[[0.4, 0.3, 0.2, 0.1, 0.0, 0.0], [0, 0, 0, 0, 0, 1.0]]]),
    )
    method = foveate.SparseVlm(keep_tokens=3, recycled=0.5, cluster_fraction=0.2)
    plan = method.plan(visual, 3)
    torch.testing.assert_close(
        plan.scores["raters"], torch.tensor([[0.4, 0.3, 0.2, 0.1, 0.0, 0.0]])
    )
    assert plan.keep_idx.tolist() == [[0, 1, 2]]
    assert plan.merge_src.tolist() == [[3, 4]]
    assert plan.merge_dst.tolist() == [[2, 2]]


def test_tome_matches_odd_tokens_into_even_ones() -> None:
    """Tokens 1 and 3 look for partners among 0, 2 and 4; 3 is closest to 4, then 1 to 2."""
    keys = torch.tensor([[[1.0, 0.0], [0.2, 1.0], [0.0, 1.0], [-1.0, 0.1], [-1.0, 0.1]]])
    method = foveate.ToMe(keep_tokens=3)
    assert method.merges(5, 3, 2) == (1, 1)
    src, dst = method.match(keys, torch.zeros(1, 5), 2)
    assert src.tolist() == [[3, 1]]
    assert dst.tolist() == [[4, 2]]


@pytest.mark.parametrize(
    ("has_cls", "pairs", "left"),
    [(True, [(3, 4)], [1, 0, 2, 4]), (False, [(4, 3)], [2, 0, 1, 3])],
)
def test_tome_deals_what_is_left(has_cls: bool, pairs: list, left: list[int]) -> None:
    """With CLS odd goes into even, without it even into odd; then what is left of the first set."""
    keys = torch.tensor([[[1.0, 0.0], [0.2, 1.0], [0.0, 1.0], [-1.0, 0.1], [-1.0, 0.1]]])
    method = foveate.ToMe(keep_tokens=3)
    src, dst, order = method.match_and_order(keys, None, 1, has_cls=has_cls)
    assert list(zip(src[0].tolist(), dst[0].tolist(), strict=True)) == pairs
    assert order.tolist() == [left]


def test_prune_and_merge_folds_the_unimportant() -> None:
    """Tokens 0 and 2 get the least attention; each goes to the kept one most like it."""
    keys = torch.tensor([[[1.0, 0.1], [1.0, 0.0], [0.1, 1.0], [0.0, 1.0]]])
    importance = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    src, dst = foveate.PruneAndMerge(keep_tokens=2).match(keys, importance, 2)
    assert src.tolist() == [[0, 2]]
    assert dst.tolist() == [[1, 3]]


def test_owners_become_a_plan() -> None:
    plan = merge_to_owners(torch.tensor([[0, 0, 2, 2], [1, 1, 2, 1]]), 2)
    assert plan.keep_idx.tolist() == [[0, 2], [1, 2]]
    assert plan.merge_src.tolist() == [[1, 3], [0, 3]]
    assert plan.merge_dst.tolist() == [[0, 2], [1, 1]]


def test_two_steps_compose() -> None:
    """6 -> 4 (5 merged into 4, 1 dropped) -> 2 (of 0 2 3 4: 4 merged into 2, 3 dropped)."""

    def plan(n: int, keep: list[int], src: list[int], dst: list[int]) -> KeepPlan:
        return KeepPlan(
            num_tokens=n,
            keep_idx=torch.tensor([keep]),
            merge_src=torch.tensor([src]),
            merge_dst=torch.tensor([dst]),
        )

    both = compose(plan(6, [0, 2, 3, 4], [5], [4]), plan(4, [0, 1], [3], [1]))
    assert both.to_dict() == plan(6, [0, 2], [5, 4], [2, 2]).to_dict()
    lost = compose(plan(6, [0, 2, 3, 4], [5], [3]), plan(4, [0, 1], [3], [1]))
    assert lost.merge_src.tolist() == [[4]], "5 went with 3, which was dropped"


def test_greedy_log_det_takes_the_largest_gain_each_time() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 9, 5, generator=generator).double()
    kernel = x @ x.transpose(1, 2)
    chosen, gains = greedy_log_det(kernel, 5)
    for image in range(2):
        picked: list[int] = []
        value = 1.0
        for step in range(5):
            determinants = {
                i: float(torch.linalg.det(kernel[image][[*picked, i]][:, [*picked, i]]))
                for i in range(9)
                if i not in picked
            }
            best = max(determinants, key=lambda i: determinants[i])
            assert int(chosen[image, step]) == best
            torch.testing.assert_close(
                gains[image, step], torch.tensor(determinants[best] / value).double()
            )
            picked.append(best)
            value = determinants[best]


def test_foveacarve_kernel() -> None:
    """The mean is 0, the mean squared length 1; squared distances from token 0 are 4, 2, 2."""
    rows = [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    kernel = foveate.FoveaCarve(keep_tokens=2).kernel(tokens(rows))
    expected = torch.tensor([1.0, math.exp(-2), math.exp(-1), math.exp(-1)]).double()
    torch.testing.assert_close(kernel.matrix()[0, 0], expected)


def test_foveacarve_blind() -> None:
    """All are alike at first: the lower index; then the one that is farthest from it."""
    rows = [[4.0], [3.9], [-2.6], [-2.65], [-2.65]]
    method = foveate.FoveaCarve(keep_tokens=2, foresight=False)
    assert method.plan(tokens(rows), 1).keep_idx.tolist() == [[0]]
    assert method.plan(tokens(rows), 2).keep_idx.tolist() == [[0, 3]]


def looking(rows: list[list[float]], foresight: list[float], **more: Any) -> VisualTokens:
    """One image, and what its question sees ahead."""
    return VisualTokens(hidden=torch.tensor([rows]), foresight=torch.tensor([foresight]), **more)


def test_foveacarve_looks_where_the_question_does() -> None:
    """Weights of r = 0, 1/16, 1/4, 1/4, 0 are .3, .65, 1, 1, .3.

    The first is the heaviest, 2 (a tie, the lower index). Of token 3, its double, nothing is left;
    the others are far from it, so that the weight decides: 1.
    """
    rows = [[4.0, 0.0], [-4.0, 0.0], [0.0, 4.0], [0.0, 4.0], [0.0, -8.0]]
    visual = looking(rows, [0.0, 1 / 16, 1 / 4, 1 / 4, 0.0])
    method = foveate.FoveaCarve(keep_tokens=2)
    weight = torch.tensor([[0.3, 0.65, 1.0, 1.0, 0.3]])
    torch.testing.assert_close(method.weight(visual), weight)
    plan = method.plan(visual, 2)
    assert plan.keep_idx.tolist() == [[1, 2]]
    torch.testing.assert_close(plan.scores["foresight"], weight)


def test_foveacarve_looks_at_places() -> None:
    """A 1 x 3 grid whose first token is looked at: its neighbour counts more than the far end."""
    visual = looking([[0.0], [1.0], [2.0]], [1.0, 0.0, 0.0], grids=((1, 3),))
    sharp = foveate.FoveaCarve(keep_tokens=2, blur=0.0).weight(visual)
    torch.testing.assert_close(sharp, torch.tensor([[1.0, 0.3, 0.3]]))
    # Rows of exp(-d^2 / 2), each scaled to sum 1, for sigma 1.
    near, far = math.exp(-0.5), math.exp(-2.0)
    means = [1 / (1 + near + far), near / (1 + 2 * near), far / (1 + near + far)]
    expected = [0.3 + 0.7 * math.sqrt(mean / means[0]) for mean in means]
    blurred = foveate.FoveaCarve(keep_tokens=2, blur=1.0).weight(visual)
    torch.testing.assert_close(blurred, torch.tensor([expected]))


def test_foveacarve_looks_at_nothing() -> None:
    """An image that is not looked at at all is spread over as if the question were not known."""
    rows = [[4.0], [3.9], [-2.6], [-2.65], [-2.65]]
    visual = looking(rows, [0.0] * 5)
    method = foveate.FoveaCarve(keep_tokens=2)
    torch.testing.assert_close(method.weight(visual), torch.full((1, 5), 0.3))
    assert method.plan(visual, 2).keep_idx.tolist() == [[0, 3]]


def test_foveacarve_keeps_late_what_is_read() -> None:
    rows = [[3.0, 0.0], [-3.0, 0.0], [0.0, 2.0], [0.0, -2.0], [0.0, 0.0]]
    seen = tokens(rows, [0.0, 0.2, 0.1, 0.2, 0.0])
    method = foveate.FoveaCarve(keep_tokens=2)
    late = method.plan(replace(seen, counts=(9,)), 2)
    assert late.keep_idx.tolist() == [[1, 3]]
    # At first nothing is known of what it reads, though somebody around it may have asked.
    first, blind = (method.plan(replace(seen, attention=a), 2) for a in (seen.attention, None))
    assert first.keep_idx.tolist() == blind.keep_idx.tolist() != late.keep_idx.tolist()


def test_foveacarve_spends_what_one_cut_would() -> None:
    """8 layers, 196 tokens, 12 kept from layer 2 on: 2 * 196 + 6 * 12 = 464 token-layers.

    K (5 + 3 * 0.4) = 464: 74.8, so 75, and (464 - 375) / 3 = 29. Before the first layer it is
    8 * 12 = 96: 15 and 7.
    """
    method = foveate.FoveaCarve(keep_tokens=12)
    assert method.layers(8, 0) == (0, 5)
    assert method.keeps(12, 196, (0, 5), 8) == (75, 29)
    ahead, late = method.steps(8, 0)
    assert ahead.needs == {"foresight"}
    assert method.foresight_layer(8) == 3
    assert late.needs == {"attention"}
    before = foveate.FoveaCarve(keep_tokens=12, prune_layer=0)
    assert before.keeps(12, 196, (0, 5), 8) == (15, 7)
    # A family that lets nobody cut before layer 3: the cut is there, 5 * 12 = 60 token-layers.
    assert method.layers(8, 3) == (3, 5)
    assert method.keeps(12, 196, (3, 5), 8) == (19, 7)
    blind = foveate.FoveaCarve(keep_tokens=12, foresight=False)
    assert blind.steps(8, 0)[0].needs == frozenset()


def test_foveacarve_pays_for_reading_ahead() -> None:
    """Of 96 token-layers 40.2 are spent: 55 are left, K = 55 / 6.2 = 8.9, so 9, and 10 / 3 = 3."""
    method = foveate.FoveaCarve(keep_tokens=12, prune_layer=0)
    ahead, late = method.steps(8, 0)
    keeps = method.keeps(12, 196, (0, 5), 8)
    assert keeps == (15, 7)
    visual = VisualTokens(hidden=torch.zeros(2, 196, 1), spent=(40.2, 0.0))
    assert method.adapt(visual, keeps, ahead, 8) == (9, 15)
    visual = VisualTokens(hidden=torch.zeros(1, 9, 1), spent=(40.2,), counts=(9,))
    assert method.adapt(visual, keeps, late, 8) == (3,)
    assert 5 * 9 + 3 * 3 + 40.2 <= 96


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"taper": 0.0}, r"taper=0.0 is outside \(0, 1\]"),
        ({"look_depth": 1.0}, r"look_depth=1.0 is outside \[0, 1\)"),
        ({"blur": -1.0}, "blur=-1.0 must not be negative"),
        ({"depths": (0.5, 0.5)}, "must be at least one, ascending"),
    ],
)
def test_foveacarve_refuses(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        foveate.FoveaCarve(keep_tokens=12, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"where": "encoder", "blur": 3.0}, r"sets blur, .* \(where='encoder'\) does not read"),
        ({"where": "encoder", "depths": (0.0,), "taper": 0.5}, "sets depths and taper"),
        ({"where": "encoder", "look_depth": 0.5, "enough": 1.0}, "sets enough and look_depth"),
        ({"foresight": False, "blur": 0.0}, r"sets blur, .* \(foresight=False\) does not read"),
        ({"foresight": False, "look_depth": 0.0}, "sets look_depth"),
    ],
)
def test_foveacarve_refuses_what_it_would_not_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        foveate.FoveaCarve(keep_tokens=12, **settings)


def test_foveacarve_before_the_language_model() -> None:
    """One blind cut, of what the budget says."""
    method = foveate.FoveaCarve(keep_tokens=12, where="encoder")
    assert method.layers(8, 0) == (0,)
    assert method.layers(8, 3) == (3,)
    assert method.keeps(12, 196, (0,), 8) == (12,)
    assert method.needs == method.steps(8, 0)[0].needs == frozenset()


def test_greedy_log_det_beyond_the_rank_goes_by_length() -> None:
    """Five points on one line: the longest, then by length, however rounding falls."""
    line = torch.tensor([1.0, 3.0, 0.5, 4.0, 2.0]).double()
    direction = torch.tensor([0.1, 0.7, 1.3]).double()
    x = line[:, None] * direction
    chosen, gains = greedy_log_det((x @ x.T)[None], 5)
    assert chosen.tolist() == [[3, 1, 4, 0, 2]]
    assert gains[0, 1:].max() < 1e-9 * gains[0, 0]


EAST, NORTH, SOUTH = [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]


@pytest.mark.parametrize(("alpha", "kept"), [(1.0, [1, 3]), (0.0, [0, 3])])
def test_scope(alpha: float, kept: list[int]) -> None:
    """Three tokens point east, one north, with attention .1, .3, .2, .4.

    Each of the east covers three: .3, .9 and .6 with attention, 3 each without. Then they are
    covered, and only the north adds anything.
    """
    features = torch.tensor([[EAST, EAST, EAST, NORTH]])
    visual = VisualTokens(
        hidden=torch.zeros(1, 4, 1),
        vision_features=features,
        vision_attention=torch.tensor([[0.1, 0.3, 0.2, 0.4]]),
    )
    plan = foveate.Scope(keep_tokens=2, alpha=alpha).plan(visual, 2)
    assert plan.keep_idx.tolist() == [kept]


def test_vispruner() -> None:
    """Token 0 is important; of 1 2 3 4 5 (by attention) two stay, one goes a round.

    Even places 1 3 5, odd 2 4: 1 is 2's twin and goes. Then 3 5 2 4: of 3 and 2, 2 is more like 4
    (.8) than 3 is (.6), and goes. Then 3 5 4: 4 is less unlike 5 (-.6) than 3 is (-1), and goes.
    """
    features = torch.tensor([[EAST, EAST, EAST, NORTH, [0.8, 0.6], SOUTH]])
    visual = VisualTokens(
        hidden=torch.zeros(1, 6, 1),
        vision_features=features,
        vision_attention=torch.tensor([[0.6, 0.5, 0.4, 0.3, 0.2, 0.1]]),
    )
    method = foveate.VisPruner(keep_tokens=3, important_share=1 / 3, removed=1)
    assert method.plan(visual, 3).keep_idx.tolist() == [[0, 3, 5]]


def test_hiprune() -> None:
    """A 3 x 4 grid, one anchor in its second row: five places, and two registers."""
    early = torch.zeros(1, 12)
    early[0, 5] = 1.0
    visual = VisualTokens(
        hidden=torch.zeros(1, 12, 1),
        vision_received=torch.arange(12.0)[None],
        vision_received_early=early,
        grids=((3, 4),),
    )
    plan = foveate.HiPrune(keep_tokens=7, alpha=0.9).plan(visual, 7)
    assert plan.keep_idx.tolist() == [[1, 4, 5, 6, 9, 10, 11]]


def test_holov() -> None:
    """Two crops of three, mean attention .3 and .1: 3 of 4 tokens and 1."""
    attention = torch.tensor([[0.3, 0.3, 0.3, 0.1, 0.15, 0.05]])
    visual = VisualTokens(hidden=torch.ones(1, 6, 2), vision_attention=attention)
    plan = foveate.HoloV(keep_tokens=4, crops=2).plan(visual, 4)
    assert plan.keep_idx.tolist() == [[0, 1, 2, 4]]


def test_apet() -> None:
    """The basis is token 0 (east): errors are heights, 0 3 1 .5, so 1 and 2 stay.

    Token 2, of least error, gives its place to the basis; 0 and 3 merge into 1.
    """
    features = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [0.0, 0.5]]])
    visual = VisualTokens(hidden=features, vision_features=features)
    method = foveate.ApET(keep_tokens=2, basis_tokens=1, first_token=0)
    plan = method.plan(visual, 2)
    assert plan.keep_idx.tolist() == [[1, 2]]
    assert plan.value_idx is not None
    assert plan.value_idx.tolist() == [[1, 0]]
    assert plan.merge_src.tolist() == [[0, 3]]
    assert plan.merge_dst.tolist() == [[1, 1]]
    torch.testing.assert_close(plan.apply(features), torch.tensor([[[2 / 3, 3.5 / 3], [2.0, 0.0]]]))


@pytest.mark.parametrize("length", [1.0, 1e3, 1e15])
def test_apet_where_tokens_are_copies(length: float) -> None:
    """Ten basis tokens of two kinds leave nothing of either, however long they are."""
    kinds = torch.randn(1, 2, 16, generator=torch.Generator().manual_seed(0)) * length
    x = kinds.repeat(1, 8, 1)
    error = approximation_error(x, torch.arange(10)[None])
    assert error.isfinite().all()
    assert error.max() < 0.01 * length
    assert approximation_error(x, torch.zeros(1, 1, dtype=torch.long)).max() > length
    plan = foveate.ApET(keep_tokens=11, where="llm", first_token=0).plan(VisualTokens(hidden=x), 11)
    assert len(set(plan.keep_idx[0].tolist())) == 11


def test_v2drop() -> None:
    update = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [0.0, -2.0], [0.5, 0.5]]])
    visual = VisualTokens(hidden=torch.zeros(1, 4, 2), layer_update=update)
    assert foveate.V2Drop(keep_tokens=2).plan(visual, 2).keep_idx.tolist() == [[1, 2]]


def test_vscan() -> None:
    """A 6 x 12 grid is two windows: of 4 tokens, one in each, and the two of most deep attention.

    All others are averaged into the one kept token that points as they do.
    """
    shallow, deep = torch.zeros(1, 72), torch.zeros(1, 72)
    shallow[0, [0, 1, 6]] = torch.tensor([0.5, 0.4, 0.1])  # 1 is second in its window
    deep[0, [0, 30, 40]] = torch.tensor([0.9, 0.2, 0.1])  # 0 is there already
    hidden = torch.tensor(EAST).repeat(1, 72, 1)
    hidden[0, 40] = torch.tensor(NORTH)
    hidden[0, 41] = torch.tensor(NORTH)
    visual = VisualTokens(
        hidden=hidden,
        vision_attention=deep,
        vision_attention_early=shallow,
        attention=torch.ones(1, 1, 72),
        grids=((6, 12),),
    )
    plan = foveate.VScan(keep_tokens=4).plan(visual, 4)
    assert plan.keep_idx.tolist() == [[0, 6, 30, 40]]
    assert plan.num_merged == 68
    assert plan.merge_dst[plan.merge_src == 41].tolist() == [40]
    assert plan.merge_dst[plan.merge_src == 1].tolist() == [0]


def test_vscan_later() -> None:
    """The second cut is what the last prompt token attends to."""
    visual = VisualTokens(
        hidden=torch.zeros(1, 4, 2), attention=torch.tensor([[[0.1, 0.3, 0.2, 0.0]]])
    )
    assert foveate.VScan(keep_tokens=2).plan(visual, 2).keep_idx.tolist() == [[1, 2]]
