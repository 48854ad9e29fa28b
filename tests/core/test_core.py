"""Budgets, ranks, similarity, layouts and plans: values and properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.core.budget import Budget, parse_budget
from foveate.core.greedy.farthest import farthest_points
from foveate.core.layout import PAD, kept_rows, last_valid, leading_padding, longest_row, runs
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import borda, descending_order, descending_rank, top_k
from foveate.core.report import ImageReport, Report
from foveate.core.similarity import best_match, cosine
from foveate.errors import BudgetError

# --- budget ---


@pytest.mark.parametrize(
    ("ratio", "tokens", "count"),
    [(0.25, 576, 144), (0.222, 576, 128), (0.5, 5, 3), (0.001, 10, 1), (1.0, 7, 7)],
)
def test_ratio_rounds_half_up_and_keeps_one(ratio: float, tokens: int, count: int) -> None:
    assert Budget(keep_ratio=ratio).count(tokens) == count


@given(st.floats(1e-6, 1.0), st.integers(1, 5000))
def test_ratio_count_is_within_bounds(ratio: float, tokens: int) -> None:
    count = Budget(keep_ratio=ratio).count(tokens)
    assert 1 <= count <= tokens
    assert abs(count - ratio * tokens) <= max(0.5 + 1e-9, 1 - ratio * tokens)


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("64", Budget(keep_tokens=64)),
        ("25%", Budget(keep_ratio=0.25)),
        (" 0.125 ", Budget(keep_ratio=0.125)),
        ("100%", Budget(keep_ratio=1.0)),
    ],
)
def test_parse_budget(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "many", "12x", "0", "-3", "0%", "200%", "nan%"])
def test_parse_budget_refuses(text: str) -> None:
    with pytest.raises(BudgetError):
        parse_budget(text)


# --- rank ---


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([1.0, 3.0, 3.0, 0.0, 3.0])
    assert descending_order(scores).tolist() == [1, 2, 4, 0, 3]
    assert descending_rank(scores).tolist() == [3, 0, 1, 4, 2]
    assert top_k(scores, 2).tolist() == [1, 2]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=30), st.floats(0, 1))
def test_borda_ends_are_the_single_rankings(values: list[int], weight: float) -> None:
    first = torch.tensor(values, dtype=torch.float64)
    second = first.flip(0)
    assert torch.equal(descending_order(borda(first, second, 1.0)), descending_order(first))
    assert torch.equal(descending_order(borda(first, second, 0.0)), descending_order(second))
    mixed = borda(first, second, weight)
    assert float(mixed.max()) <= len(values) + 1e-9  # w n + (1 - w) n rounds
    assert float(mixed.min()) > 0


# --- similarity ---


def test_cosine_of_zero_rows_is_zero() -> None:
    assert cosine(torch.zeros(2, 3), torch.ones(1, 3)).tolist() == [[0.0], [0.0]]


def test_best_match() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.1]])
    similarity, index = best_match(a, b)
    assert index.tolist() == [1, 0]
    assert similarity[1] == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10_000))
def test_farthest_points_is_greedy(n: int, seed: int) -> None:
    x = torch.randn(1, n, 3, generator=torch.Generator().manual_seed(seed))
    distance = 1 - cosine(x, x)
    order = farthest_points(distance, n)[0].tolist()
    assert sorted(order) == list(range(n))
    for i in range(1, n):
        nearest = distance[0][:, order[:i]].min(-1).values
        rest = [j for j in range(n) if j not in order[:i]]
        assert float(nearest[order[i]]) == pytest.approx(float(nearest[rest].max()))


# --- layout ---


def test_runs() -> None:
    mask = torch.tensor([0, 1, 1, 0, 0, 1, 0, 1], dtype=torch.bool)
    assert [run.tolist() for run in runs(mask)] == [[1, 2], [5], [7]]
    assert runs(torch.zeros(4, dtype=torch.bool)) == []


def test_padding_sides() -> None:
    valid = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    assert leading_padding(valid).sum(-1).tolist() == [2, 0, 0]
    assert last_valid(valid).tolist() == [3, 1, 2]


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4))
def test_kept_rows_are_right_aligned(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    kept = kept_rows(mask, longest_row(mask))
    assert kept.shape[1] == int(mask.sum(-1).max())
    for row, wanted in zip(kept, mask, strict=True):
        idx = wanted.nonzero()[:, 0].tolist()
        assert row.tolist() == [PAD] * (kept.shape[1] - len(idx)) + idx


# --- plan ---


def test_plan_merges_several_into_one() -> None:
    plan = KeepPlan(
        num_tokens=5,
        keep_idx=torch.tensor([[1, 3]]),
        merge_src=torch.tensor([[0, 4]]),
        merge_dst=torch.tensor([[3, 3]]),
    )
    plan.check(2)
    x = torch.arange(5.0).view(1, 5, 1)
    assert plan.apply(x).flatten().tolist() == pytest.approx([1.0, (3 + 0 + 4) / 3])
    assert plan.status().tolist() == [[1, 2, 0, 2, 1]]
    assert plan.num_dropped == 1


def test_unmerged_rows_are_bitwise_the_input() -> None:
    x = torch.randn(1, 6, 4).to(torch.bfloat16)
    plan = KeepPlan(
        num_tokens=6,
        keep_idx=torch.tensor([[0, 2, 5]]),
        merge_src=torch.tensor([[1]]),
        merge_dst=torch.tensor([[2]]),
    )
    out = plan.apply(x)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out[0, [0, 2]], x[0, [0, 5]])


@pytest.mark.parametrize(
    ("keep_idx", "src", "dst", "message"),
    [
        ([[2, 1]], [[]], [[]], "ascending"),
        ([[1, 1]], [[]], [[]], "ascending"),
        ([[1, 9]], [[]], [[]], "out of range"),
        ([[1, 2]], [[1]], [[2]], "overlaps"),
        ([[1, 2]], [[3]], [[4]], "not kept"),
        ([[1]], [[]], [[]], "budget"),
    ],
)
def test_plan_check_finds_broken_plans(
    keep_idx: list[list[int]], src: list[list[int]], dst: list[list[int]], message: str
) -> None:
    plan = KeepPlan(
        num_tokens=5,
        keep_idx=torch.tensor(keep_idx),
        merge_src=torch.tensor(src, dtype=torch.long),
        merge_dst=torch.tensor(dst, dtype=torch.long),
    )
    with pytest.raises(AssertionError, match=message):
        plan.check(2)


def test_keep_only_sorts() -> None:
    assert keep_only(torch.tensor([[4, 0, 2]]), 6).keep_idx.tolist() == [[0, 2, 4]]


# --- report ---


def test_report_text() -> None:
    image = ImageReport(
        sample=0, image=0, kind="image", before=576, kept=128, merged=64, dropped=384
    )
    report = Report(
        method="tokencarve(keep=128 tokens)",
        fired=True,
        images=(image,),
        prune_layer=2,
        num_layers=32,
        length_before=652,
        length_after=204,
        kv_bytes=2048,
        kv_bytes_uncompressed=4096,
        select_seconds=0.0123,
    )
    text = str(report)
    assert "576 -> 128 kept (64 merged into them, 384 dropped) in 1 image" in text
    assert "652 -> 204 tokens" in text
    assert "2..31 of 32 run short" in text
    assert "2.0 KiB instead of 4.0 KiB (50.0 %)" in text
    assert report.to_dict()["kv_ratio"] == 0.5
    assert report.to_markdown().startswith("| | |\n|---|---|\n| method |")


def test_report_of_several_steps_says_what_each_left() -> None:
    image = ImageReport(sample=0, image=0, kind="image", before=196, kept=39, merged=0, dropped=157)
    settings = {"method": "m", "fired": True, "images": (image,), "num_layers": 8}
    steps = Report(**settings, tokens_per_layer=(98.0,) * 5 + (39.0,) * 3)
    assert "196 -> 39 kept" in str(steps)
    assert "75.9 visual tokens of an image: 98 in layers 0..4, 39 in layers 5..7" in str(steps)
    assert steps.to_dict()["average_tokens"] == 75.88
    late = Report(**settings, prune_layer=2, tokens_per_layer=(196.0,) * 2 + (49.5,) * 5 + (39.0,))
    assert "196 in layers 0..1, 49.5 in layers 2..6, 39 in layer 7" in str(late)
    once = Report(**settings, prune_layer=2, tokens_per_layer=(196.0,) * 2 + (39.0,) * 6)
    assert "visual tokens of an image" not in str(once), "one cut is in the lines above"


def test_report_says_when_nothing_happened() -> None:
    report = Report(method="noop", fired=False, reason="no visual tokens in the prompt")
    assert "did not fire: no visual tokens" in str(report)
    assert report.kv_ratio is None
