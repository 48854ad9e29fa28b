"""sizes="log" on a flash kernel, which takes no bias: in columns of q and k, equal to a bias.

A stand-in for the kernel (test_flash_path): what foveate must get right is what the kernel is
called with. tests/carve/oracle/test_sizes.py holds the bias itself to full-length attention.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.key_sizes import KeySizes, sizes_of, widened, with_sizes
from foveate.models.weighed_keys import WeighedKeys
from tests import tiny_vlm as tiny
from tests.carve.engine.test_flash_path import NAME, flash_stand_in, register_stand_in

RAGGED = (1, 2, 0)


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_stand_in()


def generated(attention: str, method: foveate.Method, counts: tuple[int, ...], name: str) -> Any:
    """Logits of prefill and decoding, and what each step read."""
    model = tiny.build(name, attention)
    inputs = tiny.prompts(model, name, counts)
    with foveate.attach(model, method) as run:
        out = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert run.report is not None
    assert run.report.merged
    scores = [step.scores for plan in run.plans for step in plan.steps]
    return torch.stack(out.logits), scores


TWICE = foveate.Stack(
    stages=(
        foveate.AveragePooling(keep_ratio=0.6, prune_layer=1, sizes="log"),
        foveate.TokenCarve(keep_ratio=0.3, prune_layer=3, sizes="log"),
    )
)


@pytest.mark.parametrize(
    "method",
    [
        foveate.TokenCarve(keep_ratio=0.4, sizes="log"),
        foveate.SparseVlm(keep_ratio=0.5, recycled=1.0, cluster_fraction=0.5, sizes="log"),
        TWICE,
    ],
    ids=["tokencarve", "sparsevlm", "twice"],
)
@pytest.mark.parametrize("counts", [(1,), RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_equals_the_bias(name: str, counts: tuple[int, ...], method: foveate.Method) -> None:
    biased, of_bias = generated("sdpa", method, counts, name)
    found, scores = generated(NAME, method, counts, name)
    torch.testing.assert_close(found, biased, atol=5e-5, rtol=1e-4)
    for ours, theirs in zip(scores, of_bias, strict=True):
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], atol=1e-5, rtol=1e-4)


def test_sizes_make_a_difference() -> None:
    counted, plain = (
        generated(NAME, foveate.TokenCarve(keep_ratio=0.4, sizes=sizes), (1,), "llava")[0]
        for sizes in ("log", "ignore")
    )
    assert (counted - plain).abs().max() > 1e-3


def test_gradients_under_checkpointing() -> None:
    """A layer that is run again for its gradient finds the sizes too."""
    found = []
    for attention, is_checkpointed in (("sdpa", False), (NAME, False), (NAME, True)):
        model = tiny.build("llava", attention).train()
        if is_checkpointed:
            name = "activation_checkpointing_enable"
            (getattr(model, name, None) or model.gradient_checkpointing_enable)()
        inputs = tiny.prompts(model, "llava", (1,))
        labels = inputs["input_ids"].clone()
        method = foveate.AveragePooling(keep_ratio=0.4, prune_layer=1, sizes="log")
        with foveate.attach(model, method):
            model(**inputs, labels=labels, use_cache=False).loss.backward()
        weights = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append(next(g for n, g in weights.items() if "layers.3" in n and "q_proj" in n))
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(found[2], found[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [64, 80, 128])
def test_half_precision_keeps_float32_of_a_size(dtype: torch.dtype, dim: int) -> None:
    """As kernels do: products of halves in float32. One column alone would round the size."""
    generator = torch.Generator().manual_seed(dim)
    draw = functools.partial(torch.randn, generator=generator)
    query, key = draw(2, 4, 5, dim).to(dtype), draw(2, 2, 7, dim).to(dtype)
    log_sizes = torch.randint(1, 600, (2, 7), generator=generator).float().log()
    scaling = dim**-0.5

    def logits(q: Tensor, k: Tensor) -> Tensor:
        return q.double() @ k.double().repeat_interleave(2, dim=1).transpose(-1, -2) * scaling

    wide_q, wide_k = widened(query, key, log_sizes, scaling)
    assert wide_q.dtype == wide_k.dtype == dtype
    assert wide_q.shape[-1] % 8 == 0
    expected = logits(query, key) + log_sizes[:, None, None].double()
    found = logits(wide_q, wide_k)
    assert (found - expected).abs().max() < 1e-5
    rounded = (log_sizes / scaling).to(dtype).double() * scaling
    assert (rounded - log_sizes).abs().max() > 2e-4, "the control: one column"


def attend(dim: int, **settings: Any) -> None:
    module = torch.nn.Linear(1, 1)
    q = torch.zeros(1, 1, 2, dim)
    mask = with_sizes(None, torch.zeros(1, 2))
    WeighedKeys(module).attend(flash_stand_in, q, q, q, mask, **settings)


def test_what_cannot_be_counted_is_refused() -> None:
    register_stand_in("no_mask_at_all", masks="sdpa")
    attend(248)
    with pytest.raises(UnsupportedModeError, match=r"3 more columns .* 256 for the 256 of this"):
        attend(256)
    with pytest.raises(UnsupportedModeError, match="behind their soft cap"):
        attend(64, softcap=30.0)
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4, sizes="log")):
        model.set_attn_implementation("no_mask_at_all")
        with torch.no_grad(), pytest.raises(UnsupportedModeError, match="or a flash kernel"):
            model(**inputs)


def test_a_layer_that_loses_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("llava", NAME)
    inputs = tiny.prompts(model, "llava", (1,))
    own = model.model.language_model.layers[3].self_attn
    forward = own.forward

    def copies_its_mask(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **{**kwargs, "attention_mask": kwargs["attention_mask"].clone()})

    monkeypatch.setattr(own, "forward", copies_its_mask)
    method = foveate.TokenCarve(keep_ratio=0.4, sizes="log")
    with (
        foveate.attach(model, method),
        torch.no_grad(),
        pytest.raises(UnsupportedModelError, match="do not pass their mask through"),
    ):
        model(**inputs)


def test_a_mask_carries_them() -> None:
    given = torch.tensor([[1, 0]])
    carried = sizes_of(with_sizes(given, torch.zeros(1, 2)))
    assert isinstance(carried, KeySizes)
    assert carried.is_needed
    assert sizes_of(given) is None, "what was given is left alone"
