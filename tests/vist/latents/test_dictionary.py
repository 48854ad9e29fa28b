"""The visual dictionary: every token is drawn apart, and found again by its looks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from foveate.errors import ConfigError, InputError
from foveate.text_image.render import Renderer
from foveate.text_image.strip_style import StripStyle
from foveate.vist.config import GlanceConfig
from foveate.vist.latents.dictionary import (
    Dictionary,
    TokenPictures,
    draw_vocabulary,
    picture_vocabulary,
)
from foveate.vist.latents.glance_resampler import GlanceResampler
from foveate.vist.latents.glances import glances_of
from foveate.vist.latents.targets import TargetConfig

SPELLINGS = [None, "the", " the", "eye", " eye", "reads", " reads", None, "\n", " Strip"]
STYLE = StripStyle(width=14 * 64)
CHOICE = TargetConfig(choice="runs", run=1, packed=1, grouping="tokens")


def ink(pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """An encoder that reads by looking: the pixels of each patch, [P, L, 196]."""
    pages, height, width = pixels.shape
    dark = 1 - pixels.float() / 255
    return dark.view(pages, height, width // 14, 14).transpose(1, 2).flatten(2) * mask[..., None]


def resampler() -> GlanceResampler:
    torch.manual_seed(0)
    made = GlanceResampler(
        GlanceConfig(
            input_width=196,
            width=6,
            inner=96,
            heads=2,
            layers=0,
            key_width=64,
            reach=4,
            packed=1,
            pack_width=4,
            num_latents=8,
            run=1,
        )
    ).eval()
    with torch.no_grad():
        made.sharpness.fill_(7.0)
    return made


@pytest.fixture(scope="module")
def pictures() -> TokenPictures:
    return picture_vocabulary(SPELLINGS, ink, resampler().under_of, Renderer(STYLE))


def test_tokens_are_drawn_apart_and_where_said() -> None:
    ((strips, glances, ids),) = draw_vocabulary(SPELLINGS, Renderer(STYLE))
    assert ids.tolist() == [i for i, text in enumerate(SPELLINGS) if text]
    assert int(glances.token_mask.sum()) == len(ids)
    left, right = glances.left[glances.token_mask], glances.right[glances.token_mask]
    assert bool((left[1:] - right[:-1] >= 1.0).all())
    at = int((left[1] * 14).round()), int((right[1] * 14).round())
    alone = Renderer(STYLE).render(" the").pixels[0]
    shown = strips.pixels[0][:, at[0] : at[1]]
    np.testing.assert_array_equal(shown[:, 1:], alone[:, 1 : at[1] - at[0]])


def test_every_token_that_can_be_drawn_has_a_picture(pictures: TokenPictures) -> None:
    assert pictures.token_ids.tolist() == [1, 2, 3, 4, 5, 6, 8, 9]
    assert pictures.under.shape == (8, 4 * 196)
    assert pictures.places_of(torch.tensor([[0, 1], [9, 7]])).tolist() == [[-1, 0], [7, -1]]


def test_a_token_in_a_text_is_looked_up(pictures: TokenPictures) -> None:
    """Tokens drawn as in the dictionary, at the start of a patch, are found exactly."""
    module = resampler()
    table = torch.eye(len(SPELLINGS))[:, :6] + torch.arange(10.0)[:, None]
    module.learn_vocabulary(pictures, table)
    strips, glances, ids = next(draw_vocabulary(SPELLINGS, Renderer(STYLE)))
    mask = torch.from_numpy(strips.patch_mask)
    features = ink(torch.from_numpy(strips.pixels), mask)
    with torch.no_grad():
        found = module.readings(features, mask, glances)[glances.token_mask]
    torch.testing.assert_close(found, table[ids], atol=1e-2, rtol=0)


def test_the_mean_of_the_nearest_is_weighted_by_their_cosines() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    table = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    dictionary = Dictionary(keys=keys, token_ids=torch.tensor([1, 2, 3]), embeddings=table)
    query = torch.tensor([[0.6, 0.8]])
    weights = (torch.tensor([0.8, 0.6]) * 5).softmax(0)
    expected = weights[0] * 20 + weights[1] * 10
    torch.testing.assert_close(dictionary.look_up(query, 5.0, top=2), expected.view(1, 1))


def test_gradients_reach_the_network_that_compares(pictures: TokenPictures) -> None:
    module = resampler()
    with torch.no_grad():
        module.sharpness.fill_(2.0)
    module.learn_vocabulary(pictures, torch.randn(len(SPELLINGS), 6))
    text = "the eye reads"
    strips = Renderer(STYLE).render(text)
    offsets = np.array([m.span() for m in re.finditer(r"\s?\S+", text)])
    glances = glances_of(strips, offsets, num_latents=8, choice=CHOICE)
    mask = torch.from_numpy(strips.patch_mask)
    features = ink(torch.from_numpy(strips.pixels), mask)
    module.readings(features, mask, glances).square().sum().backward()
    for name in ("under.weight", "read.weight", "sharpness"):
        gradient = module.get_parameter(name).grad
        assert gradient is not None
        assert bool(gradient.any()), name


def test_without_a_dictionary_it_says_so() -> None:
    strips, glances, _ = next(draw_vocabulary(SPELLINGS, Renderer(STYLE)))
    mask = torch.from_numpy(strips.patch_mask)
    with pytest.raises(InputError, match="has no dictionary yet; call learn_vocabulary"):
        resampler()(ink(torch.from_numpy(strips.pixels), mask), mask, glances)


def test_a_vocabulary_without_pictures_is_an_error() -> None:
    with pytest.raises(InputError, match="no token that can be drawn"):
        picture_vocabulary([None, ""], ink, resampler().under_of, Renderer(STYLE))


def test_looking_up_needs_pictures_alone() -> None:
    with pytest.raises(ConfigError, match="key_width=8 with layers=1"):
        GlanceConfig(input_width=4, width=4, layers=1, key_width=8)
