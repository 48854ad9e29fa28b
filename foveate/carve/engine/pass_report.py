"""The report of one pass: what was kept of each image, and what that saved."""

from __future__ import annotations

from foveate.carve.engine.cache_kinds import cache_bytes
from foveate.carve.engine.decide import ImagePlan
from foveate.carve.engine.one_pass import OnePass
from foveate.carve.engine.shortened_cache import slots_of
from foveate.core.report import ImageReport, Report


def pass_report(forward: OnePass) -> Report:
    """What a prefill did.

    Args:
        forward: after its last layer.
    """
    setting, carving, plans = forward.setting, forward.carving, forward.image_plans
    reason = ""
    if carving is None:
        reason = "no visual tokens in the prompt, left bitwise alone"
    elif not forward.fired:
        reason = "the budget keeps every visual token, left bitwise alone"
    cache, labels = forward.used_cache, forward.call.labels
    held, full = cache_bytes(cache) if cache is not None else (None, None)
    return Report(
        method=str(setting.method),
        fired=forward.fired,
        reason=reason,
        images=tuple(_image_report(entry, forward.call.rows_per_prompt) for entry in plans),
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
        rows_per_layer=tuple(carving.length_per_layer) if carving is not None else (),
        num_labels=labels.num_left if labels is not None and labels.is_training else None,
        num_labels_dropped=labels.num_dropped if labels is not None else 0,
    )


def _image_report(image_plan: ImagePlan, rows_per_prompt: int) -> ImageReport:
    span, plan = image_plan.span, image_plan.plan
    return ImageReport(
        sample=span.sample // rows_per_prompt,
        image=span.image,
        kind=span.kind,
        before=span.num_tokens,
        kept=plan.num_kept if plan else span.num_tokens,
        merged=plan.num_merged if plan else 0,
        dropped=plan.num_dropped if plan else 0,
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
