"""A model that skims a far context as latents and reads the places a question points at as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from foveate.errors import InputError
from foveate.vist.encoder.characters import reads_characters
from foveate.vist.eval.context import FarContext, Score, Subject
from foveate.vist.eval.subjects import StopAtLine, VistSubject
from foveate.vist.fixation.choose import WEIGHTS
from foveate.vist.fixation.look import Fixation
from foveate.vist.fixation.placing import Placing
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
        skimmer: reads the same memories as latents only; its memories are shared.
        share: entries in all, as a share of the far context's tokens.
        placing: how places stand, see Fixation; None is its default.
        tokens: "read" looks at what the encoder read off the pictures, as if there were no text.
    """

    def __init__(
        self,
        skimmer: VistSubject,
        share: float,
        tokens: TokensOf = "source",
        *,
        placing: Placing | None = None,
    ) -> None:
        super().__init__(skimmer.vist, num_latents=skimmer.num_latents)
        self.head_ids = skimmer.head_ids
        self.share, self.tokens = share, tokens
        self.fixation = Fixation(share=share, placing=placing)
        self._memories = skimmer._memories if tokens == "source" else skimmer._pictures
        self._looked: dict[tuple[str, str], int] = {}

    def memory(self, far: FarContext) -> Memory:
        if self.tokens == "source":
            return super().memory(far)
        return self._memories.get(
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
        key = (far.text, _question(far))
        if key not in self._looked:
            ids = torch.tensor([[*self.head_ids, self.head_ids[-1]]], device=self.device)
            with torch.no_grad(), self._looking([far]):
                self.model(ids, use_cache=False)
                self._note([far])
        return self._looked[key]

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
        raw = len(self.head_ids) + len(self.encode(prompt).ids) + max_new_tokens
        return raw + (int(self.share * len(far.ids)) if far is not None else 0)

    def _together(
        self, pairs: Sequence[tuple[FarContext | None, str]], max_new_tokens: int
    ) -> list[str]:
        texts = [
            torch.tensor([*self.head_ids, *self.encode(prompt).ids], device=self.device)
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
                self._looked[far.text, look.question] = latents + look.num_raw

    def _logits(
        self, far: FarContext | None, ids: Tensor, depth: Tensor, allowed: Tensor, keep: int
    ) -> Tensor:
        if far is None:
            return super()._logits(None, ids, depth, allowed, keep)
        with self._looking([far]):
            logits = self._attached_logits(ids, depth, allowed, keep)
            self._note([far])
        return logits


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
        "weights": dict(WEIGHTS),
    }


def _question(far: FarContext) -> str:
    if far.question is None:
        raise InputError(
            "a reader that looks again needs FarContext(question=...), what it is to look for."
        )
    return far.question
