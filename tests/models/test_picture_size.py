"""Pictures on squares, and pixel limits of Qwen-VL processors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveate.errors import InputError
from foveate.models.picture_size import limit_pixels, mean_colour, pad_to_square
from foveate.models.vlm import VisionLanguageModel


@pytest.mark.parametrize(
    ("size", "inside", "outside"),
    [((10, 4), (5, 5), [(5, 2), (5, 7)]), ((3, 8), (3, 4), [(1, 4), (5, 4)])],
)
def test_the_picture_lies_in_the_middle(
    size: tuple[int, int], inside: tuple[int, int], outside: list[tuple[int, int]]
) -> None:
    square = pad_to_square(Image.new("RGB", size, "red"), (1, 2, 3))
    assert square.size == (max(size), max(size))
    assert square.getpixel(inside) == (255, 0, 0)
    assert {square.getpixel(place) for place in outside} == {(1, 2, 3)}


def test_a_square_stays_itself() -> None:
    image = Image.new("RGB", (4, 4))
    assert pad_to_square(image, (1, 2, 3)) is image


def vlm_of(kind: str, image_processor: Any) -> VisionLanguageModel:
    return VisionLanguageModel(
        name="some-model",
        model=SimpleNamespace(config=SimpleNamespace(model_type=kind)),
        processor=SimpleNamespace(image_processor=image_processor),
    )


def test_mean_colour() -> None:
    assert mean_colour(vlm_of("llava", SimpleNamespace(image_mean=[0.0, 0.5, 1.0]))) == (
        0,
        127,
        255,
    )
    assert mean_colour(vlm_of("llava", SimpleNamespace(image_mean=None))) == (127, 127, 127)


@pytest.mark.parametrize(
    ("limits", "rows"),
    [({}, 16 * 32), ({"max_pixels": 8 * 28 * 28}, 4 * 8), ({"min_pixels": 2048 * 28 * 28}, 8192)],
)
def test_limits_decide_the_number_of_patches(limits: dict[str, int], rows: int) -> None:
    part = Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 28 * 28 * 16384})
    limit_pixels(vlm_of("qwen2_5_vl", part), **limits)
    image = Image.new("RGB", (28 * 16, 28 * 8))
    out = part(images=[image], return_tensors="pt")
    assert out["pixel_values"].shape[0] == pytest.approx(rows, rel=0.2)


def test_impossible_limits() -> None:
    part = Qwen2VLImageProcessorPil()
    with pytest.raises(InputError, match=r"min_pixels=9, max_pixels=4: the first must be at least"):
        limit_pixels(vlm_of("qwen2_vl", part), min_pixels=9, max_pixels=4)


def test_families_with_fixed_sizes() -> None:
    with pytest.raises(InputError, match=r"'some-model' is of family 'llava', whose pictures have"):
        limit_pixels(vlm_of("llava", None), max_pixels=9)
