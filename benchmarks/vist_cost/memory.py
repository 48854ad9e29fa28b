"""Peak memory of a pass over far context by arithmetic, each line stated."""

from __future__ import annotations

from typing import Literal

from benchmarks.vist_cost.arithmetic import (
    HALF,
    PAGES_AT_A_TIME,
    SCORE_BYTES,
    CostShape,
    EncoderShape,
    pieces_of,
)
from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError
from foveate.vist.config import ResamplerConfig
from foveate.vist.encoder.encoder_config import TextEncoderConfig

Kernel = Literal["eager", "fused"]


def memory_lines(shape: CostShape, arm: str, total: int, kernel: Kernel) -> dict[str, int]:
    """Bytes by line; "peak" is their sum, where of the working sets only the largest counts.

    Weights, caches and activations are in half precision. The working set of a transformer layer is
    its input, its normed copy, queries, keys, values and result of attention, and both halves of
    the feed-forward block. Pages are encoded 32 at a time. Logits are kept for all positions.

    Args:
        shape, arm, total: as in `pieces_of`.
        kernel: "eager" holds all attention scores of a layer (as a GPU without a fused kernel
            does), "fused" none.

    Raises:
        InputError: an unknown arm or kernel, or too few tokens.
    """
    if kernel not in ("eager", "fused"):
        raise InputError(f"unknown kernel {kernel!r}; use eager or fused.")
    _, entries = pieces_of(shape, arm, total)
    far, raw = shape.split(total) if arm != "raw" else (0, total)
    keys = shape.llm.num_kv_heads * shape.llm.head_dim
    score = SCORE_BYTES if kernel == "eager" else 0
    lines = {"weights of the language model": HALF * _llm_weights(shape.llm, shape.vocabulary)}
    working = {"language model": _llm_layer(shape.llm, raw, score)}
    working["logits"] = HALF * raw * shape.vocabulary
    if arm != "raw":
        width = shape.text.width if arm == "cepe" else shape.resampler.width
        lines["weights of the cross-attention"] = HALF * _fusion_weights(shape.llm, width)
        lines["latents"] = HALF * entries * width
        lines["KV of the far context"] = HALF * 2 * shape.llm.num_layers * entries * keys
        queries = shape.llm.num_heads * shape.llm.head_dim
        working["cross-attention"] = (
            HALF * raw * (2 * shape.llm.hidden_size + 2 * queries)
            + score * shape.llm.num_heads * raw * entries
        )
        lines.update(_encoder_weights(shape, arm))
        working["encoder"] = _encoder_work(shape, arm, far, score)
    lines["KV of the raw text"] = HALF * 2 * shape.llm.num_layers * raw * keys
    largest = max(working, key=lambda name: working[name])
    lines[f"largest working set ({largest})"] = working[largest]
    lines["peak"] = sum(lines.values())
    return lines


def _llm_weights(shape: DecoderShape, vocabulary: int) -> int:
    """Decoder, embeddings and an output head of its own."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = shape.hidden_size * (2 * queries + 2 * keys)
    layer += shape.hidden_size * shape.intermediate_size * (3 if shape.gated else 2)
    return shape.num_layers * layer + 2 * vocabulary * shape.hidden_size


def _fusion_weights(shape: DecoderShape, width: int) -> int:
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return shape.num_layers * (2 * shape.hidden_size * queries + 2 * width * keys)


def _resampler_weights(config: ResamplerConfig) -> int:
    inner, width = config.heads * config.head_dim, config.width
    layer = 4 * width * inner + 2 * config.ff_mult * width**2
    return config.input_width * width + config.layers * layer


def _reader_weights(config: TextEncoderConfig) -> int:
    stem = config.height * config.stem_reach * config.stem_width + 3 * config.stem_width**2
    stem += config.slots * config.stem_width * config.width
    layer = (4 + 2 * config.ff_mult) * config.width**2 + config.conv * config.width
    return stem + config.layers * layer


def _encoder_weights(shape: CostShape, arm: str) -> dict[str, int]:
    resampler = {"weights of the resampler": HALF * _resampler_weights(shape.resampler)}
    encoder = {
        "cepe": shape.text.parameters,
        "cepe-resampled": shape.text.parameters,
        "vist": shape.vision.parameters,
        "vist-reader": _reader_weights(shape.reader),
    }[arm]
    lines = {"weights of the encoder": HALF * encoder}
    return lines if arm == "cepe" else {**lines, **resampler}


def _llm_layer(shape: DecoderShape, tokens: int, score: int) -> int:
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    values = 2 * shape.hidden_size + 2 * queries + 2 * keys
    feed_forward = 2 * shape.hidden_size + (2 if shape.gated else 1) * shape.intermediate_size
    attention = HALF * tokens * values + score * shape.num_heads * tokens**2
    return max(attention, HALF * tokens * feed_forward)


def _encoder_work(shape: CostShape, arm: str, far: int, score: int) -> int:
    if arm == "vist-reader":
        reader = shape.reader
        encoder = EncoderShape(
            layers=reader.layers,
            width=reader.width,
            heads=reader.heads,
            mlp=reader.ff_mult * reader.width,
            tokens=reader.patches,
        )
        pages = shape.images(far)
    elif arm == "vist":
        encoder, pages = shape.vision, shape.images(far)
    else:
        encoder, pages = shape.text, -(-far // shape.text.tokens)
    together = min(pages, PAGES_AT_A_TIME)
    rows = together * encoder.tokens
    attention = HALF * rows * 6 * encoder.width
    attention += score * together * encoder.heads * encoder.tokens**2
    return max(attention, HALF * rows * (2 * encoder.width + encoder.mlp))
