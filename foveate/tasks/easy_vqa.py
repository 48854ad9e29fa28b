"""Loader of easy-VQA (the PyPI package ``easy-vqa``, MIT): 64 x 64 pictures of single shapes.

``easy_vqa_questions(split="test")`` yields the plain pictures, ``canvas=True`` places each,
scaled, somewhere on a textured 224 x 224 canvas; the placement follows from (split, image).
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from foveate.tasks.question import Question

__all__ = [
    "Placement",
    "canvas_placement",
    "easy_vqa_canvas",
    "easy_vqa_image",
    "easy_vqa_items",
    "easy_vqa_questions",
    "split_placement",
]

CANVAS = 224


def _data_path(split: str) -> Path:
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r} is unknown; easy-VQA has 'train' and 'test'")
    found = importlib.util.find_spec("easy_vqa")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the easy-VQA data is not installed; run: pip install easy-vqa")
    return Path(next(iter(found.submodule_search_locations))) / "data" / split


@lru_cache(maxsize=2)
def easy_vqa_items(split: str) -> tuple[tuple[str, str, int], ...]:
    """All (question, answer, image number) of one split, in the package's order.

    Raises:
        ModuleNotFoundError: the package ``easy-vqa`` is not installed.
        ValueError: unknown split.
    """
    rows = json.loads((_data_path(split) / "questions.json").read_text())
    return tuple((question, answer, number) for question, answer, number in rows)


@lru_cache(maxsize=5000)
def easy_vqa_image(split: str, number: int) -> Image.Image:
    """The 64 x 64 RGB picture with this number."""
    with Image.open(_data_path(split) / "images" / f"{number}.png") as image:
        return image.convert("RGB")


@dataclass(frozen=True)
class Placement:
    """Where and how a picture lies on its canvas: side length and left, top in px."""

    noise_seed: int
    size: int
    spot: tuple[int, int]


def canvas_placement(rng: random.Random) -> Placement:
    """Draw a placement: 72-176 px wide, anywhere on the 224 x 224 canvas."""
    noise_seed, size = rng.getrandbits(32), rng.randint(72, 176)
    spot = (rng.randint(0, CANVAS - size), rng.randint(0, CANVAS - size))
    return Placement(noise_seed, size, spot)


def split_placement(split: str, number: int) -> Placement:
    """The placement ``easy_vqa_questions(canvas=True)`` uses for one picture."""
    return canvas_placement(random.Random(f"{split}/{number}"))


def easy_vqa_canvas(image: Image.Image, placement: Placement) -> Image.Image:
    """Paste ``image`` at its placement on a textured 224 x 224 canvas."""
    noise = np.random.default_rng(placement.noise_seed)
    cells = int(noise.integers(2, 15))
    grid = noise.integers(60, 256, (cells, cells, 3), dtype=np.uint8)
    smooth = Image.fromarray(grid).resize((CANVAS, CANVAS), Image.Resampling.BILINEAR)
    grain = noise.normal(0, noise.uniform(2, 20), (CANVAS, CANVAS, 1))
    field = np.asarray(smooth, dtype=np.float32) * 0.35 + 110 + grain
    canvas = Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))
    side = (placement.size, placement.size)
    canvas.paste(image.resize(side, Image.Resampling.BICUBIC), placement.spot)
    return canvas


def easy_vqa_questions(
    *,
    split: str = "test",
    canvas: bool = False,
    limit: int | None = None,
    stride: int = 1,
) -> Iterator[Question]:
    """Yield easy-VQA questions of one split.

    Args:
        split: ``train`` or ``test``.
        canvas: place the picture on a textured canvas (see the module's docstring).
        limit: at most this many questions; None = all.
        stride: every ``stride``-th question, to spread a small sample over the whole split.

    Raises:
        ModuleNotFoundError: the package ``easy-vqa`` is not installed.
        ValueError: unknown split, or limit or stride below 1.
    """
    if stride < 1 or (limit is not None and limit < 1):
        raise ValueError(f"limit={limit}, stride={stride}: both must be at least 1")
    name = "easy_vqa_canvas" if canvas else "easy_vqa"
    placed: tuple[int, Image.Image] | None = None
    rows = list(enumerate(easy_vqa_items(split)))[::stride][:limit]
    for idx, (question, answer, number) in rows:
        image = easy_vqa_image(split, number)
        if canvas:
            if placed is None or placed[0] != number:
                placed = (number, easy_vqa_canvas(image, split_placement(split, number)))
            image = placed[1]
        kind = (
            "yes_no"
            if answer in ("yes", "no")
            else "shape"
            if answer in ("circle", "rectangle", "triangle")
            else "colour"
        )
        yield Question(
            image=image,
            question=question,
            answers=(answer,),
            kind=f"{name}/{kind}",
            image_id=f"{name}-{split}-{number}",
            id=f"{name}-{split}-{idx}",
        )
