"""Answer from a long text by looking where the question points, or continue it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TextStreamer

from foveate.errors import InputError, WindowError, check_unicode
from foveate.models.chat_frame import chat_frame
from foveate.models.generation import whole_characters
from foveate.models.token_offsets import tokenise
from foveate.vist.encoder.lost_text import MOST_LOST, check_lost, lost_characters
from foveate.vist.fixation.look import Fixation
from foveate.vist.fixation.report import Look
from foveate.vist.fusion.kv_prefix import EmbeddingPrefix
from foveate.vist.latents.memory import Memory
from foveate.vist.run.read_document import count_latents
from foveate.vist.run.read_report import DocumentAnswer, ReadReport
from foveate.vist.run.vist import Vist
from foveate.vist.run.vist_report import VistReport

__all__ = ["DocumentAnswer", "DocumentReader", "ReadReport", "Reading"]

RECENT = 256  # raw tokens at the end of a text that goes on
LOOK = 0.1  # of the far part's tokens, for a question
LEAST_LOOK = 128  # entries


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a text goes to the model: what is read as pictures and what as text.

    Args:
        opening: characters before the far part that stay raw (the attention sink), often none.
        far: what is drawn; "" where the text is short enough to stay raw.
        recent: the end of the text, which stays raw.
        text_tokens: of the whole text.
        head, tail: token ids before the far part and after the recent one: chat marks, question.
        recent_ids: token ids of `recent`.
    """

    opening: str
    far: str
    recent: str
    text_tokens: int
    head: Tensor
    recent_ids: Tensor
    tail: Tensor

    @property
    def prompt(self) -> Tensor:
        """What the model reads as text beside the far part. [S]"""
        return torch.cat([self.head, self.recent_ids, self.tail])


class DocumentReader:
    """Reads a text with a Vist: questions get the places they point at, texts go on from their end.

    Args:
        vist: trained.
        recent: tokens at the end of the text that stay raw. None is RECENT where a text goes on
            and 0 where it is asked about, because a question may be about any place of it; a text
            of at most RECENT tokens stays raw then.

    Raises:
        InputError: `recent` is below 0.
    """

    def __init__(self, vist: Vist, *, recent: int | None = None) -> None:
        if recent is not None and recent < 0:
            raise InputError(f"recent={recent}; keep 0 or more raw tokens, or leave it out.")
        self.vist, self.recent = vist, recent
        self.tokenizer = vist.tokenizer

    def ask(
        self,
        text: str,
        question: str,
        *,
        max_new_tokens: int = 64,
        fixate: float | Fixation | None = None,
        compare: bool = False,
        stream: Callable[[str], None] | None = None,
        stream_raw: Callable[[str], None] | None = None,
        most_lost: float = MOST_LOST,
    ) -> DocumentAnswer:
        """Answer a question about a text.

        Args:
            text: the document.
            question: about it.
            max_new_tokens: longest answer.
            fixate: see Vist.attach; 0 reads latents only, None a tenth of the far part's tokens but
                at least LEAST_LOOK.
            compare: also run the whole text raw, where it fits.
            stream: is given the answer piece by piece, as it is written.
            stream_raw: the same of the raw run: "" as it begins, then its pieces.
            most_lost: share of the far part's characters that its pictures may fail to show.

        Raises:
            InputError: text or question is empty, more than `most_lost` is lost, or the model has
                no chat template.
            ConfigError: fixate is not a share.
            UnsupportedModeError: this form of Vist cannot look again.
        """
        _check_length(max_new_tokens)
        if fixate and not isinstance(fixate, Fixation):
            fixate = Fixation(share=fixate)  # refused before a long text is read
        reading = self.split(text, question)
        if not reading.far:
            return self._raw_only(reading, max_new_tokens, stream)
        lost = self._lost(reading, most_lost)
        begun = time.perf_counter()
        memory = self.vist.read(reading.far)
        seconds_read = time.perf_counter() - begun
        note = ""
        if fixate is None:
            fixate = self.default_look(memory)
            if not fixate:
                note = "this form of Vist cannot look again, so the answer is from latents alone"
        begun = time.perf_counter()
        answer, look = self.with_memory(
            reading, memory, max_new_tokens, fixate=fixate, question=question, stream=stream
        )
        note = "; ".join(filter(None, (note, _squeezed(self.vist.report))))
        seconds = time.perf_counter() - begun
        report = self._report(
            reading,
            max_new_tokens,
            compare,
            latents=memory.num_latents if look is None else look.num_latents,
            look=look,
            note=note,
            lost=lost,
            stream_raw=stream_raw,
            seconds_read=seconds_read,
            seconds_after=seconds,
        )
        return DocumentAnswer(text=answer, report=report)

    def go_on(
        self,
        text: str,
        *,
        max_new_tokens: int = 64,
        grow: bool = True,
        compare: bool = False,
        stream: Callable[[str], None] | None = None,
        stream_raw: Callable[[str], None] | None = None,
        most_lost: float = MOST_LOST,
    ) -> DocumentAnswer:
        """Continue a text.

        Args:
            text: the document.
            max_new_tokens: longest continuation.
            grow: read as many more of the last tokens as text as the far part would have latents,
                and leave the rest unread. Measured, this continues a text better than latents, or
                than looking again, at the same number of entries. False reads the latents.
            compare: also run the whole text raw, where it fits.
            stream, stream_raw: are given the continuations piece by piece, as in `ask`.
            most_lost: as in `ask`, with `grow=False`.

        Raises:
            InputError: the text is empty, or more than `most_lost` is lost.
        """
        _check_length(max_new_tokens)
        reading, note = self.split(text), ""
        lost: Counter[str] = Counter()
        if not reading.far:
            return self._raw_only(reading, max_new_tokens, stream)
        begun = time.perf_counter()
        memory = None
        if grow:
            reading, note = self._grown(text, reading, max_new_tokens)
        else:
            lost = self._lost(reading, most_lost)
            memory = self.vist.read(reading.far)
        seconds_read = time.perf_counter() - begun
        begun = time.perf_counter()
        if memory is None:
            answer = self.without_far(reading, max_new_tokens, stream=stream)
        else:
            answer, _ = self.with_memory(reading, memory, max_new_tokens, stream=stream)
            note = _squeezed(self.vist.report)
        seconds = time.perf_counter() - begun
        report = self._report(
            reading,
            max_new_tokens,
            compare,
            latents=0 if memory is None else memory.num_latents,
            seconds_read=seconds_read,
            seconds_after=seconds,
            note=note,
            lost=lost,
            stream_raw=stream_raw,
        )
        return DocumentAnswer(text=answer, report=report)

    # --- step by step ---

    def split(
        self, text: str, question: str | None = None, *, recent: int | None = None
    ) -> Reading:
        """Which part of a text is read as pictures; `question` None continues the text.

        Args:
            text: the document.
            question: about it.
            recent: raw tokens at its end; None is the reader's.

        Raises:
            InputError: as `ask`.
        """
        head, tail = self._around(question)
        if not text.strip():
            raise InputError("the text is empty; there is nothing to read.")
        offsets = tokenise(self.tokenizer, text).offsets
        total = len(offsets)
        recent = self.recent if recent is None else recent
        if recent is None:
            recent = RECENT if question is None or total <= RECENT else 0
        if question is None and recent < 1:
            raise InputError("recent=0 leaves nothing to go on from; keep at least 1 raw token.")
        first = 0
        if len(head) == 0:
            # Something raw must come first, the attention sink: the opening token, where the
            # tokenizer has one.
            head = torch.tensor(self.tokenizer("")["input_ids"], dtype=torch.long)
        if len(head) == 0:
            first = int(offsets[0, 1])
            head = self._ids(text[:first])
            offsets = offsets[1:]
        cut = len(offsets) - recent
        # A token of the opening's character may begin before it ends.
        border = (
            len(text) if not recent else max(first, int(offsets[cut, 0])) if cut >= 1 else first
        )
        return Reading(
            opening=text[:first],
            far=text[first:border],
            recent=text[border:],
            text_tokens=total,
            head=head,
            recent_ids=self._ids(text[border:]),
            tail=tail,
        )

    def whole(self, reading: Reading) -> Tensor:
        """Token ids of the same prompt without compression. [S]"""
        text = self._ids(reading.far + reading.recent)
        return torch.cat([reading.head, text, reading.tail])

    def default_look(self, memory: Memory) -> float:
        """The share of a memory that `ask` looks at where none is named; 0 if it cannot look."""
        if not isinstance(self.vist.parts.fusion.prefix, EmbeddingPrefix):
            return 0.0
        return min(1.0, max(LOOK, LEAST_LOOK / memory.num_tokens))

    def with_memory(
        self,
        reading: Reading,
        memory: Memory,
        max_new_tokens: int,
        *,
        fixate: float | Fixation | None = None,
        question: str | None = None,
        stream: Callable[[str], None] | None = None,
    ) -> tuple[str, Look | None]:
        """The answer or continuation from the far part's memory, and what was looked at again.

        Args:
            reading: of `split`.
            memory: `vist.read(reading.far)`.
            max_new_tokens: longest answer.
            fixate, question: see Vist.attach; None reads latents only.
            stream: as in `ask`.
        """
        at = len(reading.head)
        with self.vist.attach(memory, memory_at=at, fixate=fixate, question=question) as run:
            said = self._generate(reading.prompt, max_new_tokens, stream)
        assert run.report is not None
        return said, run.report.looks[0]

    def without_far(
        self,
        reading: Reading,
        max_new_tokens: int,
        *,
        stream: Callable[[str], None] | None = None,
    ) -> str:
        """The same from the recent text alone, the far part not read at all.

        Raises:
            WindowError: that and the new tokens do not fit the model's window.
        """
        longest = len(reading.prompt) + max_new_tokens
        if longest > self.vist.window:
            raise WindowError(
                f"{len(reading.prompt):,} raw tokens and {max_new_tokens:,} new ones exceed the "
                f"model's window of {self.vist.window:,}; keep fewer raw (recent) or write fewer"
            )
        return self._generate(reading.prompt, max_new_tokens, stream)

    def in_full(
        self,
        reading: Reading,
        max_new_tokens: int,
        *,
        stream: Callable[[str], None] | None = None,
    ) -> str:
        """The same from the whole text, uncompressed.

        Raises:
            WindowError: it does not fit the model's window.
        """
        whole = self.whole(reading)
        if len(whole) + max_new_tokens > self.vist.window:
            raise WindowError(
                f"the raw text ({len(whole):,} tokens) does not fit the model's window of "
                f"{self.vist.window:,}"
            )
        if stream is not None:
            stream("")
        return self._generate(whole, max_new_tokens, stream)

    def kv_bytes(self, num_entries: int) -> int:
        """Of a KV cache that holds so many tokens and latents."""
        shape = self.vist.parts.shape
        size: int = next(self.vist.model.parameters()).element_size()
        return num_entries * 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * size

    def _around(self, question: str | None) -> tuple[Tensor, Tensor]:
        """Token ids before the document and after it; marks count in the chat template alone."""
        if question is None:
            return self._ids(""), self._ids("")
        check_unicode("the question", question)
        if not question.strip():
            raise InputError("the question is empty; ask something.")
        frame = chat_frame(self.tokenizer)
        asked = self._ids(frame.between + question.strip())
        return self._marked(frame.before), torch.cat([asked, self._marked(frame.after)])

    def _grown(self, text: str, reading: Reading, new: int) -> tuple[Reading, str]:
        """The reading with as many more raw tokens as its far part would have latents, and why."""
        entries = count_latents(reading.far, self.vist.encoder, self.vist.parts, self.tokenizer)
        room = max(1, self.vist.window - new - len(reading.head))
        recent = min(len(reading.recent_ids) + entries, room)
        grown = self.split(text, recent=recent)
        left = grown.text_tokens - len(grown.prompt)
        note = (
            f"a text goes on from its end: {recent:,} tokens are read as text, among them as many "
            f"as there would be latents, and the {left:,} before are not read. Measured at equal "
            "entries, neither latents nor looking again foretell a text as well"
        )
        return grown, note

    def _report(
        self,
        reading: Reading,
        max_new_tokens: int,
        compare: bool,
        *,
        latents: int,
        note: str = "",
        look: Look | None = None,
        lost: Mapping[str, int] | None = None,
        stream_raw: Callable[[str], None] | None = None,
        **seconds: float,
    ) -> ReadReport:
        said, raw_seconds = None, None
        if compare:
            try:
                begun = time.perf_counter()
                said = self.in_full(reading, max_new_tokens, stream=stream_raw)
                raw_seconds = time.perf_counter() - begun
            except WindowError as error:
                note = f"{note}; {error}" if note else str(error)
        before, raw = len(self.whole(reading)), len(reading.prompt)
        after = latents + raw + (look.num_raw if look is not None else 0)
        return ReadReport(
            text_tokens=reading.text_tokens,
            latents=latents,
            raw_tokens=raw,
            look=look,
            tokens_before=before,
            tokens_after=after,
            kv_bytes_before=self.kv_bytes(before),
            kv_bytes_after=self.kv_bytes(after),
            seconds_before=raw_seconds,
            answer_before=said,
            note=note,
            missing=lost or {},
            **seconds,
        )

    def _lost(self, reading: Reading, most: float) -> Counter[str]:
        """What pictures of the far part do not show. Raises InputError where that is too much."""
        lost = lost_characters(self.vist.encoder, reading.far)
        check_lost(lost, len(reading.far), most)
        return lost

    def _raw_only(
        self, reading: Reading, max_new_tokens: int, stream: Callable[[str], None] | None
    ) -> DocumentAnswer:
        """A text that is short enough to stay raw."""
        begun = time.perf_counter()
        answer = self.without_far(reading, max_new_tokens, stream=stream)
        seconds = time.perf_counter() - begun
        note = (
            f"the text has {reading.text_tokens} tokens and "
            f"{self.recent if self.recent is not None else RECENT} stay raw: nothing to compress"
        )
        report = self._report(
            reading,
            max_new_tokens,
            False,
            latents=0,
            note=note,
            seconds_read=0.0,
            seconds_after=seconds,
        )
        return DocumentAnswer(text=answer, report=report)

    def _generate(
        self, prompt: Tensor, max_new_tokens: int, stream: Callable[[str], None] | None = None
    ) -> str:
        _check_length(max_new_tokens)
        model: Any = self.vist.model
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": False}
        if model.generation_config.pad_token_id is None:
            settings["pad_token_id"] = self.tokenizer.eos_token_id or 0
        if stream is not None:
            settings["streamer"] = _Pieces(self.tokenizer, stream)
        ids = prompt[None].to(self.vist.device)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        said = str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        return whole_characters(said).strip()

    def _ids(self, text: str) -> Tensor:
        return torch.from_numpy(tokenise(self.tokenizer, text).ids)

    def _marked(self, text: str) -> Tensor:
        """Token ids of what a chat template wrote."""
        found = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return torch.tensor(found, dtype=torch.long)


def _check_length(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} is below 1; ask for at least one.")


def _squeezed(report: VistReport | None) -> str:
    """What is said of a document that has fewer positions than tokens, "" for none."""
    if report is None or not report.is_scaled:
        return ""
    (span,), (tokens,), (look,) = report.spans, report.num_tokens, report.looks
    said = (
        f"the far part has {tokens:,} tokens and the model's window of {report.window:,} leaves "
        f"{span:,} positions for it"
    )
    if look is not None and look.num_entries > span:
        return (
            f"{said}, so {look.num_entries:,} entries stand closer than text does and are read "
            "badly; look at less"
        )
    if look is not None and look.placing != "apart":
        return said
    return f"{said}, so entries stand closer together than tokens do"


class _Pieces(TextStreamer):
    """Hands on what is written, whole words at a time."""

    def __init__(self, tokenizer: Any, give: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._give = give

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = whole_characters(text) if stream_end else text
        if text:
            self._give(text)
