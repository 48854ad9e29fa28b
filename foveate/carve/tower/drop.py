"""Patches left out before a vision tower that takes all images as one sequence of patches.

The tower is called as ever, so that grids and positions are those of whole images. Its layers then
run on the patches that stay; before each merger, the others get the states of those that stand for
them, so that placeholders fit. The language model's side keeps one token of each group.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.method import Method
from foveate.carve.tower.merge import TowerShortener
from foveate.carve.tower.record import TowerPiece, TowerWatcher, tower_layers
from foveate.carve.tower_method import PatchDropping
from foveate.core.layout import ImageSpan
from foveate.errors import MethodError
from foveate.models.anatomy import Anatomy, Modality
from foveate.models.hook import hook_before
from foveate.models.tower_tokens import out_of_windows, windowed_tokens


class _Way(threading.local):
    """Of the images that this thread sends through the tower.

    Attributes:
        stays: [S] bool, patches that go through, in the order of the layers.
        source: [S] row, among those that went through, that each patch gets behind the layers.
        owners: [N] the token that stands for each, of each call since features were last complete.
    """

    def __init__(self) -> None:
        self.stays: Tensor | None = None
        self.source: Tensor | None = None
        self.owners: list[Tensor] = []


class PatchDropper(TowerWatcher):
    """Runs a PatchDropping on the vision tower of a model.

    Raises:
        UnsupportedModelError, MethodError: patches cannot be left out of the tower.
    """

    def __init__(self, anatomy: Anatomy, method: PatchDropping) -> None:
        super().__init__(f"{method.name} acts before")
        tower, layers, row = tower_layers(anatomy)
        if not row.takes_patches:
            raise MethodError(
                f"{method.name} leaves patches out before the vision tower, and that of "
                f"{anatomy.family.title} takes whole images; use it with Qwen2-VL, Qwen2.5-VL or "
                "Qwen3-VL."
            )
        self._tower: Any = tower
        self._method = method
        self._is_windowed = row.to_tokens is windowed_tokens
        self._way = _Way()
        mergers = [self._tower.merger, *getattr(tower, "deepstack_merger_list", ())]
        self._handles = [
            hook_before(tower, self._begin),
            *(hook_before(layer, self._before_layer) for layer in layers),
            *(hook_before(merger, self._before_merger) for merger in mergers),
        ]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def of(self, span: ImageSpan) -> TowerPiece:
        piece = super().of(span)
        assert piece.owners is not None
        assert span.start is not None
        return replace(piece, owners=piece.owners - span.start)

    def collect(self, modality: Modality, inputs: Mapping[str, Any], num_tokens: int) -> None:
        """Called when the features of a batch of images are complete."""
        owners, self._way.owners = self._way.owners, []
        self._here.by_modality.pop(modality, None)
        if owners:
            starts = [0, *torch.tensor([len(part) for part in owners]).cumsum(0).tolist()]
            every = [part + start for part, start in zip(owners, starts, strict=False)]
            self._here.by_modality[modality] = TowerPiece(owners=torch.cat(every))

    # --- hooks ---

    def _begin(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        pixels: Tensor = args[0] if args else kwargs["hidden_states"]
        grids: Tensor = args[1] if len(args) > 1 else kwargs["grid_thw"]
        side = int(self._tower.spatial_merge_size)
        group = side**2
        tokens = pixels.detach().unflatten(0, (-1, group)).flatten(1)  # [N, P] of a token each
        owners, start = [], 0
        for frames, height, width in grids.tolist():
            rows, columns = height // side, width // side
            for _ in range(frames):
                end = start + rows * columns
                picture = tokens[start:end].view(rows, columns, -1)
                owners.append(self._method.owners(picture) + start)
                start = end
        owner = torch.cat(owners)  # [N]
        self._way.owners.append(owner)
        if self._is_windowed:  # the layers see tokens window by window
            place = out_of_windows(self._tower, grids).to(owner.device)
            owner = place[owner[place.argsort()]]
        is_own = owner == torch.arange(len(owner), device=owner.device)
        number = is_own.long().cumsum(0) - 1  # among those that stay
        within = torch.arange(group, device=owner.device)
        self._way.stays = is_own.repeat_interleave(group)
        self._way.source = (number[owner][:, None] * group + within).flatten()

    def _before_layer(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Any:
        stays = self._way.stays
        assert stays is not None
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if len(hidden) == len(stays):  # the first layer, or all patches stay
            hidden = hidden[stays]
        before = torch.cat([stays.new_zeros(1, dtype=torch.long), stays.long().cumsum(0)])
        bounds = kwargs["cu_seqlens"]
        # A window of which nothing is left is none.
        short = before[bounds.long()].unique_consecutive().to(bounds.dtype)
        changed = {
            "cu_seqlens": short,
            "position_embeddings": tuple(part[stays] for part in kwargs["position_embeddings"]),
        }
        if kwargs.get("max_seqlen") is not None:
            changed["max_seqlen"] = int(short.diff().max())
        if args:
            return (hidden, *args[1:]), {**kwargs, **changed}
        return args, {**kwargs, **changed, "hidden_states": hidden}

    def _before_merger(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> Any:
        assert self._way.source is not None
        return (args[0][self._way.source], *args[1:]), kwargs


def shortener_of(anatomy: Anatomy, method: Method) -> TowerShortener | PatchDropper:
    """What runs a method of the vision tower on it.

    Raises:
        UnsupportedModelError, MethodError: it cannot run there.
    """
    if isinstance(method, PatchDropping):
        return PatchDropper(anatomy, method)
    return TowerShortener(anatomy, method)
