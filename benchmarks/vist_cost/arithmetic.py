"""What far context costs by arithmetic: FLOPs and peak memory of raw text, CEPE and Vist.

One forward pass over one document, no decoding, as in the paper. A multiply-add is two FLOPs, and
matrix products are all that is counted; attention is counted in full, without causal skipping. The
paper's 8.47 TFLOPs of TinyLlama at 4,096 tokens are exactly the projections and the output head of
all positions: its counter left out the products of queries, keys and values. So both counts are
kept apart here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError
from foveate.vist.config import ResamplerConfig
from foveate.vist.encoder.encoder_config import TextEncoderConfig

HALF = 2  # bytes of a value in half precision
PAGES_AT_A_TIME = 32  # encoded together, as Vist.read does
# Scores in half precision, their softmax in float32, and that in half again, all alive at once.
SCORE_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """Sizes of a bidirectional transformer encoder.

    Args:
        layers, width, heads, mlp: of the transformer.
        tokens: that it reads at once: patches and CLS of an image, or a chunk of text.
        patch: pixels of a patch; 0 for text.
        embeddings: rows of its embedding table.
    """

    layers: int = 24
    width: int = 1024
    heads: int = 16
    mlp: int = 4096
    tokens: int = 257
    patch: int = 14
    embeddings: int = 257

    @property
    def parameters(self) -> int:
        """Weights of matrices and embeddings."""
        layer = 4 * self.width**2 + 2 * self.width * self.mlp
        table = self.embeddings + 3 * self.patch**2
        return self.layers * layer + table * self.width


@dataclass(frozen=True, kw_only=True)
class CostShape:
    """The models that are compared. The defaults are the paper's.

    Args:
        llm, vocabulary: TinyLlama.
        vision: CLIP ViT-L/14 at 224 px: 256 patches and a CLS.
        text: RoBERTa-large over chunks of 256 tokens.
        reader: the text-reading encoder that foveate ships.
        resampler: the paper states N = 64 and D = 1024 only; depth and heads are Flamingo's.
        tokens_per_image: text tokens that one strip holds.
        window: raw tokens at most; below twice as many, half of the text is raw.
    """

    llm: DecoderShape = field(
        default_factory=lambda: DecoderShape(
            num_layers=22,
            hidden_size=2048,
            intermediate_size=5632,
            num_heads=32,
            num_kv_heads=4,
            head_dim=64,
        )
    )
    vocabulary: int = 32_000
    vision: EncoderShape = field(default_factory=EncoderShape)
    text: EncoderShape = field(
        default_factory=lambda: EncoderShape(tokens=256, patch=0, embeddings=50_265 + 514)
    )
    reader: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    resampler: ResamplerConfig = field(
        default_factory=lambda: ResamplerConfig(
            input_width=1024, width=1024, num_latents=64, layers=6, heads=8, head_dim=64
        )
    )
    tokens_per_image: float = 146.0
    window: int = 2048

    def __post_init__(self) -> None:
        if self.tokens_per_image <= 0 or self.window < 2:
            raise InputError(
                f"tokens_per_image={self.tokens_per_image}, window={self.window}; use positive "
                "numbers, and a window of at least 2."
            )

    def split(self, total: int) -> tuple[int, int]:
        """(far, raw) tokens of `total`: half and half, or all beyond the window far."""
        if total < 2:
            raise InputError(f"total={total} tokens cannot be split; use 2 or more.")
        raw = total // 2 if total <= self.window else self.window
        return total - raw, raw

    def images(self, far: int) -> int:
        """Strips that `far` tokens fill (1,024 tokens are 7 images in the paper)."""
        return max(1, round(far / self.tokens_per_image))


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One part of a pass.

    Args:
        name: of the part.
        projections: FLOPs of products with weights.
        attention: FLOPs of queries with keys, and of weights with values.
    """

    name: str
    projections: int
    attention: int = 0

    @property
    def flops(self) -> int:
        return self.projections + self.attention


def encoder_piece(name: str, shape: EncoderShape, tokens: int, count: int) -> Piece:
    """`count` inputs of `tokens` tokens each through an encoder."""
    width = shape.width
    layer = 4 * width**2 + 2 * width * shape.mlp
    patches = (tokens - 1) * 3 * shape.patch**2 * width if shape.patch else 0
    return Piece(
        name=name,
        projections=2 * count * (shape.layers * tokens * layer + patches),
        attention=2 * count * shape.layers * 2 * tokens**2 * width,
    )


def reader_piece(config: TextEncoderConfig, count: int) -> Piece:
    """`count` strips through the shipped text encoder, without its heads."""
    patches, slots, stem, width = config.patches, config.slots, config.stem_width, config.width
    columns = patches * slots
    stem_flops = columns * (config.height * config.stem_reach * stem + 3 * stem * stem)
    stem_flops += patches * slots * stem * width
    layer = (4 + 2 * config.ff_mult) * width**2 + config.conv * width
    return Piece(
        name="encoder",
        projections=2 * count * (stem_flops + config.layers * patches * layer),
        attention=2 * count * config.layers * 2 * patches**2 * width,
    )


def resampler_piece(config: ResamplerConfig, inputs: int, count: int) -> Piece:
    """`count` pages of `inputs` features each through the Perceiver Resampler."""
    queries = config.num_latents + 1
    inner, width = config.heads * config.head_dim, config.width
    keys = inputs + queries
    layer = queries * 2 * width * inner + keys * 2 * width * inner
    layer += queries * 2 * config.ff_mult * width**2
    return Piece(
        name="resampler",
        projections=2 * count * (inputs * config.input_width * width + config.layers * layer),
        attention=2 * count * config.layers * 2 * queries * keys * inner,
    )


def fusion_piece(shape: DecoderShape, width: int, raw: int, entries: int) -> Piece:
    """Cross-attention from `raw` text rows to `entries` memory entries, in every layer."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = raw * 2 * shape.hidden_size * queries + entries * 2 * width * keys
    return Piece(
        name="cross-attention",
        projections=2 * shape.num_layers * layer,
        attention=2 * shape.num_layers * 2 * raw * entries * queries,
    )


def llm_piece(shape: DecoderShape, vocabulary: int, tokens: int) -> Piece:
    """`tokens` through the decoder, with the output head at every position."""
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer = shape.hidden_size * (2 * queries + 2 * keys)
    layer += shape.hidden_size * shape.intermediate_size * (3 if shape.gated else 2)
    return Piece(
        name="language model",
        projections=2 * tokens * (shape.num_layers * layer + shape.hidden_size * vocabulary),
        attention=2 * shape.num_layers * 2 * tokens**2 * queries,
    )


def _chunks(shape: EncoderShape, far: int) -> list[tuple[int, int]]:
    """(tokens, how many) of the chunks of far text: whole ones, and a rest."""
    whole, rest = divmod(far, shape.tokens)
    return [(t, n) for t, n in ((shape.tokens, whole), (rest, 1)) if t and n]


def _raw(shape: CostShape, total: int) -> tuple[list[Piece], int]:
    return [llm_piece(shape.llm, shape.vocabulary, total)], 0


def _cepe(shape: CostShape, total: int) -> tuple[list[Piece], int]:
    far, raw = shape.split(total)
    pieces = [encoder_piece("encoder", shape.text, t, n) for t, n in _chunks(shape.text, far)]
    pieces.append(fusion_piece(shape.llm, shape.text.width, raw, far))
    return [*pieces, llm_piece(shape.llm, shape.vocabulary, raw)], far


def _cepe_resampled(shape: CostShape, total: int) -> tuple[list[Piece], int]:
    far, raw = shape.split(total)
    chunks = _chunks(shape.text, far)
    pieces = [encoder_piece("encoder", shape.text, t, n) for t, n in chunks]
    pieces += [resampler_piece(shape.resampler, t, n) for t, n in chunks]
    entries = sum(n for _, n in chunks) * shape.resampler.num_latents
    pieces.append(fusion_piece(shape.llm, shape.resampler.width, raw, entries))
    return [*pieces, llm_piece(shape.llm, shape.vocabulary, raw)], entries


def _vist(shape: CostShape, total: int, *, reader: bool = False) -> tuple[list[Piece], int]:
    far, raw = shape.split(total)
    images = shape.images(far)
    config = shape.resampler
    if reader:
        config = ResamplerConfig(**{**vars(config), "input_width": shape.reader.width})
        encoder = reader_piece(shape.reader, images)
    else:
        encoder = encoder_piece("encoder", shape.vision, shape.vision.tokens, images)
    patches = shape.reader.patches if reader else shape.vision.tokens - 1
    entries = images * config.num_latents
    pieces = [
        encoder,
        resampler_piece(config, patches, images),
        fusion_piece(shape.llm, config.width, raw, entries),
        llm_piece(shape.llm, shape.vocabulary, raw),
    ]
    return pieces, entries


def _vist_reader(shape: CostShape, total: int) -> tuple[list[Piece], int]:
    return _vist(shape, total, reader=True)


PIECES: dict[str, Callable[[CostShape, int], tuple[list[Piece], int]]] = {
    "raw": _raw,
    "cepe": _cepe,
    "cepe-resampled": _cepe_resampled,
    "vist": _vist,
    "vist-reader": _vist_reader,
}


def pieces_of(shape: CostShape, arm: str, total: int) -> tuple[list[Piece], int]:
    """FLOPs by part, and the far entries that the LLM reads.

    Args:
        shape: of the models.
        arm: from PIECES: "vist" has the vision tower, "vist-reader" the text encoder foveate ships,
            "cepe-resampled" gives the text encoder the same resampler.
        total: tokens of text.

    Raises:
        InputError: an unknown arm, or too few tokens.
    """
    if arm not in PIECES:
        raise InputError(f"unknown arm {arm!r}; choose from {', '.join(PIECES)}.")
    if total < 2:
        raise InputError(f"total={total} tokens cannot be split; use 2 or more.")
    return PIECES[arm](shape, total)
