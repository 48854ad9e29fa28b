"""What every registered method promises, whatever it computes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

import foveate
from foveate.carve.tower_method import TowerMethod
from foveate.core.schedule import spans_of
from foveate.core.visual import VisualTokens
from foveate.errors import BudgetError, MethodError

NUM_TEXT = 6

# A stack decides nothing itself; methods of the vision tower are tested where there is one.
INSIDE = [name for name, cls in foveate.METHODS.items() if issubclass(cls, TowerMethod)]
COMPRESSING = [n for n in foveate.METHODS if n not in ("noop", "stack", "text-share", *INSIDE)]
every_method = pytest.mark.parametrize("name", foveate.METHODS)
compressing = pytest.mark.parametrize("name", COMPRESSING)


def visual(
    num_images: int = 3, num_tokens: int = 36, width: int = 24, seed: int = 0
) -> VisualTokens:
    generator = torch.Generator().manual_seed(seed)
    side = round(num_tokens**0.5)
    grid = (side, side) if side * side == num_tokens else None
    attention = torch.rand(num_images, 4, num_tokens, generator=generator)
    hidden = torch.randn(num_images, num_tokens, width, generator=generator)
    attention_output = torch.randn(num_images, num_tokens, width, generator=generator)
    text = torch.randn(num_images, NUM_TEXT, width, generator=generator)
    # Prompts of different lengths: the first image's is the longest.
    lengths = torch.tensor([max(1, NUM_TEXT - 2 * i) for i in range(num_images)])
    mask = torch.arange(NUM_TEXT) >= NUM_TEXT - lengths[:, None]
    rows = torch.rand(num_images, NUM_TEXT, num_tokens, generator=generator)
    entering = VisualTokens(
        hidden=torch.randn(num_images, num_tokens, width, generator=generator),
        text=torch.randn(num_images, NUM_TEXT, width, generator=generator) * mask.unsqueeze(-1),
        text_mask=mask,
    )
    return VisualTokens(
        hidden=hidden,
        keys=torch.randn(num_images, num_tokens, 8, generator=generator),
        text_keys=torch.randn(num_images, NUM_TEXT, 8, generator=generator) * mask.unsqueeze(-1),
        normed=normalize(hidden, dim=-1),
        text_normed=normalize(text, dim=-1) * mask.unsqueeze(-1),
        entering=entering,
        starts=(3,) * num_images,
        attention=attention / attention.sum(-1, keepdim=True),
        attention_output=attention_output,
        text=text * mask.unsqueeze(-1),
        text_mask=mask,
        text_attention=rows * mask.unsqueeze(-1) / num_tokens,
        vision_attention=torch.rand(num_images, num_tokens, generator=generator),
        vision_keys=torch.randn(num_images, num_tokens, 8, generator=generator),
        vision_received=torch.rand(num_images, num_tokens, generator=generator),
        vision_attention_early=torch.rand(num_images, num_tokens, generator=generator),
        vision_received_early=torch.rand(num_images, num_tokens, generator=generator),
        vision_features=torch.randn(num_images, num_tokens, 12, generator=generator),
        layer_update=torch.randn(num_images, num_tokens, width, generator=generator),
        foresight=torch.rand(num_images, num_tokens, generator=generator) / num_tokens,
        grids=(grid,) * num_images,
        serials=tuple(range(num_images)),
    )


def without_padding(tokens: VisualTokens) -> VisualTokens:
    """One image with the text of its own prompt only, as if it had come alone."""
    assert tokens.text is not None
    assert tokens.text_mask is not None
    assert tokens.text_attention is not None
    real, entering = tokens.text_mask[0], tokens.entering
    assert entering is not None
    assert entering.text is not None
    assert tokens.text_keys is not None
    assert tokens.text_normed is not None
    return dataclasses.replace(
        tokens,
        text_keys=tokens.text_keys[:, real],
        text_normed=tokens.text_normed[:, real],
        entering=dataclasses.replace(
            entering, text=entering.text[:, real], text_mask=tokens.text_mask[:, real]
        ),
        text=tokens.text[:, real],
        text_mask=tokens.text_mask[:, real],
        text_attention=tokens.text_attention[:, real],
    )


@compressing
@pytest.mark.parametrize("num_tokens", [2, 7, 36, 49])
def test_exact_budget_sorted_unique(name: str, num_tokens: int) -> None:
    for keep in {1, num_tokens // 2, num_tokens - 1}:
        method = foveate.method(name, keep_tokens=keep)
        plan = method.plan(visual(num_tokens=num_tokens), keep)
        plan.check(keep if method.exact_budget else plan.num_kept)
        assert 1 <= plan.num_kept <= keep
        assert plan.num_tokens == num_tokens
        assert plan.num_kept + plan.num_merged + plan.num_dropped == num_tokens


@compressing
def test_those_that_merge_say_so(name: str) -> None:
    method = foveate.method(name, keep_tokens=9)
    assert (method.plan(visual(), 9).num_merged > 0) == method.merges_tokens


@compressing
def test_needs_are_those_of_all_steps(name: str) -> None:
    """Who wonders whether the tower has to run asks the method, not its steps."""
    method = foveate.method(name, keep_tokens=9)
    assert frozenset().union(*(step.needs for step in method.steps(8, 0))) == method.needs


@compressing
def test_single_equals_batch(name: str) -> None:
    tokens = visual()
    method = foveate.method(name, keep_tokens=11)
    batch = method.plan(tokens, 11)
    for i in range(tokens.num_images):
        alone = method.plan(without_padding(tokens.take([i])), 11)
        assert alone.to_dict() == batch.image(i).to_dict()


@compressing
def test_pure(name: str) -> None:
    """Deciding changes nothing and decides the same again."""
    tokens = visual()
    before = {f.name: getattr(tokens, f.name) for f in dataclasses.fields(tokens)}
    copies = {k: v.clone() for k, v in before.items() if isinstance(v, torch.Tensor)}
    method = foveate.method(name, keep_tokens=9)
    state = torch.random.get_rng_state()
    first, second = method.plan(tokens, 9), method.plan(tokens, 9)
    assert first.to_dict() == second.to_dict()
    assert torch.equal(torch.random.get_rng_state(), state), "drew from the global generator"
    for key, value in copies.items():
        assert torch.equal(value, before[key]), f"{key} was changed in place"


CONTENT_ONLY = (
    "tokencarve", "fastv", "divprune", "cdpruner", "mmtok", "dart", "pyramiddrop", "sparsevlm"
)  # fmt: skip


@pytest.mark.parametrize("name", CONTENT_ONLY)
def test_permutation(name: str) -> None:
    """Methods that read only content keep the same tokens when their order changes."""
    tokens = visual(num_images=1)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(5))
    shuffled = tokens.tokens(order[None])
    method = foveate.method(name, keep_tokens=12)
    kept = method.plan(tokens, 12).keep_idx[0]
    moved = method.plan(shuffled, 12).keep_idx[0]
    assert set(order[moved].tolist()) == set(kept.tolist())


@compressing
def test_merged_rows_are_means(name: str) -> None:
    """Applying a plan: kept rows are the mean of themselves and what was merged into them.

    VisionZip's are themselves and the mean of what was merged.
    """
    tokens = visual()
    plan = foveate.method(name, keep_tokens=8).plan(tokens, 8)
    out = plan.apply(tokens.hidden)
    for image in range(3):
        carried = plan.keep_idx if plan.value_idx is None else plan.value_idx
        for row, token in enumerate(plan.keep_idx[image].tolist()):
            sources = plan.merge_src[image][plan.merge_dst[image] == token]
            members = torch.cat([carried[image, row : row + 1], sources])
            expected = tokens.hidden[image, members].mean(0)
            if plan.adds and len(sources):
                own = tokens.hidden[image, carried[image, row]]
                expected = own + tokens.hidden[image, sources].mean(0)
            torch.testing.assert_close(out[image, row], expected)


@pytest.mark.parametrize(
    "name", [n for n in foveate.METHODS if n not in (*INSIDE, "stack", "text-share")]
)
def test_settings_survive_json(name: str) -> None:
    method = foveate.method(name, keep_ratio=0.25, prune_layer=3)
    again = foveate.METHODS[name].from_dict(json.loads(json.dumps(method.to_dict())))
    assert again == method
    assert name in str(method)
    assert "prune_layer=3" in str(method)


def test_stack_survives_json() -> None:
    stages = (foveate.DivPrune(keep_ratio=0.5), foveate.FastV(keep_tokens=9, prune_layer=4))
    stack = foveate.Stack(stages=stages)
    assert foveate.Stack.from_dict(json.loads(json.dumps(stack.to_dict()))) == stack
    assert str(stack) == "divprune(keep=50%) + fastv(keep=9 tokens, prune_layer=4)"
    assert stack.budget == stages[1].budget
    assert stack.where == "encoder"
    assert [step.layer for step in stack.steps(8, 0)] == [0, 4]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (("fastv",), "give at least two"),
        (("fastv", "tokencarve"), "let one cut elsewhere, by prune_layer or depths"),
        (("fastv", "tome"), "must come first"),
    ],
)
def test_bad_stacks(stages: tuple[str, ...], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        foveate.Stack(stages=tuple(foveate.method(n, keep_tokens=4) for n in stages)).steps(8, 0)


@pytest.mark.parametrize("name", ["tome", "prune-and-merge"])
@pytest.mark.parametrize(("num_tokens", "keep", "layers"), [(36, 9, 3), (49, 1, 5), (16, 15, 4)])
def test_merges_add_up(name: str, num_tokens: int, keep: int, layers: int) -> None:
    method = foveate.method(name, keep_tokens=keep)
    counts = method.merges(num_tokens, keep, layers)
    assert sum(counts) == num_tokens - keep
    assert len(counts) == layers
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("name", ["tome", "prune-and-merge"])
@pytest.mark.parametrize("num_tokens", [2, 9, 36])
def test_matches_are_disjoint(name: str, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(3, num_tokens, 8, generator=generator)
    importance = torch.rand(3, num_tokens, generator=generator)
    method = foveate.method(name, keep_tokens=1)
    for count in {1, num_tokens // 2}:
        src, dst = method.match(keys, importance, count)
        assert src.shape == dst.shape == (3, count)
        for image in range(3):
            sources = set(src[image].tolist())
            assert len(sources) == count
            assert not sources & set(dst[image].tolist())


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (14, 14), (10, 30), (1, 7)])
def test_resized_grid_fits(rows: int, columns: int) -> None:
    method = foveate.ResizeFirst(keep_tokens=1)
    for keep in range(1, rows * columns + 1):
        r, c = method.grid(rows, columns, keep)
        assert 1 <= r * c <= keep
        assert r <= rows
        assert c <= columns
    assert method.grid(24, 24, 144) == (12, 12)
    assert method.grid(24, 24, 128) == (11, 11)


@pytest.mark.parametrize("name", ["pyramiddrop", "sparsevlm"])
@pytest.mark.parametrize("num_layers", [4, 8, 32])
def test_staged_budgets_are_means_over_layers(name: str, num_layers: int) -> None:
    method = foveate.method(name, keep_tokens=1)
    layers = method.layers(num_layers, 0)
    spans = spans_of(layers, num_layers)
    for num_tokens, keep in [(576, 288), (576, 64), (196, 12), (9, 3)]:
        counts = method.keeps(keep, num_tokens, layers, num_layers)
        total = sum(n * span for n, span in zip(counts, spans, strict=True))
        assert keep * sum(spans) - spans[-1] < total <= keep * sum(spans)
        assert list(counts) == sorted(counts, reverse=True)
        assert counts[-1] >= 1


@pytest.mark.parametrize("name", ["pyramiddrop", "sparsevlm"])
def test_one_token_is_a_budget_of_several_steps(name: str) -> None:
    """It was refused as if no token was left for a later step."""
    method = foveate.method(name, keep_tokens=1)
    layers = method.layers(8, 0)
    for num_tokens in (9, 36, 196):
        assert method.keeps(1, num_tokens, layers, 8) == (1,) * len(layers)


def test_sparsevlm_adapts_and_still_meets_its_budget() -> None:
    """A rank below the largest cuts more at once; the last step takes up the difference."""
    method = foveate.SparseVlm(keep_tokens=12)
    steps = method.steps(8, 0)
    keeps = method.keeps(12, 36, steps[0].layers, 8)
    # One and the same text token: all of them are raters.
    entering = VisualTokens(
        hidden=torch.ones(2, 36, 24),
        text=torch.ones(2, 8, 24),
        text_mask=torch.ones(2, 8, dtype=torch.bool),
    )
    attention = torch.rand(2, 8, 36, generator=torch.Generator().manual_seed(2))
    attention[1] = attention[1].mean(dim=0, keepdim=True)  # rank 1
    tokens = dataclasses.replace(visual(num_images=2), entering=entering, text_attention=attention)
    full, poor = method.adapt(tokens, keeps, steps[0], 8)
    assert full == keeps[0]
    assert poor < full
    spans = spans_of(steps[0].layers, 8)
    counts = (poor, *keeps[1:-1])
    last = method.adapt(dataclasses.replace(visual(1, 20), counts=counts), keeps, steps[-1], 8)[0]
    total = sum(n * span for n, span in zip((*counts, last), spans, strict=True))
    planned = sum(n * span for n, span in zip(keeps, spans, strict=True))
    assert planned - spans[-1] < total <= planned


@pytest.mark.parametrize("rank", ["one", "full"])
@pytest.mark.parametrize(("num_tokens", "keep"), [(36, 12), (18, 7), (9, 3)])
def test_sparsevlm_meets_its_budget_whatever_the_ranks(
    num_tokens: int, keep: int, rank: str
) -> None:
    """Of rank 1 at every step, or of full rank with more raters than tokens that are left."""
    method = foveate.SparseVlm(keep_tokens=keep)
    steps = method.steps(8, 0)
    spans = spans_of(steps[0].layers, 8)
    keeps = method.keeps(keep, num_tokens, steps[0].layers, 8)
    generator = torch.Generator().manual_seed(2)
    counts: tuple[int, ...] = ()
    for step in steps:
        left = counts[-1] if counts else num_tokens
        attention = torch.rand(1, 40, left, generator=generator)
        entering = VisualTokens(
            hidden=torch.ones(1, left, 24),
            text=torch.ones(1, 40, 24),
            text_mask=torch.ones(1, 40, dtype=torch.bool),
        )
        tokens = dataclasses.replace(
            visual(1, left),
            entering=entering,
            text_attention=attention.mean(dim=1, keepdim=True).expand_as(attention)
            if rank == "one"
            else attention,
            counts=counts,
        )
        counts = (*counts, method.adapt(tokens, keeps, step, 8)[0])
    spent = sum(n * span for n, span in zip(counts, spans, strict=True))
    planned = sum(n * span for n, span in zip(keeps, spans, strict=True))
    assert planned - spans[-1] < spent <= planned, counts


@every_method
def test_documented(name: str) -> None:
    cls = foveate.METHODS[name]
    assert cls.__doc__
    assert cls.summary
    assert cls.name == name


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, BudgetError, "got none of keep_tokens, keep_ratio and keep_information"),
        ({"keep_tokens": 4, "keep_ratio": 0.5}, BudgetError, "got both"),
        ({"keep_tokens": 0}, BudgetError, "keep_tokens=0 is below 1"),
        ({"keep_tokens": 2.5}, BudgetError, "no integer"),
        ({"keep_ratio": 0.0}, BudgetError, r"outside \(0, 1\]"),
        ({"keep_ratio": 1.5}, BudgetError, r"outside \(0, 1\]"),
        ({"keep_tokens": 4, "prune_layer": -1}, MethodError, "negative"),
        ({"keep_tokens": 4, "prune_layer": 0}, MethodError, "use prune_layer=1 or more"),
        ({"keep_tokens": 4, "positions": "moved"}, MethodError, "'original' or 'renumbered'"),
        ({"keep_tokens": 4, "text_share": 0.3}, MethodError, r"wrap the method, text-share\(token"),
        ({"keep_tokens": 4, "text_relevance": "similarity"}, MethodError, "wrap the method"),
        ({"keep_tokens": 4, "early_cache": "none"}, MethodError, "'compact' or 'full'"),
        ({"keep_tokens": 4, "attention_weight": 2}, MethodError, r"outside \[0, 1\]"),
        ({"keep_tokens": 4, "merge_fraction": -0.1}, MethodError, r"outside \[0, 1\]"),
        ({"keep_tokens": 4, "information_input": "x"}, MethodError, "layer_output"),
        ({"keep_tokens": 4, "information_score": "x"}, MethodError, "exact"),
        ({"keep_tokens": 4, "where": "tower"}, MethodError, "'llm' or 'encoder'"),
        (
            {"keep_tokens": 4, "where": "encoder", "information_input": "attention_output"},
            MethodError,
            "of a decoder layer",
        ),
        ({"keep_tokens": 4, "tokens": 3}, MethodError, "has no setting 'tokens'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        foveate.method("tokencarve", **settings)


def test_a_class_refuses_what_it_has_not_as_its_dictionary_does() -> None:
    with pytest.raises(MethodError, match=r"no setting 'text_share'; wrap .*foveate\.TextShare"):
        foveate.FastV(keep_tokens=4, text_share=0.3)  # type: ignore[call-arg]
    with pytest.raises(MethodError, match="no setting 'tokens'; it has keep_tokens"):
        foveate.FastV(tokens=4)  # type: ignore[call-arg]


def test_unknown_method_names_the_known() -> None:
    with pytest.raises(MethodError, match=r"unknown method .fastvv.; choose one of .*tokencarve"):
        foveate.method("fastvv", keep_tokens=3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["cdpruner", "divprune", "foveacarve", "mmtok"])
def test_greedy_choice_among_what_is_no_number_is_refused(name: str, bad: float) -> None:
    """Every comparison with NaN is false: the first token would be taken again and again."""
    tokens = visual(40)
    hidden = tokens.hidden.clone()
    hidden[0, 7, 3] = bad
    with pytest.raises(MethodError, match="hold NaN or infinite"):
        foveate.method(name, keep_tokens=9).select(dataclasses.replace(tokens, hidden=hidden), 9)
