"""Rows of raw text beside memories: any lengths in, one padded batch and its scores out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from foveate.errors import InputError
from foveate.models.anatomy import Anatomy
from foveate.vist.fusion.fuse import Fuser
from foveate.vist.fusion.fusion import Fusion, PrefixCache

Ids = Sequence[int] | Tensor


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """What a pass over raw text beside memories gives.

    Args:
        logits: [B, K, vocabulary], for the last K tokens of each row.
        targets: [B, K], those tokens.
        states: layer -> [B, S, hidden_size], inputs of the layers asked for, padding on the left.
        text_mask: [B, S] bool, True = a real token.
        prefix: what the rows read, None without memories.
    """

    logits: Tensor
    targets: Tensor
    states: dict[int, Tensor] = field(default_factory=dict)
    text_mask: Tensor
    prefix: PrefixCache | None = None

    @property
    def token_nll(self) -> Tensor:
        """Negative log likelihood of each scored token, [B, K] nats."""
        flat = F.cross_entropy(
            self.logits.float().flatten(0, 1), self.targets.flatten(), reduction="none"
        )
        return flat.view(self.targets.shape)


def text_rows(
    head_ids: Ids | Sequence[Ids],
    tail_ids: Ids | Sequence[Ids],
    num_rows: int | None,
    score_last: int,
    device: torch.device,
) -> tuple[list[Tensor], list[Tensor]]:
    """Heads and tails, one of each a row.

    Args:
        head_ids, tail_ids: one row for all, or one each.
        num_rows: B; None is as many as there are.
        score_last: tokens that will be scored at the end of each tail.

    Raises:
        InputError: the counts do not fit, or a tail is too short.
    """
    heads, tails = rows_of(head_ids, device), rows_of(tail_ids, device)
    count = num_rows if num_rows is not None else max(len(tails), len(heads))
    heads = heads * count if len(heads) == 1 else heads
    tails = tails * count if len(tails) == 1 else tails
    if not len(heads) == len(tails) == count:
        raise InputError(
            f"got {count} memories, {len(heads)} heads and {len(tails)} tails; give one of each a "
            "row, or one head or tail for all."
        )
    for head, tail in zip(heads, tails, strict=True):
        if not 1 <= score_last <= min(len(tail), len(head) + len(tail) - 1):
            raise InputError(
                f"score_last={score_last} with a tail of {len(tail)} tokens after a head of "
                f"{len(head)}; score at least 1 and at most the tail."
            )
    return heads, tails


def row_of(ids: Ids) -> Tensor:
    return torch.as_tensor(ids, dtype=torch.long).reshape(-1)


def rows_of(ids: Ids | Sequence[Ids], device: torch.device) -> list[Tensor]:
    """One row [T] or several of any lengths -> list of [T]."""
    if isinstance(ids, Tensor):
        rows = list(ids) if ids.ndim == 2 else [ids]
    elif len(ids) and not isinstance(ids[0], int):
        rows = [row_of(row) for row in ids]  # type: ignore[arg-type]
    else:
        rows = [row_of(ids)]  # type: ignore[arg-type]
    return [row.to(device) for row in rows]


def pad_left(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """[B, S] ids and bool mask; the padding's id is never read."""
    longest = max(len(row) for row in rows)
    ids = torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    mask = torch.arange(longest, device=ids.device) >= longest - lengths[:, None]
    return ids, mask


def all_real(head: Tensor) -> Tensor:
    return torch.ones(head.shape[:2], dtype=torch.bool, device=head.device)


def score_rows(
    anatomy: Anatomy,
    fusion: Fusion,
    ids: Tensor,
    mask: Tensor,
    prefix: PrefixCache | None,
    score_last: int,
    states_at: tuple[int, ...],
) -> TextScores:
    """One pass of the decoder over raw text beside what it reads.

    Args:
        anatomy: of the decoder.
        fusion: trained modules.
        ids, mask: [B, S], padding on the left.
        prefix: B rows; None runs the unmodified model.
        score_last: K.
        states_at: layers whose inputs are kept.
    """
    states: dict[int, Tensor] = {}
    with ExitStack() as hooks:
        if prefix is not None:
            hooks.enter_context(Fuser(anatomy, fusion, lambda text: prefix))
        for i in states_at:
            hooks.callback(_record(anatomy, i, states).remove)
        is_ragged = not bool(mask.all())
        hidden = anatomy.base(
            input_ids=ids,
            attention_mask=mask.long() if is_ragged else None,
            position_ids=(mask.long().cumsum(dim=1) - 1).clamp_min(0) if is_ragged else None,
            use_cache=False,
        ).last_hidden_state
    head: Any = anatomy.model
    return TextScores(
        logits=head.lm_head(hidden[:, -score_last - 1 : -1]),
        targets=ids[:, -score_last:],
        states=states,
        text_mask=mask,
        prefix=prefix,
    )


def _record(anatomy: Anatomy, index: int, states: dict[int, Tensor]) -> RemovableHandle:
    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        states[index] = args[0] if args else kwargs["hidden_states"]

    return anatomy.layers[index].register_forward_pre_hook(keep, with_kwargs=True)
