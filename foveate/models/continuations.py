"""How likely given continuations of a prompt are.

They are asked of `model.generate`, so this works on a carved model exactly as answers do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.models.generation import end_ids
from foveate.models.prompt import Turn
from foveate.models.vlm import VisionLanguageModel

__all__ = ["Continuation", "continuation_ids", "score_continuations"]


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
    prompt = vlm.chat_text(turns)
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
        inputs: what `vlm.inputs` or `vlm.chat_inputs` returned, B rows.
        continuations: B lists of token ids, see `continuation_ids`.
    """
    length = inputs["input_ids"].shape[1]
    end = min(end_ids(vlm.model, vlm.tokenizer), default=int(vlm.tokenizer.pad_token_id))

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
