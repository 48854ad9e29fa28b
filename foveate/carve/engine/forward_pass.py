"""One forward pass of an attached model: decide at each step, keep every layer consistent.

The base model's pre-hook makes a ForwardPass, each decoder layer's pre-hook asks it what to change,
the base model's post-hook takes the result. It holds no method and no model family: both are handed
in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.carve.engine.cache import CarvedLayer, cache_bytes, check_carvable, ensure_layers
from foveate.carve.engine.decide import Decider, Group, ImagePlan, ImageState, text_columns
from foveate.carve.engine.layer_inputs import LayerInputs
from foveate.carve.engine.units import FeatureRecorder, image_spans
from foveate.carve.method import Method, Step
from foveate.carve.tower.merge import TowerShortener
from foveate.carve.tower.record import TowerRecorder
from foveate.core.layout import PAD, columns_of, kept_rows, last_valid, leading_padding
from foveate.core.report import ImageReport, Report
from foveate.models.anatomy import Anatomy
from foveate.models.attention import RowRecorder
from foveate.models.masks import narrow_tokens, valid_tokens

__all__ = ["ForwardPass", "ImagePlan", "Reused", "Setting"]


@dataclass(frozen=True)
class Reused:
    """Decisions on a prompt that is fed again, longer, without a cache, and its own length."""

    groups: dict[int, list[Group]]
    image_plans: list[ImagePlan]
    prompt_length: int


@dataclass(frozen=True)
class Setting:
    """What stays the same over the passes of one run.

    Args:
        anatomy: of the model.
        method: as given.
        steps: its steps, by layer.
        recorder: of image features.
        row_recorders: by the layer whose attention is read.
        tower: of the vision tower, if the method reads or shortens it.
        rotary: (hidden, position_ids) -> tables, of the decoder; for renumbered positions.
    """

    anatomy: Anatomy
    method: Method
    steps: dict[int, Step]
    recorder: FeatureRecorder
    row_recorders: dict[int, RowRecorder]
    tower: TowerRecorder | TowerShortener | None = None
    rotary: Any = None

    @property
    def renumbers(self) -> bool:
        return self.rotary is not None

    @property
    def prune_layer(self) -> int:
        return min(self.steps)

    def reads(self, name: str) -> bool:
        """Whether any step asks for it."""
        return any(name in step.reads for step in self.steps.values())


class ForwardPass:
    """State of one call of the base model.

    Args:
        setting: the run's parts.
        inputs: the base model's arguments by name.
        visual_mask: [B, S] bool, where this call's new tokens are visual; None where none can be.
        is_explicit_mask: the caller gave the mask; token ids say nothing about images.
        first_serial: running number of the first image.
        reused: plans to apply again instead of deciding (generation without a cache).
    """

    def __init__(
        self,
        setting: Setting,
        inputs: Mapping[str, Any],
        visual_mask: Tensor | None,
        *,
        is_explicit_mask: bool,
        first_serial: int,
        reused: Reused | None = None,
    ) -> None:
        self.setting = setting
        self.inputs = inputs
        self.is_explicit_mask = is_explicit_mask
        self.first_serial = first_serial
        self.reused = reused
        tokens = inputs.get("input_ids")
        tokens = tokens if tokens is not None else inputs["inputs_embeds"]
        self.batch, self.length = tokens.shape[:2]
        self.device = tokens.device
        self.cache = inputs.get("past_key_values")
        self.past = self.cache.get_seq_length() if self.cache is not None else 0
        self.has_visual = visual_mask is not None and bool(visual_mask.any())
        self.rows: Tensor | None = None  # [B, L] columns that are left, once narrowed
        self.keep_mask: Tensor | None = None  # [B, S] the same as a mask
        self.groups: dict[int, list[Group]] = {}
        self.image_plans: list[ImagePlan] = []
        self.decider: Decider | None = None
        self.attention_output: Tensor | None = None
        self.visual_per_layer: list[int] = []
        self.select_seconds = 0.0
        self.used_cache: Any = None
        self._has_filler = False
        self._shifts: dict[int, tuple[CarvedLayer, Tensor]] = {}
        self._inputs = LayerInputs(
            kernel=str(setting.anatomy.text_config._attn_implementation),
            batch=self.batch,
            length=self.length,
            past=self.past,
            device=self.device,
            rotary=setting.rotary,
        )
        if self.has_visual:
            assert visual_mask is not None
            self.visual_mask = visual_mask
            self.valid = valid_tokens(
                inputs.get("attention_mask"), self.batch, self.length, self.device
            )
            self._prepare()

    @property
    def fired(self) -> bool:
        return self.rows is not None

    def _prepare(self) -> None:
        """Before the decoder builds its masks."""
        if self.cache is not None:
            check_carvable(self.cache)
            if self.past:
                # A plain sliding layer reports a windowed length; masks must be made for the full
                # one.
                for i, layer in enumerate(self.cache.layers):
                    if layer.is_sliding:
                        self.cache.layers[i] = CarvedLayer.of(layer, self.batch, self.device)

    # --- at each decoder layer ---

    def enter_layer(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What layer `index` is called with instead; None leaves the call bitwise alone."""
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.has_visual:
            if index in self.setting.steps:
                narrowed = self._narrow(index, hidden, kwargs.get("past_key_values"))
                if narrowed is not None:
                    hidden = narrowed
                    if args:
                        args = (narrowed, *args[1:])
                    else:
                        kwargs = {**kwargs, "hidden_states": narrowed}
            self.visual_per_layer.append(self._num_visual)
            if index in self.setting.row_recorders and self.reused is None:
                self._want_rows(index)
        cache = kwargs.get("past_key_values")
        self.used_cache = cache
        layer = None
        if cache is not None and index < len(cache.layers):
            layer = cache.layers[index]
        is_short = self.rows is not None
        hidden_columns = self._dropped_later(index) if self.reused is not None else None
        if not is_short and not isinstance(layer, CarvedLayer) and hidden_columns is None:
            return None
        kwargs = dict(kwargs)
        if hidden_columns is not None:
            assert self.reused is not None
            kwargs["attention_mask"] = self._inputs.hide(
                kwargs.get("attention_mask"), hidden_columns, self.reused.prompt_length
            )
        if not is_short and not isinstance(layer, CarvedLayer):
            return args, kwargs
        query_idx = self._inputs.query_idx(self.rows)
        key_idx, has_empty = query_idx, is_short and self._has_filler
        if isinstance(layer, CarvedLayer):
            layer.has_empty |= has_empty
            has_empty = layer.has_empty
            assert layer.index is not None
            key_idx = self._inputs.key_idx(layer.index, query_idx)
            layer.stage(key_idx, query_idx, self.past + self.length)
        kwargs["attention_mask"] = self._inputs.mask(
            kwargs.get("attention_mask"), query_idx, key_idx, has_empty
        )
        if self.rows is not None:
            self._inputs.narrow_positions(kwargs, self.rows)
        shift = self._shift(index, layer)
        if shift is not None:
            self._inputs.renumber(hidden, kwargs, shift)
        if is_short or shift is not None:
            self._inputs.spare_flash(kwargs)
        return args, kwargs

    def _want_rows(self, index: int) -> None:
        """Tell the recorder of layer `index` which attention rows the next step asks for."""
        recorder = self.setting.row_recorders[index]
        needs = self.setting.steps[index + 1].reads
        if "attention" in needs:
            last = columns_of(last_valid(self.valid)[:, None], self.rows)
            recorder.wanted = last[:, 0]
        if "text_attention" in needs:
            columns = self._text.to(self.device)
            places = columns_of(columns.clamp_min(0), self.rows)
            recorder.wanted_text = torch.where(columns == PAD, PAD, places)

    @property
    def _num_visual(self) -> int:
        """Visual tokens of the batch that are left."""
        left = self.keep_mask

        def count() -> int:
            visual = self.visual_mask
            return int((visual if left is None else left & visual.to(left.device)).sum())

        result: int = self._inputs.remember(("visual", id(left)), left, count)
        return result

    @property
    def _text(self) -> Tensor:
        result: Tensor = self._inputs.remember(
            ("text",), None, lambda: text_columns(self.valid, self.visual_mask)
        )
        return result

    def _dropped_later(self, index: int) -> Tensor | None:
        """Columns that later steps cut out of this layer's cache, [B, S] bool; None for none."""
        assert self.reused is not None
        later = [
            layer
            for layer, step in self.setting.steps.items()
            if layer > index and step.method.early_cache == "compact"
        ]

        def build() -> Tensor:
            dropped = torch.zeros_like(self.visual_mask)
            for layer in later:
                for group in self.reused.groups.get(layer, ()):  # type: ignore[union-attr]
                    dropped[group.samples, group.tokens] = True
                    kept = group.tokens.gather(1, group.plan.keep_idx)
                    dropped[group.samples, kept] = False
            return dropped

        if not later:
            return None
        result: Tensor = self._inputs.remember(("dropped", min(later)), None, build)
        return result

    # --- renumbered positions ---

    def _shift(self, index: int, layer: Any) -> Tensor | None:
        """How far each query closes ranks, [B, Q] or [B, 1]; None where positions stay."""
        earlier = layer.shift if isinstance(layer, CarvedLayer) else None
        shift = earlier[:, None].to(self.device) if earlier is not None else None
        rows, keep_mask = self.rows, self.keep_mask
        if rows is None or keep_mask is None or not self.setting.renumbers:
            return shift
        gone = self.visual_mask.to(keep_mask.device) & ~keep_mask

        def build() -> Tensor:
            before = gone.long().cumsum(dim=-1).gather(1, rows.clamp_min(0).to(gone.device))
            return before.to(self.device)

        if isinstance(layer, CarvedLayer):
            self._shifts[index] = (layer, gone.sum(dim=-1))
        new: Tensor = self._inputs.remember(("shift", id(rows)), rows, build)
        return new if shift is None else shift + new

    def finish(self) -> None:
        """After the last layer: later tokens are as far from their places as the last of these."""
        for layer, dropped in self._shifts.values():
            layer.shift = dropped if layer.shift is None else layer.shift + dropped

    # --- at a step's layer ---

    def _narrow(self, index: int, hidden: Tensor, cache: Any) -> Tensor | None:
        """Decide, merge, keep: [B, L, D] -> [B, L', D]; None if nothing is to be dropped."""
        started = _now(hidden)
        groups = self._decide(index, hidden)
        self.groups[index] = groups
        if not groups:
            return None
        if self.keep_mask is None:
            self.keep_mask = ~leading_padding(self.valid).to(hidden.device)
        keep_mask, old = self.keep_mask.clone(), self.rows
        for group in groups:
            samples, tokens, plan = group.samples, group.tokens, group.plan
            kept = tokens.gather(1, plan.keep_idx)
            keep_mask[samples, tokens] = False
            keep_mask[samples, kept] = True
            if plan.num_merged:
                left = old[samples[:, 0].to(old.device)] if old is not None else None
                merged = plan.apply(hidden[samples, columns_of(tokens, left)])
                hidden = hidden.index_put((samples, columns_of(kept, left)), merged)
        rows = kept_rows(keep_mask)
        self.rows, self.keep_mask = rows, keep_mask
        self._has_filler = bool((rows == PAD).any())
        if cache is not None:
            self._carve(index, cache, keep_mask)
        places = torch.where(rows == PAD, PAD, columns_of(rows.clamp_min(0), old))
        narrowed = narrow_tokens(hidden, places, token_dim=-2)
        self.select_seconds += _now(hidden) - started
        return narrowed

    def _decide(self, index: int, hidden: Tensor) -> list[Group]:
        """What this step does to the images; fills `image_plans`."""
        if self.reused is not None:
            self.image_plans = self.reused.image_plans
            return self.reused.groups.get(index, [])
        if self.decider is None:
            self.decider = self._make_decider()
        groups = self.decider.decide(
            self.setting.steps[index],
            hidden,
            self.rows,
            self.setting.row_recorders.get(index - 1),
            self.attention_output,
        )
        self.image_plans = self.decider.image_plans()
        return groups

    def _make_decider(self) -> Decider:
        spans = image_spans(
            self.setting.anatomy,
            self.setting.recorder,
            None if self.is_explicit_mask else self.inputs.get("input_ids"),
            self.visual_mask,
            self.inputs.get("mm_encoder_outputs") or {},
        )
        needs_text = self.setting.reads("text") or self.setting.reads("text_attention")
        return Decider(
            states=[ImageState.whole(span) for span in spans],
            text=self._text if needs_text else spans[0].tokens.new_empty(self.batch, 0),
            first_serial=self.first_serial,
            num_layers=len(self.setting.anatomy.layers),
            tower=self.setting.tower,
        )

    def _carve(self, index: int, cache: Any, keep_mask: Tensor) -> None:
        """Make every cache layer ready for short K/V; cut what the early layers already hold."""
        check_carvable(cache)
        is_compact = self.setting.steps[index].method.early_cache == "compact"
        num_layers = len(self.setting.anatomy.layers)
        ensure_layers(cache, num_layers)
        for i in range(num_layers):
            layer = CarvedLayer.of(cache.layers[i], self.batch, keep_mask.device)
            cache.layers[i] = layer
            if i < index and is_compact:
                assert layer.index is not None
                # By position, not by slot: a sliding layer holds only its last tokens.
                held = layer.index.to(keep_mask.device)
                is_old = (held != PAD) & (held < self.past)
                is_kept = keep_mask.gather(1, (held - self.past).clamp_min(0))
                layer.retain(kept_rows(is_old | (is_kept & (held >= self.past))))

    # --- afterwards ---

    def report(self) -> Report:
        """What this prefill did."""
        images = []
        for image_plan in self.image_plans:
            span, plan = image_plan.span, image_plan.plan
            images.append(
                ImageReport(
                    sample=span.sample,
                    image=span.image,
                    kind=span.kind,
                    before=span.num_tokens,
                    kept=plan.num_kept if plan else span.num_tokens,
                    merged=plan.num_merged if plan else 0,
                    dropped=plan.num_dropped if plan else 0,
                )
            )
        reason = ""
        if not self.has_visual:
            reason = "no visual tokens in the prompt, left bitwise alone"
        elif not self.fired:
            reason = "the budget keeps every visual token, left bitwise alone"
        cache = self.used_cache
        held, full = cache_bytes(cache) if cache is not None else (None, None)
        return Report(
            method=str(self.setting.method),
            fired=self.fired,
            reason=reason,
            images=tuple(images),
            prune_layer=self.setting.prune_layer,
            num_layers=len(self.setting.anatomy.layers),
            length_before=self.past + self.length,
            length_after=self._length_after(),
            kv_bytes=held,
            kv_bytes_uncompressed=full,
            select_seconds=self.select_seconds,
            tokens_per_layer=tuple(
                count / max(1, len(self.image_plans)) for count in self.visual_per_layer
            ),
        )

    def _length_after(self) -> int:
        if self.rows is None:
            return self.past + self.length
        old = 0
        if self.cache is not None and self.past:
            last = self.cache.layers[-1]
            old = last.keys.shape[-2] - self.rows.shape[1] if last.keys is not None else 0
        return old + self.rows.shape[1]


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
