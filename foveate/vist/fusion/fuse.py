"""Hooks that let an unmodified decoder read a prefix; raw text rows are all that passes through.

In the prefix form each self-attention is handed the memory's keys and values in front of its own,
a mask with columns for them, and rotary tables in which text after the memory stands further on. A
dynamic KV cache takes the memory in at its first pass (memory_cache.py), and a decoded token then
costs what it costs in a plain longer cache. Other caches, and passes without one, keep raw text
only, and the memory is put in front at every pass. In the cross-attention form what a layer's
self-attention returns is raised by the added module's output.
"""

from __future__ import annotations

import functools
import threading
import uuid
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from foveate.errors import InputError, UnsupportedModeError
from foveate.models.anatomy import Anatomy
from foveate.models.attachment import bound_arguments
from foveate.models.cache_argument import cache_in, cache_name
from foveate.models.hook import hook_after, hook_before
from foveate.models.masks import is_flash
from foveate.vist.fusion.fusion import Fusion, PrefixCache
from foveate.vist.fusion.memory_cache import MemoryRows, announce, can_hold, put_memory
from foveate.vist.fusion.text_pass import TextPass, widened


class _Now(threading.local):
    """What runs in a thread: the pass, and whether its prefix is being asked for."""

    text: TextPass | None = None
    is_asking: bool = False


class Fuser:
    """Puts the hooks on, and takes them off without a trace.

    Args:
        anatomy: of the decoder.
        fusion: trained modules.
        prefix_for: asked at every pass for what its rows read: a prefix, or what the cache holds
            (`TextPass.held`) to read on; None leaves the pass alone.

    Attributes:
        name: of this reader; a cache says by it whose memory it holds.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        fusion: Fusion,
        prefix_for: Callable[[TextPass], PrefixCache | MemoryRows | None],
    ) -> None:
        self.anatomy = anatomy
        self.fusion = fusion
        self.prefix_for = prefix_for
        self.name = uuid.uuid4().hex
        self._handles: list[RemovableHandle] = []
        self._here = _Now()

    def __enter__(self) -> Fuser:
        self.install()
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def install(self) -> None:
        """Raises UnsupportedModeError where the attention kernel cannot mask a prefix."""
        if self.fusion.prefix is not None:
            self._check_kernel()
        base = self.anatomy.base
        try:
            add = self._handles.append
            add(hook_before(base, self._before_base))
            add(hook_after(base, self._after_base, always=True))
            for i, layer in enumerate(self.anatomy.layers):
                if self.fusion.prefix is not None:
                    hook = functools.partial(self._before_attention, i)
                    add(hook_before(layer.self_attn, hook))
                elif str(i) in self.fusion.cross:
                    after = functools.partial(self._after_attention, i)
                    add(hook_before(layer, self._before_layer))
                    add(hook_after(layer.self_attn, after, with_kwargs=True))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Restore the decoder exactly. Harmless if nothing is installed."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._here.text = None

    def _check_kernel(self) -> None:
        kernel = str(self.anatomy.text_config._attn_implementation)
        if is_flash(kernel) or kernel not in ("sdpa", "eager"):
            raise UnsupportedModeError(
                f"attention {kernel!r} cannot hide a memory from the text before it; load the "
                "model with attn_implementation 'sdpa' or 'eager', or use a cross-attention Vist."
            )

    # --- a pass ---

    def _before_base(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]] | None:
        if self._here.is_asking:
            return None  # the prefix itself is being computed
        text = TextPass.of(bound_arguments(module, args, kwargs))
        self._here.is_asking = True
        try:
            prefix = self.prefix_for(text)
        finally:
            self._here.is_asking = False
        self._here.text = text if prefix is not None else None
        if prefix is None:
            return None
        if prefix.num_rows != text.batch:
            raise InputError(
                f"the prefix has {prefix.num_rows} rows and the batch {text.batch}; give one "
                "memory for each row."
            )
        if self.fusion.prefix is None:
            assert isinstance(prefix, PrefixCache)
            text.prefix = prefix
            return None
        if isinstance(prefix, PrefixCache):
            text.prefix = prefix
            text.place(MemoryRows.of(prefix, self.name, text.positions.device))
            return None
        text.place(prefix)
        # The model's own rotary tables are right with these. Not so without text in the cache:
        # positions that jump would be taken for several packed texts there.
        inputs = {name: value for name, value in text.inputs.items() if name != "self"}
        return (), {**inputs, "position_ids": text.positions}

    def _after_base(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._here.is_asking:
            self._here.text = None

    # --- the prefix form ---

    def _before_attention(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        text = self._here.text
        if text is None or self._here.is_asking:
            return None
        cache = cache_in(kwargs)
        kwargs = {
            **kwargs,
            "attention_mask": self._widen(text, kwargs.get("attention_mask"), cache, index),
        }
        if text.prefix is None:
            announce(cache, index)
            return args, kwargs
        if text.rotary is None:
            hidden = args[0] if args else kwargs["hidden_states"]
            text.rotary = self.anatomy.base.rotary_emb(hidden, text.positions)
            text.puts = not text.past and can_hold(cache)
        kwargs["position_embeddings"] = text.rotary
        keys, values = text.prefix.keys[index], text.prefix.values[index]
        if text.puts:
            assert text.rows is not None
            assert text.after is not None
            put_memory(
                cache, index, keys, values, text.rows.looked_at(text.after) if not index else None
            )
            announce(cache, index)
        else:
            kwargs[cache_name(module)] = _WithMemory(cache, keys, values)
        return args, kwargs

    def _widen(self, text: TextPass, mask: Any, cache: Any, index: int) -> Tensor | None:
        """The layer's mask with columns for the latents in front, made once for each mask."""
        if mask is None and text.sees_all:
            return None
        # Layers that share a mask share its width; without one a sliding cache may hold fewer.
        columns = (text.length, 0)
        if mask is None and cache is not None:
            columns = cache.get_mask_sizes(text.length, index)
        key = (id(mask), *columns)
        if key not in text.masks:
            text.masks[key] = (mask, widened(mask, text, *columns))
        return text.masks[key][1]

    # --- the cross-attention form ---

    def _before_layer(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self._here.text is not None and not self._here.is_asking:
            self._here.text.residual = args[0] if args else kwargs["hidden_states"]

    def _after_attention(
        self, index: int, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any
    ) -> Any:
        text = self._here.text
        if text is None or self._here.is_asking:
            return None
        assert text.prefix is not None
        assert text.residual is not None
        cross = self.fusion.cross[str(index)]
        x = text.residual + output[0]
        delta = cross(
            x.to(cross.o_proj.weight.dtype),
            text.prefix.keys[index],
            text.prefix.values[index],
            text.prefix.mask,
            kwargs["position_embeddings"],
        )
        text.residual = None
        return (output[0] + delta.to(output[0].dtype), *output[1:])


class _WithMemory:
    """Stands before a layer's KV cache: what comes back has the memory in front of the text."""

    def __init__(self, cache: Any, keys: Tensor, values: Tensor) -> None:
        self._cache = cache
        self._keys, self._values = keys, values

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._cache is not None:
            keys, values = self._cache.update(keys, values, *args, **kwargs)
        return (
            torch.cat([self._keys.to(keys), keys], dim=2),
            torch.cat([self._values.to(values), values], dim=2),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)
