"""Seconds of the processor that each form of a memory takes to read and to ask: the embedded Vist.

A made-up document, one question, greedy answers; what `benchmarks.vist_forms --measure` shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from foveate.tasks.key_value import make_items
from foveate.vist.fixation.lexical import Bm25
from foveate.vist.fixation.look import segment_texts
from foveate.vist.latents.memory import Memory
from foveate.vist.run.vist import Vist

__all__ = ["Seconds", "measure"]


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of one arm: to read a document once, and to ask it once."""

    read: float
    ask: float


def measure(
    vist: Vist, tokens: int, *, answer: int, look: float, rounds: int
) -> dict[str, Seconds]:
    """The least seconds of each arm over some rounds.

    Args:
        vist: with a tokenizer that has a beginning of text.
        tokens: of the document, about.
        answer: tokens that are decoded.
        look: share of the tokens for what is looked at.
        rounds: of everything.
    """
    (item,) = make_items(
        1, length=tokens, num_tokens=lambda text: len(vist.tokenizer(text)["input_ids"]),
        kinds=("words",), depths=(0.5,),
    )  # fmt: skip
    best: dict[str, Seconds] = {}
    for _ in range(rounds):
        for name, own in _Round(vist, item.context, item.prompt, answer, look).all().items():
            old = best.get(name, own)
            best[name] = Seconds(read=min(old.read, own.read), ask=min(old.ask, own.ask))
    return best


class _Round:
    """Every arm once."""

    def __init__(self, vist: Vist, text: str, question: str, answer: int, look: float) -> None:
        self.vist, self.text, self.question = vist, text, question
        self.answer, self.look = answer, look
        self.head = int(vist.tokenizer.bos_token_id)
        self.asked = self._ids(f"\n{question}")

    def all(self) -> dict[str, Seconds]:
        """By arm."""
        document = self._ids(self.text)
        found = {"raw, again": Seconds(read=0.0, ask=self._generate(document))}
        cache = DynamicCache()
        ids = torch.tensor([[self.head, *document]])
        read = seconds(lambda: self.vist.model(ids, past_key_values=cache, logits_to_keep=1))
        found["raw, kept"] = Seconds(read=read, ask=self._generate(document, cache))
        latents = None
        for form in ("latents", "carved", "states"):
            memory, read = self._read(form)
            found[f"{form} + look"] = Seconds(read=read, ask=self._looking(memory))
            if form != "states":
                with self.vist.attach(self.vist.prefill(memory, [self.head])):
                    found[form] = Seconds(read=read, ask=self._asked())
            latents = latents or memory
        assert latents is not None
        found["BM25 + raw"] = self._bm25(latents, round(self.look * len(document)))
        return found

    def _read(self, form: str) -> tuple[Memory, float]:
        """A memory, and how long reading it took, up to its keys and values."""
        settings: dict[str, Any] = {} if form == "latents" else {"head_ids": [self.head]}
        begun = time.process_time()
        memory = self.vist.read(self.text, form=form, **settings)
        self.vist.prefill(memory, [self.head])
        return memory, time.process_time() - begun

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.vist.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _generate(self, before: list[int], cache: Any = None) -> float:
        ids = torch.tensor([[self.head, *before, *self.asked]])
        settings: dict[str, Any] = {"max_new_tokens": self.answer, "min_new_tokens": self.answer}
        if cache is not None:
            settings["past_key_values"] = cache
        return seconds(lambda: self._run(ids, settings))

    def _looking(self, memory: Memory) -> float:
        """The second question of a document: what was read for the first is there."""
        with self.vist.attach(memory, fixate=self.look):
            first = [self.head, *self._ids("\nWhich lamp was it?")]
            self._run(torch.tensor([first]), {"max_new_tokens": 1})
            return self._asked()

    def _asked(self) -> float:
        ids = torch.tensor([[self.head, *self.asked]])
        settings = {"max_new_tokens": self.answer, "min_new_tokens": self.answer}
        return seconds(lambda: self._run(ids, settings))

    def _run(self, ids: torch.Tensor, settings: dict[str, Any]) -> None:
        self.vist.model.generate(  # type: ignore[operator]
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
            pad_token_id=self.head, **settings,
        )  # fmt: skip

    def _bm25(self, memory: Memory, budget: int) -> Seconds:
        texts = segment_texts(memory, self.vist.tokenizer)
        chosen: list[int] = []

        def choose() -> None:
            left = budget
            scores = Bm25(texts).scores(self.question)
            for place in (-scores).argsort(kind="stable").tolist():
                size = len(self._ids(texts[place]))
                if size <= left:
                    chosen.append(place)
                    left -= size

        took = seconds(choose)
        found = self._ids("".join(texts[i] for i in sorted(chosen)))
        return Seconds(read=0.0, ask=took + self._generate(found))


@torch.no_grad()
def seconds(run: Callable[[], Any]) -> float:
    """Of this process on the processor, so that a busy machine counts less."""
    begun = time.process_time()
    run()
    return time.process_time() - begun
