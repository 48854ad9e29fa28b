"""The vision tower: what its last layer attends to, and fewer tokens inside it.

A family's Tower row says where its layers are. What is read or shortened here ends, token by token,
at the placeholders of the prompt, so that the language model's side needs no second set of rules.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.core.layout import ImageSpan
from foveate.core.precision import full_precision
from foveate.core.received import last_used_layer, received_attention
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.anatomy import Anatomy, Modality, Tower
from foveate.models.attention import Probe
from foveate.models.hook import hook_before


@dataclass(frozen=True)
class TowerPiece:
    """What is known of some visual tokens, in their order; see VisualTokens."""

    vision_attention: Tensor | None = None
    vision_keys: Tensor | None = None
    owners: Tensor | None = None

    def of(self, span: ImageSpan) -> TowerPiece:
        """One image's part of what is known of all features of its kind."""
        assert span.start is not None
        part = slice(span.start, span.start + span.num_tokens)

        def cut(values: Tensor | None) -> Tensor | None:
            return values[part] if values is not None else None

        return TowerPiece(cut(self.vision_attention), cut(self.vision_keys), cut(self.owners))


def tower_layers(anatomy: Anatomy) -> tuple[nn.Module, nn.ModuleList, Tower]:
    """The vision tower, its layers and its table row.

    Raises:
        UnsupportedModelError: nothing is known of this family's tower.
    """
    row = anatomy.family.tower
    tower = getattr(anatomy.base, row.module, None) if row is not None else None
    found: Any = tower
    for name in row.layers.split(".") if row is not None else ():
        found = getattr(found, name, None)
    if row is None or tower is None or found is None:
        raise UnsupportedModelError(
            f"{anatomy.family.title} ({type(tower).__name__}) has a vision tower whose tokens "
            "cannot be told apart from outside; use a method that acts in the language model "
            "(`foveate methods`)."
        )
    return tower, found, row


def has_cls(tower: Any) -> bool:
    """Whether the tower's first token is a CLS token."""
    embeddings = getattr(tower, "embeddings", None)
    return any(hasattr(embeddings, name) for name in ("class_embedding", "cls_token"))


class _Found(threading.local):
    """What a thread's call of the tower left: ([S], [S, H * D]) for each sequence."""

    def __init__(self) -> None:
        self.sequences: list[tuple[Tensor | None, Tensor]] = []


class _TowerProbe(Probe):
    """Reads received attention and keys of one tower layer, image by image."""

    def __init__(self, module: nn.Module, *, with_attention: bool, has_cls: bool) -> None:
        super().__init__(module)
        self.with_attention = with_attention
        self.has_cls = has_cls
        self.here = _Found()

    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        lengths = settings.get("cu_seq_lens_k")
        if lengths is not None:  # flash: all images in one sequence
            sizes = (lengths[1:] - lengths[:-1]).tolist()
            pieces = list(zip(query[0].split(sizes, 1), key[0].split(sizes, 1), strict=True))
            rows = [self._received(q, k, None, settings) for q, k in pieces]  # [H, S, D]
            keys = [k for _, k in pieces]
        else:
            # Masks of towers hide padding patches: [B, 1, Q, K], bool or additive.
            own: Any = mask if isinstance(mask, Tensor) and mask.ndim == 4 else None
            found = self._received(query, key, own, settings)
            rows = list(found) if found is not None else [None] * len(key)
            keys = list(key)
        for row, k in zip(rows, keys, strict=True):
            self.here.sequences.append((row, k.transpose(0, 1).flatten(1).float()))

    def _received(
        self, query: Tensor, key: Tensor, mask: Tensor | None, settings: Any
    ) -> Tensor | None:
        if not self.with_attention:
            return None
        return received_attention(query, key, settings.get("scaling"), self.has_cls, mask)


class _Pieces(threading.local):
    """What is known of the images that a thread sent through the tower, by modality."""

    def __init__(self) -> None:
        self.by_modality: dict[Modality, TowerPiece] = {}


class TowerWatcher:
    """What is known of the images that ran through the tower, by modality.

    Args:
        what: the method does, for the error where the tower did not run.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._here = _Pieces()

    def of(self, span: ImageSpan) -> TowerPiece:
        """What is known of one image.

        Raises:
            UnsupportedModeError: its features were computed before attaching.
        """
        pieces = self._here.by_modality.get(span.kind)  # type: ignore[call-overload]
        if span.start is None or pieces is None:
            raise UnsupportedModeError(
                f"{self._what} the vision tower, which did not run while it was attached "
                "(features were given, or computed before); pass pixel_values, or use a method "
                "that acts in the language model."
            )
        piece: TowerPiece = pieces.of(span)
        return piece


class TowerRecorder(TowerWatcher):
    """Attention and keys of the tower's last used layer, for every image that runs through it.

    Args:
        anatomy: of the model.
        with_attention: also read received attention, not keys alone.

    Raises:
        UnsupportedModelError: nothing is known of this family's tower.
    """

    def __init__(self, anatomy: Anatomy, *, with_attention: bool) -> None:
        super().__init__("this method reads")
        self._tower, layers, self._row = tower_layers(anatomy)
        self._base = anatomy.base
        layer: Any = layers[last_used_layer(anatomy.feature_layer, len(layers))]
        self._probe = _TowerProbe(
            getattr(layer, self._row.attention),
            with_attention=with_attention,
            has_cls=has_cls(self._tower),
        )
        self._handle = hook_before(self._tower, self._begin)

    def remove(self) -> None:
        self._handle.remove()
        self._probe.remove()

    def _begin(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        self._probe.here.sequences = []

    def collect(self, modality: Modality, inputs: Mapping[str, Any], num_tokens: int) -> None:
        """Called when the features of a batch of images are complete."""
        found, self._probe.here.sequences = self._probe.here.sequences, []
        self._here.by_modality.pop(modality, None)
        if not found:
            return
        skip = int(self._probe.has_cls)

        def per_token(patches: list[Tensor]) -> Tensor:
            values = self._row.to_tokens(self._base, inputs, patches)
            if len(values) != num_tokens:
                raise UnsupportedModelError(
                    f"the vision tower ran on {sum(map(len, patches))} patches, which make "
                    f"{len(values)} visual tokens by the rule of this family and {num_tokens} in "
                    "this model; use a method that acts in the language model."
                )
            return values

        with torch.no_grad(), full_precision(found[0][1].device):
            keys = per_token([k[skip:] for _, k in found])
            attention = None
            if self._probe.with_attention:
                attention = per_token([a[skip:, None] for a, _ in found if a is not None])[:, 0]
        self._here.by_modality[modality] = TowerPiece(vision_attention=attention, vision_keys=keys)
