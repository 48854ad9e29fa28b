"""The vision tower: what its layers attend to, and fewer tokens inside it.

A family's Tower row says where its layers are. What is read or shortened here ends, token by token,
at the placeholders of the prompt, so that the language model's side needs no second set of rules.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from foveate.carve.method import Step
from foveate.carve.needs import Need
from foveate.core.layout import ImageSpan
from foveate.core.precision import full_precision
from foveate.core.received import last_used_layer, received_attention
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.anatomy import Anatomy, Modality, Tower
from foveate.models.attention import Probe
from foveate.models.hook import hook_after, hook_before

# What is read of a tower layer: see VisualTokens.
What = Literal["attention", "received", "keys", "features"]


class Reading(NamedTuple):
    """One thing that is read of one layer of the tower."""

    what: What
    layer: int


def readings_of(anatomy: Anatomy, step: Step) -> dict[Need, Reading]:
    """What a step needs of the tower, and where that is read.

    Raises:
        UnsupportedModelError: nothing is known of this family's tower.
        MethodError: it has no such layer.
    """
    needs = sorted(need for need in step.needs if need.startswith("vision"))
    if not needs:
        return {}
    num_layers = len(tower_layers(anatomy)[1])
    last = last_used_layer(anatomy.feature_layer, num_layers)
    found: dict[Need, Reading] = {}
    for need in needs:
        what: Any = need.removeprefix("vision_").removesuffix("_early")
        is_early = need.endswith("_early")
        layer = step.method.early_tower_layer(num_layers) if is_early else last
        found[need] = Reading(what, layer)
    return found


@dataclass(frozen=True)
class TowerPiece:
    """What is known of some visual tokens, in their order.

    Args:
        read: what was read, [N] or [N, C] each.
        owners: see VisualTokens.
    """

    read: Mapping[Reading, Tensor] = field(default_factory=dict)
    owners: Tensor | None = None

    def of(self, span: ImageSpan) -> TowerPiece:
        """One image's part of what is known of all features of its kind."""
        assert span.start is not None
        part = slice(span.start, span.start + span.num_tokens)
        return TowerPiece(
            {reading: values[part] for reading, values in self.read.items()},
            self.owners[part] if self.owners is not None else None,
        )


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
            f"{anatomy.family.title} ({type(anatomy.base).__name__}) has a vision tower whose "
            "tokens cannot be told apart from outside; use a method that acts in the language "
            "model (`foveate methods`)."
        )
    return tower, found, row


def has_cls(tower: Any) -> bool:
    """Whether the tower's first token is a CLS token."""
    embeddings = getattr(tower, "embeddings", None)
    return any(hasattr(embeddings, name) for name in ("class_embedding", "cls_token"))


class _Found(threading.local):
    """What a thread's call of the tower left of one layer, [S] or [S, C] for each sequence."""

    def __init__(self) -> None:
        self.sequences: dict[What, list[Tensor]] = {}

    def add(self, what: What, values: Tensor) -> None:
        """Of a batch of sequences."""
        self.sequences.setdefault(what, []).extend(values)


class _TowerProbe(Probe):
    """Reads received attention and keys of one tower layer, image by image."""

    def __init__(self, module: nn.Module, *, whats: Collection[What], has_cls: bool) -> None:
        super().__init__(module)
        self.whats = whats
        self.has_cls = has_cls
        self.here = _Found()

    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        lengths = settings.get("cu_seq_lens_k")
        if lengths is not None:  # flash: all images in one sequence
            sizes = (lengths[1:] - lengths[:-1]).tolist()
            for q, k in zip(query[0].split(sizes, 1), key[0].split(sizes, 1), strict=True):
                self._look(q[None], k[None], None, settings.get("scaling"))
        else:
            # Masks of towers hide padding patches: [B, 1, Q, K], bool or additive.
            own: Any = mask if isinstance(mask, Tensor) and mask.ndim == 4 else None
            self._look(query, key, own, settings.get("scaling"))

    def _look(self, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> None:
        """At equally long sequences, [B, H, S, D]."""
        here, read = self.here, functools.partial(received_attention, query, key, scaling)
        if "attention" in self.whats:
            here.add("attention", read(self.has_cls, mask))
        if "received" in self.whats:
            here.add("received", read(False, mask))
        if "keys" in self.whats:
            here.add("keys", key.float().mean(dim=1))

    def after_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        """Told of what the layer gave: [B, S, C], or [S, C] of all images in one sequence."""
        hidden = (output[0] if isinstance(output, tuple) else output).detach().float()
        self.here.add("features", hidden if hidden.ndim == 3 else hidden[None])


class _Pieces(threading.local):
    """What is known of the images that a thread sent through the tower, by modality."""

    def __init__(self) -> None:
        self.by_modality: dict[Modality, TowerPiece] = {}


class TowerWatcher:
    """What is known of the images that ran through the tower, by modality.

    Args:
        what: the method does, for the error where the tower did not run.

    Attributes:
        readings: what each step reads of single tokens, and where, by the step's layer.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.readings: dict[int, dict[Need, Reading]] = {}
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
    """What some steps read of layers of the tower, for every image that runs through it.

    Raises:
        UnsupportedModelError: nothing is known of this family's tower.
        MethodError: it has no such layer.
    """

    def __init__(self, anatomy: Anatomy, steps: Sequence[Step]) -> None:
        super().__init__("this method reads")
        self.readings = {step.layer: readings_of(anatomy, step) for step in steps}
        readings = {reading for own in self.readings.values() for reading in own.values()}
        self._tower, layers, self._row = tower_layers(anatomy)
        self._base = anatomy.base
        self._skip = int(has_cls(self._tower))
        self._probes: dict[int, _TowerProbe] = {}
        self._handles = [hook_before(self._tower, self._begin)]
        for index in sorted({reading.layer for reading in readings}):
            layer: Any = layers[index]
            whats = {reading.what for reading in readings if reading.layer == index}
            probe = self._probes[index] = _TowerProbe(
                getattr(layer, self._row.attention), whats=whats, has_cls=bool(self._skip)
            )
            if "features" in whats:
                self._handles.append(hook_after(layer, probe.after_layer))

    def remove(self) -> None:
        for removable in (*self._handles, *self._probes.values()):
            removable.remove()

    def _begin(self, module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        for probe in self._probes.values():
            probe.here.sequences = {}

    def collect(self, modality: Modality, inputs: Mapping[str, Any], num_tokens: int) -> None:
        """Called when the features of a batch of images are complete."""
        self._here.by_modality.pop(modality, None)
        read = {}
        for layer, probe in self._probes.items():
            found, probe.here.sequences = probe.here.sequences, {}
            for what, sequences in found.items():
                read[Reading(what, layer)] = self._per_token(inputs, sequences, num_tokens)
        if read:
            self._here.by_modality[modality] = TowerPiece(read)

    def _per_token(
        self, inputs: Mapping[str, Any], sequences: Sequence[Tensor], num_tokens: int
    ) -> Tensor:
        """Values of patches, [S] or [S, C] of each sequence, as values of visual tokens."""
        is_wide = sequences[0].ndim == 2
        patches = [(s if is_wide else s[:, None])[self._skip :] for s in sequences]
        with torch.no_grad(), full_precision(sequences[0].device):
            values = self._row.to_tokens(self._base, inputs, patches)
        if len(values) != num_tokens:
            raise UnsupportedModelError(
                f"the vision tower ran on {sum(map(len, patches))} patches, which make "
                f"{len(values)} visual tokens by the rule of this family and {num_tokens} in "
                "this model; use a method that acts in the language model."
            )
        return values if is_wide else values[:, 0]
