"""What a decoder is called with once its prompt is shorter: masks, positions, what tokens have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from foveate.carve.engine.decide import Group
from foveate.carve.engine.layer_inputs import LayerInputs
from foveate.carve.engine.per_token import OF_THE_LOSS, is_per_token, narrow_entries
from foveate.core.layout import PAD
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.cache_argument import NAMES as CACHE_NAMES
from foveate.models.layer_kinds import STATEFUL

# Looked at by name, not as one entry for each token.
_KNOWN = (
    "inputs_embeds",
    "input_ids",
    "attention_mask",
    "position_ids",
    "position_embeddings",
    *CACHE_NAMES,
)
# They say what a token is; other integers may say where others are.
_OF_A_TOKEN = ("mm_token_type_ids", "token_type_ids", "ple_input_ids")


class DecoderInputs:
    """Narrows the arguments of one call of a decoder.

    Args:
        inputs: of the call, by its length and its past.
        rows: [B, L] columns of the new tokens that are left, PAD for fillers; None for all.
        held: [B, K] original positions of the tokens that the cache holds.
        has_empty: whether PAD may occur in `rows` or `held`.
        cache: as the decoder sees it; None for none.
    """

    def __init__(
        self, inputs: LayerInputs, rows: Tensor | None, held: Tensor, has_empty: bool, cache: Any
    ) -> None:
        self._inputs = inputs
        self._rows = rows
        self._cache = cache
        self._has_empty = has_empty
        self.query_idx = inputs.query_idx(rows)
        self.key_idx = inputs.key_idx(held, self.query_idx)

    @cached_property
    def places(self) -> Tensor:
        """[B, L] places of the new tokens that are left among all that are left, from 0."""
        is_token = self.key_idx != PAD
        places = (is_token.long().cumsum(dim=1) - 1).clamp_min(0)
        return places[:, -self.query_idx.shape[1] :]

    def narrow(self, given: dict[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
        """The arguments by name, without `inputs_embeds`, for the tokens that are left.

        Args:
            given: the call's arguments by name.
            groups: what was merged.

        Raises:
            UnsupportedModeError: a mask that foveate cannot narrow.
            UnsupportedModelError: an argument that belongs to tokens in an unknown way.
        """
        out = dict(given)
        out["attention_mask"] = self._mask(given.get("attention_mask"))
        out["position_ids"] = given.get("position_ids")
        if out["position_ids"] is None:  # or the decoder would number what is left
            length, past = self._inputs.length, self._inputs.past
            out["position_ids"] = torch.arange(past, past + length, device=self.query_idx.device)
            out["position_ids"] = out["position_ids"].expand(self._inputs.batch, -1)
        if self._rows is None:
            return out
        self._inputs.narrow_positions(out, self._rows)
        for name, value in given.items():
            if name not in (*_KNOWN, *OF_THE_LOSS):
                out[name] = self._entries(name, value, given, groups)
        return out

    # --- masks ---

    def _mask(self, mask: Any) -> Any:
        if isinstance(mask, dict):
            return {name: self._mask_of(name, value) for name, value in mask.items()}
        if mask is None:
            # Never none: without a cache, gaps in positions are taken for borders of sequences.
            is_whole = self._rows is None and not self._has_empty
            return None if is_whole else (self.key_idx != PAD).long()
        if isinstance(mask, Tensor) and mask.ndim == 4:
            return self._mask_of("full_attention", mask)
        total = self._inputs.past + self._inputs.length
        if not isinstance(mask, Tensor) or mask.ndim != 2 or mask.shape[1] != total:
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise UnsupportedModeError(
                f"the decoder got an attention mask {shape} where [batch, {total}] was expected, a "
                "column for each token so far; foveate cannot tell which columns dropped tokens "
                "have."
            )
        columns = self.key_idx.to(mask.device)
        picked = mask.expand(len(columns), -1).gather(1, columns.clamp_min(0))
        return picked.masked_fill(columns == PAD, 0)

    def _mask_of(self, kind: str, mask: Any) -> Any:
        """A mask that the model made before its decoder, for layers of a kind."""
        if kind in STATEFUL:
            return self._inputs.padding(mask, self.query_idx, self._has_empty)
        keys = self._keys_of(kind)
        return self._inputs.mask(mask, self.query_idx, keys, self._has_empty)

    def _keys_of(self, kind: str) -> Tensor:
        """Original positions of the keys that layers of a kind attend to."""
        if self._cache is None:
            return self.key_idx
        is_sliding = "sliding" in kind or "chunked" in kind
        layers = zip(self._cache.is_sliding, self._cache.is_linear, strict=True)
        of_kind = [i for i, (slides, _) in enumerate(layers) if slides == is_sliding]
        if not of_kind:  # layers that are made as they are needed, or a mask nobody uses
            return self.key_idx
        of_tokens = [i for i in of_kind if hasattr(self._cache.layers[i], "get_mask_sizes")]
        if not of_tokens:
            return self.key_idx
        length, first = self._cache.get_mask_sizes(self.query_idx.shape[1], of_tokens[0])
        if length + first != self.key_idx.shape[1]:
            raise UnsupportedModeError(
                f"layers of kind {kind!r} attend to {length} keys from place {first} on, of "
                f"{self.key_idx.shape[1]}; foveate cannot tell which tokens these are."
            )
        return self.key_idx if not first else self.key_idx[:, first:]

    # --- what each token has ---

    def _entries(
        self, name: str, value: Any, given: dict[str, Any], groups: Sequence[Group]
    ) -> Any:
        assert self._rows is not None
        batch, length = self._inputs.batch, self._inputs.length
        if isinstance(value, (list, tuple, dict)) and _has_tensors(value):
            return self._packed(name, value, given, groups)
        if not isinstance(value, Tensor):
            return value
        if name in _OF_A_TOKEN and value.shape[1:2] == (length,):
            return narrow_entries(value, self._rows)
        if is_per_token(name, value, batch, length):
            out = narrow_entries(value, self._rows)
            if value.dtype != torch.bool:
                return out
            is_filler = (self._rows == PAD).to(out.device)
            return out & ~is_filler.reshape(*is_filler.shape, *[1] * (out.ndim - 2))
        if length in value.shape:
            raise UnsupportedModelError(
                f"the decoder is called with {name} {tuple(value.shape)}, which may have an entry "
                f"for each of the {length} tokens; foveate cannot tell what it is in a shorter one."
            )
        return value

    def _packed(self, name: str, value: Any, given: dict[str, Any], groups: Sequence[Group]) -> Any:
        """Features of visual tokens alone, one behind the other, which layers add to them."""
        entries = value.values() if isinstance(value, dict) else value
        places = self._places(given, [entry.shape[0] for entry in entries])
        if places is None:
            raise UnsupportedModelError(
                f"the decoder is called with {name}, tensors that foveate cannot assign to tokens."
            )

        def narrowed(entry: Tensor) -> Tensor:
            assert self._rows is not None
            mask = places.to(entry.device)
            whole = entry.new_zeros(*mask.shape, *entry.shape[1:])
            whole = merged(whole.index_put((mask,), entry), groups)
            here = mask.gather(1, self._rows.clamp_min(0).to(mask.device))
            here = here & (self._rows != PAD).to(mask.device)
            return narrow_entries(whole, self._rows)[here]

        if isinstance(value, dict):
            return {key: narrowed(entry) for key, entry in value.items()}
        return type(value)(narrowed(entry) for entry in value)

    def _places(self, given: dict[str, Any], counts: Sequence[int]) -> Tensor | None:
        """[B, S] bool: the mask among the arguments with that many places."""
        size = (self._inputs.batch, self._inputs.length)
        for value in given.values():
            if not isinstance(value, Tensor) or value.dtype != torch.bool or value.ndim < 2:
                continue
            mask = value if value.ndim == 2 else value.flatten(2)[..., 0]
            if tuple(mask.shape) == size and all(int(mask.sum()) == count for count in counts):
                return mask
        return None


def merged(values: Tensor, groups: Sequence[Group]) -> Tensor:
    """Values [B, S, ...] of tokens, where tokens are merged those of the merged ones."""
    for group in groups:
        if group.plan.makes_rows:
            samples, tokens = group.samples.to(values.device), group.tokens.to(values.device)
            kept = tokens.gather(1, group.plan.keep_idx.to(values.device))
            values = values.index_put((samples, kept), group.plan.apply(values[samples, tokens]))
    return values


def _has_tensors(value: Any) -> bool:
    entries = list(value.values() if isinstance(value, dict) else value)
    return bool(entries) and all(isinstance(entry, Tensor) and entry.ndim for entry in entries)
