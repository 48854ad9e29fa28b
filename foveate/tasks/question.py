"""The one record every task yields: an image, a question about it and the accepted answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

__all__ = ["NO_ANSWER", "Question"]

# Stands as the one accepted answer of a question that came without any.
NO_ANSWER = "(no answer given)"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one image.

    Args:
        image: the picture, RGB.
        question: the question as plain text, without any chat template.
        answers: accepted answers; a prediction is right when it equals one of them.
        kind: a slash-separated class such as ``"two_hop/price_under"``; scores are grouped by it.
        image_id: same for all questions about one image.
        id: unique within its task.
    """

    image: Image.Image = field(repr=False)
    question: str
    answers: tuple[str, ...]
    kind: str
    image_id: str
    id: str

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError(
                f"question {self.id!r} has answers=(); at least one accepted answer is needed"
            )
