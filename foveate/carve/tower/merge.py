"""Fewer tokens inside a CLIP- or SigLIP-like vision tower: merged between layers, or a small image.

What leaves the tower is spread out again to the tokens it stands for, so that projector and
placeholders fit; the language model's side then keeps one token of each group.
"""

from __future__ import annotations

import functools
import threading
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
from foveate.core.layout import sent
from foveate.core.plan import weighted_merge
from foveate.core.precision import full_precision
from foveate.core.received import last_used_layer, received_attention
from foveate.errors import MethodError, UnsupportedModeError
from foveate.models.anatomy import Anatomy, Modality
from foveate.models.attention import Probe
from foveate.models.hook import hook_after, hook_before
from foveate.models.masks import is_flash


class _Keys(threading.local):
    """Of the last call in this thread."""

    keys: Tensor | None = None  # [B, S, D], mean over heads
    importance: Tensor | None = None  # [B, S], received attention, if it is asked for


class _KeyProbe(Probe):
    """Keeps keys (mean over heads) of the last call, and received attention where it is asked."""

    def __init__(self, module: nn.Module, *, has_cls: bool, with_importance: bool) -> None:
        super().__init__(module)
        self.has_cls = has_cls
        self.with_importance = with_importance
        self.here = _Keys()

    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        self.here.keys = key.float().mean(dim=1)
        if self.with_importance:
            scaling = settings.get("scaling")
            self.here.importance = received_attention(query, key, scaling, self.has_cls)


class _Way(threading.local):
    """Where the images are that this thread sends through the tower.

    Attributes:
        slots: slot of each of their tokens, by the number of slots.
        owner: [B, n] token that stands for each slot.
        sizes: [B, n] tokens in each slot.
        counts: merges behind each layer.
        num_tokens: of an image.
        is_whole: nothing is merged.
        batches: [B, N] owners of each call of the tower since features were last complete.
    """

    def __init__(self) -> None:
        self.slots: dict[int, Tensor] = {}
        self.owner: Tensor | None = None
        self.sizes: Tensor | None = None
        self.counts: tuple[int, ...] = ()
        self.num_tokens = 0
        self.is_whole = True
        self.batches: list[Tensor] = []


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
        self._skip = int(has_cls(tower))
        self._way = _Way()
        if isinstance(method, TowerResizing):
            _refuse_absent_weights(method, tower)
        if isinstance(method, TowerMerging):
            used = last_used_layer(anatomy.feature_layer, len(layers))
            if used < 1:
                raise MethodError(f"{method.name} merges between layers, and the tower uses one.")
            self._num_merging = used
            self._install_merging(method, list(layers), row.attention)
        self._handles.append(hook_before(tower, self._begin))
        self._handles.append(hook_after(tower, self._end))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for probe in self._probes:
            probe.remove()

    def collect(self, modality: Modality, inputs: Mapping[str, Any], num_tokens: int) -> None:
        """Called when the features of a batch of images are complete."""
        batches, self._way.batches = self._way.batches, []
        self._here.by_modality.pop(modality, None)
        if batches:
            owners = torch.cat([batch.flatten() for batch in batches])
            self._here.by_modality[modality] = TowerPiece(owners=owners)

    # --- hooks ---

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        pixels = args[0] if args else kwargs["pixel_values"]
        size = self._tower.config.patch_size
        rows, columns = pixels.shape[-2] // size, pixels.shape[-1] // size
        num_tokens = rows * columns
        every = torch.arange(num_tokens, device=pixels.device)
        keep = self._method.budget.count(num_tokens)
        way = self._way
        way.num_tokens, way.is_whole = num_tokens, keep == num_tokens
        # A token for itself, until it is merged.
        way.slots = {num_tokens: every.expand(len(pixels), -1)}
        way.owner = every.expand(len(pixels), -1)
        if way.is_whole:
            return None
        if isinstance(self._method, TowerResizing):
            r, c = self._method.grid(rows, columns, keep)
            cell = _cells(rows, r)[:, None] * c + _cells(columns, c)
            cell = sent(cell.flatten(), pixels.device)  # [N] small token over each token
            owner = _centres(rows, r)[:, None] * columns + _centres(columns, c)
            owner = sent(owner.flatten(), pixels.device)
            way.slots = {r * c: cell.expand(len(pixels), -1)}
            way.owner = owner.expand(len(pixels), -1)
            small = F.interpolate(
                pixels.float(), (r * size, c * size), mode="bicubic", antialias=True
            ).to(pixels.dtype)
            kwargs = {**kwargs, "interpolate_pos_encoding": True}
            if args:
                return (small, *args[1:]), kwargs
            return args, {**kwargs, "pixel_values": small}
        assert isinstance(self._method, TowerMerging)
        way.sizes = torch.ones(len(pixels), num_tokens, device=pixels.device)
        way.counts = tuple(self._method.merges(num_tokens, keep, self._num_merging))
        return None

    def _install_merging(self, method: TowerMerging, layers: list[Any], attention: str) -> None:
        for i, layer in enumerate(layers):
            if i < self._num_merging:
                module = getattr(layer, attention)
                self._probes.append(
                    _KeyProbe(
                        module,
                        has_cls=bool(self._skip),
                        with_importance=method.reads_importance,
                    )
                )
            if i:
                hook = functools.partial(self._before_layer, i)
                self._handles.append(hook_before(layer, hook))

    def _before_layer(self, index: int, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Merge by the keys of the layer before, then let this one weigh tokens by their size."""
        if self._way.is_whole:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        if index <= self._num_merging:
            found = self._probes[index - 1].here
            assert found.keys is not None
            keys, importance = found.keys[:, self._skip :], found.importance
            importance = importance[:, self._skip :] if importance is not None else None
            left = self._way.counts[index - 1]
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
        self, hidden: Tensor, keys: Tensor, importance: Tensor | None, count: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        method, skip, way = self._method, self._skip, self._way
        assert isinstance(method, TowerMerging)
        assert way.sizes is not None
        assert way.owner is not None
        with full_precision(hidden.device):
            src, dst, left = method.match_and_order(keys, importance, count, has_cls=bool(skip))
        merge = functools.partial(weighted_merge, src=src, dst=dst, sizes=way.sizes, left=left)
        body, keys = merge(hidden[:, skip:]), merge(keys)
        if importance is not None:
            importance = merge(importance.unsqueeze(-1)).squeeze(-1)
        # Slot of every token: its own new number, or its target's.
        numbers = torch.arange(left.shape[1], device=left.device).expand_as(left)
        number = torch.zeros_like(way.sizes, dtype=torch.long).scatter(1, left, numbers)
        number = number.scatter(1, src, number.gather(1, dst))
        slots = way.slots[way.sizes.shape[1]]
        sizes = way.sizes.scatter_add(1, dst, way.sizes.gather(1, src))
        way.sizes, way.owner = sizes.gather(1, left), way.owner.gather(1, left)
        way.slots[way.sizes.shape[1]] = number.gather(1, slots)
        return torch.cat([hidden[:, :skip], body], dim=1), keys, importance

    def _size_bias(self, hidden: Tensor) -> Tensor | None:
        """log(size) on the attention logits of every key, [B, 1, 1, S] (ToMe's equation)."""
        sizes = self._way.sizes
        assert sizes is not None
        if sizes.shape[1] == self._way.num_tokens:
            return None
        kernel = str(self._tower.config._attn_implementation)
        if is_flash(kernel):
            raise UnsupportedModeError(
                f"{self._method.name} adds log(size) to attention logits, which {kernel} cannot; "
                "load the model with attn_implementation='sdpa' (of the vision tower)."
            )
        log_sizes = F.pad(sizes.log(), (self._skip, 0)).to(hidden.dtype)
        return log_sizes[:, None, None].expand(-1, 1, hidden.shape[1], -1)

    def _end(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Spread every state out to all tokens again."""
        way = self._way
        assert way.owner is not None
        way.batches.append(way.owner.gather(1, way.slots[min(way.slots)]))
        if way.is_whole:
            return output
        output.last_hidden_state = self._spread(output.last_hidden_state)
        if getattr(output, "hidden_states", None) is not None:
            output.hidden_states = tuple(self._spread(state) for state in output.hidden_states)
        return output

    def _spread(self, state: Tensor | None) -> Tensor | None:
        if state is None:
            return None
        skip = self._skip
        slots = self._way.slots.get(state.shape[1] - skip)
        if slots is None:
            return state
        index = slots[..., None].expand(-1, -1, state.shape[-1])
        return torch.cat([state[:, :skip], state[:, skip:].gather(1, index)], dim=1)


def _refuse_absent_weights(method: Method, tower: nn.Module) -> None:
    """Position embeddings of another size are made from the weights, past what would fetch them.

    Raises:
        UnsupportedModeError: weights are elsewhere until their own module runs.
    """
    if any(weight.is_meta for weight in tower.parameters()):
        raise UnsupportedModeError(
            f"{method.name} makes the position embeddings of a smaller image from weights that are "
            "offloaded and not there until their module runs; keep the vision tower in memory "
            "(device_map), or use another method."
        )


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
