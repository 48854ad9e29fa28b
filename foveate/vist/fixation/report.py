"""What a question looked at: which places of a document, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from foveate.vist.fixation.placing import Placing

__all__ = ["Look", "Place"]

SHOWN = 60  # characters of a place


@dataclass(frozen=True, kw_only=True)
class Place:
    """A segment that was read as text.

    Args:
        segment: its number in the document.
        start, stop: its tokens in the document.
        text: what they say.
        score: joined, by which it was chosen.
        parts: name of a score -> its share of `score`.
        rank: 1 is the best.
    """

    segment: int
    start: int
    stop: int
    text: str
    score: float
    parts: Mapping[str, float]
    rank: int

    def __str__(self) -> str:
        said = " ".join(self.text.split())
        said = said if len(said) <= SHOWN else f"{said[: SHOWN - 3]}..."
        why = ", ".join(f"{name} {value:.2f}" for name, value in self.parts.items())
        return (
            f"{self.rank:>3}. tokens {self.start}-{self.stop - 1}  {self.score:.2f} ({why})  {said}"
        )


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one question looked at in one memory.

    Args:
        question: by which places were found.
        places: read as text, in reading order.
        num_tokens: of the document.
        num_raw: entries that are tokens of the text; one that is read twice counts twice.
        num_latents: that stay beside them.
        budget: entries that both may be together.
        num_unread: tokens of those places that could not be read and were left out.
        num_again: of num_raw, those that are read a second time.
        placing: how they stand, see Fixation; "apart" where there are none.
    """

    question: str
    places: tuple[Place, ...]
    num_tokens: int
    num_raw: int
    num_latents: int
    budget: int
    num_unread: int = 0
    num_again: int = 0
    placing: Placing = "apart"

    @property
    def num_entries(self) -> int:
        """What the model reads in place of the document."""
        return self.num_raw + self.num_latents

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return {**asdict(self), "places": [asdict(place) for place in self.places]}

    def __str__(self) -> str:
        head = (
            f"looked at {len(self.places)} places, {self.num_raw} tokens as text"
            f"{f' ({self.num_again} of them a second time)' if self.num_again else ''} + "
            f"{self.num_latents} latents = {self.num_entries} entries (at most {self.budget}) for "
            f"{self.num_tokens} tokens"
        )
        if self.num_unread:
            head += f"; {self.num_unread} tokens there could not be read"
        ranked = sorted(self.places, key=lambda place: place.rank)
        return "\n".join([head, *map(str, ranked)])
