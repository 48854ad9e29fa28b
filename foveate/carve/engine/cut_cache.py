"""A KV cache at a step: made ready for shorter keys, and cut where early layers held more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicSlidingWindowLayer

from foveate.carve.engine.cache import CarvedLayer
from foveate.carve.engine.cache_kinds import carved_form, ensure_layers, same_rows
from foveate.carve.engine.call import Call
from foveate.carve.engine.left import Left
from foveate.core.layout import PAD, kept_rows


def make_ready(call: Call) -> None:
    """Prepare the cache of a call before the decoder builds its masks."""
    if call.cache is None:
        return
    same = same_rows(call.batch, call.device)
    # A plain sliding layer reports a windowed length; masks must be made for the full one.
    for i, layer in enumerate(getattr(call.cache, "layers", ())):
        if isinstance(layer, CarvedLayer) and layer.rows is None:  # it was reset
            layer.rows = same(0, 0)
        elif call.past and type(layer) is DynamicSlidingWindowLayer:
            call.cache.layers[i] = carved_form(layer, same)


def cut_cache(
    cache: Any, num_layers: int, num_early: int, call: Call, before: Left | None, left: Left
) -> None:
    """Make every cache layer ready for short K/V; cut what early layers already hold.

    Args:
        cache: of the call.
        num_layers: of the decoder.
        num_early: layers that are cut: those before the step, or none.
        call: whose tokens they are.
        before, left: what there was before the step, and after it.
    """
    ensure_layers(cache, num_layers)
    same = same_rows(call.batch, left.keep_mask.device)
    cut: dict[int, _Cut] = {}
    for i in range(num_layers):
        layer = carved_form(cache.layers[i], same)
        if layer is None:
            continue
        cache.layers[i] = layer
        if i < num_early:
            held = layer.index
            if id(held) not in cut:
                cut[id(held)] = _cut(layer, call, before, left)
            done = cut[id(held)]
            layer.retain(done.slots, has_empty=done.has_empty, index=done.index)


def _cut(layer: CarvedLayer, call: Call, before: Left | None, left: Left) -> _Cut:
    """What a step leaves of a cache layer."""
    rows, past = layer.rows, call.past
    assert rows is not None
    is_whole = rows.is_whole and rows.index.shape[1] == call.length
    if not past and (rows.index is before.rows if before is not None else is_whole):
        return _Cut(rows.index, left.places, left.has_filler, left.rows)
    # By position, not by slot: a sliding layer holds only its last tokens.
    held = rows.index.to(left.keep_mask.device)
    is_old = (held != PAD) & (held < past)
    is_kept = left.keep_mask.gather(1, (held - past).clamp_min(0))
    stays = is_old | (is_kept & (held >= past))
    counts = stays.sum(dim=1).tolist()
    return _Cut(rows.index, kept_rows(stays, max(counts)), min(counts) != max(counts))


@dataclass(frozen=True, eq=False)
class _Cut:
    """What is left of cache layers that held the same: the positions `held` (so that no other
    tensor gets its id), the slots that stay, whether PAD is among them, their positions if known.
    """

    held: Tensor
    slots: Tensor
    has_empty: bool
    index: Tensor | None = None
