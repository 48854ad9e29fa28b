"""Answer from a long text, or continue it: far text as latents, recent text raw."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.hf.read_document import token_offsets
from foveate.hf.vist import Vist

__all__ = ["DocumentAnswer", "DocumentReader", "ReadReport"]

RECENT = 256  # raw tokens at the end of the text
MARK = "\x00"  # stands for the document in the chat template


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """What it took, beside the same run on raw text where that fits the model's window.

    Args:
        text_tokens: of the whole text.
        latents: that stand for the far part.
        raw_tokens: read as text: the end of the text, question and chat marks.
        tokens_before, tokens_after: that the model reads, without and with latents.
        kv_bytes_before, kv_bytes_after: of the KV cache after the prompt.
        seconds_read: drawing, encoding and resampling the far text; once for any number of
            questions.
        seconds_after: prompt and answer with latents, the reading not counted.
        seconds_before: the same on raw text; None where that was not run.
        answer_before: on raw text; None where that was not run.
        note: why something was not done, or "".
    """

    text_tokens: int
    latents: int
    raw_tokens: int
    tokens_before: int
    tokens_after: int
    kv_bytes_before: int
    kv_bytes_after: int
    seconds_read: float
    seconds_after: float
    seconds_before: float | None = None
    answer_before: str | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)

    def __str__(self) -> str:
        times = f"{self.seconds_read:.2f} s to read, {self.seconds_after:.2f} s to answer"
        if self.seconds_before is not None:
            times += f" (raw text: {self.seconds_before:.2f} s)"
        lines = [
            f"tokens    {self.tokens_before:,} -> {self.tokens_after:,} "
            f"({self.latents:,} latents + {self.raw_tokens:,} raw)",
            f"KV cache  {self.kv_bytes_before / 1e6:.1f} MB -> {self.kv_bytes_after / 1e6:.1f} MB",
            f"time      {times}",
        ]
        return "\n".join(lines + ([f"note      {self.note}"] if self.note else []))


@dataclass(frozen=True, kw_only=True)
class DocumentAnswer:
    """An answer or a continuation, and what it took."""

    text: str
    report: ReadReport


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
        return self._run(text, before, after, max_new_tokens, compare)

    def go_on(self, text: str, *, max_new_tokens: int = 64, compare: bool = True) -> DocumentAnswer:
        """Continue a text; arguments as in `ask`."""
        return self._run(text, "", "", max_new_tokens, compare)

    def _run(
        self, text: str, before: str, after: str, max_new_tokens: int, compare: bool
    ) -> DocumentAnswer:
        if not text.strip():
            raise InputError("the text is empty; there is nothing to read.")
        offsets = token_offsets(self.tokenizer, text)
        total = len(offsets)
        head, tail = self._ids(before), self._ids(after)
        if len(head) == 0:
            # Something raw must come first, the attention sink: the opening token, where the
            # tokenizer has one.
            head = torch.tensor(self.tokenizer("")["input_ids"], dtype=torch.long)
        if len(head) == 0:
            head = self._ids(text[: int(offsets[0, 1])])
            text, offsets = text[int(offsets[0, 1]) :], offsets[1:] - offsets[0, 1]
        cut = len(offsets) - self.recent
        if cut < 1:
            return self._raw_only(text, head, tail, total, max_new_tokens)
        border = int(offsets[cut, 0])
        begun = time.perf_counter()
        memory = self.vist.read(text[:border])
        seconds_read = time.perf_counter() - begun
        recent = self._ids(text[border:])
        prompt = torch.cat([head, recent, tail])
        answer, seconds = self._timed(
            lambda: self._generate(prompt, max_new_tokens, memory, len(head))
        )
        whole = torch.cat([head, self._ids(text), tail])
        said, raw_seconds, note = None, None, ""
        if compare and len(whole) + max_new_tokens > self.vist.window:
            note = (f"the raw text ({len(whole):,} tokens) does not fit the model's window of "
                    f"{self.vist.window:,}")  # fmt: skip
        elif compare:
            said, raw_seconds = self._timed(lambda: self._generate(whole, max_new_tokens))
        per_token = self._kv_bytes_per_token()
        report = ReadReport(
            text_tokens=total,
            latents=memory.num_latents,
            raw_tokens=len(prompt),
            tokens_before=len(whole),
            tokens_after=memory.num_latents + len(prompt),
            kv_bytes_before=len(whole) * per_token,
            kv_bytes_after=(memory.num_latents + len(prompt)) * per_token,
            seconds_read=seconds_read,
            seconds_after=seconds,
            seconds_before=raw_seconds,
            answer_before=said,
            note=note,
        )
        return DocumentAnswer(text=answer, report=report)

    def _raw_only(
        self, text: str, head: Tensor, tail: Tensor, total: int, max_new_tokens: int
    ) -> DocumentAnswer:
        """A text that is short enough to stay raw."""
        prompt = torch.cat([head, self._ids(text), tail])
        answer, seconds = self._timed(lambda: self._generate(prompt, max_new_tokens))
        size = len(prompt) * self._kv_bytes_per_token()
        report = ReadReport(
            text_tokens=total,
            latents=0,
            raw_tokens=len(prompt),
            tokens_before=len(prompt),
            tokens_after=len(prompt),
            kv_bytes_before=size,
            kv_bytes_after=size,
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

    def _kv_bytes_per_token(self) -> int:
        shape = self.vist.parts.shape
        size: int = next(self.vist.model.parameters()).element_size()
        return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * size
