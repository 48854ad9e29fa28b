"""The reading world: seeded pages and questions whose answers only the page can give.

``reading_questions(split="test", num_pages=100)`` yields ``Question`` records. Everything follows
from (seed, index). Splits use disjoint seeds, so a test page never occurs in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from foveate.tasks.question import Question
from foveate.tasks.reading_page import (
    BLOCKS,
    COLOURS,
    NOUNS,
    SHAPES,
    Cell,
    Page,
    make_page,
    paint,
)

__all__ = [
    "KINDS",
    "SEEDS",
    "Asked",
    "example_page",
    "page_at",
    "questions_about",
    "reading_questions",
]

SEEDS = {"train": 1, "dev": 2, "test": 3}


@dataclass(frozen=True)
class Asked:
    """A question without its picture: text, the one right answer, and its kind."""

    text: str
    answer: str
    kind: str


def page_at(seed: int, index: int) -> Page:
    """Return page number ``index`` of the world with this ``seed``."""
    return make_page(_rng(seed, index, "page"))


def reading_questions(
    *,
    split: str = "test",
    num_pages: int,
    per_page: int = 4,
    start: int = 0,
    kinds: tuple[str, ...] | None = None,
) -> Iterator[Question]:
    """Yield questions about ``num_pages`` pages of one split, in a fixed order.

    Args:
        split: ``train``, ``dev`` (for choices while developing) or ``test`` (final scores only).
        num_pages: pages to draw.
        per_page: questions per page; fewer when a page allows fewer.
        start: index of the first page.
        kinds: only these kinds (see ``KINDS``); None = all.

    Raises:
        ValueError: unknown split or kind.
    """
    if split not in SEEDS:
        raise ValueError(f"split={split!r} is unknown; use one of {', '.join(SEEDS)}")
    seed = SEEDS[split]
    for index in range(start, start + num_pages):
        page = page_at(seed, index)
        asked = questions_about(page, _rng(seed, index, "questions"), per_page, kinds=kinds)
        image = paint(page)
        for number, item in enumerate(asked):
            yield Question(
                image=image,
                question=item.text,
                answers=(item.answer,),
                kind=item.kind,
                image_id=f"reading-{split}-{index}",
                id=f"reading-{split}-{index}-{number}",
            )


def example_page() -> tuple[Image.Image, str, str]:
    """(image, question, answer) that the embedded model can read and was not trained on.

    A page lists things, each with its colour, price and stock; this is the first question about a
    price in the held-out split, not a chosen one. `reading_questions` yields all the others.
    """
    asked = next(
        asked
        for asked in reading_questions(num_pages=8, per_page=8)
        if asked.kind == "one_hop/price"
    )
    return asked.image, asked.question, asked.answers[0]


def questions_about(
    page: Page,
    rng: random.Random,
    count: int,
    *,
    kinds: tuple[str, ...] | None = None,
) -> list[Asked]:
    """Draw ``count`` different questions, each kind equally likely (yes/no kinds half as often).

    Fewer come back when the page allows no more. Answers are unique by construction.

    Raises:
        ValueError: an unknown kind.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is unknown; use one of {', '.join(KINDS)}")
    facts = _Facts(page)
    names = list(kinds or KINDS)
    weights = [0.5 if name in _YES_NO else 1.0 for name in names]
    asked: dict[str, Asked] = {}
    for _ in range(4 * count):
        if len(asked) >= count:
            break
        kind = rng.choices(names, weights)[0]
        drawn = KINDS[kind](facts, rng)
        if drawn is not None:
            asked.setdefault(drawn[0], Asked(drawn[0], drawn[1], kind))
    return list(asked.values())


class _Facts:
    """Index of a page's cells, for drawing questions quickly."""

    def __init__(self, page: Page) -> None:
        self.cells = page.cells
        self.at = {(cell.line, cell.block): cell for cell in page.cells}
        self.items = [cell for cell in page.cells if cell.kind == "item"]
        self.worded = [cell for cell in page.cells if cell.word]
        self.shapes = [cell for cell in page.cells if cell.kind == "shape"]
        self.words = {cell.word for cell in self.worded}

    def beside(self, down: int, across: bool, *, item: bool) -> list[tuple[Cell, Cell]]:
        """All (cell, neighbour) pairs: ``down`` lines below, ``across`` = in the other block.

        Both have a word; with ``item`` the neighbour has numbers too.
        """
        pairs = []
        for cell in self.worded:
            block = BLOCKS - 1 - cell.block if across else cell.block
            other = self.at.get((cell.line + down, block))
            if other is None or not other.word:
                continue
            if not item or other.kind == "item":
                pairs.append((cell, other))
        return pairs


_Draw = Callable[[_Facts, random.Random], "tuple[str, str] | None"]


def _item(text: str, attribute: str) -> _Draw:
    def draw(facts: _Facts, rng: random.Random) -> tuple[str, str] | None:
        if not facts.items:
            return None
        cell = rng.choice(facts.items)
        words = text.format(word=cell.word, price=cell.price)
        return words, str(getattr(cell, attribute))

    return draw


def _next_to(text: str, attribute: str, down: int, across: bool = False) -> _Draw:
    def draw(facts: _Facts, rng: random.Random) -> tuple[str, str] | None:
        numbers = attribute in ("price", "stock")
        pairs = facts.beside(down, across, item=numbers)
        if not pairs:
            return None
        cell, other = rng.choice(pairs)
        return text.format(word=cell.word), str(getattr(other, attribute))

    return draw


def _colour(facts: _Facts, rng: random.Random) -> tuple[str, str] | None:
    if not facts.worded:
        return None
    cell = rng.choice(facts.worded)
    return f"what color is {cell.word}?", cell.colour


def _exists(facts: _Facts, rng: random.Random) -> tuple[str, str] | None:
    if rng.random() < 0.5:
        if not facts.words:
            return None
        return f"is there {rng.choice(sorted(facts.words))} on the page?", "yes"
    absent = [word for word in NOUNS if word not in facts.words]
    return f"is there {rng.choice(absent)} on the page?", "no"


def _shape(text: str, known: str, asked: str) -> _Draw:
    """About a shape that is the only one of its kind, or of its colour."""

    def draw(facts: _Facts, rng: random.Random) -> tuple[str, str] | None:
        names = [getattr(cell, known) for cell in facts.shapes]
        single = [cell for cell in facts.shapes if names.count(getattr(cell, known)) == 1]
        if not single:
            return None
        cell = rng.choice(single)
        return text.format(getattr(cell, known)), getattr(cell, asked)

    return draw


def _shape_exists(facts: _Facts, rng: random.Random) -> tuple[str, str] | None:
    shapes, colours = {c.shape for c in facts.shapes}, {c.colour for c in facts.shapes}
    if not shapes:
        return None
    yes = rng.random() < 0.5
    if rng.random() < 0.5:
        names = [name for name in SHAPES if (name in shapes) == yes]
        text = "is there a {}?"
    else:
        names = [name for name in COLOURS if (name in colours) == yes]
        text = "is there a {} shape?"
    return (text.format(rng.choice(names)), "yes" if yes else "no") if names else None


KINDS: dict[str, _Draw] = {
    "one_hop/price": _item("what is the price of {word}?", "price"),
    "one_hop/stock": _item("what is the stock of {word}?", "stock"),
    "one_hop/costs": _item("what costs {price}?", "word"),
    "one_hop/colour": _colour,
    "one_hop/exists": _exists,
    "one_hop/shape_colour": _shape("what color is the {}?", "shape", "colour"),
    "one_hop/shape_kind": _shape("what is the {} shape?", "colour", "shape"),
    "one_hop/shape_exists": _shape_exists,
    "two_hop/under": _next_to("what is under {word}?", "word", 1),
    "two_hop/above": _next_to("what is above {word}?", "word", -1),
    "two_hop/beside": _next_to("what is beside {word}?", "word", 0, across=True),
    "two_hop/price_under": _next_to("what is the price under {word}?", "price", 1),
    "two_hop/price_above": _next_to("what is the price above {word}?", "price", -1),
    "two_hop/stock_under": _next_to("what is the stock under {word}?", "stock", 1),
    "two_hop/stock_above": _next_to("what is the stock above {word}?", "stock", -1),
    "two_hop/colour_under": _next_to("what color is under {word}?", "colour", 1),
    "two_hop/colour_above": _next_to("what color is above {word}?", "colour", -1),
    "two_hop/costs_stock": _item("what is the stock at price {price}?", "stock"),
    "two_hop/costs_colour": _item("what color is at price {price}?", "colour"),
}
_YES_NO = ("one_hop/exists", "one_hop/shape_exists")


def _rng(seed: int, index: int, what: str) -> random.Random:
    return random.Random(f"reading/{what}/{seed}/{index}")
