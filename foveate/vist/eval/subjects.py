"""Language models that read a far context as raw tokens, or as a memory, for evaluations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from foveate.models.cache_argument import cache_name
from foveate.vist.eval.context import FarContext, Score
from foveate.vist.eval.decoder_subject import DecoderSubject
from foveate.vist.eval.prefilled import Prefilled
from foveate.vist.fusion.fusion import PrefixCache, fit_span
from foveate.vist.latents.memory import Memory
from foveate.vist.run.vist import Vist

__all__ = ["RawSubject", "Recent", "StopAtLine", "VistSubject"]

_T = TypeVar("_T")
_K = TypeVar("_K")


class RawSubject(DecoderSubject):
    """Reads a far context as raw tokens, each at its own position.

    Args:
        model, tokenizer, head: see above.
        kept: far contexts whose KV cache is kept for the next prompt.
    """

    def __init__(
        self, model: Any, tokenizer: Any, head: str | None = None, *, kept: int = 1
    ) -> None:
        super().__init__(model, tokenizer, head)
        self._caches = Recent[Any, Prefilled](kept)

    def num_entries(self, far: FarContext) -> int:
        return len(far.ids)

    @torch.no_grad()
    def nll(
        self,
        fars: Sequence[FarContext | None],
        windows: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        heads: Sequence[Sequence[int]] | None = None,
    ) -> list[Score]:
        rows = []
        heads = heads if heads is not None else [self.head_ids] * len(fars)
        for far, window, target, head in zip(fars, windows, targets, heads, strict=True):
            ids, positions = self._before(far, head)
            tail = [*window, *target]
            start = len(head) + (far.span if far is not None else 0)
            positions = [*positions, *range(start, start + len(tail))]
            rows.append(([*ids, *tail], positions, len(target)))
        scores: list[Score | None] = [None] * len(rows)
        # Rows of one shape run together; padding would cost more than it saves on most data.
        for shape in {(len(ids), count) for ids, _, count in rows}:
            own = [i for i, (ids, _, count) in enumerate(rows) if (len(ids), count) == shape]
            nats = self._row_nats([rows[i][0] for i in own], [rows[i][1] for i in own], shape[1])
            for i, value in zip(own, nats, strict=True):
                scores[i] = Score(nats=value, tokens=shape[1])
        return [score for score in scores if score is not None]

    def answer(self, far: FarContext | None, prompt: str, max_new_tokens: int) -> str:
        with torch.no_grad():
            start = self._prefilled(far)
            start.resume(())
            cache = start.cache
            new = torch.tensor([self.prompt_ids(prompt)], device=self.device)
            said: list[int] = []
            at = start.base
            while len(said) < max_new_tokens and not (said and self.is_done(said)):
                positions = torch.arange(at, at + new.shape[1], device=self.device)[None]
                at += new.shape[1]
                logits = self.model(
                    new,
                    position_ids=positions,
                    logits_to_keep=1,
                    **{cache_name(self.model): cache},
                ).logits
                new = logits[:, -1].argmax(dim=-1, keepdim=True)
                said.append(int(new))
            start.resume(())
        return self.first_line(said)

    def _before(self, far: FarContext | None, head: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids and positions of the head and the far context."""
        count = len(head)
        ids, positions = list(head), list(range(count))
        if far is not None:
            own = far.positions if far.positions is not None else range(len(far.ids))
            ids += far.ids
            positions += [count + position for position in own]
        return ids, positions

    def _row_nats(
        self, ids: list[list[int]], positions: list[list[int]], score: int
    ) -> list[float]:
        batch = torch.tensor(ids, device=self.device)
        logits = self.model(
            batch,
            # Without a mask, transformers takes a gap in the positions for another document.
            attention_mask=torch.ones_like(batch),
            position_ids=torch.tensor(positions, device=self.device),
            logits_to_keep=score + 1,
            use_cache=False,
        ).logits[:, :-1]
        losses = F.cross_entropy(
            logits.float().transpose(1, 2), batch[:, -score:], reduction="none"
        )
        return losses.double().sum(dim=1).tolist()

    def _prefilled(self, far: FarContext | None) -> Prefilled:
        """KV cache of head and far context."""
        ids, positions = self._before(far, self.head_ids)

        def fill() -> Prefilled:
            cache = _prefill(self.model, ids, positions)
            base = len(self.head_ids) + (far.span if far is not None else 0)
            return Prefilled(cache=cache, base=base, length=len(ids))

        return self._caches.get((tuple(ids), tuple(positions)), fill)

    def _start(self, far: FarContext | None, prompt: str, raw_length: int) -> Prefilled:
        with torch.no_grad():
            return self._prefilled(far)

    def _logits(
        self, far: FarContext | None, ids: Tensor, depth: Tensor, allowed: Tensor, keep: int
    ) -> Tensor:
        return self.logits_behind(self._prefilled(far), ids, depth, allowed, keep)


class VistSubject(DecoderSubject):
    """Reads a far context as a memory.

    Args:
        vist: a Vist, or a Cepe.
        head: see above.
        num_latents: per strip; None is the trained number.
        kept: memories kept for the next question.
    """

    def __init__(
        self,
        vist: Vist,
        head: str | None = None,
        *,
        num_latents: int | None = None,
        kept: int = 512,
    ) -> None:
        super().__init__(vist.model, vist.tokenizer, head)
        self.vist = vist
        self.num_latents = num_latents
        self._memories = Recent[str, Memory](kept)
        self._pictures = Recent[str, Memory](kept)  # that know their tokens as they were read
        self._prefixes = Recent[Any, PrefixCache](4)
        self._starts = Recent[Any, Prefilled](2)
        self._entries: dict[str, int] = {}

    def memory(self, far: FarContext) -> Memory:
        """The far context, read once."""
        return self._memories.get(far.text, lambda: self.vist.read(far.text, self.num_latents))

    def num_entries(self, far: FarContext) -> int:
        if far.text not in self._entries:
            self._entries[far.text] = self.memory(far).num_latents
        return self._entries[far.text]

    def nll(
        self,
        fars: Sequence[FarContext | None],
        windows: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        heads: Sequence[Sequence[int]] | None = None,
    ) -> list[Score]:
        scores: list[Score | None] = [None] * len(fars)
        for count in {len(target) for target in targets}:
            own = [i for i, target in enumerate(targets) if len(target) == count]
            memories = [self.memory(far) if (far := fars[i]) is not None else None for i in own]
            tails = [[*windows[i], *targets[i]] for i in own]
            rows = [list(heads[i] if heads is not None else self.head_ids) for i in own]
            means = self.vist.nll(memories, rows, tails, count)
            for i, mean in zip(own, means.double().tolist(), strict=True):
                scores[i] = Score(nats=mean * count, tokens=count)
        return [score for score in scores if score is not None]

    def answer(self, far: FarContext | None, prompt: str, max_new_tokens: int) -> str:
        ids = torch.tensor([[*self.head_ids, *self.prompt_ids(prompt)]], device=self.device)
        stop = StoppingCriteriaList([StopAtLine(self, ids.shape[1])])
        with self._reading(far, ids.shape[1] + max_new_tokens):
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                stopping_criteria=stop,
                pad_token_id=int(ids[0, 0]),
            )
        return self.first_line(out[0, ids.shape[1] :].tolist())

    def _reading(self, far: FarContext | None, raw_length: int) -> AbstractContextManager[Any]:
        if far is None:
            return nullcontext()
        prefix, _ = self._prefix(far, raw_length)
        return self.vist.attach(prefix, memory_at=len(self.head_ids))

    def _prefix(self, far: FarContext, raw_length: int) -> tuple[PrefixCache, int]:
        """What the memory is read as, and the positions it takes up."""
        memory = self.memory(far)
        # Prompts of other lengths share a prefix, as long as its positions need no other scale.
        span = fit_span(memory.num_tokens, raw_length, self.vist.window)
        prefix = self._prefixes.get(
            (self._key(far), span), lambda: self._compute(far, memory, raw_length)
        )
        return prefix, span

    def _key(self, far: FarContext) -> Hashable:
        """Of far contexts that are read alike."""
        return far.text

    def _compute(self, far: FarContext, memory: Memory, raw_length: int) -> PrefixCache:
        """What the memory of a far context is read as."""
        return self.vist.prefill(memory, list(self.head_ids), raw_length=raw_length)

    def _prefilled(self, far: FarContext | None, raw_length: int) -> Prefilled:
        """KV cache of the head and, behind it, the memory's own keys and values."""
        heads = list(self.head_ids)
        prefix, span = self._prefix(far, raw_length) if far is not None else (None, 0)

        def fill() -> Prefilled:
            cache = _prefill(self.model, heads, list(range(len(heads))))
            for i, layer in enumerate(cache.layers if prefix is not None else ()):
                assert prefix is not None
                seen = prefix.mask[0]
                keys, values = prefix.keys[i][:, :, seen], prefix.values[i][:, :, seen]
                layer.keys = torch.cat([layer.keys, keys.to(layer.keys)], dim=2)
                layer.values = torch.cat([layer.values, values.to(layer.values)], dim=2)
            length = cache.get_seq_length()
            return Prefilled(cache=cache, base=len(heads) + span, length=length)

        return self._starts.get((self._key(far) if far is not None else None, span), fill)

    def _start(self, far: FarContext | None, prompt: str, raw_length: int) -> Prefilled | None:
        if self.vist.parts.fusion.prefix is None:
            return None
        with torch.no_grad():
            return self._prefilled(far, raw_length)

    def _logits(
        self, far: FarContext | None, ids: Tensor, depth: Tensor, allowed: Tensor, keep: int
    ) -> Tensor:
        count = len(self.head_ids)
        if self.vist.parts.fusion.prefix is not None:
            # Raw text runs on the unmodified model, so the memory may lie in a plain cache.
            start = self._prefilled(far, count + len(ids))
            return self.logits_behind(start, ids, depth, allowed, keep)
        with self._reading(far, count + len(ids)):
            return self._attached_logits(ids, depth, allowed, keep)

    def _attached_logits(self, ids: Tensor, depth: Tensor, allowed: Tensor, keep: int) -> Tensor:
        """`_logits` of text beside what is attached."""
        count = len(self.head_ids)
        text = torch.cat([torch.tensor(self.head_ids), ids])
        places = torch.cat([torch.arange(count), count + depth])
        seen = torch.ones(len(text), len(text), dtype=torch.bool).tril()
        seen[count:, count:] = allowed
        logits: Tensor = self.model(
            text[None].to(self.device),
            attention_mask=self.additive(seen),
            position_ids=places[None].to(self.device),
            use_cache=False,
            logits_to_keep=keep,
        ).logits[0]
        return logits


class Recent(OrderedDict[_K, _T]):
    """The last few values that were made."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get(self, key: _K, make: Callable[[], _T]) -> _T:  # type: ignore[override]
        if key not in self:
            self[key] = make()
            while len(self) > self.size:
                self.popitem(last=False)
        self.move_to_end(key)
        return self[key]


class StopAtLine(StoppingCriteria):
    """Ends `generate` with the answer's first line."""

    def __init__(self, subject: DecoderSubject, prompt_length: int) -> None:
        self.subject = subject
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        done = [self.subject.is_done(row[self.prompt_length :].tolist()) for row in input_ids]
        return torch.tensor(done, device=input_ids.device)


def _prefill(model: Any, ids: list[int], positions: list[int]) -> DynamicCache:
    """KV cache of some tokens at their positions."""
    # Without a config no layer of it slides, so that it can be cropped.
    cache = DynamicCache()
    device = model.get_input_embeddings().weight.device
    model(
        torch.tensor([ids], device=device),
        **{cache_name(model): cache},
        position_ids=torch.tensor([positions], device=device),
        logits_to_keep=1,
    )
    return cache
