"""The text encoder: shapes, masks, equal texts read equal, files, and clear errors."""

from __future__ import annotations

import doctest
import json

import pytest
import torch

from foveate.errors import InputError
from foveate.text_image.render import Renderer
from foveate.vist.encoder import text_encoder as encoder_module
from foveate.vist.encoder.text_encoder import (
    TextEncoder,
    TextEncoderConfig,
    load_text_encoder,
    save_text_encoder,
)

PATCHES = 32
CONFIG = TextEncoderConfig(
    patches=PATCHES, width=48, layers=2, heads=6, stem_width=24, slot_width=16, token_width=20
)
TEXT = "Far text becomes strips, skimmed by a frozen encoder, resampled to latents. " * 2


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    encoder = TextEncoder(CONFIG).eval().requires_grad_(False)
    for block in encoder.blocks:  # a fresh convolution is zero, and would hide what it sees
        block.conv.normal_(std=0.2)
    return encoder


@pytest.fixture(scope="module")
def strips(encoder):
    rendered = Renderer(encoder.style).render(TEXT)
    return torch.from_numpy(rendered.pixels.copy()), torch.from_numpy(rendered.patch_mask.copy())


def test_default_fits_five_megabytes() -> None:
    encoder = TextEncoder()
    parameters = sum(p.numel() for p in encoder.parameters())
    assert parameters <= 2_400_000
    assert (encoder.width, encoder.patches, encoder.style.width) == (192, 256, 3584)


def test_features_of_text_and_zero_elsewhere(encoder, strips) -> None:
    pixels, mask = strips
    features = encoder(pixels, mask)
    assert features.shape == (len(pixels), PATCHES, 48)
    assert features.dtype == torch.float32
    assert features.isfinite().all()
    assert not mask.all()
    assert not features[~mask].any()
    assert features[mask].abs().sum(1).gt(0).all()


def test_masked_patches_never_change_others(encoder, strips) -> None:
    pixels, mask = strips
    spoiled = pixels.clone()
    hidden = ~mask.repeat_interleave(14, 1)[:, None].expand(-1, 14, -1)
    noise = torch.randint(0, 256, pixels.shape, dtype=torch.uint8)
    spoiled[hidden] = noise[hidden]
    assert not torch.equal(spoiled, pixels)
    assert torch.equal(encoder(spoiled, mask), encoder(pixels, mask))


def test_masking_a_middle_patch_hides_it(encoder, strips) -> None:
    pixels, mask = strips
    cut = mask.clone()
    cut[0, 10] = False
    other = pixels.clone()
    other[0, :, 140:154] = 255
    assert torch.equal(encoder(pixels, cut), encoder(other, cut))


def test_an_entirely_blank_strip_is_finite(encoder) -> None:
    pixels = torch.full((1, 14, 14 * PATCHES), 255, dtype=torch.uint8)
    mask = torch.zeros(1, PATCHES, dtype=torch.bool)
    assert not encoder(pixels, mask).any()
    assert encoder.read(pixels, mask) == [""]


def test_batch_row_equals_single_run(encoder, strips) -> None:
    pixels, mask = strips
    batch = encoder(pixels, mask)
    for row in range(len(pixels)):
        alone = encoder(pixels[row : row + 1], mask[row : row + 1])[0]
        torch.testing.assert_close(batch[row], alone, rtol=1e-5, atol=1e-6)


def test_text_reads_the_same_wherever_it_stands(encoder) -> None:
    """Shifted by whole patches, away from the strip's ends, features are the same."""
    torch.manual_seed(1)
    ink = torch.randint(0, 256, (1, 14, 14 * 8), dtype=torch.uint8)
    pixels = torch.full((2, 14, 14 * PATCHES), 255, dtype=torch.uint8)
    mask = torch.zeros(2, PATCHES, dtype=torch.bool)
    for row, start in enumerate((4, 15)):
        pixels[row, :, 14 * start : 14 * (start + 8)] = ink
        mask[row, start : start + 8] = True
    features = encoder(pixels, mask)
    torch.testing.assert_close(features[0, 4:12], features[1, 15:23], rtol=1e-4, atol=1e-5)


def test_read_leaves_masked_patches_out(encoder, strips) -> None:
    pixels, mask = strips
    with torch.no_grad():
        best = encoder.slot_logits(encoder(pixels, mask)).argmax(-1)
    counts = [int((row[seen] > 0).sum()) for row, seen in zip(best, mask, strict=True)]
    assert [len(text) for text in encoder.read(pixels, mask)] == counts


def test_save_and_load(encoder, strips, tmp_path) -> None:
    save_text_encoder(encoder, tmp_path)
    loaded = load_text_encoder(tmp_path)
    assert loaded.config == CONFIG
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name].half().float())
    torch.testing.assert_close(loaded(*strips), encoder(*strips), rtol=0, atol=0.05)


def test_token_vectors(encoder) -> None:
    assert encoder.token_vectors(torch.randn(3, 5, 48)).shape == (3, 5, 2, 20)
    headless = TextEncoder(TextEncoderConfig(patches=4, width=12, layers=0, heads=3, tokens=0))
    with pytest.raises(InputError, match="no token head"):
        headless.token_vectors(torch.randn(1, 12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 5}, "slots=5 does not divide 14"),
        ({"heads": 5}, "heads=5 does not divide 192"),
        ({"conv": 4}, "conv=4 is even"),
        ({"width": 0}, "width=0; give an integer of at least 1"),
        ({"layers": True}, "layers=True; give an integer"),
    ],
)
def test_bad_configs(change, message) -> None:
    with pytest.raises(InputError, match=message):
        TextEncoderConfig(**change)


def test_docstring_example() -> None:
    found = doctest.testmod(encoder_module, extraglobs={"torch": torch})
    assert (found.attempted, found.failed) == (3, 0)


def test_config_round_trip() -> None:
    assert TextEncoderConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    with pytest.raises(InputError, match=r"unknown fields \['depth'\]"):
        TextEncoderConfig.from_dict({"depth": 3})


def test_bad_input(encoder, strips) -> None:
    pixels, mask = strips
    with pytest.raises(InputError, match=r"reads uint8 \[P, 14, 448\]: render with its style"):
        encoder(pixels.float(), mask)
    with pytest.raises(InputError, match=r"reads uint8 \[P, 14, 448\]"):
        encoder(pixels[:, :, :14], mask)
    with pytest.raises(InputError, match=r"got patch_mask .* give bool"):
        encoder(pixels, mask[:, :5])


def test_bad_folders(encoder, tmp_path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_text_encoder(tmp_path)
    save_text_encoder(encoder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "width": 96}))
    with pytest.raises(InputError, match=r"no usable encoder: .*stem\.merge\.weight.*; export it"):
        load_text_encoder(tmp_path)
