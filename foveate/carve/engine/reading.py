"""What the steps of a run have to read: which layers attend before them, and the vision tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foveate.carve.method import LAYER_NEEDS, Step
from foveate.carve.tower.drop import PatchDropper, shortener_of
from foveate.carve.tower.merge import TowerShortener
from foveate.carve.tower.record import TowerRecorder
from foveate.errors import MethodError, UnsupportedModelError
from foveate.models.anatomy import Anatomy


def layers_to_read(anatomy: Anatomy, steps: Mapping[int, Step]) -> dict[int, int]:
    """Layer of a step -> the nearest layer before it that attends, where the step reads attention.

    Raises:
        UnsupportedModelError: no layer before a step attends, or none since the step before, so
            that only attention of tokens that are gone by then could be read.
    """
    reads: dict[int, int] = {}
    for index, step in steps.items():
        if not step.needs & LAYER_NEEDS:
            continue
        read = reads[index] = anatomy.attention_before(index)
        between = [other for other in steps if read < other < index]
        if between:
            raise UnsupportedModelError(
                f"{step.method.name} reads attention before layer {index}, and no layer since the "
                f"step at layer {between[-1]} has any; choose a later layer."
            )
    return reads


def layers_to_look_at(anatomy: Anatomy, steps: Mapping[int, Step]) -> tuple[int, ...]:
    """Layers of steps that ask for the attention of the layer about to run.

    Raises:
        UnsupportedModelError: one of them has none of its own.
    """
    found = tuple(index for index, step in steps.items() if "attention_ahead" in step.needs)
    for index in found:
        if anatomy.attention_of(index) is None:
            raise UnsupportedModelError(
                f"{steps[index].method.name} ranks tokens by the attention of layer {index}, and "
                "that has none; choose another prune_layer, or ranks_by='before' for the layer "
                "before it that attends."
            )
    return found


def on_the_tower(
    anatomy: Anatomy, steps: Sequence[Step]
) -> TowerRecorder | TowerShortener | PatchDropper | None:
    """What the steps need done in the vision tower, if anything."""
    inside = [step.method for step in steps if step.method.where == "vision_tower"]
    reading = {need for step in steps for need in step.needs if need.startswith("vision")}
    if inside and reading:
        raise MethodError(
            f"{inside[0].name} leaves fewer tokens inside the vision tower, so "
            f"{', '.join(reading)} of single tokens is not to be had; stack it with a method of "
            "the language model."
        )
    if inside:
        return shortener_of(anatomy, inside[0])
    if reading:
        return TowerRecorder(anatomy, steps)
    return None
