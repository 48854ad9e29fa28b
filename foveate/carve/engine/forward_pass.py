"""The order of events in one call of an attached model.

The base model's pre-hook makes a ForwardPass, each decoder layer's pre-hook asks it what to change,
the base model's post-hook finishes it. At each layer: what a step drops goes (carving), a prompt
fed again hides what it dropped (replay), then mask, positions and cache are made to agree with the
rows and keys that are left.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from foveate.carve.engine.before_dropping import check_model, check_nothing_added, check_tokens
from foveate.carve.engine.between_layers import BetweenLayers
from foveate.carve.engine.cache import CarvedLayer
from foveate.carve.engine.call import Call
from foveate.carve.engine.carving import Carving
from foveate.carve.engine.counted import check_counted
from foveate.carve.engine.cut_cache import make_ready
from foveate.carve.engine.foresight import Foresight
from foveate.carve.engine.layer_inputs import by_name
from foveate.carve.engine.one_pass import OnePass
from foveate.carve.engine.readers import Readers
from foveate.carve.engine.renumbered import Renumbering
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.residual_streams import ResidualStreams
from foveate.carve.engine.reused_keys import ReusedKeys
from foveate.carve.engine.setting import Setting
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.attachment import bound_arguments
from foveate.models.cache_argument import NAMES as CACHES
from foveate.models.cache_argument import cache_in
from foveate.models.key_sizes import KeySizes, sizes_of


class _Again(NamedTuple):
    """What a layer was called with instead.

    Attributes:
        changes: its inputs that are others.
        staged: what its cache layer was told to expect, see `CarvedLayer.stage`.
        alive: whose ids stand for them.
    """

    changes: dict[str, Any]
    staged: tuple[Any, ...]
    alive: tuple[object, ...]


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
        # Where layers are called with the same objects, the same is called for.
        self._may_repeat = not (
            setting.renumbers or self._reused.is_on or setting.layers.indexed or replay is not None
        )
        self._again: dict[tuple[object, ...], _Again] = {}
        self._between = BetweenLayers(setting.anatomy.family.first_layer(setting.anatomy.config))
        self._given: dict[str, Any] = {}
        self._foresight: Foresight | None = None  # while its inner pass runs
        self._key_sizes: list[KeySizes] = []  # that layers were given, see models.key_sizes

    def enter_decoder(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Told what the decoder is called with, where a step reads ahead."""
        self._given = bound_arguments(self.setting.anatomy.decoder, args, kwargs)

    def enter_layer(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What layer `index` is called with instead; None leaves the call bitwise alone."""
        if self._foresight is not None:
            args, kwargs = by_name(self.setting.anatomy.layers[index], args, kwargs)
            return self._foresight.enter_layer(index, args, kwargs)
        if len(args) > 1:
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
        key = self._key(index, args, kwargs, carved)
        again = self._again.get(key) if key is not None else None
        if again is not None:
            if carved is not None:
                carved.stage(*again.staged)
            return (hidden,), self._given_sizes({**kwargs, **again.changes})
        mask = given = kwargs.get("attention_mask")
        if self.replay is not None and index not in self.setting.layers.stateful:
            mask = self.replay.hide(index, given, self.call, self.setting.steps, self._inputs)
        reuses = self._reused.reuses(index) and self._is_short(cache)
        if not self.fired and carved is None and mask is given and not reuses:
            self._reused.entered(index, None, False, None)
            return None
        called = {**kwargs, "attention_mask": mask}
        if args:
            args = (hidden, *args[1:])
        else:
            called["hidden_states"] = hidden
        if self.fired or carved is not None or reuses:
            held = carved.rows if carved is not None else None
            staged = self._agree(index, hidden, called, carved)
            if key is not None:
                changes = {n: v for n, v in called.items() if n not in kwargs or v is not kwargs[n]}
                self._again[key] = _Again(changes, staged, (kwargs, held, self.left))
        else:
            self._reused.entered(index, None, False, None)
        return args, self._given_sizes(called)

    def _given_sizes(self, called: dict[str, Any]) -> dict[str, Any]:
        """What a layer is called with, and note of sizes that travel with its mask."""
        sizes = sizes_of(called.get("attention_mask"))
        if sizes is not None:
            sizes.num_asked += 1
            self._key_sizes.append(sizes)
        return called

    def _key(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any], carved: CarvedLayer | None
    ) -> tuple[object, ...] | None:
        """What layers have in common that are called with the same instead; None for nothing."""
        if not self._may_repeat or not args or (carved is not None and carved.shift is not None):
            return None
        held = carved.rows if carved is not None else None
        rows: tuple[object, ...] | None = None
        if held is not None:
            rows = (id(held.index), id(held.log_sizes), held.has_empty, held.pieces)
        is_stateful = index in self.setting.layers.stateful
        return (*kwargs, *map(id, kwargs.values()), rows, id(self.left), is_stateful)

    def after_layer(self, output: Any) -> None:
        """Told of what a decoder layer gave."""
        if self.carving is not None and self._foresight is None:
            self._between.left_layer(output)

    def after_attention(self, output: Tensor) -> None:
        """Told of the attention output [B, L, D] of a layer before a step that reads it."""
        if self.carving is not None and self._foresight is None:
            self.carving.attention_output = output

    def finish(self) -> None:
        """After the last layer.

        Raises:
            UnsupportedModelError: a layer paid no heed to the sizes of merged tokens.
        """
        check_counted(self._key_sizes, self.setting.anatomy)
        self._renumbering.finish()

    def _carve(self, carving: Carving, index: int, hidden: Tensor, cache: Any) -> Tensor:
        """What goes into a layer once its step, if any, is done; `hidden` itself if it is all."""
        if self._streams is None:
            self._streams = ResidualStreams(hidden, self.call.batch, self.call.length)
        self._between.enter_layer(index, hidden, self._streams)
        joined = self._streams.joined(hidden)
        if carving.reads_ahead(index):
            self._check_before_dropping(index, joined, cache)
            carving.read_ahead(index, joined, functools.partial(self._read_ahead, index, joined))
        narrowed = carving.enter_layer(index, joined, cache)
        return hidden if narrowed is joined else self._streams.apart(narrowed, hidden)

    def _read_ahead(self, index: int, hidden: Tensor, readers: Readers) -> Tensor:
        """[B, S] attention of the text that reads ahead, for the step at a layer."""
        self._foresight = Foresight(self.setting, self.call, readers, index, hidden, self.left)
        try:
            return self._foresight.read(self._given)
        finally:
            self._foresight = None

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
            self._inputs.narrow_rest(
                kwargs, left.rows, own_topk=index in self.setting.layers.indexed
            )
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
        check_model(self.setting, call, cache, index)
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
    ) -> tuple[Any, ...]:
        """Make mask, positions and cache layer agree with the rows and keys that are left.

        Returns:
            What the cache layer was told to expect, () for none.
        """
        inputs, left, call = self._inputs, self.left, self.call
        is_indexed = index in self.setting.layers.indexed
        query_idx = inputs.query_idx(left.rows if left is not None else None)
        key_idx, has_empty = query_idx, left is not None and left.has_filler
        sizes = left.log_sizes if left is not None else None
        staged: tuple[Any, ...] = ()
        if carved is not None:
            assert carved.rows is not None
            seen, num_new = call.past + call.length, query_idx.shape[1]
            key_idx = inputs.key_idx(carved.index, query_idx)
            num_held = carved.index.shape[1]
            sizes = inputs.key_sizes(carved.rows.log_sizes, sizes, num_held, num_new)
            rows = carved.rows.grown(key_idx, num_new, seen, has_empty, sizes)
            has_empty = rows.has_empty
            staged = (rows, num_new, seen)
            carved.stage(*staged)
        given, num_tokens = kwargs["attention_mask"], query_idx.shape[1]
        if self._reused.reuses(index):
            assert self._streams is not None or left is None
            num_tokens = (self._streams or self._layout(hidden)).num_tokens(hidden)
            self._reused.agree(index, kwargs, left, num_tokens)
        elif index in self.setting.layers.stateful:
            kwargs["attention_mask"] = inputs.padding(given, query_idx, has_empty)
        else:
            mask = inputs.mask(given, query_idx, key_idx, has_empty)
            if sizes is not None:
                mask = inputs.weighed(mask, sizes, query_idx, key_idx, hidden.dtype)
            kwargs["attention_mask"] = mask
            self._reused.entered(index, key_idx, has_empty, left)
        if left is not None and num_tokens == query_idx.shape[1]:
            inputs.narrow_rest(kwargs, left.rows, own_topk=is_indexed)
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
        return staged

    def _layout(self, hidden: Tensor) -> ResidualStreams:
        return ResidualStreams(hidden, self.call.batch, self.call.length)
