"""What stays the same over the passes of one run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from foveate.carve.engine.units import FeatureRecorder
from foveate.carve.method import Method, Step
from foveate.carve.tower.drop import PatchDropper
from foveate.carve.tower.merge import TowerShortener
from foveate.carve.tower.record import TowerRecorder
from foveate.models.anatomy import Anatomy
from foveate.models.attention import RowRecorder
from foveate.models.layer_kinds import DecoderLayers
from foveate.models.one_query import OneQuery


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The parts of a run.

    Args:
        anatomy: of the model.
        layers: of its decoder.
        method: as given.
        steps: its steps, by layer.
        renumbers: whether what is left closes ranks.
        recorder: of image features.
        reads: layer of a step -> the layer whose attention is read for it.
        row_recorders: by the layer whose attention is read.
        foresight: layer of a step -> the layer that looks for it, where it reads ahead.
        one_query: by the layer that looks.
        tower: of the vision tower, if the method reads or shortens it.
    """

    anatomy: Anatomy
    layers: DecoderLayers
    method: Method
    steps: dict[int, Step]
    renumbers: bool
    recorder: FeatureRecorder
    reads: dict[int, int]
    row_recorders: dict[int, RowRecorder]
    foresight: dict[int, int]
    one_query: dict[int, OneQuery]
    tower: TowerRecorder | TowerShortener | PatchDropper | None

    @property
    def prune_layer(self) -> int:
        return min(self.steps)

    @property
    def num_layers(self) -> int:
        return len(self.layers.kinds)

    @cached_property
    def label(self) -> str:
        """The method as reports call it."""
        return str(self.method)

    @cached_property
    def all_needs(self) -> frozenset[str]:
        """What any step asks for."""
        return frozenset(need for step in self.steps.values() for need in step.needs)

    def needs(self, name: str) -> bool:
        """Whether any step asks for it."""
        return name in self.all_needs

    def needs_read_at(self, layer: int) -> frozenset[str]:
        """What is needed of the attention of a layer, by the step that reads it."""
        return frozenset(
            need
            for index, read in self.reads.items()
            if read == layer
            for need in self.steps[index].needs
        )
