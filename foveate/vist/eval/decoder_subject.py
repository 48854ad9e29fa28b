"""What subjects of far context around a causal language model share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.errors import InputError
from foveate.models.cache_argument import cache_name
from foveate.models.token_offsets import tokenise
from foveate.vist.eval.context import EncodedText, FarContext, Score, Subject
from foveate.vist.eval.joint_decoding import AskedRow, ask_behind, decode_together
from foveate.vist.eval.prefilled import Prefilled

__all__ = ["DecoderSubject"]

TOGETHER = 16_384  # cache entries of answers that are decoded side by side


class DecoderSubject(Subject):
    """What both subjects share: the tokenizer, the head, scoring of options in one pass.

    Args:
        model: causal language model.
        tokenizer: its fast tokenizer.
        head: text before everything, special tokens allowed; None is the tokenizer's beginning of
            text (or, where it has none, its end).
    """

    def __init__(self, model: Any, tokenizer: Any, head: str | None = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.head_ids = _head_ids(tokenizer, head)
        self.tail_ids: tuple[int, ...] = ()

    def set_frame(self, head: str | None, tail: str) -> None:
        """Another text before everything (see `head`) and one after every prompt, alike."""
        self.head_ids = _head_ids(self.tokenizer, head)
        self.tail_ids = tuple(self.tokenizer(tail, add_special_tokens=False)["input_ids"])

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    def encode(self, text: str) -> EncodedText:
        ids, offsets = tokenise(self.tokenizer, text)
        return EncodedText(text=text, ids=tuple(ids.tolist()), starts=tuple(offsets[:, 0].tolist()))

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a prompt, which is plain text, and of what stands after every prompt."""
        return (*self.encode(prompt).ids, *self.tail_ids)

    @torch.no_grad()
    def option_nll(
        self, far: FarContext | None, prompt: str, options: Sequence[str]
    ) -> list[Score]:
        """All options in one pass: a row in which no option sees another."""
        asked = self.prompt_ids(prompt)
        rows = [self.encode(option).ids for option in options]
        if not asked or not all(rows):
            raise InputError("a prompt or an option has no tokens; give text in both.")
        ids, depth, allowed, place = _tree(asked, rows)
        # From the prompt's last token on.
        keep = len(ids) - len(asked) + 1
        log_probs = self._logits(far, ids, depth, allowed, keep).float().log_softmax(dim=-1)
        scores = []
        for row in rows:
            # What comes before a token foretells it: the prompt, or the beginning of the option.
            before = torch.tensor([place[row[:i]] for i in range(len(row))])
            picked = log_probs[before.to(log_probs.device), torch.tensor(row).to(log_probs.device)]
            scores.append(Score(nats=-float(picked.double().sum()), tokens=len(row)))
        return scores

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Mean state halfway up the layers, each text run by itself behind the head."""
        found = []
        for text in texts:
            ids = [*self.head_ids, *self.encode(text).ids]
            made = self.model(
                torch.tensor([ids], device=self.device),
                output_hidden_states=True,
                logits_to_keep=1,
                use_cache=False,
            ).hidden_states
            own = made[(len(made) - 1) // 2][0, len(self.head_ids) :]
            found.append(own.float().mean(dim=0).double().cpu().numpy())
        return np.stack(found)

    def answers(
        self, fars: Sequence[FarContext | None], prompts: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        """The same answers as one by one, decoded side by side where a plain cache holds all."""
        said: list[str] = []
        rows: list[AskedRow] = []

        def decode() -> None:
            found = decode_together(self.model, rows, max_new_tokens, self.is_done)
            said.extend(map(self.first_line, found))
            rows.clear()

        for far, prompt in zip(fars, prompts, strict=True):
            ids = self.prompt_ids(prompt)
            start = self._start(far, prompt, len(self.head_ids) + len(ids) + max_new_tokens)
            if start is None:
                return super().answers(fars, prompts, max_new_tokens)
            row = ask_behind(self.model, start, ids)
            if rows and sum(r.length for r in rows) + row.length > TOGETHER:
                decode()
            rows.append(row)
        if rows:
            decode()
        return said

    @abstractmethod
    def _start(self, far: FarContext | None, prompt: str, raw_length: int) -> Prefilled | None:
        """KV cache of head and far context, for a prompt; None where no plain cache holds them.

        Args:
            raw_length: longest raw text, head and new tokens included.
        """

    @abstractmethod
    def _logits(
        self, far: FarContext | None, ids: Tensor, depth: Tensor, allowed: Tensor, keep: int
    ) -> Tensor:
        """Logits [keep, vocabulary] of the last tokens of text after the far context.

        Args:
            ids: [S].
            depth: [S], each token's position within the text.
            allowed: [S, S] bool, which tokens of the text each one sees.
        """

    def logits_behind(
        self, start: Prefilled, ids: Tensor, depth: Tensor, allowed: Tensor, keep: int
    ) -> Tensor:
        """`_logits` of text behind a cache; what its prompt shares with the last one is not rerun.

        Many questions begin with the same demonstrations.
        """
        num_asked = len(ids) - keep + 1
        asked = ids[:num_asked].tolist()
        # The prompt's last token is always fed: it foretells the options' first ones.
        shared = start.resume(asked[:-1])
        seen = torch.cat(
            [allowed.new_ones(len(ids) - shared, start.length), allowed[shared:]], dim=1
        )
        try:
            logits: Tensor = self.model(
                ids[None, shared:].to(self.device),
                attention_mask=self.additive(seen),
                position_ids=(start.base + depth[shared:])[None].to(self.device),
                **{cache_name(self.model): start.cache},
                logits_to_keep=keep,
            ).logits[0]
            start.prompt = asked
        finally:
            start.resume(start.prompt)
        return logits

    def additive(self, allowed: Tensor) -> Tensor:
        """A mask [1, 1, Q, K] that every kernel of transformers takes."""
        dtype = self.model.get_input_embeddings().weight.dtype
        mask = torch.zeros(allowed.shape, dtype=dtype, device=self.device)
        return mask.masked_fill(~allowed.to(self.device), torch.finfo(dtype).min)[None, None]

    def first_line(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.lstrip("\n").split("\n")[0].strip()

    def is_done(self, ids: Sequence[int]) -> bool:
        """Whether the first line of an answer has ended."""
        if ids[-1] in _ends(self.model, self.tokenizer):
            return True
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return "\n" in text.lstrip("\n")


def _tree(
    prompt: Sequence[int], options: Sequence[tuple[int, ...]]
) -> tuple[Tensor, Tensor, Tensor, dict[tuple[int, ...], int]]:
    """Ids [S], depths [S] and who sees whom [S, S] of a prompt with all options behind it.

    Options that begin alike share their beginning, and none has its last token here: it foretells
    nothing that is scored. Also returned: beginning of an option -> its last token's place, counted
    from the prompt's last token.
    """
    ids, depth = list(prompt), list(range(len(prompt)))
    place: dict[tuple[int, ...], int] = {(): 0}
    for option in options:
        for count in range(1, len(option)):
            if option[:count] not in place:
                place[option[:count]] = len(place)
                ids.append(option[count - 1])
                depth.append(len(prompt) + count - 1)
    allowed = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    allowed[:, : len(prompt)] = True
    allowed[: len(prompt), : len(prompt)].tril_()
    last = len(prompt) - 1
    for begin, at in place.items():
        for count in range(1, len(begin) + 1):
            allowed[last + at, last + place[begin[:count]]] = True
    return torch.tensor(ids), torch.tensor(depth), allowed, place


def _head_ids(tokenizer: Any, head: str | None) -> tuple[int, ...]:
    if head is not None:
        ids = tokenizer(head, add_special_tokens=False)["input_ids"]
        if not ids:
            raise InputError(f"head {head!r} has no tokens; give at least one, the attention sink.")
        return tuple(ids)
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return (int(token),)
    raise InputError("the tokenizer has no beginning-of-text token; name a head text (--head).")


def _ends(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer."""
    ends: set[int] = set()
    for token in (tokenizer.eos_token_id, model.generation_config.eos_token_id):
        ends.update(token if isinstance(token, list) else [token] if token is not None else [])
    return ends
