"""Latents that are pointed at tokens: places from the renderer's maps, readings, folding."""

from __future__ import annotations

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
              "window": 4, "pack_width": 8, "run": 2, **changes}  # fmt: skip
    module = GlanceResampler(GlanceConfig(**config)).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(module.pack_out.weight)
    return module


def features_of(strips: Strips) -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.from_numpy(strips.patch_mask)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*mask.shape, 12, generator=generator), mask


def test_every_token_lies_once_where_it_was_drawn(strips: Strips, glances: Glances) -> None:
    offsets = offsets_of(WORDS)
    assert int(glances.token_mask.sum()) == len(offsets)
    places = torch.stack([glances.left, glances.right], -1)[glances.token_mask] * 14
    drawn = [
        (strips.char_left[begin], strips.char_right[end - 1])
        for begin, end in offsets
        if strips.char_page[begin] == strips.char_page[end - 1]
    ]
    found = {tuple(pair) for pair in places.round().int().tolist()}
    assert {tuple(int(x) for x in pair) for pair in drawn} <= found


def test_latents_take_in_each_token_of_their_group_once(glances: Glances) -> None:
    for page in range(len(glances)):
        members = glances.members[page]
        taken = members[members >= 0]
        assert len(taken.unique()) == len(taken)
        own = members[:, 0][members[:, 0] >= 0]
        assert (own.diff() > 0).all()
        # Runs: neighbours in pairs.
        assert (own[1::2] - own[::2] == 1).all()


def test_positions_count_tokens_of_the_whole_text(glances: Glances) -> None:
    positions = glances.positions[glances.mask]
    assert (positions.diff() > 0).all()
    assert int(positions.max()) == len(offsets_of(WORDS)) - 1


@pytest.mark.parametrize("count", [2, 16, 64])
def test_any_number_of_latents(strips: Strips, count: int) -> None:
    places = glances_of(strips, offsets_of(WORDS), num_latents=count, choice=CHOICE)
    latents, cls = resampler()(*features_of(strips), places)
    assert latents.shape == (len(strips), count, 10)
    assert cls.shape == (len(strips), 10)


def test_masked_patches_change_nothing(strips: Strips, glances: Glances) -> None:
    features, mask = features_of(strips)
    assert not mask.all()
    module = resampler()
    with torch.no_grad():
        before = module(features, mask, glances)
        features[~mask] = float("nan")
        after = module(features, mask, glances)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])


def test_strips_of_a_stack_are_read_as_alone(strips: Strips, glances: Glances) -> None:
    features, mask = features_of(strips)
    short = Renderer(StripStyle(width=14 * 64)).render("one more word")
    other = glances_of(short, offsets_of("one more word"), num_latents=8, choice=CHOICE)
    both = stack_glances([glances, other])
    module = resampler()
    with torch.no_grad():
        alone, _ = module(features, mask, glances)
        extra = torch.from_numpy(short.patch_mask)
        together, _ = module(
            torch.cat([features, torch.randn(1, 64, 12)]), torch.cat([mask, extra]), both
        )
    torch.testing.assert_close(together[: len(strips)], alone, rtol=0, atol=1e-6)


def test_a_latent_without_packed_tokens_is_its_own_reading(
    strips: Strips, glances: Glances
) -> None:
    module = resampler(packed=0)
    torch.nn.init.zeros_(module.pack_out.weight)
    features, mask = features_of(strips)
    with torch.no_grad():
        latents, _ = module(features, mask, glances)
        readings = module.readings(features, mask, glances)
    page, slot = glances.mask.nonzero()[5].tolist()
    assert torch.equal(latents[page, slot], readings[page, glances.members[page, slot, 0]])


def test_a_query_sees_no_further_than_its_window(strips: Strips, glances: Glances) -> None:
    module = resampler()
    features, mask = features_of(strips)
    with torch.no_grad():
        before = module.readings(features, mask, glances)
        features[:, 40:] = torch.randn_like(features[:, 40:])
        after = module.readings(features, mask, glances)
    middle = (glances.left + glances.right) / 2
    far = (middle < 30) & glances.token_mask
    near = (middle > 42) & glances.token_mask
    assert torch.equal(before[far], after[far])
    assert (before[near] - after[near]).abs().amax(-1).min() > 1e-4


def test_every_weight_learns(strips: Strips, glances: Glances) -> None:
    module = resampler().train()
    latents, cls = module(*features_of(strips), glances)
    (latents.square().sum() + cls.square().sum()).backward()
    still = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inner": 15}, "inner=15 for heads=2; use a multiple"),
        ({"run": 3}, "num_latents=8 with run=3; use a multiple of run"),
        ({"packed": -1}, "packed=-1; use 0 or more"),
        ({"choice": "pooled"}, "choice='pooled'; use one of runs, random, rare, all"),
        ({"reach": 0}, "reach=0; use a positive integer"),
    ],
)
def test_bad_configuration(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        resampler(**changes)
