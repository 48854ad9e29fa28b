"""Answers with any generation settings, and how likely given continuations of a prompt are.

Both go through `model.generate`, so they work on a carved model exactly as greedy answers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from foveate.errors import InputError
from foveate.models.load import VisionLanguageModel
from foveate.models.prompt import Turn, prompt_text

__all__ = [
    "Continuation",
    "Generated",
    "continuation_ids",
    "generate_texts",
    "score_continuations",
]

# A letter takes four tokens at most (a byte each), and the end of a stop text may share its token
# with what follows.
TOKENS_PER_LETTER, SPARE = 4, 4


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One answer.

    Args:
        text: without the prompt, special tokens, and everything from the first stop text on.
        num_tokens: tokens that were decoded for it, the end mark included.
    """

    text: str
    num_tokens: int


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """How likely a given text is to follow a prompt.

    Args:
        log_likelihood: natural logarithm, summed over its tokens.
        is_greedy: whether greedy decoding would have written exactly this text.
        num_tokens: how many tokens it has.
    """

    log_likelihood: float
    is_greedy: bool
    num_tokens: int

    @property
    def loss(self) -> float:
        """Mean negative log-likelihood of a token."""
        return -self.log_likelihood / self.num_tokens


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


def generate_texts(
    vlm: VisionLanguageModel,
    inputs: dict[str, Any],
    *,
    stop: Sequence[str] = (),
    **settings: Any,
) -> list[Generated]:
    """Answers, one per row of `inputs`.

    Args:
        inputs: what `prompt_inputs` or `chat_inputs` returned.
        stop: texts that end an answer and do not belong to it.
        settings: of `model.generate`, e.g. max_new_tokens=16, do_sample=False.
    """
    tokenizer = vlm.tokenizer
    length = inputs["input_ids"].shape[1]
    if stop:
        settings["stopping_criteria"] = [_StopAtText(tokenizer, stop, length)]
    output = vlm.model.generate(**inputs, pad_token_id=tokenizer.pad_token_id, **settings)
    new = output[:, length:]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    ends = _end_ids(vlm)
    return [
        Generated(text=_cut(text, stop).strip(), num_tokens=_num_tokens(row.tolist(), ends))
        for text, row in zip(texts, new, strict=True)
    ]


def continuation_ids(
    vlm: VisionLanguageModel, turns: Sequence[Turn], continuation: str
) -> list[int]:
    """Token ids of a text as it stands behind the prompt of a conversation.

    A tokenizer may write the same text differently alone and behind other text, so prompt and text
    are written in one piece where the prompt's own tokens stay what they are.

    Raises:
        InputError: the text is empty, or none of it can be written.
    """
    tokenizer = vlm.tokenizer
    prompt = prompt_text(vlm, turns)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = tokenizer(prompt + continuation, add_special_tokens=False)["input_ids"]
    if whole[: len(before)] == before and len(whole) > len(before):
        ids = whole[len(before) :]
    else:
        ids = tokenizer(continuation, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InputError(
            f"continuation {continuation!r} has no tokens, so it has no likelihood; give a text "
            "that the tokenizer can write."
        )
    return list(ids)


def score_continuations(
    vlm: VisionLanguageModel, inputs: dict[str, Any], continuations: Sequence[Sequence[int]]
) -> list[Continuation]:
    """How likely each row's continuation is.

    Greedy generation is led along the continuation, a token a step. A forward pass with labels is
    no way: a carved prefill has logits for kept tokens only.

    Args:
        inputs: what `prompt_inputs` or `chat_inputs` returned, B rows.
        continuations: B lists of token ids, see `continuation_ids`.
    """
    length = inputs["input_ids"].shape[1]
    end = min(_end_ids(vlm), default=int(vlm.tokenizer.pad_token_id))

    def led(row: int, ids: Tensor) -> list[int]:
        step = ids.shape[-1] - length
        wanted = continuations[row]
        return [wanted[step] if step < len(wanted) else end]

    output = vlm.model.generate(
        **inputs,
        pad_token_id=vlm.tokenizer.pad_token_id,
        max_new_tokens=max(map(len, continuations)),
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        prefix_allowed_tokens_fn=led,
        return_dict_in_generate=True,
        output_logits=True,
    )
    logits = torch.stack(output.logits, dim=1)  # [B, steps, vocabulary], before any processing
    scored = []
    for row, wanted in zip(logits, continuations, strict=True):
        steps = row[: len(wanted)].float()
        ids = torch.tensor(list(wanted), device=steps.device)
        taken = steps.log_softmax(dim=-1).gather(1, ids[:, None])
        scored.append(
            Continuation(
                log_likelihood=float(taken.sum()),
                is_greedy=bool((steps.argmax(dim=-1) == ids).all()),
                num_tokens=len(wanted),
            )
        )
    return scored


def _end_ids(vlm: VisionLanguageModel) -> set[int]:
    ends = vlm.model.generation_config.eos_token_id
    if ends is None:
        ends = vlm.tokenizer.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends} - {None}


def _num_tokens(row: Sequence[int], ends: set[int]) -> int:
    return next((i + 1 for i, token in enumerate(row) if token in ends), len(row))


def _cut(text: str, stop: Sequence[str]) -> str:
    places = [text.find(mark) for mark in stop]
    found = [place for place in places if place >= 0]
    return text[: min(found)] if found else text
