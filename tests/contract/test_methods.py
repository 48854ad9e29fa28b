"""What every registered method promises, whatever it computes."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

import foveate
from foveate.core.visual import VisualTokens
from foveate.errors import BudgetError, MethodError

COMPRESSING = [name for name in foveate.METHODS if name != "noop"]
every_method = pytest.mark.parametrize("name", foveate.METHODS)
compressing = pytest.mark.parametrize("name", COMPRESSING)


def visual(
    num_images: int = 3, num_tokens: int = 36, width: int = 24, seed: int = 0
) -> VisualTokens:
    generator = torch.Generator().manual_seed(seed)
    side = round(num_tokens**0.5)
    grid = (side, side) if side * side == num_tokens else None
    attention = torch.rand(num_images, 4, num_tokens, generator=generator)
    return VisualTokens(
        hidden=torch.randn(num_images, num_tokens, width, generator=generator),
        attention=attention / attention.sum(-1, keepdim=True),
        attention_output=torch.randn(num_images, num_tokens, width, generator=generator),
        grids=(grid,) * num_images,
        serials=tuple(range(num_images)),
    )


def only_image(tokens: VisualTokens, i: int) -> VisualTokens:
    one = slice(i, i + 1)
    assert tokens.attention is not None
    assert tokens.attention_output is not None
    return VisualTokens(
        hidden=tokens.hidden[one],
        attention=tokens.attention[one],
        attention_output=tokens.attention_output[one],
        grids=tokens.grids[one],
        serials=tokens.serials[one],
    )


@compressing
@pytest.mark.parametrize("num_tokens", [2, 7, 36, 49])
def test_exact_budget_sorted_unique(name: str, num_tokens: int) -> None:
    for keep in {1, num_tokens // 2, num_tokens - 1}:
        plan = foveate.method(name, keep_tokens=keep).plan(visual(num_tokens=num_tokens), keep)
        plan.check(keep)
        assert plan.num_tokens == num_tokens
        assert plan.num_kept + plan.num_merged + plan.num_dropped == num_tokens


@compressing
def test_single_equals_batch(name: str) -> None:
    tokens = visual()
    method = foveate.method(name, keep_tokens=11)
    batch = method.plan(tokens, 11)
    for i in range(tokens.num_images):
        alone = method.plan(only_image(tokens, i), 11)
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


@pytest.mark.parametrize("name", ["tokencarve", "fastv", "divprune"])
def test_permutation(name: str) -> None:
    """Methods that read only content keep the same tokens when their order changes."""
    tokens = visual(num_images=1)
    order = torch.randperm(36, generator=torch.Generator().manual_seed(5))
    assert tokens.attention is not None
    shuffled = VisualTokens(
        hidden=tokens.hidden[:, order], attention=tokens.attention[:, :, order], grids=(None,)
    )
    method = foveate.method(name, keep_tokens=12)
    kept = method.plan(tokens, 12).keep_idx[0]
    moved = method.plan(shuffled, 12).keep_idx[0]
    assert set(order[moved].tolist()) == set(kept.tolist())


@compressing
def test_merged_rows_are_means(name: str) -> None:
    """Applying a plan: kept rows are the mean of themselves and what was merged into them."""
    tokens = visual()
    plan = foveate.method(name, keep_tokens=8).plan(tokens, 8)
    out = plan.apply(tokens.hidden)
    for image in range(3):
        for row, token in enumerate(plan.keep_idx[image].tolist()):
            sources = plan.merge_src[image][plan.merge_dst[image] == token]
            members = torch.cat([torch.tensor([token]), sources])
            torch.testing.assert_close(out[image, row], tokens.hidden[image, members].mean(0))


@every_method
def test_settings_survive_json(name: str) -> None:
    method = foveate.method(name, keep_ratio=0.25, prune_layer=3)
    again = foveate.METHODS[name].from_dict(json.loads(json.dumps(method.to_dict())))
    assert again == method
    assert name in str(method)
    assert "prune_layer=3" in str(method)


@every_method
def test_documented(name: str) -> None:
    cls = foveate.METHODS[name]
    assert cls.__doc__
    assert cls.summary
    assert cls.name == name


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, BudgetError, "got neither of keep_tokens and keep_ratio"),
        ({"keep_tokens": 4, "keep_ratio": 0.5}, BudgetError, "got both"),
        ({"keep_tokens": 0}, BudgetError, "keep_tokens=0 is below 1"),
        ({"keep_tokens": 2.5}, BudgetError, "no integer"),
        ({"keep_ratio": 0.0}, BudgetError, r"outside \(0, 1\]"),
        ({"keep_ratio": 1.5}, BudgetError, r"outside \(0, 1\]"),
        ({"keep_tokens": 4, "prune_layer": -1}, MethodError, "negative"),
        ({"keep_tokens": 4, "prune_layer": 0}, MethodError, "use prune_layer=1 or more"),
        ({"keep_tokens": 4, "early_cache": "none"}, MethodError, "'compact' or 'full'"),
        ({"keep_tokens": 4, "attention_weight": 2}, MethodError, r"outside \[0, 1\]"),
        ({"keep_tokens": 4, "merge_fraction": -0.1}, MethodError, r"outside \[0, 1\]"),
        ({"keep_tokens": 4, "information_input": "x"}, MethodError, "layer_output"),
        ({"keep_tokens": 4, "information_score": "x"}, MethodError, "exact"),
        ({"keep_tokens": 4, "tokens": 3}, MethodError, "has no setting 'tokens'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        foveate.method("tokencarve", **settings)


def test_unknown_method_names_the_known() -> None:
    with pytest.raises(MethodError, match=r"unknown method .fastvv.; choose one of .*tokencarve"):
        foveate.method("fastvv", keep_tokens=3)
