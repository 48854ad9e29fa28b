"""Answer from a long text, or continue it: far text as latents, recent text raw."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.errors import InputError, WindowError
from foveate.models.token_offsets import tokenise
from foveate.vist.latents.memory import Memory
from foveate.vist.run.read_report import DocumentAnswer, ReadReport
from foveate.vist.run.vist import Vist

__all__ = ["DocumentAnswer", "DocumentReader", "ReadReport", "Reading"]

RECENT = 256  # raw tokens at the end of the text
MARK = "\x00"  # stands for the document in the chat template


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
    """Reads a text with a Vist: all but its end as latents.

    Args:
        vist: trained.
        recent: tokens at the end of the text that stay raw.

    Raises:
        InputError: `recent` is below 1.
    """

    def __init__(self, vist: Vist, *, recent: int = RECENT) -> None:
        if recent < 1:
            raise InputError(f"recent={recent}; keep at least 1 raw token.")
        self.vist, self.recent = vist, recent
        self.tokenizer = vist.tokenizer

    def ask(
        self, text: str, question: str, *, max_new_tokens: int = 64, compare: bool = True
    ) -> DocumentAnswer:
        """Answer a question about a text.

        Args:
            text: the document.
            question: about it.
            max_new_tokens: longest answer.
            compare: also run the whole text raw, where it fits.

        Raises:
            InputError: text or question is empty, or the model has no chat template.
        """
        return self._run(self.split(text, question), max_new_tokens, compare)

    def go_on(self, text: str, *, max_new_tokens: int = 64, compare: bool = True) -> DocumentAnswer:
        """Continue a text; arguments as in `ask`."""
        return self._run(self.split(text), max_new_tokens, compare)

    # --- step by step ---

    def split(self, text: str, question: str | None = None) -> Reading:
        """Which part of a text is read as pictures; `question` None continues the text.

        Raises:
            InputError: as `ask`.
        """
        before, after = ("", "") if question is None else self._chat(question)
        if not text.strip():
            raise InputError("the text is empty; there is nothing to read.")
        offsets = tokenise(self.tokenizer, text).offsets
        total = len(offsets)
        head, tail = self._ids(before), self._ids(after)
        first = 0
        if len(head) == 0:
            # Something raw must come first, the attention sink: the opening token, where the
            # tokenizer has one.
            head = torch.tensor(self.tokenizer("")["input_ids"], dtype=torch.long)
        if len(head) == 0:
            first = int(offsets[0, 1])
            head = self._ids(text[:first])
            offsets = offsets[1:]
        cut = len(offsets) - self.recent
        border = int(offsets[cut, 0]) if cut >= 1 else first
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

    def with_memory(self, reading: Reading, memory: Memory, max_new_tokens: int) -> str:
        """The answer or continuation from the far part's memory (`vist.read(reading.far)`)."""
        return self._generate(reading.prompt, max_new_tokens, memory, len(reading.head))

    def without_far(self, reading: Reading, max_new_tokens: int) -> str:
        """The same from the recent text alone, the far part not read at all."""
        return self._generate(reading.prompt, max_new_tokens)

    def in_full(self, reading: Reading, max_new_tokens: int) -> str:
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
        return self._generate(whole, max_new_tokens)

    def kv_bytes(self, num_entries: int) -> int:
        """Of a KV cache that holds so many tokens and latents."""
        shape = self.vist.parts.shape
        size: int = next(self.vist.model.parameters()).element_size()
        return num_entries * 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * size

    def _chat(self, question: str) -> tuple[str, str]:
        """What the chat template writes before and after the document."""
        if not question.strip():
            raise InputError("the question is empty; ask something.")
        if not getattr(self.tokenizer, "chat_template", None):
            raise InputError("the model has no chat template, so it cannot be asked; continue the "
                             "text instead.")  # fmt: skip
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{MARK}\n\n{question.strip()}"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        before, _, after = chat.partition(MARK)
        return before, after

    def _run(self, reading: Reading, max_new_tokens: int, compare: bool) -> DocumentAnswer:
        if not reading.far:
            return self._raw_only(reading, max_new_tokens)
        begun = time.perf_counter()
        memory = self.vist.read(reading.far)
        seconds_read = time.perf_counter() - begun
        answer, seconds = self._timed(lambda: self.with_memory(reading, memory, max_new_tokens))
        said, raw_seconds, note = None, None, ""
        if compare:
            try:
                said, raw_seconds = self._timed(lambda: self.in_full(reading, max_new_tokens))
            except WindowError as error:
                note = str(error)
        before, raw = len(self.whole(reading)), len(reading.prompt)
        report = ReadReport(
            text_tokens=reading.text_tokens,
            latents=memory.num_latents,
            raw_tokens=raw,
            tokens_before=before,
            tokens_after=memory.num_latents + raw,
            kv_bytes_before=self.kv_bytes(before),
            kv_bytes_after=self.kv_bytes(memory.num_latents + raw),
            seconds_read=seconds_read,
            seconds_after=seconds,
            seconds_before=raw_seconds,
            answer_before=said,
            note=note,
        )
        return DocumentAnswer(text=answer, report=report)

    def _raw_only(self, reading: Reading, max_new_tokens: int) -> DocumentAnswer:
        """A text that is short enough to stay raw."""
        answer, seconds = self._timed(lambda: self.without_far(reading, max_new_tokens))
        length = len(reading.prompt)
        total = reading.text_tokens
        report = ReadReport(
            text_tokens=total,
            latents=0,
            raw_tokens=length,
            tokens_before=length,
            tokens_after=length,
            kv_bytes_before=self.kv_bytes(length),
            kv_bytes_after=self.kv_bytes(length),
            seconds_read=0.0,
            seconds_after=seconds,
            note=f"the text has {total} tokens and {self.recent} stay raw: nothing to compress",
        )
        return DocumentAnswer(text=answer, report=report)

    def _generate(
        self, prompt: Tensor, max_new_tokens: int, memory: Any = None, memory_at: int = 1
    ) -> str:
        model: Any = self.vist.model
        settings = {"max_new_tokens": max_new_tokens, "do_sample": False}
        if model.generation_config.pad_token_id is None:
            settings["pad_token_id"] = self.tokenizer.eos_token_id or 0
        ids = prompt[None].to(self.vist.device)
        if memory is None:
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        else:
            with self.vist.attach(memory, memory_at=memory_at):
                out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()

    def _timed(self, run: Callable[[], str]) -> tuple[str, float]:
        begun = time.perf_counter()
        result = run()
        return result, time.perf_counter() - begun

    def _ids(self, text: str) -> Tensor:
        if not text:
            return torch.zeros(0, dtype=torch.long)
        found = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return torch.tensor(found, dtype=torch.long)
