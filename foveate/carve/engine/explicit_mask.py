"""A caller's own word on where the visual tokens are, and the prompt that it was said of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import UnsupportedModeError

_BYTES_COMPARED = 8  # of each embedding: two float32 values or four bfloat16


class ExplicitMask:
    """`visual_mask` of `foveate.attach`, for callers whose prompts do not show where images are.

    It is meant for the prompts that the caller sends, but any prompt of the same length would fit.
    Given embeddings, a row whose marked places all hold embeddings of the vocabulary is text. Given
    token ids, the mask belongs to the first prompt that it was used for.

    Args:
        mask: [B, S] bool, True at visual tokens.

    Attributes:
        given: the same tensor as it was given.
    """

    def __init__(self, mask: Tensor) -> None:
        self.given = mask
        self.mask = mask.bool()
        self._ids: Tensor | None = None

    def fits(self, length: int) -> bool:
        """Whether a call with that many new tokens can be meant."""
        return int(self.mask.shape[1]) == length

    def of_embeds(self, embeds: Tensor, vocabulary: nn.Module) -> Tensor:
        """Where embeddings are visual: the mask without rows that are text. [B, S] bool

        Args:
            embeds: [B, S, D].
            vocabulary: embeds token ids.

        Raises:
            UnsupportedModeError: the mask does not fit the batch.
        """
        mask = self._for_batch(embeds.shape[0]).to(embeds.device)
        known = is_known(embeds, vocabulary)
        if known is None:
            return mask
        is_text = (known | ~mask).all(dim=1, keepdim=True)
        return mask & ~is_text

    def of_ids(self, ids: Tensor) -> Tensor:
        """The mask, for token ids [B, S] of a model without placeholders.

        Raises:
            UnsupportedModeError: the mask does not fit the batch, or was used for another prompt.
        """
        mask = self._for_batch(ids.shape[0]).to(ids.device)
        marked = ids[mask]
        if self._ids is None:
            self._ids = marked
        if not torch.equal(self._ids.to(ids.device), marked):
            raise UnsupportedModeError(
                "visual_mask was used for another prompt of this length, and token ids do not say "
                "which of this one's are visual; assign run.visual_mask for each prompt (all False "
                "for text only)."
            )
        return mask

    def _for_batch(self, batch: int) -> Tensor:
        rows = int(self.mask.shape[0])
        if batch % rows:
            raise UnsupportedModeError(
                f"visual_mask has {rows} rows and the batch {batch}; give one row per sample "
                "(beams are repeated for you)."
            )
        return self.mask.repeat_interleave(batch // rows, dim=0)


def is_known(embeds: Tensor, vocabulary: nn.Module) -> Tensor | None:
    """Which of the embeddings [B, S, D] are the vocabulary's own, [B, S] bool.

    The first bytes of each are compared; None where the vocabulary cannot be read.
    """
    table = _table(vocabulary)
    if not isinstance(table, Tensor) or table.is_meta or table.shape[-1] != embeds.shape[-1]:
        return None
    if table.dtype != embeds.dtype:
        return None
    width = _BYTES_COMPARED // table.element_size()
    first = table.detach()[:, :width]
    scale = getattr(vocabulary, "embed_scale", None)  # Gemma
    if scale is not None:
        first = first * torch.as_tensor(scale, device=first.device).to(first.dtype)
    keys = first.contiguous().view(torch.int64)[:, 0]
    found = embeds.detach()[..., :width].contiguous().view(torch.int64)[..., 0]
    return torch.isin(found, keys.to(found.device))


def _table(vocabulary: nn.Module) -> Tensor | None:
    """Its weight, also where accelerate holds it elsewhere until the module runs."""
    table = getattr(vocabulary, "weight", None)
    if isinstance(table, Tensor) and table.is_meta:
        hook: Any = getattr(vocabulary, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            held = getattr(one, "weights_map", None)
            if held is not None:
                table = held["weight"]
    return table if isinstance(table, Tensor) else None
