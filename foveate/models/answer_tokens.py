"""Greedy answers token by token, with the probability that the model gave each one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from foveate.errors import InputError
from foveate.models.load import VisionLanguageModel

__all__ = ["AnswerToken", "TokenAnswer", "answer_by_token"]


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
class TokenAnswer:
    """An answer, its tokens (the end mark included, where it was reached), and its wall time."""

    text: str
    tokens: tuple[AnswerToken, ...]
    seconds: float

    @property
    def ids(self) -> list[int]:
        return [token.id for token in self.tokens]


def answer_by_token(
    vlm: VisionLanguageModel, inputs: dict[str, Any], *, max_new_tokens: int = 32
) -> TokenAnswer:
    """The greedy answer to one prompt; works on a carved model as on a plain one.

    Args:
        inputs: what `prompt_inputs` returned, one row.
        max_new_tokens: longest answer.

    Raises:
        InputError: several rows, or max_new_tokens below 1.
    """
    rows = int(inputs["input_ids"].shape[0])
    if rows != 1:
        raise InputError(f"inputs have {rows} rows; ask one question at a time.")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} is below 1; ask for at least one.")
    tokenizer = vlm.tokenizer
    begun = time.perf_counter()
    output = vlm.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=tokenizer.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
    )
    seconds = time.perf_counter() - begun
    ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    tokens = []
    # The first three bytes of a four-byte letter have no text yet, so texts are differences.
    said = ""
    for place, (token, logits) in enumerate(zip(ids, output.logits, strict=True)):
        chances = logits[0].float().softmax(dim=-1)
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
    return TokenAnswer(text=said.strip(), tokens=tuple(tokens), seconds=seconds)
