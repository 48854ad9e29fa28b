"""What a budget costs by arithmetic alone: tokens per layer, prefill FLOPs, KV bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from foveate.core.budget import Budget
from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Analytic cost of one prompt.

    Args:
        tokens: prompt tokens (text and visual) in each decoder layer during prefill.
        cached: prompt tokens that each layer's KV cache holds after it.
        flops: of the decoder layers in prefill.
        kv_bytes: of the cache after prefill.
        visual_tokens: visual tokens in each decoder layer.
    """

    tokens: tuple[int, ...]
    cached: tuple[int, ...]
    flops: int
    kv_bytes: int
    visual_tokens: tuple[int, ...]

    @property
    def average_visual_tokens(self) -> float:
        """Mean over layers, the number that papers compare methods at."""
        return sum(self.visual_tokens) / len(self.visual_tokens)


def prefill_cost(
    shape: DecoderShape,
    *,
    num_text: int,
    num_visual: int,
    budget: Budget | None = None,
    prune_layer: int = 2,
    early_cache: Literal["compact", "full"] = "compact",
    bytes_per_value: int = 2,
) -> Cost:
    """Cost of prefilling one prompt with one image.

    FastV (arXiv:2403.06764, section 4.2) counts 4 n d^2 + 2 n^2 d + 2 n d m multiply-adds for a
    layer with n tokens, width d and feed-forward width m. Here a multiply-add is two FLOPs, key and
    value projections have the size that grouped-query attention gives them, and a gated
    feed-forward block has three matrices. Norms, softmax, embedding, output head, vision encoder
    and the selection itself are left out; attention is counted in full, as kernels without causal
    skipping run it.

    Args:
        num_text: text tokens of the prompt.
        num_visual: N, visual tokens of the image.
        budget: None for no compression.
        prune_layer: first layer that runs short.
        early_cache: what the layers before it keep in the cache, see Method.
        bytes_per_value: 2 for half precision, 4 for float32.

    Raises:
        BudgetError: the budget exceeds the visual tokens.
        InputError: prune_layer is outside the decoder, or a count is negative.
    """
    if num_text < 0 or num_visual < 0:
        raise InputError(
            f"num_text={num_text}, num_visual={num_visual}: counts cannot be negative."
        )
    if not 0 <= prune_layer < shape.num_layers:
        raise InputError(
            f"prune_layer={prune_layer} is outside the {shape.num_layers} decoder layers; "
            f"use 0 to {shape.num_layers - 1}."
        )
    keep = num_visual if budget is None else budget.count(num_visual)
    visual = [num_visual if i < prune_layer else keep for i in range(shape.num_layers)]
    return cost_of_layers(
        shape,
        num_text=num_text,
        visual_tokens=visual,
        cached_visual=[keep] * len(visual) if early_cache == "compact" else None,
        bytes_per_value=bytes_per_value,
    )


def cost_of_layers(
    shape: DecoderShape,
    *,
    num_text: int,
    visual_tokens: Sequence[float],
    cached_visual: Sequence[float] | None = None,
    bytes_per_value: int = 2,
) -> Cost:
    """Cost of prefilling one prompt whose visual tokens become fewer at any number of layers.

    The formula is that of `prefill_cost`.

    Args:
        num_text: text tokens of the prompt.
        visual_tokens: in each decoder layer; means over images are rounded.
        cached_visual: that each layer's cache holds afterwards; None: what went through the layer.
        bytes_per_value: 2 for half precision, 4 for float32.

    Raises:
        InputError: not one count per layer, or a negative one.
    """
    visual = tuple(round(n) for n in visual_tokens)
    held = visual if cached_visual is None else tuple(round(n) for n in cached_visual)
    for counts in (visual, held):
        if len(counts) != shape.num_layers:
            raise InputError(
                f"{len(counts)} counts of visual tokens for {shape.num_layers} decoder layers; "
                "give one per layer."
            )
    if num_text < 0 or min(*visual, *held) < 0:
        raise InputError(
            f"num_text={num_text}, visual_tokens={list(visual)}: counts cannot be negative."
        )
    tokens = tuple(num_text + n for n in visual)
    cached = tuple(num_text + n for n in held)
    return Cost(
        tokens=tokens,
        cached=cached,
        flops=sum(_layer_flops(shape, n) for n in tokens),
        kv_bytes=sum(cached) * 2 * shape.num_kv_heads * shape.head_dim * bytes_per_value,
        visual_tokens=visual,
    )


def _layer_flops(shape: DecoderShape, n: int) -> int:
    """FLOPs of one decoder layer over n tokens."""
    d, m = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    projections = n * d * (2 * queries + 2 * keys)  # query and output, key and value
    attention = 2 * n * n * queries  # scores, and the weighted sum of values
    feed_forward = n * d * m * (3 if shape.gated else 2)
    return 2 * (projections + attention + feed_forward)
