"""What it took to answer from a long text, or to continue it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from foveate.vist.fixation.report import Look

__all__ = ["DocumentAnswer", "ReadReport"]


@dataclass(frozen=True, kw_only=True)
class ReadReport:
    """What it took, beside the same run on raw text where that fits the model's window.

    Args:
        text_tokens: of the whole text.
        latents: that stand for the far part.
        raw_tokens: read as text: the end of the text, question and chat marks.
        look: which places of the far part were read as text too, and why; None for none.
        tokens_before, tokens_after: that the model reads, without and with latents.
        kv_bytes_before, kv_bytes_after: of the KV cache after the prompt.
        seconds_read: drawing, encoding and resampling the far text; once for any number of
            questions.
        seconds_after: prompt and answer with latents, the reading not counted.
        seconds_before: the same on raw text; None where that was not run.
        answer_before: on raw text; None where that was not run.
        note: why something was not done, or "".
        missing: characters of the far part that its pictures could not show, with their counts.
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
    look: Look | None = None
    note: str = ""
    missing: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return {
            **asdict(self),
            "look": self.look and self.look.to_dict(),
            "missing": dict(self.missing),
        }

    def __str__(self) -> str:
        times = f"{self.seconds_read:.2f} s to read, {self.seconds_after:.2f} s to answer"
        if self.seconds_before is not None:
            times += f" (raw text: {self.seconds_before:.2f} s)"
        looked = f" + {self.look.num_raw:,} looked at" if self.look is not None else ""
        lines = [
            f"tokens    {self.tokens_before:,} -> {self.tokens_after:,} "
            f"({self.latents:,} latents{looked} + {self.raw_tokens:,} raw)",
            f"KV cache  {self.kv_bytes_before / 1e6:.1f} MB -> {self.kv_bytes_after / 1e6:.1f} MB",
            f"time      {times}",
        ]
        if self.missing:
            lines.append(f"lost      {self._lost()}")
        if self.note:
            lines.append(f"note      {self.note}")
        return "\n".join(lines + ([str(self.look)] if self.look is not None else []))

    def _lost(self) -> str:
        total, shown = sum(self.missing.values()), list(self.missing)[:8]
        named = ", ".join(f"U+{ord(char):04X} {self.missing[char]:,}x" for char in shown)
        return f"{total:,} characters cannot be shown to the model: {named}"


@dataclass(frozen=True, kw_only=True)
class DocumentAnswer:
    """An answer or a continuation, and what it took."""

    text: str
    report: ReadReport
