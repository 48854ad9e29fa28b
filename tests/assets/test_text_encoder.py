"""The shipped text encoder: reads, ignores what is masked, and fits its size."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open

from foveate.assets import text_encoder_path
from foveate.errors import InputError
from foveate.text_image.render import Renderer, Strips
from foveate.text_image.strip_style import StripStyle
from foveate.vist.encoder.labels import UNREADABLE, edit_distance
from foveate.vist.encoder.pictures import PlacedText, place_characters
from foveate.vist.encoder.text_encoder import TextEncoder, load_text_encoder

PARAGRAPH = (
    "On the 3rd of March 1889 the keeper, Mrs. Adelaide O'Rourke, wrote in her log: \"Wind "
    "north-west, force 8; lamp lit at 17:42, burned 11.5 gallons. A barque (the Wizard of "
    'Quay?) stood off until dawn & signalled for pilots." Nobody answered. Her brother Felix, '
    "who joked that zinc, jute, ivory and fog were all he had ever exported, rowed out alone; "
    "he found ninety-six crates marked #K7/b and a cat. By Thursday every inn from here to "
    "Galway told it differently.\nSome said the crates held clocks, others gunpowder.\n"
)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_text_encoder(text_encoder_path())


def show(encoder: TextEncoder, text: str) -> tuple[torch.Tensor, torch.Tensor, Strips]:
    strips = Renderer(encoder.style).render(text)
    return torch.from_numpy(strips.pixels.copy()), torch.from_numpy(strips.patch_mask), strips


@pytest.fixture(scope="module")
def shown(encoder) -> tuple[torch.Tensor, torch.Tensor, Strips]:
    return show(encoder, PARAGRAPH * 2)


@pytest.fixture(scope="module")
def features(encoder, shown) -> torch.Tensor:
    return encoder(*shown[:2])


def test_it_fits_five_megabytes_in_half_precision() -> None:
    file = text_encoder_path() / "model.safetensors"
    assert file.stat().st_size <= 5_000_000
    with safe_open(file, framework="pt") as weights:
        kinds = {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
    assert kinds == {"F16"}


def test_it_reads_a_paragraph(encoder, shown) -> None:
    pixels, mask, strips = shown
    read = encoder.read(pixels, mask)
    assert len(read) == len(strips)
    wrong = 0
    for page, text in enumerate(read):
        start, stop = strips.char_range(page)
        wrong += edit_distance(text, (PARAGRAPH * 2)[start:stop])
    assert 1 - wrong / len(PARAGRAPH * 2) >= 0.99


def test_it_reads_what_cannot_be_guessed(encoder) -> None:
    rng = random.Random(7)
    text = " ".join(f"{rng.getrandbits(40):010x}" for _ in range(50))
    read = encoder.read(*show(encoder, text)[:2])[0]
    assert 1 - edit_distance(read, text) / len(text) >= 0.99


def test_white_patches_change_nothing(encoder, shown, features) -> None:
    pixels, mask, _ = shown
    assert not mask.all()
    hidden = (~mask).repeat_interleave(encoder.config.patch, 1)[:, None].expand(pixels.shape)
    noise = np.random.default_rng(0).integers(0, 256, tuple(pixels.shape), dtype=np.uint8)
    spoiled = torch.where(hidden, torch.from_numpy(noise), pixels)
    assert torch.equal(encoder(spoiled, mask), features)
    assert not features[~mask].any()


def test_batch_row_equals_single_run(encoder, shown, features) -> None:
    pixels, mask, _ = shown
    for row in range(len(pixels)):
        alone = encoder(pixels[row : row + 1], mask[row : row + 1])[0]
        torch.testing.assert_close(features[row], alone, rtol=1e-4, atol=1e-4)


def test_the_example_of_the_card_runs(capsys) -> None:
    (block,) = re.findall(
        r"```python\n(.*?)```", (text_encoder_path() / "README.md").read_text(), re.S
    )
    exec(block, {})
    shown = capsys.readouterr().out
    assert "torch.Size([1, 256, 192])" in shown
    assert "0x3fa9 stays 0x3fa9" in shown


def test_the_card_quotes_the_scores() -> None:
    """The figures of the card are those of docs/results/reader.json."""
    results = text_encoder_path().parents[2] / "docs" / "results" / "reader.json"
    if not results.is_file():
        pytest.skip("docs/results is not part of an installed package")
    scores = json.loads(results.read_text())["scores"]
    card = (text_encoder_path() / "README.md").read_text()
    for domain, row in scores.items():
        assert f"| {domain} | {100 * row['character_accuracy']['value']:.2f} " in card, domain
        if domain != "exact strings, mixed":  # with accents, rare signs and runs of blanks
            assert row["character_accuracy"]["value"] >= 0.99, domain


def placed(encoder: TextEncoder, pixels: np.ndarray, mask: np.ndarray) -> PlacedText:
    features = encoder(torch.from_numpy(pixels), torch.from_numpy(mask))
    return place_characters(encoder, [features], pixels, mask)


def test_pictures_of_text_are_placed_to_the_letter(encoder: TextEncoder) -> None:
    strips = Renderer(encoder.style).render(PARAGRAPH * 2)
    found = placed(encoder, strips.pixels, strips.patch_mask)
    assert found.text == PARAGRAPH * 2
    assert not found.unread.any()
    # The same with blank paper behind the end, said to hold text: not the hundreds of blanks there
    # is room for.
    loose = placed(encoder, strips.pixels, np.ones_like(strips.patch_mask))
    assert loose.text.rstrip(" ") == found.text.rstrip(" ")
    assert len(loose.text) <= len(found.text) + 8


def paper(kind: str, style: StripStyle) -> np.ndarray:
    """Two strips that show no text."""
    shape = (2, style.height, style.width)
    rng = np.random.default_rng(0)
    made = {
        "white": np.full(shape, 255),
        "black": np.zeros(shape),
        "noise": rng.integers(0, 256, shape),
        "specks": np.where(rng.random(shape) < 0.03, 0, 255),
        "gradient": np.broadcast_to(np.arange(style.width) % 256, shape),
        "inverted": 255 - Renderer(style).render(PARAGRAPH).pixels[:2],
        "upside down": Renderer(style).render(PARAGRAPH).pixels[:2, ::-1],
    }
    return np.ascontiguousarray(made[kind].astype(np.uint8))


@pytest.mark.parametrize(
    "kind", ["white", "black", "noise", "specks", "gradient", "inverted", "upside down"]
)
def test_pictures_without_text_invent_none(encoder: TextEncoder, kind: str) -> None:
    pixels = paper(kind, encoder.style)
    mask = np.ones((len(pixels), encoder.patches), dtype=bool)
    with pytest.raises(InputError, match=r"show no character that can be read .* of dark text"):
        placed(encoder, pixels, mask)
    # Beside strips of text its signs, if it has any, are unread ones and counted.
    strips = Renderer(encoder.style).render(PARAGRAPH)
    both = placed(
        encoder,
        np.concatenate([strips.pixels, pixels]),
        np.concatenate([strips.patch_mask, mask]),
    )
    assert both.text.startswith(PARAGRAPH)
    rest = both.text[len(PARAGRAPH) :]
    assert set(rest) <= {UNREADABLE, " "}
    assert both.unread.sum() == rest.count(UNREADABLE)
    assert (kind == "white") == (not rest)
