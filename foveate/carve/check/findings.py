"""The single checks of a twin; each returns nothing, or raises with a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.carve.check.before import before_logits
from foveate.carve.check.layer_calls import changed_layers, has_attention, has_states
from foveate.carve.check.masked import Image, masked_logits
from foveate.carve.check.prompts import Prompts, fresh
from foveate.carve.check.short import short_logits
from foveate.carve.check.way import IN_LLM, Way
from foveate.carve.engine.run import Run
from foveate.carve.method import Method
from foveate.carve.methods.divprune import DivPrune
from foveate.models.anatomy import Anatomy
from foveate.models.derive import decoder_of
from foveate.models.twin_rules import FIRST_SPECIAL_ID

RAGGED = (1, 2, 0)
# Of the logits' scale: between two orders of summation in float32.
TOLERANCE = 2e-5
# What the slow path must differ by from the untouched model, or it could not fail.
GAP = 1e-4


class BrokenError(Exception):
    """A check that does not hold; the message is the sentence."""


def oracle_of(anatomy: Anatomy) -> str:
    """Which slow path a decoder is held to."""
    return "short" if has_states(anatomy.decoder) else "masked"


def equals_slow_path(
    prompts: Prompts, items: Sequence[int], *, method: Method | None = None, way: Way = IN_LLM
) -> None:
    """Five greedy tokens of a carved prompt have the slow path's logits, and a shorter cache."""
    inputs = prompts.batch(items)
    length = inputs["input_ids"].shape[1]
    with way.run(prompts.model, method or _method(prompts, way, keep_ratio=0.4)) as run:
        out = prompts.generate(inputs)
    _fired(run)
    carved = torch.stack(out.logits, dim=1)[..., :FIRST_SPECIAL_ID]
    longer = prompts.longer(inputs, out.sequences[:, :-1])
    images = _images(run)
    slow, plain = (
        _slow(prompts, longer, hidden, run, length, carved.shape[1]) for hidden in (images, [])
    )
    shown = torch.tensor(items) > 0
    gap = float((slow - plain)[shown].abs().max())
    if gap < GAP:
        raise BrokenError(f"the slow path differs by {gap:.1e} only from the untouched model.")
    if slow.shape[0] > 1 and not _is_close(carved, slow):
        same = _agrees_with_itself(prompts, inputs, run)
        carved, slow = carved[same], slow[same]
    _close(carved, slow, TOLERANCE, "carved logits differ from the slow path")


def _agrees_with_itself(prompts: Prompts, inputs: dict[str, Any], run: Run) -> Tensor:
    """Where the plain model gives with a cache what it gives without one, [B, steps] bool.

    Kosmos-2 counts a row's padding among the places of generated tokens, but only with a cache.

    Raises:
        BrokenError: not even for the prompt itself.
    """
    length = inputs["input_ids"].shape[1]
    out = prompts.generate(inputs)
    cached = torch.stack(out.logits, dim=1)[..., :FIRST_SPECIAL_ID]
    longer = prompts.longer(inputs, out.sequences[:, :-1])
    whole = _slow(prompts, longer, [], run, length, cached.shape[1])
    gaps = (cached - whole).abs().amax(dim=-1) / max(1.0, float(whole.abs().max()))
    if float(gaps[:, 0].max()) > TOLERANCE:
        raise BrokenError("the plain model's batch differs from its own pass without a cache.")
    return gaps <= TOLERANCE


def _method(prompts: Prompts, way: Way, **budget: float) -> Method:
    """The way's own; in the decoder at its usual layer, or behind the first that can be read."""
    if way is not IN_LLM:
        return way.method(**budget)  # type: ignore[arg-type]
    anatomy = prompts.anatomy
    decoder: Any = decoder_of(anatomy.model)
    reads = [i for i in range(len(decoder.layers)) if has_attention(decoder, i)]
    usual = way.method(**budget).default_layer  # type: ignore[arg-type]
    least = max(usual, anatomy.family.first_layer(anatomy.config))
    layer = max(least, reads[0] + 1 if reads else 0)
    return way.method(prune_layer=layer, **budget)  # type: ignore[arg-type]


def before_layer_zero(prompts: Prompts) -> None:
    """Dropping tokens at the first layer that allows it equals the slow path as well."""
    first = prompts.anatomy.family.first_layer(prompts.anatomy.config)
    equals_slow_path(prompts, (1,), method=DivPrune(keep_ratio=0.4, prune_layer=first))


def keeping_all_is_bitwise(prompts: Prompts, way: Way = IN_LLM) -> None:
    """With ratio 1.0 the logits are those of the plain model, bit by bit."""
    inputs = prompts.batch(RAGGED)
    plain = prompts.generate(inputs)
    with way.run(prompts.model, _method(prompts, way, keep_ratio=1.0)) as run:
        kept = prompts.generate(inputs)
    if run.report is None:
        raise BrokenError("the model's pass went by the hooks: there is no report.")
    if run.report.fired:
        raise BrokenError("something was dropped although everything may be kept.")
    _bitwise(plain, kept, "keeping everything changes the logits")


def text_only_is_bitwise(prompts: Prompts, way: Way = IN_LLM) -> None:
    """Prompts without images are untouched, bit by bit."""
    inputs = prompts.batch((0, 0))
    plain = prompts.generate(inputs)
    with way.run(prompts.model, _method(prompts, way, keep_tokens=2)) as run:
        carved = prompts.generate(inputs)
    if run.report is not None and run.report.fired:
        raise BrokenError("something was dropped from a prompt without images.")
    _bitwise(plain, carved, "a prompt without images gets other logits")


def rows_are_their_own_runs(prompts: Prompts, way: Way = IN_LLM) -> None:
    """Every row of a ragged batch keeps what it keeps alone, and has the same logits."""
    plain = prompts.generate(prompts.batch(RAGGED))
    noise = 0.0
    for row in range(len(RAGGED)):
        alone = prompts.generate(prompts.alone(RAGGED, row))
        noise = max(noise, _row_gap(plain, alone, row))
    with way.run(prompts.model, _method(prompts, way, keep_ratio=0.4)) as run:
        batch = prompts.generate(prompts.batch(RAGGED))
        _fired(run)
        together = _kept(run)
        for row, count in enumerate(RAGGED):
            alone = prompts.generate(prompts.alone(RAGGED, row))
            own = _kept(run) if count else []
            if count and [kept for of, kept in own] != [k for of, k in together if of == row]:
                raise BrokenError(
                    f"row {row} of a batch keeps other tokens than alone (the plain model's own "
                    f"rows differ from their runs by {noise:.1e} of the scale)."
                )
            gap, most = _row_gap(batch, alone, row), max(TOLERANCE, 2 * noise)
            if gap > most:
                raise BrokenError(
                    f"row {row} of a batch differs from its own run by {gap:.1e} of the scale "
                    f"(the plain model: {noise:.1e})."
                )


def features_enter_early_enough(prompts: Prompts) -> None:
    """Nothing is added between layers behind the first one that may be short."""
    anatomy = prompts.anatomy
    first = anatomy.family.first_layer(anatomy.config)
    decoder: Any = decoder_of(anatomy.model)
    before: dict[str, Tensor] = {}
    changed: list[int] = []

    def look(index: int, hidden: Tensor, given: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        last = before.get("output")
        if last is not None and not (last.shape == hidden.shape and torch.equal(last, hidden)):
            changed.append(index)
        return hidden, given

    def remember(module: Any, args: Any, output: Any) -> None:
        before["output"] = output[0] if isinstance(output, tuple) else output

    handles = [layer.register_forward_hook(remember) for layer in decoder.layers]
    try:
        with changed_layers(decoder, look), torch.no_grad():
            prompts.model(**fresh(prompts.batch((1,))))
    finally:
        for handle in handles:
            handle.remove()
    if changed and max(changed) > first:
        raise BrokenError(
            f"something enters the decoder before layer {max(changed)}, behind layer {first}, the "
            "first that may run short."
        )


def _slow(
    prompts: Prompts,
    inputs: dict[str, Any],
    images: Sequence[Image],
    run: Run,
    length: int,
    steps: int,
) -> Tensor:
    anatomy = prompts.anatomy
    # Found anew: a wrong row must not make the slow path wrong with it.
    decoder = decoder_of(anatomy.model)
    inputs = fresh(inputs)
    if run.cut == "before_llm":
        logits = before_logits(prompts.model, decoder, inputs, images)
    else:
        path = short_logits if oracle_of(anatomy) == "short" else masked_logits
        logits = path(prompts.model, decoder, inputs, images, run.prune_layer, length)
    return logits[:, -steps:, :FIRST_SPECIAL_ID]


def _images(run: Run) -> list[Image]:
    return [
        (
            image.span.sample,
            image.span.tokens,
            plan.keep_idx[0],
            plan.merge_src[0],
            plan.merge_dst[0],
        )
        for image in run.plans
        if (plan := image.plan) is not None
    ]


def _kept(run: Run) -> list[tuple[int, list[int]]]:
    return [
        (image.span.sample, image.plan.keep_idx.tolist())
        for image in run.plans
        if image.plan is not None
    ]


def _fired(run: Run) -> None:
    report = run.report
    if report is None:
        raise BrokenError("the model's pass went by the hooks: there is no report.")
    if not report.fired:
        raise BrokenError(f"nothing was dropped: {report.reason}.")
    held, full = report.kv_bytes, report.kv_bytes_uncompressed
    if held is not None and full is not None and held >= full:
        raise BrokenError("the KV cache is as long as without dropping tokens.")


def _is_close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= TOLERANCE * max(1.0, float(b.abs().max()))


def _close(a: Tensor, b: Tensor, tolerance: float, what: str) -> None:
    if a.shape != b.shape:
        raise BrokenError(f"{what}: shape {tuple(a.shape)} instead of {tuple(b.shape)}.")
    gap = float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
    if not gap <= tolerance:
        raise BrokenError(f"{what} by {gap:.1e} of their scale, more than {tolerance:.0e}.")


def _row_gap(batch: Any, alone: Any, row: int) -> float:
    gap = 0.0
    for many, one in zip(batch.logits, alone.logits, strict=True):
        a, b = many[row][:FIRST_SPECIAL_ID], one[0][:FIRST_SPECIAL_ID]
        gap = max(gap, float((a - b).abs().max()) / max(1.0, float(b.abs().max())))
    return gap


def _bitwise(plain: Any, other: Any, what: str) -> None:
    for a, b in zip(plain.logits, other.logits, strict=True):
        a, b = a[..., :FIRST_SPECIAL_ID], b[..., :FIRST_SPECIAL_ID]
        if not torch.equal(a, b):
            raise BrokenError(f"{what}, by up to {float((a - b).abs().max()):.1e}.")
