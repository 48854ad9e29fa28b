"""The order of events in one call of an attached model.

The base model's pre-hook makes a ForwardPass, each decoder layer's pre-hook asks it what to change,
the base model's post-hook finishes it. At each layer: what a step drops goes (carving), a prompt
fed again hides what it dropped (replay), then mask, positions and cache are made to agree with the
rows and keys that are left.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.carve.engine.cache import CarvedLayer
from foveate.carve.engine.call import Call
from foveate.carve.engine.carving import Carving, Left
from foveate.carve.engine.decide import Group, ImagePlan
from foveate.carve.engine.layer_inputs import LayerInputs
from foveate.carve.engine.renumbered import Renumbering
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.setting import Setting


class ForwardPass:
    """One call of the base model, from its first hook to its last.

    Args:
        setting: the run's parts.
        call: what came.
        first_serial: running number of the first image; None: prompts are numbered by content.
        replay: decisions to apply again instead of deciding (generation without a cache).

    Attributes:
        carving: of the visual tokens; None where the call has none.
        used_cache: the KV cache the layers were given, None for none.
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
            Carving(setting, call, first_serial, replay) if call.visual_mask is not None else None
        )
        self.used_cache: Any = None
        self._inputs = LayerInputs(
            kernel=str(setting.anatomy.text_config._attn_implementation),
            batch=call.batch,
            length=call.length,
            past=call.past,
            device=call.device,
        )
        self._renumbering = Renumbering(setting.anatomy, self._inputs, is_on=setting.renumbers)

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

    def enter_layer(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What layer `index` is called with instead; None leaves the call bitwise alone."""
        hidden = args[0] if args else kwargs["hidden_states"]
        cache = self.used_cache = kwargs.get("past_key_values")
        if self.carving is not None:
            hidden = self.carving.enter_layer(index, hidden, cache)
        layer = cache.layers[index] if cache is not None and index < len(cache.layers) else None
        carved = layer if isinstance(layer, CarvedLayer) else None
        mask = given = kwargs.get("attention_mask")
        if self.replay is not None:
            mask = self.replay.hide(index, given, self.call, self.setting.steps, self._inputs)
        if not self.fired and carved is None and mask is given:
            return None
        kwargs = {**kwargs, "attention_mask": mask}
        if args:
            args = (hidden, *args[1:])
        else:
            kwargs["hidden_states"] = hidden
        if self.fired or carved is not None:
            self._agree(index, hidden, kwargs, carved)
        return args, kwargs

    def after_attention(self, output: Tensor) -> None:
        """Told of the attention output [B, L, D] of a layer before a step that reads it."""
        if self.carving is not None:
            self.carving.attention_output = output

    def finish(self) -> None:
        """After the last layer."""
        self._renumbering.finish()

    def _agree(
        self, index: int, hidden: Tensor, kwargs: dict[str, Any], carved: CarvedLayer | None
    ) -> None:
        """Make mask, positions and cache layer agree with the rows and keys that are left."""
        inputs, left, call = self._inputs, self.left, self.call
        query_idx = inputs.query_idx(left.rows if left is not None else None)
        key_idx, has_empty = query_idx, left is not None and left.has_filler
        if carved is not None:
            carved.has_empty |= has_empty
            has_empty = carved.has_empty
            assert carved.index is not None
            key_idx = inputs.key_idx(carved.index, query_idx)
            carved.stage(key_idx, query_idx, call.past + call.length)
        kwargs["attention_mask"] = inputs.mask(
            kwargs["attention_mask"], query_idx, key_idx, has_empty
        )
        if left is not None:
            inputs.narrow_positions(kwargs, left.rows)
        shift = self._renumbering.shift(index, carved, left)
        if shift is not None:
            self._renumbering.apply(hidden, kwargs, shift)
        if left is not None or shift is not None:
            inputs.spare_flash(kwargs)
