"""The order of events in one call of an attached model.

The base model's pre-hook makes a ForwardPass, each decoder layer's pre-hook asks it what to change,
the base model's post-hook finishes it. At each layer: what a step drops goes (carving), a prompt
fed again hides what it dropped (replay), then mask, positions and cache are made to agree with the
rows and keys that are left.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from foveate.carve.engine.before_dropping import check_model, check_nothing_added, check_tokens
from foveate.carve.engine.between_layers import BetweenLayers
from foveate.carve.engine.cache import CarvedLayer
from foveate.carve.engine.call import Call
from foveate.carve.engine.carving import Carving, make_ready
from foveate.carve.engine.layer_inputs import by_name
from foveate.carve.engine.one_pass import OnePass
from foveate.carve.engine.renumbered import Renumbering
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.residual_streams import ResidualStreams
from foveate.carve.engine.reused_keys import ReusedKeys
from foveate.carve.engine.setting import Setting
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.cache_argument import NAMES as CACHES
from foveate.models.cache_argument import cache_in


class ForwardPass(OnePass):
    """A call whose tokens leave between decoder layers.

    Args:
        setting: the run's parts.
        call: what came.
        first_serial: running number of the first image; None: prompts are numbered by content.
        replay: decisions to apply again instead of deciding (generation without a cache).
    """

    def __init__(
        self,
        setting: Setting,
        call: Call,
        *,
        first_serial: int | None,
        replay: Replay | None = None,
    ) -> None:
        super().__init__(setting, call, first_serial=first_serial, replay=replay)
        if self.carving is not None:
            make_ready(call)
        self._renumbering = Renumbering(setting.anatomy, self._inputs, is_on=setting.renumbers)
        self._reused = ReusedKeys(setting.anatomy, self._inputs)
        self._streams: ResidualStreams | None = None
        self._between = BetweenLayers(setting.anatomy.family.first_layer(setting.anatomy.config))

    def enter_layer(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What layer `index` is called with instead; None leaves the call bitwise alone."""
        args, kwargs = by_name(self.setting.anatomy.layers[index], args, kwargs)
        hidden = args[0] if args else kwargs["hidden_states"]
        cache = self.used_cache = cache_in(kwargs)
        if index == 0:
            self._check_placeholders()
        if self.carving is not None:
            carving = self.carving
            if carving.looks_ahead(index):
                carving.see_ahead(index, self._before_step(index, hidden, kwargs))
            if carving.debiases(index, ahead=True):
                self._see_dummies(carving, index, hidden, kwargs)
            hidden = self._carve(carving, index, hidden, cache)
            if carving.debiases(index, ahead=False):
                self._see_dummies(carving, index, hidden, kwargs)
        layer = cache.layers[index] if cache is not None and index < len(cache.layers) else None
        carved = layer if isinstance(layer, CarvedLayer) else None
        mask = given = kwargs.get("attention_mask")
        if self.replay is not None and not self.setting.anatomy.is_stateful(index):
            mask = self.replay.hide(index, given, self.call, self.setting.steps, self._inputs)
        reuses = self._reused.reuses(index) and self._is_short(cache)
        if not self.fired and carved is None and mask is given and not reuses:
            self._reused.entered(index, None, False, None)
            return None
        kwargs = {**kwargs, "attention_mask": mask}
        if args:
            args = (hidden, *args[1:])
        else:
            kwargs["hidden_states"] = hidden
        if self.fired or carved is not None or reuses:
            self._agree(index, hidden, kwargs, carved)
        else:
            self._reused.entered(index, None, False, None)
        return args, kwargs

    def after_layer(self, output: Any) -> None:
        """Told of what a decoder layer gave."""
        if self.carving is not None:
            self._between.left_layer(output)

    def after_attention(self, output: Tensor) -> None:
        """Told of the attention output [B, L, D] of a layer before a step that reads it."""
        if self.carving is not None:
            self.carving.attention_output = output

    def finish(self) -> None:
        """After the last layer."""
        self._renumbering.finish()

    def _carve(self, carving: Carving, index: int, hidden: Tensor, cache: Any) -> Tensor:
        """What goes into a layer once its step, if any, is done; `hidden` itself if it is all."""
        if self._streams is None:
            self._streams = ResidualStreams(hidden, self.call.batch, self.call.length)
        self._between.enter_layer(index, hidden, self._streams)
        joined = self._streams.joined(hidden)
        narrowed = carving.enter_layer(index, joined, cache)
        return hidden if narrowed is joined else self._streams.apart(narrowed, hidden)

    def _before_step(self, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> Callable[[], Any]:
        """Runs a layer on what is left before its step, without a cache or a mask.

        Raises:
            UnsupportedModelError: it attends with the keys of another layer.
        """
        anatomy, left = self.setting.anatomy, self.left
        if self._reused.reuses(index):
            raise UnsupportedModelError(
                f"the method ranks tokens by the attention of layer {index}, which attends with "
                "keys of a layer before it; choose an earlier prune_layer, or ranks_by='before' "
                "with attention_scores='plain'."
            )
        kwargs = {**kwargs, "attention_mask": None, **{n: None for n in CACHES if n in kwargs}}
        kwargs.pop("hidden_states", None)
        if left is not None:
            has_indexer = getattr(anatomy.attention_of(index), "indexer", None) is not None
            self._inputs.narrow_rest(kwargs, left.rows, own_topk=has_indexer)
            shift = self._renumbering.shift(index, None, left)
            if shift is not None:
                self._renumbering.apply(hidden, kwargs, shift)
        # Past the hooks, this run's among them: for them the layer has not begun.
        return functools.partial(anatomy.layers[index].forward, hidden, **kwargs)

    def _see_dummies(
        self, carving: Carving, index: int, hidden: Tensor, kwargs: dict[str, Any]
    ) -> None:
        """Read a layer's attention to images without content."""
        streams = self._streams or self._layout(hidden)
        dummies = streams.apart(carving.without_content(streams.joined(hidden)), hidden)
        carving.see_dummies(index, self._before_step(index, dummies, kwargs))

    def _check_before_dropping(self, index: int, hidden: Tensor, cache: Any) -> None:
        """Refuse what could come out wrong if tokens were dropped before layer `index`.

        Raises:
            UnsupportedModelError, UnsupportedModeError: in a sentence.
        """
        anatomy, call, left = self.setting.anatomy, self.call, self.left
        assert self._streams is not None
        self._streams.check()
        check_model(anatomy, call, cache, index)
        check_tokens(call, index, hidden, call.length if left is None else left.rows.shape[1])
        check_nothing_added(anatomy, self._between.changed)
        keeps_early = self.setting.steps[index].method.early_cache == "full"
        if keeps_early and cache is not None and self._reused.reused_across(index):
            raise UnsupportedModeError(
                f"layers from {index} on attend with keys of layers before it, where "
                "early_cache='full' keeps dropped tokens; use early_cache='compact'."
            )

    def _is_short(self, cache: Any) -> bool:
        """Whether this pass or one before dropped tokens."""
        layers = cache.layers if cache is not None else ()
        return self.fired or any(isinstance(layer, CarvedLayer) for layer in layers)

    def _agree(
        self, index: int, hidden: Tensor, kwargs: dict[str, Any], carved: CarvedLayer | None
    ) -> None:
        """Make mask, positions and cache layer agree with the rows and keys that are left."""
        inputs, left, call, anatomy = self._inputs, self.left, self.call, self.setting.anatomy
        query_idx = inputs.query_idx(left.rows if left is not None else None)
        key_idx, has_empty = query_idx, left is not None and left.has_filler
        sizes = left.log_sizes if left is not None else None
        if carved is not None:
            assert carved.rows is not None
            seen, num_new = call.past + call.length, query_idx.shape[1]
            key_idx = inputs.key_idx(carved.index, query_idx)
            num_held = carved.index.shape[1]
            sizes = inputs.key_sizes(carved.rows.log_sizes, sizes, num_held, num_new)
            rows = carved.rows.grown(key_idx, num_new, seen, has_empty, sizes)
            has_empty = rows.has_empty
            carved.stage(rows, num_new, seen)
        given, num_tokens = kwargs["attention_mask"], query_idx.shape[1]
        if self._reused.reuses(index):
            assert self._streams is not None or left is None
            num_tokens = (self._streams or self._layout(hidden)).num_tokens(hidden)
            self._reused.agree(index, kwargs, left, num_tokens)
        elif anatomy.is_stateful(index):
            kwargs["attention_mask"] = inputs.padding(given, query_idx, has_empty)
        else:
            mask = inputs.mask(given, query_idx, key_idx, has_empty)
            if sizes is not None:
                mask = inputs.weighed(mask, sizes, query_idx, key_idx, hidden.dtype)
            kwargs["attention_mask"] = mask
            self._reused.entered(index, key_idx, has_empty, left)
        if left is not None and num_tokens == query_idx.shape[1]:
            has_indexer = getattr(anatomy.attention_of(index), "indexer", None) is not None
            inputs.narrow_rest(kwargs, left.rows, own_topk=has_indexer)
        shift = self._renumbering.shift(index, carved, left)
        if shift is not None:
            if self._reused.is_on:
                raise UnsupportedModeError(
                    "positions='renumbered' would move queries away from keys that later layers "
                    "reuse; use positions='original'."
                )
            self._renumbering.apply(hidden, kwargs, shift)
        if left is not None or shift is not None:
            inputs.spare_flash(kwargs)

    def _layout(self, hidden: Tensor) -> ResidualStreams:
        return ResidualStreams(hidden, self.call.batch, self.call.length)
