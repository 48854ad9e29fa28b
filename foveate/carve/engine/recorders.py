"""Puts what records on the model: attention rows, image features, the tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from torch import nn

from foveate.carve.engine.counted import counting_layers
from foveate.carve.engine.reading import (
    layers_that_look,
    layers_to_look_at,
    layers_to_read,
    on_the_tower,
)
from foveate.carve.engine.setting import Setting
from foveate.carve.engine.units import FeatureRecorder
from foveate.carve.method import Method, Step
from foveate.carve.needs import LAYER_NEEDS
from foveate.models.anatomy import Anatomy
from foveate.models.attention import RowRecorder
from foveate.models.hook import hook_after
from foveate.models.layer_kinds import DecoderLayers
from foveate.models.one_query import OneQuery
from foveate.models.weighed_keys import WeighedKeys

P = TypeVar("P")


class PutOn(Protocol):
    """Remembers a part that was just put on a model, so that it is taken off again."""

    def __call__(self, part: P) -> P: ...


def put_on_recorders(
    put_on: PutOn,
    anatomy: Anatomy,
    method: Method,
    steps: Mapping[int, Step],
    *,
    reads_ahead: bool,
    renumbers: bool,
    after_attention: Callable[[nn.Module, Any, Any], None],
) -> Setting:
    """Put on what the steps have read, and hand back all that a run's passes share.

    Args:
        put_on: called with each part once it is on, in order.
        anatomy: of the model.
        method, steps: of the run.
        reads_ahead: whether steps may ask for foresight: they cut inside the decoder.
        renumbers: see Setting.
        after_attention: hook behind every attention whose output a step asks for.
    """
    tower = on_the_tower(anatomy, list(steps.values()))
    if tower is not None:
        put_on(tower)
    recorder = put_on(FeatureRecorder(anatomy, [tower.collect] if tower is not None else []))
    for index in counting_layers(steps.values(), anatomy):  # before what reads there
        put_on(WeighedKeys(_attention_of(anatomy, index)))
    row_recorders: dict[int, RowRecorder] = {}
    reads = layers_to_read(anatomy, steps)
    for index, read in reads.items():
        of_layer = steps[index].needs & LAYER_NEEDS
        before = anatomy.attention_of(read)
        if before is not None:
            if of_layer - {"attention_output"} and read not in row_recorders:
                row_recorders[read] = put_on(RowRecorder(before))
            if "attention_output" in of_layer:
                put_on(hook_after(before, after_attention))
    for index in layers_to_look_at(anatomy, steps):
        # One for a module: of several that run around it only the innermost would read.
        if index not in row_recorders:
            row_recorders[index] = put_on(RowRecorder(_attention_of(anatomy, index)))
    foresight = layers_that_look(anatomy, steps) if reads_ahead else {}
    one_query: dict[int, OneQuery] = {}
    for index in sorted(set(foresight.values())):
        own = _attention_of(anatomy, index)
        one_query[index] = put_on(OneQuery(own, anatomy.layers[index]))
        if index not in row_recorders:
            row_recorders[index] = put_on(RowRecorder(own))
    return Setting(
        anatomy=anatomy,
        layers=DecoderLayers(anatomy.decoder),
        method=method,
        steps=dict(steps),
        renumbers=renumbers,
        recorder=recorder,
        reads=reads,
        row_recorders=row_recorders,
        foresight=foresight,
        one_query=one_query,
        tower=tower,
    )


def _attention_of(anatomy: Anatomy, index: int) -> nn.Module:
    own = anatomy.attention_of(index)
    assert own is not None
    return own
