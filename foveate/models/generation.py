"""Answers of a model, with any settings of `model.generate`, carved or not."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from foveate.errors import InputError

__all__ = ["Answer", "AnswerToken", "end_ids", "generate", "whole_characters"]

# A letter takes four tokens at most (a byte each), and the end of a stop text may share its token
# with what follows.
TOKENS_PER_LETTER, SPARE = 4, 4


@dataclass(frozen=True, kw_only=True)
class AnswerToken:
    """One token of an answer.

    Args:
        id: in the vocabulary.
        text: what it adds to the answer; "" for the end mark and other special tokens.
        probability: of it, given the prompt and the tokens before; in [0, 1].
        runner_up: text of the second most likely token.
        runner_up_probability: of that.
    """

    id: int
    text: str
    probability: float
    runner_up: str
    runner_up_probability: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer.

    Args:
        text: without the prompt, special tokens, and everything from the first stop text on.
        ids: of the tokens that were decoded for it, the end mark included where it was reached.
        seconds: wall time of generating the batch that it was in.
        tokens: the same tokens with their probabilities, where they were asked for.
    """

    text: str
    ids: tuple[int, ...]
    seconds: float = field(compare=False)
    tokens: tuple[AnswerToken, ...] = ()

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


class _StopAtText(StoppingCriteria):
    """A row is done once its answer holds one of the texts.

    transformers has this for tokenizers that spell every text; the embedded model's does not.
    """

    def __init__(self, tokenizer: Any, texts: Sequence[str], prompt_length: int) -> None:
        self.tokenizer = tokenizer
        self.texts = tuple(texts)
        self.prompt_length = prompt_length
        self.reach = TOKENS_PER_LETTER * max(map(len, texts)) + SPARE

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        tail = input_ids[:, max(self.prompt_length, input_ids.shape[1] - self.reach) :]
        done = [
            any(text in said for text in self.texts) for said in self.tokenizer.batch_decode(tail)
        ]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def generate(
    model: Any,
    tokenizer: Any,
    inputs: dict[str, Any],
    *,
    max_new_tokens: int = 32,
    stop: Sequence[str] = (),
    probabilities: bool = False,
    **settings: Any,
) -> list[Answer]:
    """Answers, one per row of `inputs`; greedy unless the settings say otherwise.

    Args:
        model: of transformers, plain or carved.
        tokenizer: of its processor.
        inputs: of `model.generate`, padded on the left.
        max_new_tokens: longest answer.
        stop: texts that end an answer and do not belong to it.
        probabilities: also tell how likely each token was, before any processing of the logits.
        settings: others of `model.generate`, e.g. do_sample=True, temperature=0.7.

    Raises:
        InputError: max_new_tokens below 1, or probabilities of a beam search.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} is below 1; ask for at least one.")
    length = inputs["input_ids"].shape[1]
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens, **settings}
    if stop:
        settings["stopping_criteria"] = [_StopAtText(tokenizer, stop, length)]
    if probabilities:
        if settings.setdefault("num_beams", 1) != 1:
            raise InputError(
                f"num_beams={settings['num_beams']} mixes the tokens of several answers, so they "
                "have no probabilities of their own; use num_beams=1."
            )
        settings |= {"return_dict_in_generate": True, "output_logits": True}
    begun = time.perf_counter()
    output = model.generate(**inputs, pad_token_id=tokenizer.pad_token_id, **settings)
    seconds = time.perf_counter() - begun
    new = getattr(output, "sequences", output)[:, length:]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    ends = end_ids(model, tokenizer)
    answers = []
    for row, text in enumerate(texts):
        ids = _decoded(new[row].tolist(), ends, tokenizer.pad_token_id if stop else None)
        tokens: tuple[AnswerToken, ...] = ()
        if probabilities:
            logits = [step[row] for step in output.logits[: len(ids)]]
            tokens = tuple(_tokens(tokenizer, ids, logits))
        said = whole_characters(_cut(text, stop)).strip()
        answers.append(Answer(text=said, ids=tuple(ids), seconds=seconds, tokens=tokens))
    return answers


def end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends} - {None}


def _decoded(row: list[int], ends: set[int], pad: int | None) -> list[int]:
    """A row without what fills it up: after its end mark, or after the text that stopped it."""
    for place, token in enumerate(row):
        if token in ends:
            return row[: place + 1]
    length = len(row)
    while length and row[length - 1] == pad:
        length -= 1
    return row[:length]


def _tokens(tokenizer: Any, ids: Sequence[int], logits: Sequence[Tensor]) -> list[AnswerToken]:
    """Of one row; `logits` are [vocabulary] for each of the ids."""
    tokens = []
    # The first three bytes of a four-byte letter have no text yet, so texts are differences.
    said = ""
    for place, (token, step) in enumerate(zip(ids, logits, strict=True)):
        chances = step.float().softmax(dim=-1)
        best = torch.topk(chances, 2)
        other = next(i for i in (0, 1) if int(best.indices[i]) != token)
        longer = tokenizer.decode(ids[: place + 1], skip_special_tokens=True)
        tokens.append(
            AnswerToken(
                id=token,
                text=longer[len(said) :],
                probability=float(chances[token]),
                runner_up=tokenizer.decode([int(best.indices[other])]),
                runner_up_probability=float(best.values[other]),
            )
        )
        said = longer
    return tokens


def whole_characters(text: str) -> str:
    """The text without the bytes at its end that are only the beginning of a character."""
    return text.rstrip("\N{REPLACEMENT CHARACTER}")


def _cut(text: str, stop: Sequence[str]) -> str:
    places = [text.find(mark) for mark in stop]
    found = [place for place in places if place >= 0]
    return text[: min(found)] if found else text
