"""The Read tab without a browser: a long text read as pictures, not read, and read in full."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from foveate.errors import InputError, WindowError
from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer, Strips
from foveate.vist.encoder.lost_text import MOST_LOST, check_lost, lost_characters
from foveate.vist.fixation.report import Look
from foveate.vist.run.document_reader import DocumentReader, Reading
from foveate.vist.run.vist import Vist

__all__ = ["RECENT", "Said", "TextReader", "TextReading"]

RECENT = 128  # raw tokens at the end of the text, unless chosen


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer or a continuation; a note instead where there is none."""

    text: str = ""
    seconds: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class TextReading:
    """What is known of one reading so far; the answers come one after the other.

    Args:
        question: None where the text is continued.
        reading: which part is read as pictures and which as text.
        strips: the pictures of the far part; None where nothing is far.
        latents: that stand for the far part.
        tokens_before, tokens_after: that the model reads, without and with compression.
        kv_bytes_before, kv_bytes_after: of the KV cache after the prompt.
        lost: characters of the far part that its pictures do not show to the model, with counts.
        seconds_read: drawing, encoding and resampling; once for any number of questions.
        look: which places of the far part the question looked at; None where it looked nowhere, or
            it is not known yet.
        looked: their characters in the far part, first and one after the last, in order.
        compressed, absent, full: with the far part as latents, not read, and as text; None while
            they are not known yet.
    """

    question: str | None
    reading: Reading = field(repr=False)
    strips: Strips | None = field(repr=False)
    latents: int
    tokens_before: int
    tokens_after: int
    kv_bytes_before: int
    kv_bytes_after: int
    lost: Counter[str]
    seconds_read: float
    look: Look | None = None
    looked: tuple[tuple[int, int], ...] = ()
    compressed: Said | None = None
    absent: Said | None = None
    full: Said | None = None


class TextReader:
    """Reads texts with one Vist, one at a time.

    Args:
        vist: trained.
    """

    def __init__(self, vist: Vist) -> None:
        self.vist = vist
        # A model holds one memory at a time.
        self._lock = threading.Lock()

    def read(
        self,
        text: str,
        question: str | None,
        *,
        recent: int = RECENT,
        max_new_tokens: int = 24,
    ) -> Iterator[TextReading]:
        """Read a text and answer (or continue it) in three ways, yielding after each step.

        Args:
            text: the document.
            question: about it; None continues it.
            recent: tokens at the end of the text that stay raw.
            max_new_tokens: longest answer.

        Raises:
            InputError: the text is empty, too many of its characters cannot be shown, `recent` is
                below 1, or the model cannot be asked.
        """
        reader = DocumentReader(self.vist, recent=recent)
        reading = reader.split(text, question)
        if not reading.far:
            raise InputError(
                f"the text has {reading.text_tokens} tokens and the last {recent} stay raw, so "
                "nothing would be read as pictures; give a longer text or lower the raw tokens."
            )
        lost = lost_characters(self.vist.encoder, reading.far)
        check_lost(lost, len(reading.far), MOST_LOST)
        with self._lock:
            begun = time.perf_counter()
            memory = self.vist.read(reading.far)
            seconds = time.perf_counter() - begun
            raw, whole = len(reading.prompt), len(reader.whole(reading))
            after = memory.num_latents + raw
            state = TextReading(
                question=question,
                reading=reading,
                strips=Renderer(self.vist.encoder.style).render(reading.far),
                latents=memory.num_latents,
                tokens_before=whole,
                tokens_after=after,
                kv_bytes_before=reader.kv_bytes(whole),
                kv_bytes_after=reader.kv_bytes(after),
                lost=lost,
                seconds_read=seconds,
            )
            yield state
            look: Look | None = None

            def compressed() -> str:
                nonlocal look
                share = None if question is None else reader.default_look(memory)
                said, look = reader.with_memory(
                    reading, memory, max_new_tokens, fixate=share, question=question
                )
                return said

            ways: dict[str, Callable[[], str]] = {
                "compressed": compressed,
                "absent": lambda: reader.without_far(reading, max_new_tokens),
                "full": lambda: reader.in_full(reading, max_new_tokens),
            }
            for name, way in ways.items():
                said: dict[str, Any] = {name: _said(way)}
                state = replace(state, **said)
                if look is not None and state.look is None:
                    state = _with_look(state, look, reader)
                yield state


def _with_look(state: TextReading, look: Look, reader: DocumentReader) -> TextReading:
    """What is known once the question has looked."""
    offsets = tokenise(reader.tokenizer, state.reading.far).offsets
    after = len(state.reading.prompt) + look.num_entries
    return replace(
        state,
        look=look,
        looked=tuple((int(offsets[p.start, 0]), int(offsets[p.stop - 1, 1])) for p in look.places),
        latents=look.num_latents,
        tokens_after=after,
        kv_bytes_after=reader.kv_bytes(after),
    )


def _said(way: Callable[[], str]) -> Said:
    begun = time.perf_counter()
    try:
        text = way()
    except WindowError as error:
        return Said(note=f"{error}.")
    return Said(text=text, seconds=time.perf_counter() - begun)
