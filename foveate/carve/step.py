"""A step of a run: one act of pruning before a decoder layer, and where several of them are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foveate.carve.needs import OF_THE_LAST, Need
from foveate.errors import MethodError

if TYPE_CHECKING:
    from foveate.carve.method import Method


@dataclass(frozen=True)
class Step:
    """One act of pruning in a run.

    Args:
        layer: decoder layer that first sees what it leaves.
        method: who decides.
        layers: all of that method's layers.
        number: which of them this is.
        needs: what it looks at beside the hidden states.
    """

    layer: int
    method: Method
    layers: tuple[int, ...]
    number: int
    needs: frozenset[Need]

    @property
    def debiases(self) -> bool:
        """Whether the attention that it reads is to be debiased."""
        return self.method.attention_scores == "debiased" and bool(self.needs & OF_THE_LAST)


def staged_layers(
    method: Method, first: int, stages: int, num_layers: int, first_layer: int
) -> tuple[int, ...]:
    """`stages` layers from `first` on that divide the rest of the decoder evenly.

    Raises:
        MethodError: they do not fit.
    """
    if stages < 1:
        raise MethodError(f"stages={stages} is below 1; raise it.")
    if first < first_layer or first + stages > num_layers:
        raise MethodError(
            f"{method.name} cannot cut {stages} times from layer {first} on in {num_layers} "
            f"decoder layers, of which {first_layer} is the first allowed; change prune_layer or "
            "stages."
        )
    width = (num_layers - first) / stages
    return tuple(first + int(i * width) for i in range(stages))
