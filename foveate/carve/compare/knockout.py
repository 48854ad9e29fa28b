"""In which decoder layer a question reads its image, measured without labels.

Text is kept from seeing visual tokens in one layer alone, and what it answers is compared with what
it answers otherwise. Where that differs most, the question reads.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.engine.layer_inputs import by_name
from foveate.core.layout import last_valid
from foveate.errors import InputError, UnsupportedModeError, UnsupportedModelError
from foveate.models.anatomy import Anatomy, anatomy_of, visual_token_ids
from foveate.models.hook import hook_before
from foveate.models.masks import is_flash, valid_tokens

__all__ = ["look_depth", "reading_curve"]


@torch.no_grad()
def reading_curve(model: nn.Module, prompts: Iterable[dict[str, Any]]) -> tuple[float, ...]:
    """How much an answer's first token changes where text does not see the image in one layer.

    Args:
        model: a vision-language model of transformers, with nothing of foveate on it.
        prompts: arguments of its forward, batches of any size, each row with an image; a few dozen
            questions on the images that the model is to be used for.

    Returns:
        Of each decoder layer KL(p || p without) in nats, mean over prompts, p being the
        distribution of the token behind the prompt; 0 for layers that do not attend.

    Raises:
        InputError: no prompts, or one without visual tokens.
        UnsupportedModelError: the model around the language model hides where these are.
        UnsupportedModeError: attention with a flash kernel, whose masks close no single entries.

    Example:
        >>> curve = reading_curve(vlm.model, [vlm.inputs(questions, images)])  # doctest: +SKIP
        >>> foveate.FoveaCarve(keep_ratio=0.1, look_depth=look_depth(curve))  # doctest: +SKIP
    """
    anatomy = anatomy_of(model, with_explicit_mask=False)
    if anatomy.family.host is not None:
        raise UnsupportedModelError(
            f"{anatomy.family.title} feeds embeddings to its language model, so that token ids do "
            "not say where the image is; the curve needs a model whose ids do."
        )
    kernel = str(anatomy.text_config._attn_implementation)
    if is_flash(kernel):
        raise UnsupportedModeError(
            f"{kernel} takes no mask that closes single entries; load the model with "
            "attn_implementation 'sdpa' or 'eager'."
        )
    total, count = torch.zeros(len(anatomy.layers), dtype=torch.float64), 0
    for inputs in prompts:
        ids = inputs["input_ids"]
        valid = valid_tokens(inputs.get("attention_mask"), ids.shape[0], ids.shape[1], ids.device)
        visual = (
            torch.isin(ids, torch.tensor([*visual_token_ids(anatomy).values()]).to(ids)) & valid
        )
        if not bool(visual.any(dim=1).all()):
            raise InputError("a prompt has no visual token; give questions about images.")
        full = _answers(model, inputs, valid)
        for index in range(len(anatomy.layers)):
            if anatomy.attention_of(index) is not None:
                blind = _answers_blind_in(anatomy, index, model, inputs, valid, visual)
                total[index] += (full.exp() * (full - blind)).sum(dim=-1).sum().cpu()
        count += len(ids)
    if not count:
        raise InputError("no prompts to measure with; give a few dozen.")
    return tuple((total / count).tolist())


def look_depth(curve: tuple[float, ...]) -> float:
    """Where FoveaCarve's question should look: the layer that it reads in, as a share of the depth.

    Args:
        curve: from `reading_curve`.

    Raises:
        InputError: nothing is read in any layer.
    """
    if not max(curve, default=0.0) > 0:
        raise InputError(
            "no answer changes wherever the image is hidden, so that no layer reads it; ask "
            "questions that need their images."
        )
    return max(range(len(curve)), key=curve.__getitem__) / len(curve)


def _answers(model: nn.Module, inputs: dict[str, Any], valid: Tensor) -> Tensor:
    """[B, V] float64 log-probabilities of the token behind each prompt."""
    logits: Tensor = model(**inputs, use_cache=False).logits
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, last_valid(valid).to(logits.device)].double().log_softmax(dim=-1)


def _answers_blind_in(
    anatomy: Anatomy,
    index: int,
    model: nn.Module,
    inputs: dict[str, Any],
    valid: Tensor,
    visual: Tensor,
) -> Tensor:
    hide = functools.partial(_hide, valid & ~visual, visual)
    handle = hook_before(anatomy.layers[index], hide)
    try:
        return _answers(model, inputs, valid)
    finally:
        handle.remove()


def _hide(
    rows: Tensor, columns: Tensor, layer: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """A layer's arguments with `columns` [B, S] closed to `rows` [B, S] in its mask."""
    args, kwargs = by_name(layer, args, kwargs)
    mask, length = kwargs.get("attention_mask"), rows.shape[1]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=rows.device).tril()[None, None]
    closed = (rows[:, None, :, None] & columns[:, None, None, :]).to(mask.device)
    if mask.dtype == torch.bool:
        mask = mask & ~closed
    else:
        mask = mask.masked_fill(closed, torch.finfo(mask.dtype).min)
    return args, {**kwargs, "attention_mask": mask}
