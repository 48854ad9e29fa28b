"""Two methods for the token-layers of one cut: the same as their stack with those counts."""

from __future__ import annotations

import pytest

import foveate
from foveate.carve.engine.image_cache import needs_the_tower
from foveate.core.schedule import tapered_counts
from foveate.errors import MethodError
from tests import tiny_vlm as tiny
from tests.carve.oracle.test_pruned_equals_masked import GREEDY
from tests.carve.oracle.test_steps_equal_masked import check

PAIRS = [("divprune", "fastv"), ("visionzip", "tokencarve"), ("scope", "dart")]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_equals_the_masked_path(name: str, first: str, second: str) -> None:
    method = foveate.TwoStage(keep_ratio=0.4, first=first, second=second)
    run = check(name, method, (1, 2, 0), compact=True)
    assert len(set(run.report.tokens_per_layer)) == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_is_the_stack_of_both_at_the_price_of_one_cut(
    first: str, second: str, prune_layer: int
) -> None:
    model = tiny.build("llava", "sdpa")
    inputs = tiny.prompts(model, "llava", (1,))
    keep = 4
    method = foveate.TwoStage(keep_tokens=keep, prune_layer=prune_layer, first=first, second=second)
    with foveate.attach(model, method) as run:
        ours = model.generate(**inputs, **GREEDY)
        report, plans = run.report, run.plans
    assert report is not None
    num_tokens, layers = plans[0].span.num_tokens, len(model.model.language_model.layers)
    one_cut = prune_layer * num_tokens + (layers - prune_layer) * keep
    spent = sum(report.tokens_per_layer)
    cut = round(0.625 * layers)
    assert one_cut - (layers - cut) < spent <= one_cut
    counts = [step.num_kept for step in plans[0].steps]
    stack = foveate.Stack(
        stages=(
            foveate.method(first, keep_tokens=counts[0], prune_layer=0),
            foveate.method(second, keep_tokens=counts[1], prune_layer=cut, early_cache="compact"),
        )
    )
    with foveate.attach(model, stack) as run:
        theirs = model.generate(**inputs, **GREEDY)
        assert [p.plan.to_dict() for p in run.plans if p.plan] == [
            p.plan.to_dict() for p in plans if p.plan
        ]
    assert ours.sequences.tolist() == theirs.sequences.tolist()


def test_a_method_that_reads_the_tower_has_it_run() -> None:
    assert needs_the_tower(foveate.TwoStage(keep_ratio=0.25, first="scope"))
    assert not needs_the_tower(foveate.TwoStage(keep_ratio=0.25, first="divprune"))


@pytest.mark.parametrize(
    ("total", "counts"), [(55, (8, 5)), (64, (8, 8)), (70, (9, 8)), (96, (12, 12)), (128, (16, 16))]
)
def test_what_is_enough_is_not_passed_while_later_steps_have_less(
    total: int, counts: tuple[int, int]
) -> None:
    assert tapered_counts(total, 16, (5, 3), 0.4, enough=0.5) == counts
    assert counts == (16, 16) or tapered_counts(total, 16, (5, 3), 0.4) != counts


@pytest.mark.parametrize("total", [16, 40, 62, 100, 110, 128])
def test_tapered_counts_spend_the_total(total: int) -> None:
    first, second = tapered_counts(total, 16, (5, 3), 0.4)
    assert total - 3 < 5 * first + 3 * second <= total
    assert 16 >= first >= second >= 1
    if first < 16:
        assert abs(second - 0.4 * first) < 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": "tome"}, "tome acts inside .* use a stack, e.g. tome:50%\\+fastv\\."),
        ({"second": "tome"}, "use a stack, e.g. tome:50%\\+fastv\\."),
        ({"first": "pixelprune"}, "use a stack, e.g. pixelprune\\+fastv\\."),
        ({"second": "pyramiddrop"}, "over several steps"),
        ({"second": "noop"}, "noop keeps 100% whatever its budget"),
        ({"first": "fastv"}, "reads the attention of the layer before .* make it the second"),
        ({"first": "fastv(prune_layer=1)"}, "sets prune_layer"),
        ({"first": "two-stage"}, "over several steps"),
        ({"first": "divprune+fastv"}, "stack is made of methods, and two-stage takes two single"),
        ({"first": "text-share(scope, relevance=similarity)"}, "text-share is made of methods"),
        ({"second": "evs"}, "counts its tokens itself"),
        ({"second": "vidcom2"}, "compares whole frames, .* let it be the first"),
        ({"second": "fastv(prune_layer=5)"}, "sets prune_layer, which two-stage settles for both"),
        ({"second": "fastv(early_cache=full)"}, "sets early_cache, which .* two-stage's own"),
        ({"second": "dart(positions=renumbered)"}, "sets positions"),
        ({"first": "visionzip(sizes=log)"}, "sets sizes"),
        ({"second": "fastv(attention_scores=debiased)"}, "sets attention_scores"),
        ({"first": "divprune(frames=each)"}, "sets frames"),
        ({"depth": 1.0}, "outside \\(0, 1\\)"),
        ({"taper": 0.0}, "outside \\(0, 1\\]"),
        ({"second": "nobody"}, "unknown method 'nobody'"),
        ({"second": "vidcom2"}, "let it be the first"),
        ({"first": "divprune(prune_layer=1)"}, "sets prune_layer, which two-stage settles"),
        ({"second": "fastv(prune_layer=3)"}, "sets prune_layer"),
        ({"second": "fastv(early_cache=full)"}, "sets early_cache"),
        ({"second": "fastv(positions=renumbered)"}, "sets positions"),
        ({"second": "tokencarve(sizes=log)"}, "sets sizes"),
        ({"second": "dart(frames=each)"}, "sets frames"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        foveate.TwoStage(keep_ratio=0.25, **settings)


def test_what_both_share_is_said_once() -> None:
    method = foveate.TwoStage(
        keep_ratio=0.25,
        first="visionzip",
        second="fastv(early_cache=full, attention_scores=debiased)",
        early_cache="full",
        sizes="log",
        attention_scores="debiased",
    )
    assert [step.debiases for step in method.steps(8, 0)] == [False, True]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava"])
@pytest.mark.parametrize(("first", "second"), [("hiprune", "hiprune"), ("divprune", "hiprune")])
def test_either_may_read_an_early_layer_of_the_tower(name: str, first: str, second: str) -> None:
    check(name, foveate.TwoStage(keep_ratio=0.4, first=first, second=second), (1, 2), compact=True)


def test_two_early_layers_of_the_tower_are_refused() -> None:
    method = foveate.TwoStage(keep_ratio=0.25, first="hiprune", second="hiprune(object_layer=2)")
    with pytest.raises(MethodError, match=r"early layers 1, 2 of the vision tower, .* the same"):
        method.early_tower_layer(4)


def test_a_model_too_shallow_is_refused() -> None:
    method = foveate.TwoStage(keep_ratio=0.25, depth=0.01)
    with pytest.raises(MethodError, match="choose another depth"):
        method.steps(8, 0)


def test_what_the_pair_sets_may_be_said_again() -> None:
    settings = {"sizes": "log", "attention_scores": "debiased", "early_cache": "full"}
    text = "tokencarve(sizes=log, attention_scores=debiased, early_cache=full)"
    foveate.TwoStage(keep_ratio=0.25, second=text, **settings)


def test_what_a_method_asks_for_at_a_later_first_layer() -> None:
    """Whole frames are compared as they entered the first layer."""
    first, second = foveate.TwoStage(keep_ratio=0.5, first="vidcom2").steps(8, 2)
    assert (first.layer, second.layer) == (2, 5)
    assert first.needs == {"entering"}
    assert second.needs == {"attention"}
    assert not foveate.TwoStage(keep_ratio=0.5, first="vidcom2").steps(8, 0)[0].needs


def test_both_methods_are_named() -> None:
    assert str(foveate.TwoStage(keep_ratio=0.25)) == (
        "two-stage(keep=25%, first='divprune', second='fastv')"
    )
    named = str(foveate.TwoStage(keep_ratio=0.25, second="dart", depth=0.5))
    assert named == "two-stage(keep=25%, first='divprune', second='dart', depth=0.5)"
