"""One forward pass of an attached model: decide at the prune layer, keep every layer consistent.

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

from foveate.core.layout import PAD, ImageSpan, kept_rows, last_valid, leading_padding
from foveate.core.plan import KeepPlan
from foveate.core.report import ImageReport, Report
from foveate.core.visual import VisualTokens
from foveate.hf.anatomy import Anatomy
from foveate.hf.attention import RowRecorder
from foveate.hf.cache import CarvedLayer, cache_bytes, check_carvable, ensure_layers
from foveate.hf.masks import hide_columns, is_flash, narrow_mask, narrow_tokens, valid_tokens
from foveate.hf.units import FeatureRecorder, image_spans
from foveate.prune.method import Method


@dataclass(frozen=True)
class ImagePlan:
    """What was decided for one image: where it sits, its plan (G = 1; None: kept whole)."""

    span: ImageSpan
    plan: KeepPlan | None


@dataclass(frozen=True)
class Reused:
    """Plans of a prompt that is fed again, longer, without a cache, and the prompt's own length."""

    plans: list[ImagePlan]
    prompt_length: int


@dataclass(frozen=True)
class Setting:
    """What stays the same over the passes of one run."""

    anatomy: Anatomy
    method: Method
    prune_layer: int
    recorder: FeatureRecorder
    row_recorder: RowRecorder | None


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
        self.rows: Tensor | None = None  # [B, L] columns that go on, once narrowed
        self.image_plans: list[ImagePlan] = []
        self.attention_output: Tensor | None = None
        self.select_seconds = 0.0
        self.used_cache: Any = None
        self._has_filler = False
        self._memo: dict[tuple[Any, ...], tuple[Any, Any]] = {}
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
        if self.setting.row_recorder is not None and self.reused is None:
            self.setting.row_recorder.wanted = last_valid(self.valid)

    # --- at each decoder layer ---

    def enter_layer(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What layer `index` is called with instead; None leaves the call bitwise alone."""
        if self.has_visual and index == self.setting.prune_layer:
            hidden = args[0] if args else kwargs["hidden_states"]
            narrowed = self._narrow(hidden, kwargs.get("past_key_values"))
            if narrowed is not None:
                if args:
                    args = (narrowed, *args[1:])
                else:
                    kwargs = {**kwargs, "hidden_states": narrowed}
        cache = kwargs.get("past_key_values")
        self.used_cache = cache
        layer = None
        if cache is not None and index < len(cache.layers):
            layer = cache.layers[index]
        is_short = self.rows is not None and index >= self.setting.prune_layer
        if not is_short and self.reused is not None and self._is_compact:
            return args, {**kwargs, "attention_mask": self._hide(kwargs.get("attention_mask"))}
        if not is_short and not isinstance(layer, CarvedLayer):
            return None
        kwargs = dict(kwargs)
        query_idx = self._query_idx(is_short)
        key_idx, has_empty = query_idx, is_short and self._has_filler
        if isinstance(layer, CarvedLayer):
            layer.has_empty |= has_empty
            has_empty = layer.has_empty
            assert layer.index is not None
            key_idx = self._remember(
                ("keys", id(layer.index), is_short),
                layer.index,
                lambda: torch.cat([layer.index, query_idx.to(layer.index.device)], dim=1),
            )
            layer.stage(key_idx, query_idx, self.past + self.length)
        kwargs["attention_mask"] = self._mask(
            kwargs.get("attention_mask"), query_idx, key_idx, has_empty
        )
        if is_short:
            self._narrow_positions(kwargs)
        return args, kwargs

    @property
    def _is_compact(self) -> bool:
        return self.setting.method.early_cache == "compact"

    def _hide(self, mask: Any) -> Tensor:
        """Early layers, no cache: generated tokens do not see what a compact cache has cut."""
        assert self.reused is not None
        dropped = torch.zeros_like(self.visual_mask)
        for image_plan in self.reused.plans:
            if image_plan.plan is not None:
                span = image_plan.span
                dropped[span.sample, span.tokens] = True
                dropped[span.sample, span.tokens[image_plan.plan.keep_idx[0]]] = False
        start = self.reused.prompt_length
        result: Tensor = self._remember(
            ("hidden", id(mask)), mask, lambda: hide_columns(mask, dropped, start, self._kernel())
        )
        return result

    def _query_idx(self, is_short: bool) -> Tensor:
        """Original positions of this layer's queries, [B, Q]; PAD for fillers."""

        def build() -> Tensor:
            if is_short:
                assert self.rows is not None
                return torch.where(self.rows == PAD, PAD, self.rows + self.past)
            every = torch.arange(self.past, self.past + self.length, device=self.device)
            return every.expand(self.batch, -1)

        result: Tensor = self._remember(("queries", is_short), None, build)
        return result

    def _mask(
        self, mask: Any, query_idx: Tensor, key_idx: Tensor, has_empty: bool
    ) -> Tensor | None:
        kernel = self._kernel()
        result: Tensor | None = self._remember(
            ("mask", id(mask), id(query_idx), id(key_idx)),
            (mask, query_idx, key_idx),
            lambda: narrow_mask(
                mask, query_idx, key_idx, has_empty=has_empty, attention=kernel, past=self.past
            ),
        )
        return result

    def _kernel(self) -> str:
        return str(self.setting.anatomy.text_config._attn_implementation)

    def _narrow_positions(self, kwargs: dict[str, Any]) -> None:
        """Original positions go with their tokens: rotary tables and position ids."""
        rows = self.rows
        assert rows is not None
        tables = kwargs.get("position_embeddings")
        if tables is not None:
            kwargs["position_embeddings"] = self._remember(
                ("rotary", id(tables)),
                tables,
                lambda: tuple(narrow_tokens(table, rows, token_dim=-2) for table in tables),
            )
        position_ids = kwargs.get("position_ids")
        if position_ids is not None:
            # Flash kernels take gaps in position ids for sequence borders; rotary needs only the
            # tables.
            kwargs["position_ids"] = (
                None
                if is_flash(self._kernel())
                else self._remember(
                    ("positions", id(position_ids)),
                    position_ids,
                    lambda: narrow_tokens(position_ids, rows, token_dim=-1),
                )
            )

    def _remember(self, key: tuple[Any, ...], alive: Any, build: Any) -> Any:
        """Build once a pass; `alive` keeps objects whose ids are in `key`, so ids stay unique."""
        if key not in self._memo:
            self._memo[key] = (alive, build())
        return self._memo[key][1]

    # --- at the prune layer ---

    def _narrow(self, hidden: Tensor, cache: Any) -> Tensor | None:
        """Decide, merge, keep: [B, S, D] -> [B, L, D]; None if nothing is to be dropped."""
        started = _now(hidden)
        groups = self._decide(hidden)
        if not groups:
            return None
        keep_mask = ~leading_padding(self.valid).to(hidden.device)
        for spans, plan in groups:
            samples, tokens = _places(spans, hidden.device)
            kept = tokens.gather(1, plan.keep_idx)
            keep_mask[samples, tokens] = False
            keep_mask[samples, kept] = True
            if plan.num_merged:
                merged = plan.apply(hidden[samples, tokens])
                hidden = hidden.index_put((samples, kept), merged)
        rows = kept_rows(keep_mask)
        self.rows = rows
        self._has_filler = bool((rows == PAD).any())
        if cache is not None:
            self._carve(cache, keep_mask)
        narrowed = narrow_tokens(hidden, rows, token_dim=-2)
        self.select_seconds = _now(hidden) - started
        return narrowed

    def _decide(self, hidden: Tensor) -> list[tuple[list[ImageSpan], KeepPlan]]:
        """Plans for all images that lose tokens, grouped by size; fills `image_plans`."""
        if self.reused is not None:
            self.image_plans = self.reused.plans
            return [([p.span], p.plan) for p in self.reused.plans if p.plan is not None]
        spans = image_spans(
            self.setting.anatomy,
            self.setting.recorder,
            None if self.is_explicit_mask else self.inputs.get("input_ids"),
            self.visual_mask,
            self.inputs.get("mm_encoder_outputs") or {},
        )
        budget = self.setting.method.budget
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, span in enumerate(spans):
            keep = budget.count(span.num_tokens, image=i)
            by_size.setdefault((span.num_tokens, keep), []).append(i)
        plans: dict[int, KeepPlan] = {}
        groups = []
        for (num_tokens, keep), members in by_size.items():
            if keep == num_tokens:
                continue
            group = [spans[i] for i in members]
            visual = self._look(hidden, group, [self.first_serial + i for i in members])
            with torch.no_grad():
                plan = self.setting.method.plan(visual, keep)
            if plan.num_kept != keep:
                raise AssertionError(f"{self.setting.method.name} kept {plan.num_kept}, not {keep}")
            groups.append((group, plan))
            plans.update({i: plan.image(j) for j, i in enumerate(members)})
        self.image_plans = [ImagePlan(span, plans.get(i)) for i, span in enumerate(spans)]
        return groups

    def _look(self, hidden: Tensor, spans: list[ImageSpan], serials: list[int]) -> VisualTokens:
        """Gather what the method asked for, for images of one size."""
        needs = self.setting.method.needs
        samples, tokens = _places(spans, hidden.device)
        attention = attention_output = None
        if "attention" in needs:
            recorder = self.setting.row_recorder
            assert recorder is not None
            assert recorder.row is not None
            row = recorder.row.to(hidden.device)  # [B, H, S]
            index = tokens[:, None].expand(-1, row.shape[1], -1)
            attention = row[samples[:, 0]].gather(2, index)
        if "attention_output" in needs:
            assert self.attention_output is not None
            attention_output = self.attention_output.to(hidden.device)[samples, tokens].detach()
        return VisualTokens(
            hidden=hidden[samples, tokens].detach(),
            attention=attention,
            attention_output=attention_output,
            grids=tuple(span.grid for span in spans),
            serials=tuple(serials),
        )

    def _carve(self, cache: Any, keep_mask: Tensor) -> None:
        """Make every cache layer ready for short K/V; cut what the early layers already hold."""
        check_carvable(cache)
        num_layers = len(self.setting.anatomy.layers)
        ensure_layers(cache, num_layers)
        for i in range(num_layers):
            layer = CarvedLayer.of(cache.layers[i], self.batch, keep_mask.device)
            cache.layers[i] = layer
            if i < self.setting.prune_layer and self._is_compact:
                assert layer.index is not None
                # By position, not by slot: a sliding layer holds only its last tokens.
                index = layer.index.to(keep_mask.device)
                is_old = (index != PAD) & (index < self.past)
                is_kept = keep_mask.gather(1, (index - self.past).clamp_min(0))
                layer.retain(kept_rows(is_old | (is_kept & (index >= self.past))))

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
        )

    def _length_after(self) -> int:
        if self.rows is None:
            return self.past + self.length
        old = 0
        if self.cache is not None and self.past:
            last = self.cache.layers[-1]
            old = last.keys.shape[-2] - self.rows.shape[1] if last.keys is not None else 0
        return old + self.rows.shape[1]


def _places(spans: list[ImageSpan], device: torch.device) -> tuple[Tensor, Tensor]:
    """([G, 1] sample, [G, N] column) of the tokens of equally long spans."""
    samples = torch.tensor([span.sample for span in spans], device=device).unsqueeze(1)
    return samples, torch.stack([span.tokens for span in spans]).to(device)


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
