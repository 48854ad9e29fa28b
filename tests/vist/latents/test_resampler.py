"""The resampler: white patches change nothing, any N and any number of pages, local windows."""

from __future__ import annotations

import pytest
import torch

from foveate.errors import ConfigError
from foveate.vist.config import ResamplerConfig
from foveate.vist.latents.resampler import PerceiverResampler

WIDTH, FEATURES, PATCHES, LATENTS = 16, 12, 64, 8


def resampler(**changes: object) -> PerceiverResampler:
    torch.manual_seed(1)
    values = {"num_latents": LATENTS, "heads": 2, "head_dim": 8, "window": 4, **changes}
    return PerceiverResampler(ResamplerConfig(input_width=FEATURES, width=WIDTH, **values))


@pytest.fixture(params=["none", "window"])
def local_bias(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pages(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(count, PATCHES, FEATURES, generator=generator)
    lengths = torch.tensor([PATCHES, 37, 0])[:count]
    return features, torch.arange(PATCHES) < lengths[:, None]


@torch.no_grad()
def test_masked_patches_change_nothing(local_bias: str) -> None:
    made = resampler(local_bias=local_bias)
    features, mask = pages()
    latents, cls = made(features, mask)
    assert latents.shape == (3, LATENTS, WIDTH)
    assert cls.shape == (3, WIDTH)
    for white in (0.0, 1e30, float("nan"), float("inf")):
        other = features.masked_fill(~mask.unsqueeze(-1), white)
        again, cls_again = made(other, mask)
        assert torch.equal(again, latents)
        assert torch.equal(cls_again, cls)
    assert bool(latents.isfinite().all())


@torch.no_grad()
def test_pages_do_not_mix(local_bias: str) -> None:
    made = resampler(local_bias=local_bias)
    features, mask = pages()
    latents, cls = made(features, mask)
    for page in range(3):
        alone, cls_alone = made(features[page : page + 1], mask[page : page + 1])
        torch.testing.assert_close(alone[0], latents[page], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(cls_alone[0], cls[page], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 16, 100])
@torch.no_grad()
def test_any_number_of_latents(local_bias: str, count: int) -> None:
    made = resampler(local_bias=local_bias)
    features, mask = pages()
    latents, _ = made(features, mask, count)
    assert latents.shape == (3, count, WIDTH)
    assert made.latent_mask(mask, count).shape == (3, count)
    assert bool(latents.isfinite().all())


@torch.no_grad()
def test_window_latents_see_their_own_place_only() -> None:
    made = resampler(local_bias="window", layers=1)
    features, mask = pages(1)
    latents, cls = made(features, mask)
    features[0, 40] += 1.0  # latent 5 of 8 holds patches 40 to 47
    moved, cls_moved = made(features, mask)
    changed = [n for n in range(LATENTS) if not torch.equal(moved[0, n], latents[0, n])]
    assert changed == [4, 5]  # those within 4 patches
    assert not torch.equal(cls_moved, cls)


def test_window_drops_latents_without_text() -> None:
    _, mask = pages()
    kept = resampler(local_bias="window").latent_mask(mask)
    assert kept.sum(dim=1).tolist() == [8, 5, 0]
    kept = resampler(local_bias="none").latent_mask(mask)
    assert kept.sum(dim=1).tolist() == [8, 8, 0]


def test_every_weight_learns(local_bias: str) -> None:
    made = resampler(local_bias=local_bias)
    latents, cls = made(*pages())
    (latents.square().mean() + cls.sin().mean()).backward()
    for name, weight in made.named_parameters():
        assert weight.grad is not None, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_latents": 0}, "num_latents=0; use a positive integer"),
        ({"local_bias": "near"}, "local_bias='near'; use one of none, window"),
        ({"heads": 1.5}, "heads=1.5"),
    ],
)
def test_bad_configuration(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resampler(**changes)
