"""Analytic cost against published and hand-made figures."""

from __future__ import annotations

import pytest

from foveate.core.budget import Budget
from foveate.core.decoder_shape import DecoderShape
from foveate.errors import BudgetError, InputError
from foveate.measure.flops import prefill_cost

VICUNA_7B = DecoderShape(
    num_layers=32,
    hidden_size=4096,
    intermediate_size=11008,
    num_heads=32,
    num_kv_heads=32,
    head_dim=128,
)
SMALL = DecoderShape(
    num_layers=16,
    hidden_size=2048,
    intermediate_size=5504,
    num_heads=16,
    num_kv_heads=16,
    head_dim=128,
)


def test_one_tiny_layer_by_hand() -> None:
    shape = DecoderShape(
        num_layers=1, hidden_size=4, intermediate_size=6, num_heads=2, num_kv_heads=1, head_dim=2
    )
    cost = prefill_cost(shape, num_text=1, num_visual=2, prune_layer=0, bytes_per_value=4)
    # 3 tokens: q and o 4x4, k and v 4x2, scores and values 3x3x4, three 4x6 matrices
    multiply_adds = 3 * (2 * 16 + 2 * 8) + 2 * 9 * 4 + 3 * 3 * 24
    assert cost.flops == 2 * multiply_adds
    assert cost.kv_bytes == 3 * 2 * 2 * 4


def test_two_matrix_block_is_the_formula_of_fastv() -> None:
    shape = DecoderShape(
        num_layers=1,
        hidden_size=4096,
        intermediate_size=11008,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        gated=False,
    )
    n, d, m = 576, 4096, 11008
    cost = prefill_cost(shape, num_text=0, num_visual=n, prune_layer=0)
    assert cost.flops == 2 * (4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m)


@pytest.mark.parametrize(("keep", "ratio"), [(192, 0.485), (128, 0.399), (64, 0.313)])
def test_token_layers_of_the_speed_benchmark(keep: int, ratio: float) -> None:
    """36 + 576 + 40 tokens in 16 layers, carved from layer 2 on."""
    budget = Budget(keep_tokens=keep)
    full = prefill_cost(SMALL, num_text=76, num_visual=576)
    short = prefill_cost(SMALL, num_text=76, num_visual=576, budget=budget)
    assert sum(short.tokens) / sum(full.tokens) == pytest.approx(ratio, abs=5e-4)
    assert short.kv_bytes / full.kv_bytes == pytest.approx((76 + keep) / 652)
    # attention is quadratic, so FLOPs fall a little faster than tokens
    assert ratio - 0.03 < short.flops / full.flops < ratio


@pytest.mark.parametrize(("keep", "average"), [(192, 216.0), (128, 156.0), (64, 96.0)])
def test_average_tokens_over_layers(keep: int, average: float) -> None:
    cost = prefill_cost(
        VICUNA_7B, num_text=64, num_visual=576, budget=Budget(keep_tokens=keep), prune_layer=2
    )
    assert cost.average_visual_tokens == average


def test_full_early_cache_keeps_the_early_layers_whole() -> None:
    budget = Budget(keep_ratio=0.25)
    arguments = {"num_text": 10, "num_visual": 100, "budget": budget, "prune_layer": 3}
    compact = prefill_cost(VICUNA_7B, **arguments)
    full = prefill_cost(VICUNA_7B, **arguments, early_cache="full")
    assert full.cached[:4] == (110, 110, 110, 35)
    assert compact.cached == (35,) * 32
    assert full.tokens == compact.tokens == (110, 110, 110, *(35,) * 29)


@pytest.mark.parametrize("layer", [-1, 32])
def test_layer_outside_the_decoder(layer: int) -> None:
    with pytest.raises(InputError, match="outside the 32 decoder layers"):
        prefill_cost(VICUNA_7B, num_text=1, num_visual=1, prune_layer=layer)


def test_impossible_counts() -> None:
    with pytest.raises(BudgetError, match="exceeds the 10"):
        prefill_cost(VICUNA_7B, num_text=1, num_visual=10, budget=Budget(keep_tokens=11))
    with pytest.raises(InputError, match="negative"):
        prefill_cost(VICUNA_7B, num_text=-1, num_visual=10)
