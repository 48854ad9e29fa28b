"""The report of one pass: what was kept of each image, and what that saved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.carve.engine.cache_kinds import cache_bytes
from foveate.carve.engine.image_state import ImagePlan
from foveate.carve.engine.one_pass import OnePass
from foveate.carve.engine.setting import Setting
from foveate.carve.engine.shortened_cache import slots_of
from foveate.core.plan import num_merged
from foveate.core.report import ImageReport, Report


def pass_report(forward: OnePass) -> Report:
    """What a prefill did.

    Args:
        forward: after its last layer.
    """
    setting, carving, plans = forward.setting, forward.carving, forward.image_plans
    images = _image_reports(setting, plans, forward.call.rows_per_prompt)
    reason = ""
    if carving is None:
        reason = "no visual tokens in the prompt, left bitwise alone"
    elif not forward.fired:
        reason = "the budget keeps every visual token, left bitwise alone"
        remarks = dict.fromkeys(entry.remark for entry in images if entry.remark)
        if remarks:
            reason = "; ".join([*remarks, "left bitwise alone"])
    cache, labels = forward.used_cache, forward.call.labels
    held, full = cache_bytes(cache) if cache is not None else (None, None)
    return Report(
        method=setting.label,
        fired=forward.fired,
        reason=reason,
        images=images,
        prune_layer=setting.prune_layer,
        num_layers=setting.num_layers,
        length_before=forward.call.past + forward.call.length,
        length_after=_length_after(forward),
        kv_bytes=held,
        kv_bytes_uncompressed=full,
        select_seconds=carving.clock if carving is not None else 0.0,
        tokens_per_layer=tuple(
            count / max(1, len(plans) * forward.call.rows_per_prompt)
            for count in (carving.visual_per_layer if carving is not None else ())
        ),
        ahead_tokens=sum(carving.spent) / max(1, len(plans)) if carving is not None else 0.0,
        num_unread=carving.num_unread if carving is not None else 0,
        rows_per_layer=tuple(carving.length_per_layer) if carving is not None else (),
        num_labels=labels.num_left if labels is not None and labels.is_training else None,
        num_labels_dropped=labels.num_dropped if labels is not None else 0,
        notes=tuple(
            dict.fromkeys(note for entry in plans if entry.plan for note in entry.plan.notes)
        ),
    )


def _image_reports(
    setting: Setting, plans: Sequence[ImagePlan], rows_per_prompt: int
) -> tuple[ImageReport, ...]:
    merged = [num_merged(entry.steps) for entry in plans]
    on_device = [count for count in merged if isinstance(count, Tensor)]
    if on_device:  # what was merged and then dropped is known there alone: read once for all
        read = iter(torch.stack(on_device).tolist())
        merged = [next(read) if isinstance(count, Tensor) else count for count in merged]
    return tuple(
        ImageReport(
            sample=entry.span.sample // rows_per_prompt,
            image=entry.span.image,
            kind=entry.span.kind,
            before=entry.span.num_tokens,
            kept=entry.num_kept,
            merged=int(count),
            dropped=entry.span.num_tokens - entry.num_kept - int(count),
            budget=entry.budget,
            frames=len(entry.span.frames.lengths) if entry.span.frames is not None else 0,
            remark="; ".join(
                remark
                for step in setting.steps.values()
                if (remark := step.method.remark(entry.span.num_tokens, entry.span.frames))
            ),
        )
        for entry, count in zip(plans, merged, strict=True)
    )


def _length_after(forward: OnePass) -> int:
    call, left = forward.call, forward.left
    slots = slots_of(forward.used_cache)
    if slots is not None:
        return slots.index.shape[1]
    if left is None:
        return call.past + call.length
    old = 0
    if call.cache is not None and call.past:
        # Layers with a state, or with another one's keys, hold no token of their own.
        held = [layer for layer in call.cache.layers if getattr(layer, "keys", None) is not None]
        old = held[-1].keys.shape[-2] - left.rows.shape[1] if held else 0
    return old + left.rows.shape[1]
