"""Pictures of a plan: every token's fate is where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.core.plan import KeepPlan, keep_only
from foveate.draw.overlay import draw_plan
from foveate.draw.palette import KEPT, MARGIN, MERGED, side_by_side
from foveate.models.view import seen_box

RED = (255, 0, 0)
GRID = (4, 4)
TOP = MARGIN + 6 + 28  # px above the drawn image with a title of one line
SIDE = 560


def plan(keep: list[int], src: list[int] = (), dst: list[int] = ()) -> KeepPlan:  # type: ignore[assignment]
    return KeepPlan(
        num_tokens=16,
        keep_idx=torch.tensor([keep]),
        merge_src=torch.tensor([list(src)], dtype=torch.long),
        merge_dst=torch.tensor([list(dst)], dtype=torch.long),
    )


def cell(picture: Image.Image, token: int) -> np.ndarray:
    """Pixels of a token's cell, without its frame: [h, w, 3]."""
    size = SIDE // 4
    x, y = MARGIN + (token % 4) * size, TOP + (token // 4) * size
    return np.asarray(picture)[y + 10 : y + size // 3, x + 10 : x + size // 3].astype(int)


@pytest.fixture
def red() -> Image.Image:
    return Image.new("RGB", (64, 64), RED)


def test_kept_in_colour_dropped_grey_merged_between(red: Image.Image) -> None:
    picture = draw_plan(red, plan([0, 5], [3], [0]), num_tokens=16, grid=GRID, title="t")
    assert (cell(picture, 0) == RED).all()
    assert (cell(picture, 5) == RED).all()
    dropped = cell(picture, 10)
    assert np.ptp(dropped, axis=-1).max() <= 8  # no hue left but the grey of the palette
    merged = cell(picture, 3)
    saturation = np.ptp(merged, axis=-1)
    assert (saturation > 40).all()
    assert (saturation < 200).all()


def test_frames_tell_kept_from_merged(red: Image.Image) -> None:
    size = SIDE // 4
    picture = draw_plan(red, plan([0, 5], [3], [0]), num_tokens=16, grid=GRID, title="t")
    frame_of = {
        token: np.asarray(picture)[TOP + size // 4, MARGIN + (token % 4) * size + 1]
        for token in (0, 3)
    }
    assert np.abs(frame_of[0].astype(int) - KEPT).max() < 60
    assert np.abs(frame_of[3].astype(int) - MERGED).max() < 60


def test_link_runs_from_the_merged_token_to_its_target(red: Image.Image) -> None:
    size = SIDE // 4
    linked = np.asarray(draw_plan(red, plan([0], [2], [0]), num_tokens=16, grid=GRID, title="t"))
    middle = linked[TOP + size // 2, MARGIN + 3 * size // 2]  # centre of token 1, on the way
    assert np.abs(middle.astype(int) - MERGED).max() < 40
    alone = np.asarray(draw_plan(red, plan([0, 5], [2], [5]), num_tokens=16, grid=GRID, title="t"))
    beside = alone[TOP + size // 2, MARGIN + 3 * size // 2]
    assert np.abs(beside.astype(int) - MERGED).max() > 60


def test_no_plan_means_all_kept(red: Image.Image) -> None:
    picture = draw_plan(red, None, num_tokens=16, grid=GRID, title="t")
    assert all((cell(picture, token) == RED).all() for token in range(16))


def test_part_that_the_model_does_not_see_is_hatched() -> None:
    wide = Image.new("RGB", (128, 64), RED)
    picture = draw_plan(
        wide, plan(list(range(16))), num_tokens=16, grid=GRID, seen=(32, 0, 96, 64), title="t"
    )
    pixels = np.asarray(picture).astype(int)
    middle_row = pixels[TOP + SIDE // 2 + 70]
    assert (middle_row[MARGIN + SIDE + 20] == RED).all()  # in the centre crop
    outside = pixels[TOP + 5 : TOP + SIDE - 5, MARGIN + 5 : MARGIN + SIDE // 2 - 10]
    assert np.ptp(outside, axis=-1).max() == 0
    assert outside.min() > 180


def test_without_a_grid_tokens_form_a_strip_and_the_image_stays_whole(red: Image.Image) -> None:
    kept = keep_only(torch.tensor([[0, 1, 2]]), 37)
    picture = draw_plan(red, kept, num_tokens=37, grid=None, title="t")
    pixels = np.asarray(picture).astype(int)
    image = pixels[TOP : TOP + 480, MARGIN : MARGIN + 480]
    assert (image == RED).all()
    framed = (np.abs(pixels - KEPT).max(axis=-1) < 40)[TOP : TOP + 480, MARGIN + 480 :]
    assert framed.any()
    rows, columns = np.nonzero(framed)
    assert rows.max() < 40  # tokens 0, 1, 2 are in the first row
    assert np.ptp(columns) < 3 * 26


@pytest.mark.parametrize("size", [(3000, 2000), (20, 700), (1, 1), (5000, 10), (3, 4000)])
@pytest.mark.parametrize("grid", [GRID, None])
def test_any_image_size_gives_a_picture_of_reasonable_size(
    size: tuple[int, int], grid: tuple[int, int] | None
) -> None:
    picture = draw_plan(Image.new("RGB", size, RED), plan([1, 2]), num_tokens=16, grid=grid)
    assert 100 < picture.height < 1700
    assert 300 < picture.width < 1700


def test_wide_grid_follows_the_image() -> None:
    image = Image.new("RGB", (80, 20), RED)
    picture = draw_plan(image, plan([15]), num_tokens=16, grid=(2, 8), title="t")
    pixels = np.asarray(picture).astype(int)
    cell_side = 1400 // 8  # the longest side that is drawn
    x = MARGIN + 7 * cell_side + 60
    assert (pixels[TOP + cell_side + 60, x] == RED).all()  # last cell: bottom right
    assert not (pixels[TOP + 60, x] == RED).all()
    assert not (pixels[TOP + cell_side + 60, x - cell_side] == RED).all()


@pytest.mark.parametrize(
    ("num_tokens", "grid", "message"),
    [(15, None, "expected one image with 15"), (16, (3, 4), "3 x 4 does not hold 16")],
)
def test_what_does_not_fit_is_refused(
    red: Image.Image, num_tokens: int, grid: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        draw_plan(red, plan([0]), num_tokens=num_tokens, grid=grid)


def test_plans_of_several_images_are_refused(red: Image.Image) -> None:
    two = keep_only(torch.tensor([[0], [1]]), 16)
    with pytest.raises(ValueError, match="plan is of 2 images"):
        draw_plan(red, two, num_tokens=16, grid=GRID)


def test_side_by_side_breaks_rows() -> None:
    pictures = [Image.new("RGB", (10, 5 + i), RED) for i in range(4)]
    assert side_by_side(pictures, columns=3).size == (30, 7 + 8)


class Crop:
    do_center_crop = True
    size = {"shortest_edge": 336}  # noqa: RUF012
    crop_size = {"height": 336, "width": 336}  # noqa: RUF012


class Squash:
    do_center_crop = False
    size = {"height": 224, "width": 224}  # noqa: RUF012


@pytest.mark.parametrize(
    ("processor", "size", "box"),
    [
        (Crop(), (672, 336), (168.0, 0.0, 504.0, 336.0)),
        (Crop(), (100, 300), (0.0, 100.0, 100.0, 200.0)),
        (Squash(), (672, 336), (0.0, 0.0, 672.0, 336.0)),
    ],
)
def test_seen_box(processor: object, size: tuple[int, int], box: tuple[float, ...]) -> None:
    assert seen_box(processor, size) == pytest.approx(box)
