"""CLIP and SigLIP towers read strips: refolded in row order, white patches never matter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from foveate.errors import InputError, UnsupportedModelError
from foveate.text_image.render import Renderer, StripStyle
from foveate.vist.encoder.vision_encoder import VisionEncoder, load_vision_encoder, strip_style_for

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
}
TOWERS: dict[str, Any] = {
    "clip": lambda: tf.CLIPVisionModel(tf.CLIPVisionConfig(**SIZES, image_size=84)),
    "siglip": lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**SIZES, image_size=90)),
    "siglip2": lambda: tf.Siglip2VisionModel(tf.Siglip2VisionConfig(**SIZES, num_patches=36)),
}
TEXT = "Strips of text, refolded to a square, are read row by row."


@pytest.fixture(scope="module", params=TOWERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp(request.param)
    TOWERS[request.param]().save_pretrained(path)
    stats = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (path / "preprocessor_config.json").write_text(json.dumps(stats))
    return path


@pytest.fixture(scope="module", params=["image", "processor"])
def encoder(request: pytest.FixtureRequest, folder: Path) -> VisionEncoder:
    return load_vision_encoder(folder, normalise=request.param, local_files_only=True)


def strips_of(encoder: VisionEncoder, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    strips = Renderer(encoder.style).render(text)
    return torch.from_numpy(strips.pixels), torch.from_numpy(strips.patch_mask)


def test_features_of_strips(encoder: VisionEncoder) -> None:
    assert encoder.style == StripStyle(height=14, width=504, patch=14, font_px=10)
    pixels, mask = strips_of(encoder, TEXT)
    features = encoder(pixels, mask)
    assert features.shape == (len(pixels), 36, 24)
    assert (encoder.width, encoder.patches) == (24, 36)
    assert bool((features[~mask] == 0).all())
    assert bool((features[mask].abs().sum(-1) > 0).all())
    alone = encoder(pixels[:1], mask[:1])
    torch.testing.assert_close(alone[0], features[0], atol=1e-5, rtol=1e-4)
    assert not any(p.requires_grad for p in encoder.parameters())


def test_white_patches_change_nothing(encoder: VisionEncoder) -> None:
    pixels, mask = strips_of(encoder, TEXT)
    features = encoder(pixels, mask)
    white = ~mask.repeat_interleave(14, dim=1)[:, None].expand_as(pixels)
    assert bool(white.any())
    scribbled = pixels.masked_fill(white, 77)
    assert torch.equal(encoder(scribbled, mask), features)
    blank = encoder(pixels, torch.zeros_like(mask))
    assert bool((blank == 0).all())


def test_refolding_is_in_row_order(folder: Path) -> None:
    encoder = load_vision_encoder(folder, local_files_only=True)
    pixels = torch.arange(504).expand(1, 14, -1) % 251
    patches = encoder._patches(pixels)
    for i in (0, 5, 6, 35):
        assert torch.equal(patches[0, i] * 255, pixels[0, :, 14 * i : 14 * i + 14].float())
    square = encoder._square(patches.unsqueeze(2).expand(-1, -1, 3, -1, -1))
    assert torch.equal(square[0, 1, 14:28, 28:42], patches[0, 8])
    assert square.shape[-1] == getattr(encoder.tower.config, "image_size", 84)


def test_as_the_towers_own_processing(folder: Path) -> None:
    """All patches shown: what the tower says of the square picture, normalised by its processor."""
    encoder = load_vision_encoder(folder, normalise="processor", local_files_only=True)
    if isinstance(encoder.tower, tf.Siglip2VisionModel):
        pytest.skip("takes patches, not pictures: see test_features_of_strips")
    pixels = torch.randint(0, 256, (2, 14, 504), generator=torch.Generator().manual_seed(1))
    features = encoder(pixels, torch.ones(2, 36, dtype=torch.bool))
    rows = pixels.view(2, 14, 6, 84).transpose(1, 2).reshape(2, 1, 84, 84) / 255
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    picture = (rows - mean) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    side = encoder.tower.config.image_size
    picture = torch.nn.functional.pad(picture, (0, side - 84, 0, side - 84))
    with torch.no_grad():
        want = encoder.tower(pixel_values=picture).last_hidden_state[:, -36:]
    torch.testing.assert_close(features, want, atol=1e-5, rtol=1e-4)


def test_whole_clip_checkpoint(tmp_path: Path) -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = tf.CLIPConfig(
        text_config={**text, "intermediate_size": 16, "vocab_size": 20},
        vision_config={**SIZES, "image_size": 84},
    )
    model = tf.CLIPModel(config)
    model.save_pretrained(tmp_path)
    encoder = load_vision_encoder(tmp_path, local_files_only=True)
    weights = dict(encoder.tower.named_parameters())
    for name, value in model.vision_model.named_parameters():
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize(
    ("patch", "image", "width", "font_px"),
    [(14, 224, 3584, 10), (16, 224, 3136, 11), (32, 224, 1568, 23), (14, 384, 10206, 10)],
)
def test_strips_fit_the_tower(patch: int, image: int, width: int, font_px: int) -> None:
    style = strip_style_for(tf.CLIPVisionConfig(patch_size=patch, image_size=image))
    assert (style.height, style.width, style.patch, style.font_px) == (patch, width, patch, font_px)


def test_what_is_no_tower_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a local folder nor found on the hub"):
        load_vision_encoder(tmp_path / "none", local_files_only=True)
    tf.LlamaConfig(hidden_size=8, num_attention_heads=2).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="type 'llama'; use a vision tower of type"):
        load_vision_encoder(tmp_path, local_files_only=True)
    with pytest.raises(InputError, match="do not fit a tower of 36 patches of 14 px"):
        load_vision_encoder(folder, style=StripStyle(), local_files_only=True)
    with pytest.raises(InputError, match="normalise='none' is unknown"):
        load_vision_encoder(folder, normalise="none", local_files_only=True)  # type: ignore[arg-type]
    (tmp_path / "broken").mkdir()
    for file in folder.iterdir():
        (tmp_path / "broken" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broken" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config\.json"):
        load_vision_encoder(tmp_path / "broken", normalise="processor", local_files_only=True)
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_vision_encoder(tmp_path / "broken", local_files_only=True)
