"""Look again: a question's places of a document as raw text among the latents of the rest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from foveate.errors import ConfigError, InputError
from foveate.models.anatomy import Anatomy
from foveate.models.token_offsets import tokenise
from foveate.vist.fixation.attention import question_attention
from foveate.vist.fixation.choose import Scores, added_up, choose_segments, weighted
from foveate.vist.fixation.index import index_scores, state_scores
from foveate.vist.fixation.lexical import Bm25
from foveate.vist.fixation.placing import (
    Placing,
    closed_up,
    mixed,
    read_again,
    segment_of_latents,
)
from foveate.vist.fixation.report import Look, Place
from foveate.vist.fusion.fusion import PrefixCache
from foveate.vist.latents.index_head import IndexHead
from foveate.vist.latents.memory import UNREAD, Memory, MemoryBatch

__all__ = ["Fixation", "Looker"]

KEPT_DOCUMENTS = 8  # whose words a looker remembers
ANYTHING = "What is this about?"  # what any question attends to is no answer to this one


@dataclass(frozen=True, kw_only=True)
class Fixation:
    """How much of a document a question may have.

    Args:
        share: of the memory's tokens, above 0 up to 1: so many entries at most stand for it, raw
            tokens and latents together. 1 reads everything as text.
        floor: share of the best place's score that another must have, 0 to 1. What merely fills the
            budget misleads.
        skim: of those entries, 0 up to 1: for latents beside the places, evenly spread over the
            rest of the document. Where no place is looked at, latents have the whole budget.
        placing: how the places stand. "close": one after the other right before the text after the
            memory, in reading order; the memory takes up as many positions as before. "twice": so
            too, and as many of the best places as the budget has room for a second time behind
            them. A causal model reads the first time without knowing what comes, the second time it
            does (Arora et al. 2024, "Just read twice"). "apart": each entry at its own position in
            the document, gaps between them. None: "twice" for memories of latents; the other forms
            hold states at their own positions, "apart".

    Raises:
        ConfigError: a value is out of range.
    """

    share: float
    floor: float = 0.8
    skim: float = 0.0
    placing: Placing | None = None

    def __post_init__(self) -> None:
        if not _is_number(self.share) or not 0 < self.share <= 1:
            raise ConfigError(
                f"Fixation got share={self.share!r}; use a share above 0 up to 1 (0.1 = a tenth of "
                "the tokens)."
            )
        are_numbers = _is_number(self.floor) and _is_number(self.skim)
        if not are_numbers or not 0 <= self.floor <= 1 or not 0 <= self.skim < 1:
            raise ConfigError(
                f"Fixation got floor={self.floor!r} and skim={self.skim!r}; use a floor from 0 to "
                "1 and a skim from 0 to below 1."
            )
        if self.placing is not None and self.placing not in get_args(Placing):
            raise ConfigError(
                f"Fixation got placing={self.placing!r}; use {', '.join(get_args(Placing))} or "
                "None."
            )

    def placing_in(self, form: str) -> Placing:
        """How places stand in a memory of a form."""
        return self.placing or ("twice" if form == "latents" else "apart")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


class Looker:
    """Finds the places a question points at, and puts them into the memory as text.

    Args:
        anatomy: of the decoder.
        tokenizer: of the decoder.
        fixation: how much.
        index: what made the index of memories that have one; None goes without.
        state_of: a question's token ids [T] and the head before it [1, H, hidden_size] -> its mean
            state [hidden_size], for memories whose index is of states; None goes without.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        tokenizer: Any,
        fixation: Fixation,
        index: IndexHead | None = None,
        state_of: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self._anatomy, self._index, self._state_of = anatomy, index, state_of
        self.tokenizer, self.fixation = tokenizer, fixation
        self._level: OrderedDict[int, tuple[PrefixCache, Tensor]] = OrderedDict()
        self._words: OrderedDict[int, tuple[Tensor, list[str], Bm25]] = OrderedDict()

    def look(
        self, memory: Memory, question: str, skim: PrefixCache, head: Tensor
    ) -> tuple[MemoryBatch, Look]:
        """The memory as a question reads it.

        Args:
            memory: that `check_memory` has passed.
            question: what is looked for.
            skim: prefix of the memory's latents after `head`.
            head: [1, H, hidden_size] input embeddings before the memory.

        Returns:
            one row of latents and raw tokens in order of position, and what was looked at.

        Raises:
            InputError: the question is empty.
        """
        placing = self.fixation.placing_in(memory.form)
        if placing != "apart" and memory.form != "latents":
            raise InputError(
                f"Fixation(placing={placing!r}) moves what is read, and a memory of form "
                f"{memory.form!r} holds states of tokens at their own positions; leave placing out."
            )
        if not question.strip():
            raise InputError(
                "fixate looks where a question points, and there is none: no text comes after the "
                "memory; put one there, pass question=..., or leave fixate out."
            )
        assert memory.segments is not None
        starts = memory.segments.tolist()
        stops = [*starts[1:], memory.num_tokens]
        lengths = [b - a for a, b in zip(starts, stops, strict=True)]
        parts = weighted(self.scores(memory, question, skim, head))
        total = added_up(parts)
        budget = max(1, int(self.fixation.share * memory.num_tokens))
        skimmed = int(self.fixation.skim * budget)
        room = budget - skimmed
        if budget >= memory.num_tokens:
            chosen = np.argsort(-total, kind="stable").tolist()
        else:
            chosen = choose_segments(total, lengths, room, self.fixation.floor)
        texts = self._read(memory)[0]
        places = [
            Place(
                segment=i,
                start=starts[i],
                stop=stops[i],
                text=texts[i],
                score=float(total[i]),
                parts={name: float(values[i]) for name, values in parts.items()},
                rank=rank,
            )
            for rank, i in enumerate(chosen, 1)
        ]
        raw = sum(lengths[i] for i in chosen)
        batch = mixed(memory, chosen, min(budget, raw + skimmed) if chosen else budget)
        once = _num_raw(batch)
        again = choose_segments(total[chosen], [lengths[i] for i in chosen], room - raw)
        if placing == "twice":
            batch = read_again(batch, memory, [chosen[i] for i in again])
        if placing != "apart" and chosen:  # latents alone stand where they were trained to
            batch = closed_up(batch, skim.spans[0])
        num_raw = _num_raw(batch)
        look = Look(
            question=question,
            places=tuple(sorted(places, key=lambda place: place.start)),
            num_tokens=memory.num_tokens,
            num_raw=num_raw,
            num_latents=int(batch.mask.sum()) - num_raw,
            budget=budget,
            num_unread=raw - once,
            num_again=num_raw - once,
            placing=placing if chosen else "apart",
        )
        return batch, look

    def text_of(self, ids: Tensor) -> str:
        """What token ids [S] say, special ones left out."""
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True))

    def scores(
        self, memory: Memory, question: str, skim: PrefixCache, head: Tensor
    ) -> dict[str, Scores]:
        """What speaks for each segment, [S] each; see `look`."""
        assert memory.segments is not None
        found = {"words": self._read(memory)[1].scores(question)}
        ids = tokenise(self.tokenizer, question).ids
        if not len(ids):  # a tokenizer may drop all of a question: words alone speak then
            return found
        if memory.num_latents:
            level = self._level.get(id(skim))
            if level is None:
                level = self._level[id(skim)] = (skim, self._attention(skim, ANYTHING, head))
                while len(self._level) > KEPT_DOCUMENTS:
                    self._level.popitem(last=False)
            # By segment, above what a question about nothing in particular looks at.
            seen = (self._attention(skim, question, head) - level[1]).double().cpu()
            sums = torch.zeros(len(memory.segments), dtype=torch.float64)
            sums.index_add_(0, segment_of_latents(memory).cpu(), seen)
            found["attention"] = sums.clamp_min(0).numpy()
        asked = torch.from_numpy(ids).to(head.device)
        if memory.index is not None and memory.index_side == "states":
            if self._state_of is not None:
                told = state_scores(memory.index, self._state_of(asked, head))
                found["index-states"] = told.double().cpu().numpy()
        elif memory.index is not None and self._index is not None:
            base: Any = self._anatomy.base
            meant = base.get_input_embeddings()(asked).float()
            told = index_scores(memory, self._index, meant)
            found[f"index-{memory.index_side}"] = told.double().cpu().numpy()
        return found

    def _attention(self, skim: PrefixCache, question: str, head: Tensor) -> Tensor:
        ids = tokenise(self.tokenizer, f"\n\n{question.strip()}").ids
        asked = torch.from_numpy(ids).to(head.device)
        return question_attention(self._anatomy, skim, head, asked)

    def _read(self, memory: Memory) -> tuple[list[str], Bm25]:
        """The segments' texts and words."""
        tokens = memory.tokens
        assert tokens is not None
        held = self._words.get(id(tokens))
        if held is None:
            texts = segment_texts(memory, self.tokenizer)
            # The tokens are kept too, so that their id stays their own.
            held = self._words[id(tokens)] = (tokens, texts, Bm25(texts))
        self._words.move_to_end(id(tokens))
        while len(self._words) > KEPT_DOCUMENTS:
            self._words.popitem(last=False)
        return held[1], held[2]


def _num_raw(batch: MemoryBatch) -> int:
    assert batch.tokens is not None
    return int((batch.tokens != UNREAD).sum())


def check_memory(memory: Memory, num_words: int) -> None:
    """Raise InputError unless places of a memory can be read as text.

    Args:
        memory: any.
        num_words: token ids that the model knows.
    """
    if memory.tokens is None or memory.segments is None:
        raise InputError(
            "the memory does not know the tokens of its text, so no place of it can be looked at; "
            "read the document again with this version, or attach it without fixate."
        )
    memory.check_values()
    most = int(memory.tokens.max()) if len(memory.tokens) else UNREAD
    if most >= num_words:
        raise InputError(
            f"the memory holds token id {most} and this model knows {num_words}; read the document "
            "again with this Vist."
        )


def segment_texts(memory: Memory, tokenizer: Any) -> list[str]:
    """What each segment says, tokens that could not be read left out. S texts."""
    assert memory.tokens is not None
    assert memory.segments is not None
    starts = memory.segments.tolist()
    parts = memory.tokens.cpu().tensor_split(starts[1:])
    return [str(tokenizer.decode(part[part != UNREAD].tolist())) for part in parts]
