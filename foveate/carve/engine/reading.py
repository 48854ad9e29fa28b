"""What the steps of a run have to read: which layers attend before them, and the vision tower."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from foveate.carve.engine.reused_keys import reuses_keys
from foveate.carve.method import Step
from foveate.carve.needs import LAYER_NEEDS
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


def layers_that_look(anatomy: Anatomy, steps: Mapping[int, Step]) -> dict[int, int]:
    """Layer of a step -> the layer that looks for it, where it reads ahead.

    That is the nearest to the one which the method names, the step's own or a later one. It attends
    to everything, with keys of its own, and layers with a window are next best: from there the
    question may not see all of an image.

    Raises:
        UnsupportedModelError: there is none.
    """
    found: dict[int, int] = {}
    for index, step in steps.items():
        if "foresight" not in step.needs:
            continue
        wanted = max(index, step.method.foresight_layer(len(anatomy.layers)))
        attend = [
            i
            for i in range(index, len(anatomy.layers))
            if anatomy.attention_of(i) is not None and not reuses_keys(anatomy.text_config, i)
        ]
        everywhere = [i for i in attend if anatomy.kind_of(i) == "full_attention"]
        if not attend:
            raise UnsupportedModelError(
                f"{step.method.name} lets the question read ahead to layer {wanted}, and "
                f"{anatomy.family.title} has no layer from {index} on that attends with keys of "
                "its own; use foresight=False."
            )
        found[index] = min(everywhere or attend, key=lambda i: (abs(i - wanted), i))
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
