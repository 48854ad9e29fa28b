"""Sizes of configurations: whole, not below the least, and never so large that they cost."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.errors import ConfigError, InputError
from foveate.vist.cepe.encoder import ChunkEncoderConfig
from foveate.vist.config import CarvedConfig, FusionConfig, GlanceConfig, ResamplerConfig
from foveate.vist.latents.index_head import IndexConfig
from foveate.vist.sizes import check_latents, check_size, most_of

WIDTHS = {"input_width": 8, "width": 8}
MADE: dict[type, dict[str, Any]] = {
    ResamplerConfig: WIDTHS,
    GlanceConfig: WIDTHS,
    IndexConfig: {"input_width": 8, "embedding_width": 8},
    ChunkEncoderConfig: {},
    CarvedConfig: {"layer": 1},
    FusionConfig: {},
}


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (ResamplerConfig, "num_latents", 4097),
        (ResamplerConfig, "width", 10**9),
        (ResamplerConfig, "ff_mult", 65),
        (GlanceConfig, "num_latents", 1 << 20),
        (GlanceConfig, "packed", 10**8),
        (IndexConfig, "heads", 1025),
        (IndexConfig, "inner", 1 << 17),
        (ChunkEncoderConfig, "layers", 10**5),
        (CarvedConfig, "layer", 1025),
        (CarvedConfig, "lora_rank", 10**6),
        (FusionConfig, "lora_rank", 10**6),
    ],
)
def test_absurd_sizes_are_refused(kind: Any, name: str, value: int) -> None:
    kind(**MADE[kind])
    limit = f"{most_of(name):,}"
    with pytest.raises(
        ConfigError, match=f"{kind.__name__} got {name}={value}, above the limit of {limit}; lower"
    ):
        kind(**{**MADE[kind], name: value})


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "8", None, [8] * 99])
def test_a_size_is_a_positive_whole_number(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"IndexConfig got width=.{1,40}; use a positive integer"):
        IndexConfig(input_width=8, embedding_width=8, width=value)


def test_a_layer_may_count_from_the_end() -> None:
    assert FusionConfig(form="cross_attention", layers=(-1,)).layers == (-1,)
    with pytest.raises(ConfigError, match="layers=-1025; use a whole number, -1024 or more"):
        FusionConfig(form="cross_attention", layers=(-1025,))


def test_the_limits_themselves_are_allowed() -> None:
    for name in ("width", "num_latents", "layers", "max_pages"):
        check_size("X", name, most_of(name))
    check_latents(most_of("num_latents"))
    check_latents(None)
    with pytest.raises(InputError, match=r"num_latents=4097; use .* at most 4,096, or None"):
        check_latents(4097)
