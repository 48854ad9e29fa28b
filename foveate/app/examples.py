"""What comes with the playground: held-out pictures with questions, and texts of this package."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from foveate.assets import text_encoder_path, vist_path, vlm_path
from foveate.tasks.reading import reading_questions

__all__ = ["ImageExample", "TextExample", "image_examples", "text_examples"]

# The first page of the test split that has a question of the kind, not a chosen one.
KINDS = ("one_hop/price", "one_hop/colour", "two_hop/under", "two_hop/price_above")
PAGES = 8
TEXTS = {
    "The card of the embedded vision-language model": vlm_path,
    "The card of the embedded text encoder": text_encoder_path,
    "The card of the embedded Vist": vist_path,
}


@dataclass(frozen=True, kw_only=True)
class ImageExample:
    """A picture, a question about it, and the true answer."""

    name: str
    image: Image.Image
    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class TextExample:
    """A long text and a question about it."""

    name: str
    text: str
    question: str


def image_examples() -> list[ImageExample]:
    """One question of each kind, on pages that the embedded model never saw."""
    found: dict[str, ImageExample] = {}
    pages: set[str] = set()
    for asked in reading_questions(num_pages=PAGES, per_page=8):
        if asked.kind not in KINDS or asked.kind in found or asked.image_id in pages:
            continue
        pages.add(asked.image_id)
        found[asked.kind] = ImageExample(
            name=f"{len(found) + 1}. {asked.question}",
            image=asked.image,
            question=asked.question,
            answer=asked.answers[0],
        )
    return list(found.values())


def text_examples() -> list[TextExample]:
    """The model cards of this package: texts that are here, and that no model was trained on."""
    return [
        TextExample(
            name=name,
            text=(folder() / "README.md").read_text(encoding="utf-8"),
            question="What does this text describe?",
        )
        for name, folder in TEXTS.items()
    ]
