"""Outcome: what became of a line of a batch job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

__all__ = ["Finish", "Outcome"]

# As in OpenAI's results: the model had ended, or the answer was as long as it might be.
Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a line.

    Args:
        line: its number.
        answer: the text; "" if there is an error.
        before, kept: visual tokens of its images.
        error: why there is no answer; "" if there is one.
        prompt_tokens: of the prompt with all its visual tokens.
        answer_tokens: that were generated.
        finish: why the answer ended.
        unknown: words of the line that the model's tokenizer cannot write.
    """

    line: int
    answer: str = ""
    before: int = 0
    kept: int = 0
    error: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    finish: Finish = "stop"
    unknown: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
