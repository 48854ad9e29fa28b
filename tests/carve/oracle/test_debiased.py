"""attention_scores="debiased" equals attention less that of a dummy, put in place by place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.core.debiased import calibrated
from foveate.errors import MethodError
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import decoder_of
from tests.carve.oracle.test_pruned_equals_masked import assert_close

RAGGED = (1, 2, 0)


def attention_row(model: Any, inputs: Any, layer: int, change: Any = None) -> Tensor:
    """Attention of every row's last token in a layer, [B, H, L], its input changed by `change`."""

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = hidden.clone() if change is None else change(hidden.clone())
        return ((changed, *args[1:]), kwargs) if args else (
            args, {**kwargs, "hidden_states": changed})  # fmt: skip

    handle = decoder_of(model).layers[layer].register_forward_pre_hook(before, with_kwargs=True)
    try:
        with torch.no_grad():
            maps = model(**inputs, output_attentions=True).attentions
    finally:
        handle.remove()
    row: Tensor = maps[layer][:, :, -1]
    return row


def one_by_one(
    model: Any, inputs: Any, layer: int, sample: int, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """(a_i, what the image's mean token would get in place of token i), [N] each."""
    plain = attention_row(model, inputs, layer)[sample].mean(dim=0)[columns]
    found = []
    for column in columns.tolist():

        def put(hidden: Tensor, column: int = column) -> Tensor:
            hidden[sample, column] = hidden[sample, columns].mean(dim=0)
            return hidden

        found.append(attention_row(model, inputs, layer, put)[sample].mean(dim=0)[column])
    return plain, torch.stack(found)


@pytest.mark.parametrize("num_images", [(1,), RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("ranking", ["before", "ahead"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "paligemma", "internvl"])
def test_a_dummy_put_in_place_by_place(
    name: str, ranking: str, num_images: tuple[int, ...]
) -> None:
    model = tiny.build(name, "eager")
    inputs = tiny.prompts(model, name, num_images)
    settings: dict[str, Any] = {"keep_ratio": 0.4, "attention_scores": "debiased"}
    method: foveate.Method = foveate.FastV(prune_layer=3, **settings)
    if ranking == "ahead":
        method = foveate.PyramidDrop(prune_layer=2, stages=1, **settings)
    with foveate.attach(model, method) as run, torch.no_grad():
        model(**inputs)
    entry = run.plans[-1]  # the last image of the longest row
    columns = entry.span.tokens
    plain, bias = one_by_one(model, inputs, 2, entry.span.sample, columns)
    score = entry.steps[0].scores["attention"][0]
    assert_close(score, plain - bias, 1e-6)
    assert (score - plain).abs().max() > 1e-4, "there is nothing to debias"
    best = torch.sort(plain - bias, descending=True, stable=True).indices
    assert set(entry.steps[0].keep_idx[0].tolist()) == set(best[: entry.num_kept].tolist())


@pytest.mark.parametrize("ranking", ["before", "ahead"])
def test_behind_an_earlier_step_that_counts_sizes(ranking: Any) -> None:
    model = tiny.build("llava", "eager")
    inputs = tiny.prompts(model, "llava", (1,))
    pooling = foveate.AveragePooling(keep_ratio=0.6, prune_layer=1, sizes="log")
    later = foveate.PyramidDrop(
        keep_ratio=0.3, prune_layer=3, stages=1, ranks_by=ranking, attention_scores="debiased"
    )
    layer = 3 if ranking == "ahead" else 2
    with foveate.attach(model, pooling) as run:
        attention_row(model, inputs, layer)
        (left,) = run.plans
        columns = left.span.first + torch.arange(left.num_kept)
        plain, bias = one_by_one(model, inputs, layer, 0, columns)
    with foveate.attach(model, foveate.Stack(stages=(pooling, later))) as run, torch.no_grad():
        model(**inputs)
    assert_close(run.plans[0].steps[1].scores["attention"][0], plain - bias, 1e-6)


def test_off_is_off_and_the_model_is_left_alone() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", RAGGED)
    found = {}
    for scores in ("plain", "debiased"):
        method = foveate.FastV(keep_ratio=0.4, prune_layer=2, attention_scores=scores)  # type: ignore[arg-type]
        with foveate.attach(model, method) as run, torch.no_grad():
            logits = model(**inputs).logits
        found[scores] = ([p.plan.keep_idx.tolist() for p in run.plans if p.plan], logits)
    assert found["plain"][0] != found["debiased"][0]
    same = foveate.FastV(keep_ratio=1.0, attention_scores="debiased")
    with foveate.attach(model, same), torch.no_grad():
        logits = model(**inputs).logits
    with torch.no_grad():
        assert torch.equal(logits, model(**inputs).logits)


@pytest.mark.parametrize("method", [
    foveate.TokenCarve, foveate.FoveaCarve, foveate.VScan, foveate.CdPruner
])  # fmt: skip
def test_other_methods_run_on_it(method: Any) -> None:
    more: dict[Any, dict[str, Any]] = {
        foveate.CdPruner: {"relevance": "attention", "prune_layer": 2},
        foveate.FoveaCarve: {"prune_layer": 0},
    }
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", RAGGED)
    found = []
    for scores in ("plain", "debiased"):
        made = method(keep_ratio=0.3, attention_scores=scores, **more.get(method, {}))
        with foveate.attach(model, made) as run:
            model.generate(**inputs, max_new_tokens=2, do_sample=False)
        found.append([p.steps[-1].scores for p in run.plans])
    for plain, debiased in zip(*found, strict=True):
        assert any(not torch.equal(plain[name], debiased[name]) for name in plain)


@pytest.mark.parametrize("name", ["divprune", "visionzip", "sparsevlm", "v2drop"])
def test_methods_that_read_other_things_refuse(name: str) -> None:
    with pytest.raises(MethodError, match=f"{name} does not read the attention of the last"):
        foveate.method(name, keep_tokens=3, attention_scores="debiased")
    with pytest.raises(MethodError, match="does not read"):
        foveate.VScan(keep_tokens=3, where="encoder", attention_scores="debiased")


def test_by_hand() -> None:
    """Logits of places 1 and 2 are 0 and 2, of the text 1; dummies have 1 and 0."""
    real = torch.tensor([1.0, 0.0, 2.0]).softmax(0).view(1, 1, 3)
    dummies = torch.tensor([1.0, 1.0, 0.0]).softmax(0).view(1, 1, 3)
    is_dummy = torch.tensor([[False, True, True]])
    first = torch.tensor([1.0, 1.0, 2.0]).softmax(0)[1]
    second = torch.tensor([1.0, 0.0, 0.0]).softmax(0)[2]
    expected = torch.stack([torch.zeros(()), real[0, 0, 1] - first, real[0, 0, 2] - second])
    torch.testing.assert_close(calibrated(real, dummies, is_dummy)[0, 0], expected)
