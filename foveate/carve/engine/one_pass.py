"""One call of the base model, from its first hook to its last: what is known of it in any case."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from foveate.carve.engine.call import Call
from foveate.carve.engine.carving import Carving
from foveate.carve.engine.decide import Group
from foveate.carve.engine.image_state import ImagePlan
from foveate.carve.engine.layer_inputs import LayerInputs
from foveate.carve.engine.left import Left
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.setting import Setting
from foveate.errors import UnsupportedModelError


class OnePass(ABC):
    """Base of the ways in which tokens leave a call.

    Args:
        setting: the run's parts.
        call: what came.
        first_serial: running number of the first image; None: prompts are numbered by content.
        replay: decisions to apply again instead of deciding (generation without a cache).

    Attributes:
        carving: of the visual tokens; None where the call has none.
        used_cache: the KV cache that keys and values went into, None for none.
    """

    def __init__(
        self,
        setting: Setting,
        call: Call,
        *,
        first_serial: int | None,
        replay: Replay | None = None,
    ) -> None:
        self.setting = setting
        self.call = call
        self.replay = replay
        self.carving = (
            Carving(setting, call, first_serial, replay, self._check_before_dropping)
            if call.visual_mask is not None
            else None
        )
        self.used_cache: Any = None
        self._inputs = LayerInputs(
            kernel=str(setting.anatomy.text_config._attn_implementation),
            batch=call.batch,
            length=call.length,
            past=call.past,
            device=call.device,
        )

    @property
    def left(self) -> Left | None:
        """What is left of the new tokens; None for all."""
        return self.carving.left if self.carving is not None else None

    @property
    def fired(self) -> bool:
        """Whether anything was dropped."""
        return self.left is not None

    @property
    def is_prefill(self) -> bool:
        """Whether this call brought a prompt, not a decoded token."""
        return self.carving is not None or self.call.past == 0

    @property
    def groups(self) -> dict[int, list[Group]]:
        return self.carving.groups if self.carving is not None else {}

    @property
    def image_plans(self) -> list[ImagePlan]:
        return self.carving.image_plans if self.carving is not None else []

    def finish(self) -> None:  # noqa: B027 - not every way has something left to do
        """After the last layer."""

    @abstractmethod
    def _check_before_dropping(self, index: int, hidden: Tensor, cache: Any) -> None:
        """Refuse what could come out wrong if tokens were dropped before layer `index`.

        Raises:
            UnsupportedModelError, UnsupportedModeError: in a sentence.
        """

    def _check_placeholders(self) -> None:
        """A pass with visual features must say where they are.

        Raises:
            UnsupportedModelError: features were made for it, and its tokens hold no placeholder.
        """
        call, fresh = self.call, self.setting.recorder.fresh
        if call.visual_mask is None and fresh and call.length > 1 and not call.is_explicit_mask:
            raise UnsupportedModelError(
                f"features of {' and '.join(sorted(fresh))} were computed for this prompt, and "
                f"none of its tokens is a placeholder that {self.setting.anatomy.family.title} is "
                "known for, so nothing would be compressed."
            )
