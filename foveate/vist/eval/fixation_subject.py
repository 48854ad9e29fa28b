"""A model that skims a far context as latents and reads the places a question points at as text."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from transformers import StoppingCriteriaList

from foveate.errors import InputError
from foveate.vist.encoder.characters import reads_characters
from foveate.vist.eval.context import FarContext, Score, Subject
from foveate.vist.eval.subjects import Recent, StopAtLine, VistSubject
from foveate.vist.fixation.choose import WEIGHTS
from foveate.vist.fixation.look import Fixation, Looker
from foveate.vist.fusion.fusion import PrefixCache, fit_span
from foveate.vist.fusion.kv_prefix import EmbeddingPrefix
from foveate.vist.latents.memory import UNREAD, Memory
from foveate.vist.run.read_document import TokensOf
from foveate.vist.run.text_rows import pad_left

__all__ = ["FixationSubject", "looking_facts", "looking_readers"]

TOGETHER = 16_384  # entries and tokens of prompts that are answered side by side


class FixationSubject(VistSubject):
    """Reads latents and, within a budget of entries, what the question points at as raw text.

    The question is the far context's own; one without a question is refused.

    Args:
        skimmer: reads the same memories without looking; its memories are shared, of any form.
        share: entries in all, as a share of the far context's tokens.
        tokens: "read" looks at what the encoder read off the pictures, as if there were no text.
        settings: further ones of Fixation.
    """

    def __init__(
        self,
        skimmer: VistSubject,
        share: float,
        tokens: TokensOf = "source",
        **settings: Any,
    ) -> None:
        super().__init__(skimmer.vist, num_latents=skimmer.num_latents)
        self.skimmer = skimmer
        self.head_ids, self.tail_ids = skimmer.head_ids, skimmer.tail_ids
        self.share, self.tokens = share, tokens
        self.fixation = Fixation(share=share, **settings)
        self._looker: Looker | None = None
        self._skims = Recent[Hashable, PrefixCache](4)
        self._looked: dict[tuple[str, str], int] = {}

    def memory(self, far: FarContext) -> Memory:
        if self.tokens == "source":
            return self.skimmer.memory(far)
        return self.skimmer._pictures.get(
            far.text, lambda: self.vist.read(far.text, self.num_latents, tokens=self.tokens)
        )

    def as_read(self, far: FarContext) -> FarContext:
        """The text that the memory's tokens say, those that could not be read left out."""
        tokens = self.memory(far).tokens
        assert tokens is not None
        text = str(self.tokenizer.decode(tokens[tokens != UNREAD].tolist()))
        return FarContext(source=self.encode(text))

    def num_entries(self, far: FarContext) -> int:
        """Latents and raw tokens that the far context's question left."""
        key = self._key(far)
        if key not in self._looked:
            self._prefix(far, len(self.head_ids) + 1)
        return self._looked[key]

    def _key(self, far: FarContext) -> tuple[str, str]:
        return far.text, _question(far)

    @torch.no_grad()
    def _compute(self, far: FarContext, memory: Memory, raw_length: int) -> PrefixCache:
        """As an attached run does, but the document is skimmed once for all questions."""
        span = fit_span(memory.num_tokens, raw_length, self.vist.window)
        skim = self._skims.get(
            (far.text, span), lambda: super(FixationSubject, self)._compute(far, memory, raw_length)
        )
        if self._looker is None:
            self._looker = self.vist._looker(self.fixation, [memory])
            assert self._looker is not None
        head = self.vist.embed(torch.tensor([self.head_ids], device=self.device))
        prefix, look = self.vist._look(
            self._looker, memory, _question(far), skim, head, span, tuple(self.head_ids)
        )
        self._looked[self._key(far)] = look.num_latents + look.num_raw
        return prefix

    def answer(self, far: FarContext | None, prompt: str, max_new_tokens: int) -> str:
        (said,) = self.answers([far], [prompt], max_new_tokens)
        return said

    def answers(
        self, fars: Sequence[FarContext | None], prompts: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        said: list[str] = []
        pairs = list(zip(fars, prompts, strict=True))
        while pairs:
            rows = [self._row(far, prompt, max_new_tokens) for far, prompt in pairs]
            count = max(1, sum(sum(rows[: i + 1]) <= TOGETHER for i in range(len(rows))))
            said += self._together(pairs[:count], max_new_tokens)
            pairs = pairs[count:]
        return said

    def nll(self, *args: Any, **kwargs: Any) -> list[Score]:
        raise InputError(
            "a text that goes on asks nothing, so there is nothing to look for; score its loss "
            "with the latents alone or with a grown raw window."
        )

    def _row(self, far: FarContext | None, prompt: str, max_new_tokens: int) -> int:
        """Entries of a row's KV cache, at most."""
        raw = len(self.head_ids) + len(self.prompt_ids(prompt)) + max_new_tokens
        return raw + (int(self.share * len(far.ids)) if far is not None else 0)

    def _together(
        self, pairs: Sequence[tuple[FarContext | None, str]], max_new_tokens: int
    ) -> list[str]:
        texts = [
            torch.tensor([*self.head_ids, *self.prompt_ids(prompt)], device=self.device)
            for _, prompt in pairs
        ]
        ids, mask = pad_left(texts)
        fars = [far for far, _ in pairs]
        with self._looking(fars):
            out = self.model.generate(
                ids,
                attention_mask=mask.long(),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                stopping_criteria=StoppingCriteriaList([StopAtLine(self, ids.shape[1])]),
                pad_token_id=int(self.head_ids[0]),
            )
            self._note(fars)
        return [self.first_line(self._until_done(row[ids.shape[1] :].tolist())) for row in out]

    def _until_done(self, ids: list[int]) -> list[int]:
        """An answer without the padding behind its end."""
        for stop in range(1, len(ids)):
            if self.is_done(ids[:stop]):
                return ids[:stop]
        return ids

    def _looking(self, fars: Sequence[FarContext | None]) -> AbstractContextManager[Any]:
        """The memories attached, one for each row, each with its own question."""
        return self.vist.attach(
            [self.memory(far) if far is not None else None for far in fars],
            memory_at=len(self.head_ids),
            fixate=self.fixation,
            question=[_question(far) if far is not None else None for far in fars],
        )

    def _note(self, fars: Sequence[FarContext | None]) -> None:
        """Remember what the last prompt's rows read."""
        report = self.vist.report
        if report is None:  # no row had a far context
            return
        for far, latents, look in zip(fars, report.num_latents, report.looks, strict=True):
            if far is not None and look is not None:
                self._looked[self._key(far)] = latents + look.num_raw


def looking_readers(skimmer: VistSubject) -> dict[str, Callable[[float], Subject] | None]:
    """The `looking...` fields of `Subjects`; None for forms and encoders that cannot."""
    vist = skimmer.vist
    can_look = isinstance(vist.parts.fusion.prefix, EmbeddingPrefix)
    can_read = can_look and reads_characters(vist.encoder)
    return {
        "looking": partial(FixationSubject, skimmer) if can_look else None,
        "looking_once": partial(FixationSubject, skimmer, placing="close") if can_look else None,
        "looking_apart": partial(FixationSubject, skimmer, placing="apart") if can_look else None,
        "looking_at_pictures": partial(FixationSubject, skimmer, tokens="read")
        if can_read
        else None,
    }


def looking_facts(form: str = "latents") -> dict[str, Any]:
    """What a manifest says about how places are chosen and stand, in memories of a form."""
    chosen = Fixation(share=1.0)
    return {
        "placing": chosen.placing_in(form),
        "floor": chosen.floor,
        "skim": chosen.skim,
        # States are an index of other forms only; form_facts has their weight.
        "weights": {name: weight for name, weight in WEIGHTS.items() if name != "index-states"},
    }


def _question(far: FarContext) -> str:
    if far.question is None:
        raise InputError(
            "a reader that looks again needs FarContext(question=...), what it is to look for."
        )
    return far.question
