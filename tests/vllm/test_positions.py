"""Kept tokens stand where they stood, however the prompt is cut into chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from foveate.vllm.positions import (
    NUM_COLUMNS,
    Media,
    grid_places,
    place_tokens,
    prompt_positions,
    split_places,
    with_places,
)

# 3 text, an image of 4 x 6 (extent 6) with 5 kept, 2 text, one of 3 x 2 with 2 kept, 4 text.
KEPT = [torch.tensor([0, 7, 8, 15, 23]), torch.tensor([1, 4])]
GRIDS = [grid_places(1, 4, 6), grid_places(1, 3, 2)]
MEDIA = [Media(3, 5, 6), Media(10, 2, 3)]
NUM_TOKENS = 16
MASK = torch.zeros(NUM_TOKENS, dtype=torch.bool)
MASK[3:8] = MASK[10:12] = True


def full_positions() -> Tensor:
    """By hand: positions of the uncut prompt, then those of what is kept."""
    columns: list[Tensor] = []
    at = 0
    for text, grid, kept in zip((3, 2), GRIDS, KEPT, strict=True):
        columns += [torch.full((3,), at + i) for i in range(text)]
        at += text
        columns += [grid[k] + at for k in kept.tolist()]
        at += int(grid.max()) + 1
    columns += [torch.full((3,), at + i) for i in range(4)]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_places_survive_half_precision(dtype: torch.dtype) -> None:
    places = torch.tensor([[0, 0, 0], [3, 255, 256], [65535, 300, 4097]])
    features = torch.randn(3, 5, dtype=dtype)
    carried = with_places(features, places)
    assert carried.dtype == dtype
    assert carried.shape == (3, 5 + NUM_COLUMNS)
    back, numbers = split_places(carried)
    assert torch.equal(back, features)
    assert torch.equal(numbers[:, :3], places)
    assert numbers[:, 3].tolist() == [0, 1, 2]


def test_many_tokens_keep_their_numbers() -> None:
    carried = with_places(torch.zeros(700, 1, dtype=torch.bfloat16), grid_places(7, 10, 10))
    _, numbers = split_places(carried[300:])
    assert numbers[:, 3].tolist() == list(range(300, 700))


def test_text_is_right_before_anything_is_known_of_images() -> None:
    positions, later = prompt_positions(NUM_TOKENS, MEDIA)
    assert torch.equal(positions[:, ~MASK], full_positions()[:, ~MASK])
    assert later + NUM_TOKENS == int(full_positions().max()) + 1


@pytest.mark.parametrize("size", range(1, NUM_TOKENS + 1))
def test_any_chunks(size: int) -> None:
    rows = [
        split_places(with_places(torch.zeros(len(kept), 1), grid[kept]))[1]
        for grid, kept in zip(GRIDS, KEPT, strict=True)
    ]
    positions, _ = prompt_positions(NUM_TOKENS, MEDIA)
    for start in range(0, NUM_TOKENS, size):
        end = start + size
        parts = [
            found[max(0, start - item.offset) : max(0, end - item.offset)]
            for item, found in zip(MEDIA, rows, strict=True)
        ]
        numbers = torch.cat(parts)
        if len(numbers):
            positions = place_tokens(positions, MASK, numbers, start)
    assert torch.equal(positions, full_positions())


def test_a_cached_prefix_needs_no_features() -> None:
    """The first image was computed for another prompt: only the second one's rows come."""
    positions, _ = prompt_positions(NUM_TOKENS, MEDIA)
    numbers = split_places(with_places(torch.zeros(2, 1), GRIDS[1][KEPT[1]]))[1]
    placed = place_tokens(positions, MASK, numbers, 9)
    assert torch.equal(placed[:, 8:], full_positions()[:, 8:])


def test_a_chunk_that_begins_one_token_later() -> None:
    """As for a drafter: the first placeholder behind num_computed is not among the rows."""
    positions, _ = prompt_positions(NUM_TOKENS, MEDIA)
    numbers = split_places(with_places(torch.zeros(5, 1), GRIDS[0][KEPT[0]]))[1]
    placed = place_tokens(positions, MASK, numbers[2:], 4)
    assert torch.equal(placed[:, 5:8], full_positions()[:, 5:8])


def test_rows_of_another_prompt_are_noticed() -> None:
    positions, _ = prompt_positions(NUM_TOKENS, MEDIA)
    numbers = torch.zeros(9, 4, dtype=torch.long)
    numbers[:, 3] = torch.arange(9)
    with pytest.raises(AssertionError, match="9 rows of features do not fit the placeholders"):
        place_tokens(positions, MASK, numbers, 0)


def test_an_image_at_the_very_start() -> None:
    mask = torch.tensor([True, True, False])
    positions, later = prompt_positions(3, [Media(0, 2, 4)])
    numbers = split_places(with_places(torch.zeros(2, 1), torch.tensor([[0, 1, 2], [0, 3, 3]])))[1]
    placed = place_tokens(positions, mask, numbers, 0)
    assert placed.T.tolist() == [[0, 1, 2], [0, 3, 3], [4, 4, 4]]
    assert later == 2


def test_frames_lie_apart_in_time() -> None:
    assert grid_places(3, 1, 2, 2.5).tolist() == [
        [0, 0, 0], [0, 0, 1], [2, 0, 0], [2, 0, 1], [5, 0, 0], [5, 0, 1],
    ]  # fmt: skip
