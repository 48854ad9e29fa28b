"""Fewer tokens inside a CLIP- or SigLIP-like vision tower: merged between layers, or a small image.

What leaves the tower is spread out again to the tokens it stands for, so that projector and
placeholders fit; the language model's side then keeps one token of each group.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from foveate.carve.method import Method
from foveate.carve.tower.record import (
    TowerPiece,
    TowerWatcher,
    has_cls,
    tower_layers,
)
from foveate.carve.tower_method import TowerMerging, TowerResizing
from foveate.core.plan import weighted_merge
from foveate.core.received import last_used_layer, received_attention
from foveate.errors import MethodError, UnsupportedModeError
from foveate.models.anatomy import Anatomy, Modality
from foveate.models.attention import Probe
from foveate.models.masks import is_flash


class _KeyProbe(Probe):
    """Keeps keys (mean over heads) and received attention of the last call."""

    keys: Tensor | None = None  # [B, S, D]
    importance: Tensor | None = None  # [B, S]
    has_cls = False

    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        self.keys = key.float().mean(dim=1)
        rows = [
            received_attention(q, k, settings.get("scaling"), self.has_cls)
            for q, k in zip(query, key, strict=True)
        ]
        self.importance = torch.stack(rows)


class TowerShortener(TowerWatcher):
    """Runs a TowerMethod on the vision tower of a model.

    Args:
        anatomy: of the model.
        method: a TowerMerging or a TowerResizing.

    Raises:
        UnsupportedModelError, MethodError: the tower cannot be shortened.
    """

    def __init__(self, anatomy: Anatomy, method: Method) -> None:
        super().__init__(f"{method.name} acts inside")
        tower, layers, row = tower_layers(anatomy)
        if not row.takes_pixels:
            raise MethodError(
                f"{method.name} acts inside the vision tower, and what leaves that of "
                f"{anatomy.family.title} is cut, joined or merged before the language model; use a "
                "method that acts behind it."
            )
        self._tower: Any = tower
        self._method = method
        self._handles: list[RemovableHandle] = []
        self._probes: list[_KeyProbe] = []
        self._batches: list[Tensor] = []  # [B, N] owners of each call of the tower
        self._skip = int(has_cls(tower))
        # While an image runs through: slot of each of its tokens, by the number of slots.
        self._slots: dict[int, Tensor] = {}
        self._owner: Tensor | None = None  # [B, n] token that stands for each slot
        self._sizes: Tensor | None = None  # [B, n] tokens in each slot
        self._patches = (0, 0)
        self._is_whole = False
        if isinstance(method, TowerMerging):
            used = last_used_layer(anatomy.feature_layer, len(layers))
            if used < 1:
                raise MethodError(f"{method.name} merges between layers, and the tower uses one.")
            self._num_merging = used
            self._install_merging(list(layers), row.attention)
        self._handles.append(tower.register_forward_pre_hook(self._begin, with_kwargs=True))
        self._handles.append(tower.register_forward_hook(self._end))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for probe in self._probes:
            probe.remove()

    def collect(self, modality: Modality, inputs: Mapping[str, Any], num_tokens: int) -> None:
        """Called when the features of a batch of images are complete."""
        batches, self._batches = self._batches, []
        self._pieces.pop(modality, None)
        if batches:
            self._pieces[modality] = TowerPiece(owners=torch.cat([b.flatten() for b in batches]))

    # --- hooks ---

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        pixels = args[0] if args else kwargs["pixel_values"]
        size = self._tower.config.patch_size
        rows, columns = pixels.shape[-2] // size, pixels.shape[-1] // size
        self._patches = (rows, columns)
        num_tokens = rows * columns
        every = torch.arange(num_tokens, device=pixels.device)
        keep = self._method.budget.count(num_tokens)
        self._is_whole = keep == num_tokens
        # A token for itself, until it is merged.
        self._slots = {num_tokens: every.expand(len(pixels), -1)}
        self._owner = every.expand(len(pixels), -1)
        if self._is_whole:
            return None
        if isinstance(self._method, TowerResizing):
            r, c = self._method.grid(rows, columns, keep)
            cell = _cells(rows, r)[:, None] * c + _cells(columns, c)
            cell = cell.flatten().to(pixels.device)  # [N] small token over each token
            owner = _centres(rows, r)[:, None] * columns + _centres(columns, c)
            owner = owner.flatten().to(pixels.device)
            self._slots = {r * c: cell.expand(len(pixels), -1)}
            self._owner = owner.expand(len(pixels), -1)
            small = F.interpolate(
                pixels.float(), (r * size, c * size), mode="bicubic", antialias=True
            ).to(pixels.dtype)
            kwargs = {**kwargs, "interpolate_pos_encoding": True}
            if args:
                return (small, *args[1:]), kwargs
            return args, {**kwargs, "pixel_values": small}
        assert isinstance(self._method, TowerMerging)
        self._sizes = torch.ones(len(pixels), num_tokens, device=pixels.device)
        self._counts = self._method.merges(num_tokens, keep, self._num_merging)
        return None

    def _install_merging(self, layers: list[Any], attention: str) -> None:
        for i, layer in enumerate(layers):
            if i < self._num_merging:
                probe = _KeyProbe(getattr(layer, attention))
                probe.has_cls = bool(self._skip)
                self._probes.append(probe)
            if i:
                hook = functools.partial(self._before_layer, i)
                self._handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    def _before_layer(self, index: int, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Merge by the keys of the layer before, then let this one weigh tokens by their size."""
        if self._is_whole:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if index <= self._num_merging:
            probe = self._probes[index - 1]
            assert probe.keys is not None
            assert probe.importance is not None
            keys, importance = probe.keys[:, self._skip :], probe.importance[:, self._skip :]
            left = self._counts[index - 1]
            while left:
                now = min(left, keys.shape[1] // 2)
                hidden, keys, importance = self._merge(hidden, keys, importance, now)
                left -= now
        bias = self._size_bias(hidden)
        if len(args) > 1:
            return (hidden, bias, *args[2:]), kwargs
        if args:
            return (hidden,), {**kwargs, "attention_mask": bias}
        return args, {**kwargs, "hidden_states": hidden, "attention_mask": bias}

    def _merge(
        self, hidden: Tensor, keys: Tensor, importance: Tensor, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        method, skip = self._method, self._skip
        assert isinstance(method, TowerMerging)
        assert self._sizes is not None
        assert self._owner is not None
        src, dst = method.match(keys, importance, count)
        merge = functools.partial(weighted_merge, src=src, dst=dst, sizes=self._sizes)
        body, keys = merge(hidden[:, skip:]), merge(keys)
        importance = merge(importance.unsqueeze(-1)).squeeze(-1)
        stays = torch.ones_like(self._sizes, dtype=torch.bool).scatter_(1, src, False)
        # Slot of every token: its own new number, or its target's.
        number = stays.long().cumsum(dim=1) - 1
        number = number.scatter(1, src, number.gather(1, dst))
        slots = self._slots[self._sizes.shape[1]]
        sizes = self._sizes.scatter_add(1, dst, self._sizes.gather(1, src))
        self._sizes = sizes[stays].view(len(sizes), -1)
        self._owner = self._owner[stays].view(len(sizes), -1)
        self._slots[self._sizes.shape[1]] = number.gather(1, slots)
        return torch.cat([hidden[:, :skip], body], dim=1), keys, importance

    def _size_bias(self, hidden: Tensor) -> Tensor | None:
        """log(size) on the attention logits of every key, [B, 1, 1, S] (ToMe's equation)."""
        assert self._sizes is not None
        if self._sizes.shape[1] == self._slots_at_start:
            return None
        kernel = str(self._probes[0].original._attn_implementation)
        if is_flash(kernel):
            raise UnsupportedModeError(
                f"{self._method.name} adds log(size) to attention logits, which {kernel} cannot; "
                "load the model with attn_implementation='sdpa' (of the vision tower)."
            )
        log_sizes = F.pad(self._sizes.log(), (self._skip, 0)).to(hidden.dtype)
        return log_sizes[:, None, None].expand(-1, 1, hidden.shape[1], -1)

    @property
    def _slots_at_start(self) -> int:
        return self._patches[0] * self._patches[1]

    def _end(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Spread every state out to all tokens again."""
        assert self._owner is not None
        last = self._slots[min(self._slots)]
        self._batches.append(self._owner.gather(1, last))
        if self._is_whole:
            return output
        output.last_hidden_state = self._spread(output.last_hidden_state)
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(self._spread(state) for state in output.hidden_states)
        return output

    def _spread(self, state: Tensor | None) -> Tensor | None:
        if state is None:
            return None
        skip = self._skip
        slots = self._slots.get(state.shape[1] - skip)
        if slots is None:
            return state
        index = slots[..., None].expand(-1, -1, state.shape[-1])
        return torch.cat([state[:, :skip], state[:, skip:].gather(1, index)], dim=1)


def _cells(size: int, parts: int) -> Tensor:
    """Which of `parts` equal cells each of `size` places lies in (by its centre). [size]"""
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * parts / size
    return centre.floor().long().clamp_max(parts - 1)


def _centres(size: int, parts: int) -> Tensor:
    """The place nearest to the middle of each cell, among those that lie in it. [parts]"""
    cells = _cells(size, parts)
    middle = (torch.arange(parts, dtype=torch.float64) + 0.5) * size / parts - 0.5
    distance = (torch.arange(size, dtype=torch.float64)[None] - middle[:, None]).abs()
    return distance.masked_fill(cells[None] != torch.arange(parts)[:, None], torch.inf).argmin(1)
