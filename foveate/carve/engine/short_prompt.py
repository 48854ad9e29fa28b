"""A prompt that is shortened before its decoder: the decoder runs as it is, on fewer tokens.

Any decoder takes this, whatever its layers and its KV cache are: it is given the embeddings that
are left at their original positions, as vLLM's language model is by foveate's plugin. What a
decoder counts itself (the window of a sliding layer, the blocks of an indexer) it counts in tokens
that are left. Masks that a model makes before its decoder are narrowed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers.cache_utils import Cache

from foveate.carve.engine.before_shortening import check_shortening
from foveate.carve.engine.call import Call
from foveate.carve.engine.carving import Carving
from foveate.carve.engine.decoder_inputs import DecoderInputs
from foveate.carve.engine.layer_inputs import by_name
from foveate.carve.engine.one_pass import OnePass
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.setting import Setting
from foveate.carve.engine.shortened_cache import Slots, held_positions, shorten, slots_of
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.attachment import bound_arguments
from foveate.models.cache_argument import cache_in, cache_of


class ShortPrompt(OnePass):
    """A call whose tokens leave before the decoder.

    Args:
        setting: the run's parts; every step is at layer 0.
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
        self._narrow: DecoderInputs | None = None
        self._has_empty = False
        self._slots: Slots | None = None
        self._given: dict[str, Any] = {}
        self._has_entered = False

    def enter_decoder(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What the decoder is called with instead; None leaves the call bitwise alone.

        Raises:
            UnsupportedModelError, UnsupportedModeError: something could come out wrong.
            CarvedCacheError: the cache cannot be continued.
        """
        call, setting = self.call, self.setting
        if self._has_entered:
            raise UnsupportedModeError(
                "the decoder was called twice in one call of the model, and foveate knows the "
                "prompt of one only; detach first."
            )
        self._has_entered = True
        decoder = setting.anatomy.decoder
        given = self._given = bound_arguments(decoder, args, kwargs)
        cache = self.used_cache = cache_in(given)
        self._check_placeholders()
        embeds = given.get("inputs_embeds")
        if self.carving is not None:
            embeds = self._shorten(self.carving, embeds)
        slots = self._slots = slots_of(cache)
        left = self.left
        if left is None and slots is None:
            return None
        held, has_empty = held_positions(cache, call.batch, call.device)
        has_empty = has_empty or (left is not None and left.has_filler)
        if slots is not None:
            slots.is_inside = True
        rows = left.rows if left is not None else None
        self._narrow = DecoderInputs(self._inputs, rows, held, has_empty, cache)
        out = self._narrow.narrow(given, self.groups.get(0, []))
        self._has_empty = has_empty
        if left is not None:
            out["inputs_embeds"] = embeds
            _tell_length(cache, call.past + call.length, self._narrow.key_idx.shape[1])
        return (), out

    def enter_layer(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Where `counts_places`: position ids become places among the tokens that are left.

        Rotary has its tables by then, of original positions.

        Raises:
            UnsupportedModeError: the layer has none, so that it may make them of the ids.
        """
        args, kwargs = by_name(layer, args, kwargs)
        if self._narrow is None or kwargs.get("position_ids") is None:
            return None
        if kwargs.get("position_embeddings") is None:
            raise UnsupportedModeError(
                f"{type(layer).__name__} is called with position ids and without rotary tables, "
                "and its attention kernel would take gaps between positions for borders of "
                "sequences; load the model with attn_implementation 'sdpa' or 'eager'."
            )
        return args, {**kwargs, "position_ids": self._narrow.places}

    def leave_decoder(self, output: Any) -> None:
        """Told of what the decoder gave, None after an exception.

        Raises:
            UnsupportedModeError: the cache does not hold what it was given.
        """
        cache, slots = self.used_cache, self._slots
        if slots is not None:
            slots.is_inside = False
            slots.is_broken = output is None
        if output is None:
            return
        if cache is None:
            cache = self.used_cache = _cache_in(output)
        if self._narrow is None or cache is None:
            return
        call, index = self.call, self._narrow.key_idx
        if slots is None:
            stored = cache.get_seq_length()
            if not stored and not call.past:  # gradient checkpointing leaves it empty
                self.used_cache = None
                return
            shorten(cache, index, call.past + call.length, has_empty=self._has_empty)
        else:
            slots.is_inside = True
            stored = cache.get_seq_length()
            slots.is_inside = False
            slots.index, slots.seen = index, call.past + call.length
            slots.has_empty = self._has_empty
        if stored != index.shape[1]:
            broken = slots_of(cache)
            assert broken is not None
            broken.is_broken = True
            raise UnsupportedModeError(
                f"the KV cache holds {stored} tokens where {index.shape[1]} were left, so that "
                "positions cannot be kept right; use a plain DynamicCache."
            )

    def _shorten(self, carving: Carving, embeds: Any) -> Any:
        if not isinstance(embeds, Tensor):
            raise UnsupportedModelError(
                f"the decoder of {self.setting.anatomy.family.title} is called without "
                "inputs_embeds, so visual tokens come in where foveate does not see them."
            )
        shorter = carving.enter_layer(0, embeds, None)
        for index in range(1, self.setting.num_layers):
            carving.enter_layer(index, shorter, None)  # no step there: for the report
        return shorter

    def _check_before_dropping(self, index: int, hidden: Tensor, cache: Any) -> None:
        check_shortening(self.setting.anatomy, self.call, cache_in(self._given), hidden)


def _tell_length(cache: Any, length: int, left: int) -> None:
    """Correct layers that were told the prompt's length before they got it: they treat what comes
    behind it otherwise.

    Args:
        length: of the prompt as it was.
        left: of the prompt as it is.
    """
    for layer in getattr(cache, "layers", ()):
        if getattr(layer, "prefill_length", None) == length and not layer.get_seq_length():
            layer.prefill_length = left


def _cache_in(output: Any) -> Cache | None:
    """The KV cache that a decoder made itself."""
    if isinstance(output, (tuple, list)):
        return next((part for part in output if isinstance(part, Cache)), None)
    return cache_of(output)
