"""The text encoder that stands in for renderer and vision encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from foveate.errors import ConfigError
from foveate.vist.cepe.encoder import (
    CepeConfig,
    ChunkEncoder,
    ChunkEncoderConfig,
    ChunkRenderer,
    EveryToken,
    TokenEmbeddings,
)
from foveate.vist.config import FusionConfig, ResamplerConfig

SMALL = ChunkEncoderConfig(width=12, layers=2, heads=3, chunk=8)


def config(**changes: Any) -> CepeConfig:
    values: dict[str, Any] = {
        "encoder": SMALL,
        "resampler": ResamplerConfig(input_width=12, width=12, num_latents=8),
    }
    return CepeConfig(**{**values, **changes})


@pytest.fixture(scope="module")
def encoder() -> ChunkEncoder:
    torch.manual_seed(0)
    return ChunkEncoder(SMALL, 20).eval()


def test_features(encoder: ChunkEncoder) -> None:
    mask = torch.tensor([[True] * 8, [True] * 3 + [False] * 5])
    features = encoder(torch.randn(2, 8, 20), mask)
    assert features.shape == (2, 8, 12)
    assert bool((features[1, 3:] == 0).all())
    assert bool(features.isfinite().all())


def test_masked_tokens_change_nothing(encoder: ChunkEncoder) -> None:
    embeds, mask = torch.randn(1, 8, 20), torch.tensor([[True] * 5 + [False] * 3])
    other = embeds.clone()
    other[:, 5:] = float("nan")
    assert torch.equal(encoder(embeds, mask), encoder(other, mask))


def test_it_reads_in_both_directions(encoder: ChunkEncoder) -> None:
    embeds, mask = torch.randn(1, 8, 20), torch.ones(1, 8, dtype=torch.bool)
    other = embeds.clone()
    other[:, 4] += 1
    changed = (encoder(embeds, mask) != encoder(other, mask)).any(dim=-1)[0]
    assert bool(changed.all())


def test_an_empty_chunk_is_zero(encoder: ChunkEncoder) -> None:
    features = encoder(torch.randn(1, 8, 20), torch.zeros(1, 8, dtype=torch.bool))
    assert bool((features == 0).all())


def test_every_token_is_a_latent() -> None:
    features = torch.randn(2, 8, 12)
    mask = torch.tensor([[True] * 8, [True] * 2 + [False] * 6])
    features[1, 2:] = 0
    every = EveryToken(ResamplerConfig(input_width=12, width=12, num_latents=8))
    assert not list(every.parameters())
    latents, cls = every(features, mask)
    assert torch.equal(latents, features)
    assert torch.allclose(cls[1], features[1, :2].mean(dim=0))
    assert torch.equal(every.latent_mask(mask, 3), mask)


def test_chunks_follow_the_tokens() -> None:
    """Here a token is two characters."""

    def tokenise(text: str) -> Any:
        return list(range(1, 1 + (len(text) + 1) // 2)), np.arange(len(text)) // 2 * 1.0

    chunks = ChunkRenderer(tokenise, 4).render("a" * 11)
    assert len(chunks) == 2
    assert chunks.pixels.tolist() == [[[1, 2, 3, 4]], [[5, 6, 0, 0]]]
    assert chunks.patch_mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert chunks.char_page.tolist() == [0] * 8 + [1] * 3
    assert chunks.char_patch.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1]
    streamed = list(ChunkRenderer(tokenise, 4).stream(["a" * 5, "", "a" * 6]))
    assert np.array_equal(streamed[0].pixels, chunks.pixels)
    assert list(ChunkRenderer(tokenise, 4).stream([])) == []


def test_embeddings_are_the_models_own() -> None:
    table = torch.nn.Embedding(10, 6)
    encoder = TokenEmbeddings(table, 4, None)
    ids, mask = torch.tensor([[[3, 4, 0, 0]]]), torch.tensor([[True, True, False, False]])
    out = encoder(ids, mask)
    assert encoder.width == 6
    assert torch.equal(out[0, 0], table.weight[3])
    assert bool((out[0, 2:] == 0).all())


def test_config_survives_json() -> None:
    made = config(fusion=FusionConfig(form="cross_attention", layers=(1,)))
    assert CepeConfig.from_dict(made.to_dict()) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"resampler": ResamplerConfig(input_width=9, width=12)},
            "set ResamplerConfig(input_width",
        ),
        ({"resampler": ResamplerConfig(input_width=12, width=12)}, "num_latents=8), or resample"),
    ],
)
def test_parts_must_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**change)
    assert message in str(caught.value)


def test_heads_must_divide() -> None:
    with pytest.raises(ConfigError, match="does not divide width=10"):
        ChunkEncoderConfig(width=10, heads=3)
