"""One call of the base model: what it brings, and where that is visual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from foveate.carve.engine.decide import text_columns
from foveate.carve.engine.labels import Labels
from foveate.errors import UnsupportedModeError
from foveate.models.anatomy import Anatomy, visual_token_ids
from foveate.models.masks import valid_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """What one call brings.

    Args:
        inputs: the base model's arguments by name.
        batch, length: B and S, of the new tokens.
        device: of the new tokens.
        cache: the KV cache, None for none.
        past: uncompressed length of the cache before the call.
        visual_mask: [B, S] bool, where the new tokens are visual; None where none is.
        is_explicit_mask: the caller gave the mask; token ids say nothing about images.
        labels: what the host model was asked for by column, None for nothing.
    """

    inputs: Mapping[str, Any]
    batch: int
    length: int
    device: torch.device
    cache: Any
    past: int
    visual_mask: Tensor | None
    is_explicit_mask: bool
    labels: Labels | None = None

    @classmethod
    def of(
        cls,
        inputs: Mapping[str, Any],
        anatomy: Anatomy,
        given: Tensor | None,
        labels: Labels | None = None,
    ) -> Call:
        """Read a call off its arguments.

        Args:
            inputs: by name.
            anatomy: of the model.
            given: [B, S] bool, the caller's visual_mask; it counts where its S is the call's.
            labels: of the host model's call around it.

        Raises:
            UnsupportedModeError: nothing says where the new tokens are visual, or `given` does not
                fit the batch.
        """
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        tokens = ids if ids is not None else embeds
        if tokens is None:
            raise UnsupportedModeError(
                "the model was called with neither input_ids nor inputs_embeds."
            )
        visual_mask, is_explicit = _visual_mask(ids, tokens, anatomy, given)
        has_visual = visual_mask is not None and bool(visual_mask.any())
        cache = inputs.get("past_key_values")
        return cls(
            inputs=inputs,
            batch=tokens.shape[0],
            length=tokens.shape[1],
            device=tokens.device,
            cache=cache,
            past=cache.get_seq_length() if cache is not None else 0,
            visual_mask=visual_mask if has_visual else None,
            is_explicit_mask=is_explicit,
            labels=labels,
        )

    @property
    def visual(self) -> Tensor:
        """`visual_mask` of a call that has visual tokens."""
        assert self.visual_mask is not None
        return self.visual_mask

    @cached_property
    def valid(self) -> Tensor:
        """Which new tokens are real, [B, S] bool."""
        mask = self.inputs.get("attention_mask")
        return valid_tokens(mask, self.batch, self.length, self.device)

    @cached_property
    def asked(self) -> Tensor:
        """Which new tokens are the prompt's: real ones, without an answer that is trained on."""
        if self.labels is None or self.visual_mask is None:
            return self.valid
        return self.valid & ~self.labels.answering(self.visual_mask).to(self.valid.device)

    @cached_property
    def text(self) -> Tensor:
        """[B, T] columns of the text that methods may read, see `text_columns`."""
        return text_columns(self.asked, self.visual)


def _visual_mask(
    ids: Tensor | None, tokens: Tensor, anatomy: Anatomy, given: Tensor | None
) -> tuple[Tensor | None, bool]:
    """Where the new tokens are visual, [B, S] or None, and whether the caller said so."""
    batch, length = tokens.shape[:2]
    if given is not None and given.shape[1] == length:
        if batch % given.shape[0]:
            raise UnsupportedModeError(
                f"visual_mask has {given.shape[0]} rows and the batch {batch}; give "
                "one row per sample (beams are repeated for you)."
            )
        repeats = batch // given.shape[0]
        return given.to(tokens.device).bool().repeat_interleave(repeats, 0), True
    if ids is None:
        if length > 1 and given is None:
            raise UnsupportedModeError(
                "inputs_embeds does not say which tokens are visual; pass visual_mask= to "
                "foveate.attach, or set run.visual_mask (all False for text only)."
            )
        return None, True
    if length == 1:
        return None, False  # a decoded token is text, whatever its id
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for token_id in visual_token_ids(anatomy).values():
        mask |= ids == token_id
    return mask, False
