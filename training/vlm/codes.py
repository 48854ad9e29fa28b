"""Oracle codes: what each patch of a page shows, as labels and as one vector per patch.

Training scaffold only. Every fact (a word, a colour, a digit, ...) owns one vector of an
orthonormal table; a patch's code is the sum of the vectors of its facts. The language model
first reads these codes, the vision tower learns to emit them, and then both are joined.
"""

from __future__ import annotations

import torch

from foveate.tasks.reading_page import COLOURS, LINES, NOUNS, PITCH, SHAPES, Page

__all__ = ["FACTORS", "GRID", "WIDTH", "code_of", "code_table", "factor_rows", "patch_labels"]

WIDTH = 192
GRID = LINES
FACTORS: dict[str, tuple[str, ...]] = {
    "kind": ("blank", "word", "price", "stock", "shape"),
    "word": NOUNS,
    "colour": tuple(COLOURS),
    "tens": tuple("0123456789"),
    "units": tuple("0123456789"),
    "shape": SHAPES,
    "line": tuple(str(i) for i in range(GRID)),
    "column": tuple(str(i) for i in range(GRID)),
}
_START: dict[str, int] = {}
for _name, _values in FACTORS.items():
    _START[_name] = sum(len(FACTORS[n]) for n in _START)
NUM_CODES = sum(len(values) for values in FACTORS.values())
_KIND = {name: idx for idx, name in enumerate(FACTORS["kind"])}
_WORD = {name: idx for idx, name in enumerate(NOUNS)}
_COLOUR = {name: idx for idx, name in enumerate(COLOURS)}
_SHAPE = {name: idx for idx, name in enumerate(SHAPES)}


def code_table() -> torch.Tensor:
    """Return the fixed table, [NUM_CODES, WIDTH], orthonormal rows."""
    generator = torch.Generator().manual_seed(20)
    square = torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square)[0][:NUM_CODES].float()


def factor_rows(factor: str) -> slice:
    """Rows of the code table that belong to one factor."""
    return slice(_START[factor], _START[factor] + len(FACTORS[factor]))


def patch_labels(page: Page) -> torch.Tensor:
    """Label every patch with the facts of the ink that covers most of it.

    Returns:
        [196, len(FACTORS)] int64, in FACTORS' order; -1 = no such fact.
    """
    labels = [[0, -1, -1, -1, -1, -1, idx // GRID, idx % GRID] for idx in range(GRID * GRID)]
    best = [0] * (GRID * GRID)
    for ink in page.ink:
        x0, y0, x1, y1 = ink.box
        for row in range(max(0, y0 // PITCH), min(GRID - 1, (y1 - 1) // PITCH) + 1):
            height = min(y1, row * PITCH + PITCH) - max(y0, row * PITCH)
            if height < 6:
                continue
            for column in range(max(0, x0 // PITCH), min(GRID - 1, (x1 - 1) // PITCH) + 1):
                width = min(x1, column * PITCH + PITCH) - max(x0, column * PITCH)
                idx = row * GRID + column
                if width < 3 or width * height <= best[idx]:
                    continue
                best[idx] = width * height
                label = labels[idx]
                label[:6] = [_KIND[ink.what], -1, -1, -1, -1, -1]
                cell = ink.cell
                if ink.what in ("price", "stock"):
                    number = getattr(cell, ink.what)
                    label[3], label[4] = number // 10, number % 10
                else:
                    label[2] = _COLOUR[cell.colour]
                    if ink.what == "word":
                        label[1] = _WORD[cell.word]
                    else:
                        label[5] = _SHAPE[cell.shape]
    return torch.tensor(labels)


def code_of(labels: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Sum the code vectors of each patch's facts: labels [..., F] -> codes [..., WIDTH]."""
    starts = torch.tensor(list(_START.values()))
    padded = torch.cat([table, table.new_zeros(1, table.shape[1])])
    rows = torch.where(labels >= 0, labels + starts, torch.full_like(labels, len(table)))
    return padded[rows].sum(dim=-2)
