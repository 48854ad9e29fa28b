"""Latents that are pointed at tokens: which ones, folding, and the CLS of a strip."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from foveate.errors import ConfigError
from foveate.text_image.render import Renderer
from foveate.text_image.strip_style import StripStyle
from foveate.text_image.strips import Strips
from foveate.vist.config import GlanceConfig
from foveate.vist.latents.glance_resampler import GlanceResampler
from foveate.vist.latents.glances import Glances, glances_of, stack_glances
from foveate.vist.latents.targets import TargetConfig

WORDS = " ".join(f"word{i} of many" for i in range(30))
CHOICE = TargetConfig(choice="runs", run=2, packed=3, grouping="tokens")


def offsets_of(text: str) -> np.ndarray:
    """Words with the space before them, as byte-level tokenizers cut them."""
    return np.array([m.span() for m in re.finditer(r"\s?\S+", text)])


@pytest.fixture(scope="module")
def strips() -> Strips:
    return Renderer(StripStyle(width=14 * 64)).render(WORDS)


@pytest.fixture(scope="module")
def glances(strips: Strips) -> Glances:
    return glances_of(strips, offsets_of(WORDS), num_latents=8, choice=CHOICE)


def resampler(**changes: object) -> GlanceResampler:
    torch.manual_seed(0)
    config = {"input_width": 12, "width": 10, "num_latents": 8, "inner": 16, "heads": 2,
              "pack_width": 8, "run": 2, **changes}  # fmt: skip
    module = GlanceResampler(GlanceConfig(**config)).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(module.pack_out.weight)
    return module


def readings_of(num_tokens: int) -> torch.Tensor:
    return torch.randn(num_tokens, 10, generator=torch.Generator().manual_seed(2))


def features_of(strips: Strips) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.from_numpy(strips.patch_mask)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*mask.shape, 12, generator=generator), mask


def test_latents_stand_for_tokens_of_their_own_strip(strips: Strips, glances: Glances) -> None:
    """A token across the border of two strips belongs to the one it ends in."""
    last = offsets_of(WORDS)[:, 1] - 1
    for page in range(len(glances)):
        members = glances.members[page]
        taken = members[members >= 0].numpy()
        assert len(taken) > 0
        assert set(strips.char_page[last[taken]].tolist()) == {page}
    assert glances.num_tokens == len(last)


def test_latents_take_in_each_token_of_their_group_once(glances: Glances) -> None:
    taken = glances.members[glances.members >= 0]
    assert len(taken.unique()) == len(taken)
    own = glances.members[..., 0][glances.mask]
    assert (own.diff() > 0).all()
    for page in range(len(glances)):
        own = glances.members[page, :, 0][glances.mask[page]]
        # Runs: neighbours in pairs.
        assert (own[1::2] - own[::2] == 1).all()


def test_positions_count_tokens_of_the_whole_text(glances: Glances) -> None:
    positions = glances.positions[glances.mask]
    assert positions.tolist() == glances.members[..., 0][glances.mask].tolist()
    assert int(positions.max()) == len(offsets_of(WORDS)) - 1


@pytest.mark.parametrize("count", [2, 16, 64])
def test_any_number_of_latents(strips: Strips, count: int) -> None:
    places = glances_of(strips, offsets_of(WORDS), num_latents=count, choice=CHOICE)
    latents = resampler().fold(readings_of(places.num_tokens), places.members)
    assert latents.shape == (len(strips), count, 10)


def test_masked_patches_change_nothing(strips: Strips) -> None:
    features, mask = features_of(strips)
    assert not mask.all()
    module = resampler()
    with torch.no_grad():
        before = module.pool(features, mask)
        features[~mask] = float("nan")
        assert torch.equal(module.pool(features, mask), before)
        features[mask] += 1.0
        assert not torch.allclose(module.pool(features, mask), before)


def test_a_white_strip_has_a_finite_cls(strips: Strips) -> None:
    features, mask = features_of(strips)
    with torch.no_grad():
        found = resampler().pool(features, torch.zeros_like(mask))
    assert bool(found.isfinite().all())


def test_strips_of_a_stack_are_folded_as_alone(strips: Strips, glances: Glances) -> None:
    text = "one more word"
    short = Renderer(StripStyle(width=14 * 64)).render(text)
    narrow = dataclasses.replace(CHOICE, packed=1)
    other = glances_of(short, offsets_of(text), num_latents=8, choice=narrow)
    both = stack_glances([other, glances])
    module, first, second = resampler(), readings_of(3), readings_of(glances.num_tokens)
    assert both.num_tokens == 3 + glances.num_tokens
    with torch.no_grad():
        together = module.fold(torch.cat([first, second]), both.members)
        torch.testing.assert_close(together[1:], module.fold(second, glances.members))
        torch.testing.assert_close(together[:1], module.fold(first, other.members))


def test_a_latent_without_packed_tokens_is_its_own_reading(glances: Glances) -> None:
    module = resampler(packed=0)
    torch.nn.init.zeros_(module.pack_out.weight)
    readings = readings_of(glances.num_tokens)
    with torch.no_grad():
        latents = module.fold(readings, glances.members)
    assert torch.equal(latents[glances.mask], readings[glances.members[..., 0][glances.mask]])
    assert not latents[~glances.mask].any()


def test_a_latent_depends_on_its_members_alone(glances: Glances) -> None:
    module, readings = resampler(), readings_of(glances.num_tokens)
    page, slot = glances.mask.nonzero()[5].tolist()
    members = glances.members[page, slot]
    mine = members[members >= 0]
    assert len(mine) > 1
    with torch.no_grad():
        before = module.fold(readings, glances.members)[page, slot]
        others = readings.clone()
        others[[i for i in range(len(readings)) if i not in mine.tolist()]] = 7.0
        assert torch.equal(module.fold(others, glances.members)[page, slot], before)
        for token in mine.tolist():
            moved = readings.clone()
            moved[token] += 1.0
            assert not torch.equal(module.fold(moved, glances.members)[page, slot], before)


def test_every_weight_learns(strips: Strips, glances: Glances) -> None:
    module = resampler().train()
    latents = module.fold(readings_of(glances.num_tokens), glances.members)
    (latents.square().sum() + module.pool(*features_of(strips)).square().sum()).backward()
    still = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": 15}, "inner=15 for heads=2; use a multiple"),
        ({"run": 3}, "num_latents=8 with run=3; use a multiple of run"),
        ({"packed": -1}, "packed=-1; use a whole number, 0 or more"),
        ({"choice": "pooled"}, "choice='pooled'; use one of runs, random, rare, all"),
        ({"pack_width": 0}, "pack_width=0; use a positive integer"),
    ],
)
def test_bad_configuration(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        resampler(**changes)
