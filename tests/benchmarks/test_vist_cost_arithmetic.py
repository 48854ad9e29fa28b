"""The closed formulas equal torch's counter, and the paper's one figure that can be checked."""

from __future__ import annotations

import pytest

from benchmarks.vist_cost.arithmetic import PIECES, CostShape, EncoderShape, llm_piece, pieces_of
from benchmarks.vist_cost.memory import memory_lines
from benchmarks.vist_cost.models import count_flops
from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError
from foveate.vist.config import ResamplerConfig
from foveate.vist.encoder.encoder_config import TextEncoderConfig

PAPER = CostShape()
SMALL = CostShape(
    llm=DecoderShape(
        num_layers=3, hidden_size=64, intermediate_size=96, num_heads=4, num_kv_heads=2, head_dim=16
    ),
    vocabulary=100,
    vision=EncoderShape(layers=2, width=48, heads=4, mlp=64, tokens=257),
    text=EncoderShape(layers=2, width=40, heads=4, mlp=64, tokens=256, patch=0),
    reader=TextEncoderConfig(width=24, layers=2, heads=3, stem_width=16),
    resampler=ResamplerConfig(
        input_width=48, width=48, num_latents=8, layers=2, heads=3, head_dim=8
    ),
    window=64,
)


@pytest.mark.parametrize("total", [64, 700])
@pytest.mark.parametrize("arm", PIECES)
def test_formula_equals_counter(arm: str, total: int) -> None:
    shape = SMALL
    if arm == "cepe-resampled":
        config = ResamplerConfig(**{**vars(SMALL.resampler), "input_width": 40})
        shape = CostShape(**{**vars(SMALL), "resampler": config})
    counted = count_flops(shape, arm, total)
    computed: dict[str, int] = {}
    for piece in pieces_of(shape, arm, total)[0]:
        computed[piece.name] = computed.get(piece.name, 0) + piece.flops
    assert computed.keys() == counted.keys()
    for name, flops in counted.items():
        assert computed[name] == pytest.approx(flops, rel=0.01), name


def test_formula_equals_counter_in_the_papers_shape() -> None:
    counted = sum(count_flops(PAPER, "vist", 2048).values())
    assert sum(p.flops for p in pieces_of(PAPER, "vist", 2048)[0]) == pytest.approx(
        counted, rel=0.01
    )


def test_the_papers_figure_for_tinyllama() -> None:
    """Table 1: 8.47 TFLOPs at 4,096 tokens."""
    assert llm_piece(PAPER.llm, PAPER.vocabulary, 4096).projections / 1e12 == pytest.approx(
        8.47, abs=0.005
    )


@pytest.mark.parametrize(
    ("total", "far", "raw", "images"),
    [(1024, 512, 512, 4), (2048, 1024, 1024, 7), (4096, 2048, 2048, 14), (16384, 14336, 2048, 98)],
)
def test_split(total: int, far: int, raw: int, images: int) -> None:
    assert PAPER.split(total) == (far, raw)
    assert PAPER.images(far) == images


def test_more_tokens_on_an_image_cost_less() -> None:
    ours = CostShape(tokens_per_image=187)

    def total(shape: CostShape, arm: str) -> int:
        return sum(piece.flops for piece in pieces_of(shape, arm, 16384)[0])

    assert total(ours, "vist") < total(PAPER, "vist")
    assert total(ours, "vist-reader") < 0.5 * total(ours, "cepe")
    assert pieces_of(ours, "vist", 16384)[1] == 77 * 64


@pytest.mark.parametrize("arm", PIECES)
def test_memory_lines_add_up(arm: str) -> None:
    for kernel in ("eager", "fused"):
        lines = memory_lines(PAPER, arm, 8192, kernel)  # type: ignore[arg-type]
        assert lines.pop("peak") == sum(lines.values())
        assert lines["weights of the language model"] == pytest.approx(2.2e9, rel=0.01)
    eager, fused = (memory_lines(PAPER, arm, 8192, k)["peak"] for k in ("eager", "fused"))
    assert eager > fused


def test_memory_by_hand() -> None:
    lines = memory_lines(PAPER, "vist", 16384, "eager")
    assert lines["latents"] == 98 * 64 * 1024 * 2
    assert lines["KV of the far context"] == 2 * 22 * 98 * 64 * 256 * 2
    assert lines["KV of the raw text"] == 2 * 22 * 2048 * 256 * 2
    scores = 8 * 32 * 2048 * 98 * 64
    assert lines["largest working set (cross-attention)"] == scores + 2 * 2048 * 4 * 2048
    raw = memory_lines(PAPER, "raw", 16384, "eager")
    assert "latents" not in raw
    assert raw["peak"] > 60e9


def test_mistakes() -> None:
    with pytest.raises(InputError, match="unknown arm 'x'; choose from raw, cepe"):
        pieces_of(PAPER, "x", 4096)
    with pytest.raises(InputError, match="use 2 or more"):
        pieces_of(PAPER, "vist", 1)
    with pytest.raises(InputError, match="unknown kernel"):
        memory_lines(PAPER, "vist", 4096, "magic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tokens_per_image=0"):
        CostShape(tokens_per_image=0)
