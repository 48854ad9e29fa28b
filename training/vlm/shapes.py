"""easy-VQA's training pictures with patch labels, for the vision stage and the joint stage."""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from foveate.tasks.easy_vqa import (
    Placement,
    canvas_placement,
    easy_vqa_canvas,
    easy_vqa_image,
    easy_vqa_items,
)
from foveate.tasks.reading_page import COLOURS, PITCH, SHAPES, SIZE
from training.vlm.codes import FACTORS, GRID

__all__ = [
    "draw_number",
    "draw_shape_questions",
    "num_images",
    "shape_example",
    "shape_questions",
    "shape_share",
]

_COLOURS, _SHAPES = tuple(COLOURS), SHAPES


@lru_cache(maxsize=1)
def _train() -> dict[int, list[tuple[str, str]]]:
    images: dict[int, list[tuple[str, str]]] = {}
    for question, answer, number in easy_vqa_items("train"):
        images.setdefault(number, []).append((question, answer))
    return images


@lru_cache(maxsize=1)
def _facts() -> dict[int, tuple[int, int]]:
    """(shape, colour) of each training picture, where its training questions tell both."""
    facts = {}
    for number, asked in _train().items():
        told = [
            word
            for question, answer in asked
            if answer not in ("yes", "no")
            for word in (answer, *question.rstrip("?").split())
        ]
        told += [
            word
            for question, answer in asked
            if (answer == "yes") != (" no " in question or " not " in question)
            for word in question.rstrip("?").split()
        ]
        shape = [word for word in told if word in _SHAPES]
        colour = [word for word in told if word in _COLOURS]
        if shape and colour:
            facts[number] = (_SHAPES.index(shape[0]), _COLOURS.index(colour[0]))
    return facts


def num_images() -> int:
    """Training pictures whose shape and colour are known from training questions."""
    return len(_facts())


def draw_number(rng: random.Random) -> int:
    """Draw the number of a training picture whose facts are known."""
    while (number := rng.randrange(4000)) not in _facts():
        pass
    return number


def shape_questions(number: int) -> list[tuple[str, str]]:
    """All training (question, answer) pairs of one picture."""
    return _train()[number]


def draw_shape_questions(
    rng: random.Random,
    number: int,
    count: int,
) -> list[tuple[str, str]]:
    """Draw up to ``count`` training questions of one picture, form and answer balanced.

    Open, plain yes/no and negated yes/no questions, and "yes" and "no" within the latter two, are
    equally likely; most negated questions of easy-VQA are answered "yes".
    """
    groups: dict[tuple[bool, str], list[tuple[str, str]]] = {}
    for question, answer in shape_questions(number):
        negated = " not " in question or " no " in question
        kind = answer if answer in ("yes", "no") else "open"
        groups.setdefault((negated, kind), []).append((question, answer))
    left = [rng.sample(groups[key], len(groups[key])) for key in sorted(groups)]
    drawn: list[tuple[str, str]] = []
    while left and len(drawn) < count:
        group = rng.choice(left)
        drawn.append(group.pop())
        left = [g for g in left if g]
    return drawn


def shape_share(image: Image.Image, placement: Placement | None) -> np.ndarray:
    """Share of each patch that the shape covers, [14, 14]; the shape is found by its colour.

    Args:
        image: the 64 x 64 picture.
        placement: where it lies on a canvas; None = it fills the 224 x 224 input.
    """
    pixels = np.asarray(image, dtype=np.int16)
    corners = np.stack([pixels[0, 0], pixels[0, -1], pixels[-1, 0], pixels[-1, -1]])
    distance = np.abs(pixels - np.median(corners, 0)).max(-1)
    mask = Image.fromarray(((distance > 60) * 255).astype(np.uint8))
    size, spot = (placement.size, placement.spot) if placement else (SIZE, (0, 0))
    full = Image.new("L", (SIZE, SIZE))
    full.paste(mask.resize((size, size), Image.Resampling.NEAREST), spot)
    tiles = np.asarray(full, dtype=np.float32).reshape(GRID, PITCH, GRID, PITCH)
    return tiles.mean((1, 3)) / 255


def shape_example(
    rng: random.Random,
    number: int | None = None,
) -> tuple[Image.Image, torch.Tensor]:
    """A training picture, plain or on a canvas (half each), and its patch labels [196, F].

    Raises:
        KeyError: the training questions of picture ``number`` do not tell its facts.
    """
    if number is None:
        number = draw_number(rng)
    image = easy_vqa_image("train", number)
    shape, colour = _facts()[number]
    placement = None if rng.random() < 0.5 else canvas_placement(rng)
    inside = torch.from_numpy(shape_share(image, placement).reshape(-1) > 0.15)
    if placement:
        image = easy_vqa_canvas(image, placement)
    else:
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    labels = torch.full((GRID * GRID, len(FACTORS)), -1)
    labels[:, 0] = torch.where(inside, 4, 0)
    labels[inside, 2], labels[inside, 5] = colour, shape
    labels[:, 6], labels[:, 7] = torch.arange(196) // GRID, torch.arange(196) % GRID
    return image, labels
