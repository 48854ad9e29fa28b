"""The slow path that carving must equal: drop nothing, mask the columns of what was dropped.

Written against plain transformers with an explicit 4-D mask, no cache, and nothing of foveate.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def decoder_of(model: Any) -> Any:
    base = model.base_model
    decoder = getattr(base, "language_model", None) or base.text_model
    return decoder if hasattr(decoder, "layers") else decoder.model


# Per image: (sample, columns of its tokens, kept, merge sources, merge targets, whether the mean of
# the sources is added to a target instead of averaged with it); places count within those columns.
Plan = tuple[int, Tensor, Tensor, Tensor, Tensor, bool]


def masked_logits(
    model: Any,
    inputs: dict[str, Any],
    plans: list[Plan],
    prune_layer: int,
    prompt_length: int,
    *,
    compact: bool = True,
) -> Tensor:
    """Logits of a full-length forward in which dropped tokens are invisible.

    Args:
        inputs: arguments of the forward; input_ids may run past the prompt (generated tokens).
        plans: what happens before prune_layer.
        prompt_length: rows from here on are generated: with a compact cache they do not see dropped
            columns in the early layers either.
    """
    return masked_steps(model, inputs, [(prune_layer, plans)], prompt_length, compact=compact)


def masked_steps(
    model: Any,
    inputs: dict[str, Any],
    steps: list[tuple[int, list[Plan]]],
    prompt_length: int,
    *,
    compact: bool = True,
    renumbered: bool = False,
    counted: bool = False,
) -> Tensor:
    """The same for several steps, each (layer, plans).

    Args:
        renumbered: from each step's layer on, rotary positions close ranks.
        counted: a merged token counts as often as it was made of tokens.
    """
    with (
        torch.no_grad(),
        masking(
            model,
            inputs,
            steps,
            prompt_length,
            compact=compact,
            renumbered=renumbered,
            counted=counted,
        ),
    ):
        logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def masked_loss(
    model: Any,
    inputs: dict[str, Any],
    labels: Tensor,
    steps: list[tuple[int, list[Plan]]],
    *,
    num_items: int | None = None,
) -> Tensor:
    """Next-token loss of that forward, over the rows that are left; gradient flows.

    Args:
        labels: [B, S], -100 where nothing is to be predicted.
        num_items: what the sum over rows is divided by; None for their number.
    """
    batch, length = labels.shape
    with masking(model, inputs, steps, length):
        logits = model(**inputs, use_cache=False).logits.float()
    left = ~dropped_by(steps, batch, length)
    left &= inputs["attention_mask"].cumsum(dim=1) > 0  # padding before the prompt goes too
    sum_, count = torch.zeros(()), 0
    for sample in range(batch):
        for row in range(length - 1):
            wanted = int(labels[sample, row + 1])
            if wanted != -100 and left[sample, row]:
                sum_ = sum_ - logits[sample, row].log_softmax(dim=-1)[wanted]
                count += 1
    return sum_ / (count if num_items is None else num_items)


def dropped_by(steps: list[tuple[int, list[Plan]]], batch: int, length: int) -> Tensor:
    """Columns that the steps drop, [batch, length] bool."""
    dropped = torch.zeros(batch, length, dtype=torch.bool)
    for _, plans in steps:
        for sample, tokens, kept, *_ in plans:
            gone = torch.ones(len(tokens), dtype=torch.bool)
            gone[kept] = False
            dropped[sample, tokens[gone]] = True
    return dropped


def log_counts(steps: list[tuple[int, list[Plan]]], index: int, batch: int, length: int) -> Tensor:
    """Log of how many tokens each column was made of before layer `index`, [batch, length]."""
    made_of: dict[tuple[int, int], set[int]] = {}
    for layer, plans in steps:
        for sample, tokens, _, sources, targets, _ in plans if layer <= index else ():
            for source, target in zip(
                tokens[sources].tolist(), tokens[targets].tolist(), strict=True
            ):
                own = made_of.setdefault((sample, target), {target})
                own |= made_of.get((sample, source), {source})
    found = torch.zeros(batch, length)
    for (sample, column), members in made_of.items():
        found[sample, column] = torch.tensor(float(len(members))).log()
    return found


@contextlib.contextmanager
def masking(
    model: Any,
    inputs: dict[str, Any],
    steps: list[tuple[int, list[Plan]]],
    prompt_length: int,
    *,
    compact: bool = True,
    renumbered: bool = False,
    counted: bool = False,
) -> Iterator[None]:
    """Makes full-length forwards of the model blind to what the steps drop."""
    batch, length = inputs["input_ids"].shape
    late = torch.arange(length) >= prompt_length

    def hide(index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = args[0].clone()
        for layer, plans in steps:
            for sample, tokens, _, sources, targets, adds in plans if layer == index else ():
                for target in targets.unique():
                    own, others = tokens[target], tokens[sources[targets == target]]
                    # Before [B, S, D] there may be an axis of residual streams.
                    if adds:
                        hidden[..., sample, own, :] += hidden[..., sample, others, :].mean(-2)
                    else:
                        members = torch.cat([own.view(1), others])
                        mean = hidden[..., sample, members, :].mean(-2)
                        hidden[..., sample, own, :] = mean
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        allowed = mask if mask.dtype == torch.bool else mask == 0
        gone = dropped_by([step for step in steps if step[0] <= index], batch, length)
        hidden_columns = gone[:, None, None, :].expand(-1, -1, length, -1)
        if compact:
            later = dropped_by(steps, batch, length)[:, None, None, :].expand(-1, -1, length, -1)
            hidden_columns = hidden_columns | (later & late[None, None, :, None])
        # A dropped row may see itself, so that no row is empty.
        own = torch.eye(length, dtype=torch.bool)
        allowed = (allowed & ~hidden_columns) | (own & (hidden_columns | ~allowed.any(-1, True)))
        if mask.dtype != torch.bool:
            allowed = (
                torch.zeros_like(mask)
                .expand(allowed.shape)
                .masked_fill(~allowed, torch.finfo(mask.dtype).min)
            )
        if counted:
            lowest = torch.finfo(hidden.dtype).min
            if allowed.dtype == torch.bool:
                allowed = torch.zeros(allowed.shape, dtype=hidden.dtype).masked_fill(
                    ~allowed, lowest
                )
            for column, bias in enumerate(log_counts(steps, index, batch, length).unbind(-1)):
                allowed[..., column] += bias[:, None, None]
        changed = {**kwargs, "attention_mask": allowed}
        if renumbered:
            moved = kwargs["position_ids"] - gone.long().cumsum(dim=-1)
            changed["position_embeddings"] = decoder_of(model).rotary_emb(hidden, moved)
        return (hidden, *args[1:]), changed

    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, i=i: hide(i, args, kwargs), with_kwargs=True
        )
        for i, layer in enumerate(decoder_of(model).layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
