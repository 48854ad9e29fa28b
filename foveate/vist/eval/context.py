"""Far context, and what an evaluation asks of a model that reads it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputError

LengthRule = Literal["mean", "sum"]


@dataclass(frozen=True, kw_only=True)
class EncodedText:
    """A text and its tokens.

    Args:
        text: the text.
        ids: one id a token, no special tokens.
        starts: the character each token begins at.
    """

    text: str
    ids: tuple[int, ...]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, start: int, stop: int) -> EncodedText:
        """Tokens start..stop-1 and exactly their characters."""
        bounds = (*self.starts, len(self.text))
        first, last = bounds[start], bounds[stop]
        return EncodedText(
            text=self.text[first:last],
            ids=self.ids[start:stop],
            starts=tuple(at - first for at in self.starts[start:stop]),
        )


@dataclass(frozen=True, kw_only=True)
class FarContext:
    """Text before the raw window, as raw tokens and as what is drawn.

    Args:
        source: the tokens a raw subject sees, and their text.
        positions: where each token stands, counted from the first token of the original text,
            ascending; None is 0, 1, 2, ... (nothing left out).
        span: positions that the text takes up; the raw window continues after them.
        drawn: what is rendered instead of the text, where it differs (blank space between parts).
        question: what is asked, for a reader that looks again at places it points at; None is the
            whole prompt.
    """

    source: EncodedText
    positions: tuple[int, ...] | None = None
    span: int = -1
    drawn: str | None = None
    question: str | None = None

    def __post_init__(self) -> None:
        if self.positions is not None and len(self.positions) != len(self.source):
            raise InputError(
                f"{len(self.positions)} positions for {len(self.source)} far tokens; give one each."
            )
        if self.span < 0:
            object.__setattr__(self, "span", len(self.source))

    @property
    def ids(self) -> tuple[int, ...]:
        return self.source.ids

    @property
    def text(self) -> str:
        """What is rendered."""
        return self.source.text if self.drawn is None else self.drawn

    def last(self, count: int) -> FarContext | None:
        """Its last `count` tokens, moved up to the raw window; None for no token."""
        if count < 1:
            return None
        start = max(0, len(self.source) - count)
        return FarContext(source=self.source.cut(start, len(self.source)))

    def keep(self, tokens: Sequence[int]) -> FarContext | None:
        """Some of its tokens, in the order given, as a text of their own; None for no token."""
        if not len(tokens):
            return None
        bounds = (*self.source.starts, len(self.source.text))
        cuts = [self.source.text[bounds[i] : bounds[i + 1]] for i in tokens]
        starts = np.cumsum([0, *map(len, cuts)]).tolist()
        kept = EncodedText(
            text="".join(cuts),
            ids=tuple(self.source.ids[i] for i in tokens),
            starts=tuple(starts[:-1]),
        )
        return FarContext(source=kept)

    def sample(self, count: int, generator: np.random.Generator) -> FarContext | None:
        """`count` tokens drawn at random, each left at its own position; None for no token."""
        if count < 1:
            return None
        size = len(self.source)
        chosen = np.sort(generator.choice(size, size=min(count, size), replace=False)).tolist()
        kept = EncodedText(
            text=self.source.text,
            ids=tuple(self.source.ids[i] for i in chosen),
            starts=tuple(self.source.starts[i] for i in chosen),
        )
        return FarContext(source=kept, positions=tuple(chosen), span=self.span, drawn="")


@dataclass(frozen=True, kw_only=True)
class Score:
    """Negative log likelihood of some tokens."""

    nats: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.nats / self.tokens


class Subject(ABC):
    """A language model that reads a far context in one way: as raw tokens, or as a memory.

    Every input is: a head of a token or two (the attention sink, the same in every arm), the far
    context, raw text. Text is tokenised in those pieces, without special tokens but the head.
    """

    @abstractmethod
    def encode(self, text: str) -> EncodedText:
        """Tokens of a text, no special ones."""

    @abstractmethod
    def num_entries(self, far: FarContext) -> int:
        """Entries of the far context that the LLM's attention reads: raw tokens or latents."""

    @abstractmethod
    def nll(
        self,
        fars: Sequence[FarContext | None],
        windows: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        heads: Sequence[Sequence[int]] | None = None,
    ) -> list[Score]:
        """Score target tokens after a far context and a raw window, one entry a row.

        Args:
            fars: what is far; None for nothing.
            windows: token ids right before the target, may be empty.
            targets: token ids to score, at least one.
            heads: token ids of each row's head, at least one; None is the subject's own head.
        """

    @abstractmethod
    def option_nll(
        self, far: FarContext | None, prompt: str, options: Sequence[str]
    ) -> list[Score]:
        """Score each option as the continuation of the same prompt."""

    @abstractmethod
    def answer(self, far: FarContext | None, prompt: str, max_new_tokens: int) -> str:
        """Greedy continuation of the prompt, up to the end of its first line."""

    def answers(
        self, fars: Sequence[FarContext | None], prompts: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        """`answer` to each prompt behind its own far context."""
        return [
            self.answer(far, prompt, max_new_tokens)
            for far, prompt in zip(fars, prompts, strict=True)
        ]

    def states(self, texts: Sequence[str]) -> NDArray[np.float64] | None:
        """Mean state of each text inside the model, [R, hidden], to find texts alike by.

        None where there is no such thing.
        """
        return None

    def choose(
        self,
        far: FarContext | None,
        prompt: str,
        options: Sequence[str],
        rule: LengthRule = "mean",
    ) -> int:
        """Index of the most likely option, the first of equals, see `best_option`."""
        return best_option(self.option_nll(far, prompt, options), rule)


def best_option(scores: Sequence[Score], rule: LengthRule = "mean") -> int:
    """Index of the option with the least loss, the first of equals.

    Args:
        rule: "mean": per token, so that options of many tokens are not at a disadvantage (the usual
            rule for classification by likelihood). "sum": of the whole option.
    """
    values = [score.mean if rule == "mean" else score.nats for score in scores]
    return values.index(min(values))
