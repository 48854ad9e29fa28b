"""Carving in one pass: decide at each step, narrow the rows, cut what the cache already holds."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicSlidingWindowLayer

from foveate.carve.engine.cache import CarvedLayer
from foveate.carve.engine.cache_kinds import carved_form, ensure_layers, same_rows
from foveate.carve.engine.call import Call
from foveate.carve.engine.decide import Decider, Group, ImagePlan, ImageState
from foveate.carve.engine.dummies import with_dummies
from foveate.carve.engine.readers import Readers
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.setting import Setting
from foveate.carve.engine.units import image_spans
from foveate.core.clock import Clock
from foveate.core.layout import PAD, ImageSpan, columns_of, kept_rows, sent
from foveate.models.masks import narrow_tokens

# Told (layer, hidden [B, L, D], cache) where tokens are about to be dropped; raises to refuse.
Check = Callable[[int, Tensor, Any], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Left:
    """What is left of the new tokens after a step.

    Args:
        rows: [B, L] columns that are left; PAD where a row has fewer.
        places: [B, L] where these stood before the step, among what was left then; PAD likewise.
        keep_mask: [B, S] bool, the same as a mask.
        visual_mask: [B, S] bool, what was visual.
        counts: of each row, how many tokens are left.
        num_visual: visual tokens of the batch that are left.
        log_sizes: [B, L] float32, log of how many tokens each was made of; None where all count
            once.
    """

    rows: Tensor
    places: Tensor
    keep_mask: Tensor
    visual_mask: Tensor
    counts: tuple[int, ...]
    num_visual: int
    log_sizes: Tensor | None = None

    @property
    def has_filler(self) -> bool:
        """Whether PAD occurs in `rows`."""
        return min(self.counts) != max(self.counts)

    @cached_property
    def gone(self) -> Tensor:
        """Visual tokens that were dropped, [B, S] bool."""
        return self.visual_mask.to(self.keep_mask.device) & ~self.keep_mask


class Carving:
    """The steps of one pass over a prompt with visual tokens.

    Args:
        setting: the run's parts.
        call: what came.
        first_serial: running number of the first image; None: prompts are numbered by content.
        replay: decisions to apply again instead of deciding.
        check: asked before any tokens are dropped.

    Attributes:
        left: what is left of the new tokens; None as long as nothing was dropped.
        groups: layer -> Groups of images that lost tokens there.
        attention_output: [B, L, D] of the layer before a step that asks for it.
        visual_per_layer: visual tokens of the batch that each layer so far has seen.
        length_per_layer: rows of the batch, fillers included, that each layer so far has run on.
        num_unread: images that were to be read ahead for and were not worth it.
        clock: of selection.
    """

    def __init__(
        self,
        setting: Setting,
        call: Call,
        first_serial: int | None,
        replay: Replay | None,
        check: Check,
    ) -> None:
        self.setting = setting
        self.call = call
        self.first_serial = first_serial
        self.replay = replay
        self.check = check
        self.left: Left | None = None
        self.groups: dict[int, list[Group]] = {}
        self.attention_output: Tensor | None = None
        self.visual_per_layer: list[int] = []
        self.length_per_layer: list[int] = []
        self.num_unread = 0
        self.clock = Clock()
        self._decider: Decider | None = None
        self._sizes: Tensor | None = None  # [B, S] float32, tokens that each one was made of

    @property
    def spent(self) -> tuple[float, ...]:
        """Token-layers that reading ahead has cost each image; () where nobody asked."""
        return self._decider.spent if self._decider is not None else ()

    @property
    def image_plans(self) -> list[ImagePlan]:
        """What became of every image so far; empty before the first step."""
        return self._decider.image_plans() if self._decider is not None else []

    def enter_layer(self, index: int, hidden: Tensor, cache: Any) -> Tensor:
        """What goes into a layer: [B, L, D] -> [B, L', D]; `hidden` itself if nothing is dropped.

        Args:
            index: of the layer.
            hidden: what came out of the one before.
            cache: the KV cache the layer is given, None for none.

        Raises:
            UnsupportedModelError, UnsupportedModeError: tokens are to be dropped and `check`
                refuses.
        """
        if index == 0 and self.setting.needs("entering") and self.replay is None:
            self._asked.entering = hidden
        if index in self.setting.steps:
            hidden = self._step(index, hidden, cache)
        left = self.left
        self.visual_per_layer.append(
            self.call.known.num_visual if left is None else left.num_visual
        )
        self.length_per_layer.append(hidden.shape[1])
        after = self.setting.steps.get(index + 1)
        if after is not None and "layer_update" in after.needs and self.replay is None:
            self._asked.layer_input = hidden
        is_whole = hidden.shape[1] == (self.call.length if left is None else left.rows.shape[1])
        if index in self.setting.row_recorders and self.replay is None and is_whole:
            self._want_rows(index)
        return hidden

    def looks_ahead(self, index: int) -> bool:
        """Whether the step at a layer ranks by that layer's own attention, see `see_ahead`."""
        step = self.setting.steps.get(index)
        is_asked = step is not None and "attention_ahead" in step.needs
        return is_asked and self.replay is None and self._is_to_drop(index)

    def see_ahead(self, index: int, layer: Callable[[], Any]) -> None:
        """Read the attention that a layer would have of all that is left before its step.

        Args:
            index: of the layer.
            layer: runs it on that.
        """
        with self.clock.running(self.call.device):
            row, left = self._look(index, layer), self.left
            if row is not None and left is not None and left.log_sizes is not None:
                row = row * left.log_sizes.exp()[:, None].to(row.device)
                row = row / row.sum(dim=-1, keepdim=True)
            self._asked.ahead = row

    def _look(self, index: int, layer: Callable[[], Any]) -> Tensor | None:
        """The last asked token's attention in a layer, sizes of merged tokens aside, [B, H, L]."""
        call, left, device = self.call, self.left, self.call.device
        last = self._last_place()
        seen = sent(call.known.valid | call.known.visual, device)
        if left is not None:
            seen = seen.gather(1, left.rows.clamp_min(0).to(device)) & (left.rows != PAD).to(device)
        return self.setting.row_recorders[index].look(layer, last, seen)

    def debiases(self, index: int, *, ahead: bool) -> bool:
        """Whether the attention of a layer is read to be debiased, see `see_dummies`.

        Args:
            index: of the layer.
            ahead: for the step at it, not for one behind it.
        """
        if self.replay is not None:
            return False
        if ahead:
            return self.looks_ahead(index) and self.setting.steps[index].debiases
        return any(
            read == index and self.setting.steps[at].debiases and self._is_to_drop(at)
            for at, read in self.setting.reads.items()
        )

    def without_content(self, hidden: Tensor) -> Tensor:
        """Hidden states [B, L, D] with dummies in place of visual tokens, see `with_dummies`."""
        dummies, self._asked.is_dummy = with_dummies(hidden, self._asked.states, self._rows)
        return dummies

    def see_dummies(self, index: int, layer: Callable[[], Any]) -> None:
        """Read the attention that a layer would have if visual tokens had no content.

        Args:
            index: of the layer.
            layer: runs it on `without_content`.
        """
        with self.clock.running(self.call.device):
            self._asked.of_dummies = self._look(index, layer)
            sizes = self.left.log_sizes if self.left is not None else None
            self._asked.sizes = sizes.exp() if sizes is not None else None

    def reads_ahead(self, index: int) -> bool:
        """Whether the step at a layer asks for what the question sees when it reads ahead."""
        return index in self.setting.foresight and self.replay is None and self._is_to_drop(index)

    def read_ahead(self, index: int, hidden: Tensor, read: Callable[[Readers], Tensor]) -> None:
        """Let the text of those prompts read ahead whose budgets are worth it.

        Args:
            index: of the step's layer.
            hidden: [B, L, D] that enters it.
            read: gives the attention [B, S] of those that do.
        """
        decider, call = self._asked, self.call
        budgets = torch.tensor(
            decider.budgets(self.setting.steps[index], hidden, self._rows), dtype=torch.float64
        )
        samples = torch.tensor([state.span.sample for state in decider.states])
        per_prompt = torch.zeros(call.batch, dtype=torch.float64).index_add_(0, samples, budgets)
        of_prompts = torch.arange(call.batch) // call.rows_per_prompt * call.rows_per_prompt
        keep_mask = self.left.keep_mask if self.left is not None else None
        everybody = Readers.of(self.setting, call, index, keep_mask)
        # Each image pays by its budget, and keeps what one token costs.
        shares = budgets / per_prompt[samples].clamp_min(1)
        rest = budgets - (everybody.costs[samples] * shares).ceil()
        is_poor = (budgets > 0) & (rest < self.setting.num_layers - index)
        per_prompt[samples[is_poor]] = 0
        readers = everybody.worth(per_prompt[of_prompts])
        decider.spent = tuple((readers.costs[samples] * shares).tolist())
        self.num_unread = sum(
            bool(budget) and not cost
            for budget, cost in zip(budgets.tolist(), decider.spent, strict=True)
        )
        if any(decider.spent):
            with self.clock.running(hidden.device):
                decider.foresight = read(readers)

    def _step(self, index: int, hidden: Tensor, cache: Any) -> Tensor:
        if not self._is_to_drop(index):
            self.groups[index] = self._decide(index, hidden)
            return hidden
        self.check(index, hidden, cache)
        with self.clock.running(hidden.device):
            groups = self.groups[index] = self._decide(index, hidden)
            if not groups:
                return hidden
            before = self.left
            hidden, left = self._narrow(groups, hidden)
            self.left = self._counted(index, groups, left)
            if cache is not None:
                self._carve(index, cache, before, self.left)
        return hidden

    # --- decide ---

    @property
    def _rows(self) -> Tensor | None:
        return self.left.rows if self.left is not None else None

    def _is_to_drop(self, index: int) -> bool:
        """Whether a step has tokens to drop."""
        if self.replay is not None:
            return bool(self.replay.groups.get(index))
        return self._asked.would_drop(self.setting.steps[index])

    def _decide(self, index: int, hidden: Tensor) -> list[Group]:
        """What this step does to the images."""
        if self.replay is not None:
            return self.replay.groups.get(index, [])
        read = self.setting.reads.get(index)
        return self._asked.decide(
            self.setting.steps[index],
            hidden,
            self._rows,
            self.setting.row_recorders.get(read) if read is not None else None,
            self.attention_output,
        )

    @property
    def _asked(self) -> Decider:
        if self._decider is None:
            self._decider = self._make_decider()
        return self._decider

    def _make_decider(self) -> Decider:
        setting, call = self.setting, self.call
        spans = image_spans(
            setting.anatomy,
            setting.recorder,
            None if call.is_explicit_mask else call.known.ids,
            call.known.visual,
            call.inputs.get("mm_encoder_outputs") or {},
        )
        needs_text = any(map(setting.needs, ("text", "text_attention", "entering")))
        # Rows of one prompt see the same images: they are decided on once.
        own = [span for span in spans if span.sample % call.rows_per_prompt == 0]
        return Decider(
            states=[ImageState(span) for span in own],
            text=call.known.text if needs_text else None,
            serials=self._serials(own),
            num_layers=setting.num_layers,
            rows_per_prompt=call.rows_per_prompt,
            tower=setting.tower,
            skipped=tuple(call.length - count for count in call.known.num_begun),
            final_norm=setting.anatomy.final_norm if setting.needs("normed") else None,
        )

    def _serials(self, spans: Sequence[ImageSpan]) -> tuple[int, ...]:
        """A number for each image, which random choices follow from."""
        first = self.first_serial
        known = self.call.known
        ids = known.ids
        if first is not None or ids is None or not self.setting.needs("serials"):
            return tuple(range(first or 0, (first or 0) + len(spans)))
        rows = {
            sample: ids[sample][known.valid[sample]].numpy().tobytes()
            for sample in {span.sample for span in spans}
        }
        return tuple(zlib.crc32(rows[span.sample], span.image) for span in spans)

    def _last_place(self) -> Tensor:
        """[B] where the last token of each prompt stands among what is left.

        Of a prompt that ends in an image, that token may be gone: the last that is left, then.
        """
        last = columns_of(sent(self.call.known.last_asked, self.call.device), self._rows)[:, 0]
        return last if self._rows is None else last.clamp_max(self._rows.shape[1] - 1)

    def _want_rows(self, index: int) -> None:
        """Tell the recorder of layer `index` which attention rows the next step asks for."""
        recorder = self.setting.row_recorders[index]
        needs = self.setting.needs_read_at(index)
        device = self.call.device
        if "attention" in needs:
            recorder.here.wanted = self._last_place()
        recorder.here.wants_keys = "keys" in needs
        if "text_attention" in needs:
            columns = sent(self.call.known.text, device)
            places = columns_of(columns.clamp_min(0), self._rows)
            recorder.here.wanted_text = torch.where(columns == PAD, PAD, places)

    # --- narrow ---

    def _narrow(self, groups: list[Group], hidden: Tensor) -> tuple[Tensor, Left]:
        """Merge and keep: [B, L, D] -> [B, L', D]."""
        old, call = self._rows, self.call
        if self.left is None:
            keep_mask = sent(call.known.begun.clone(), hidden.device)
            counts, num_visual = list(call.known.num_begun), call.known.num_visual
        else:
            keep_mask = self.left.keep_mask.clone()
            counts, num_visual = list(self.left.counts), self.left.num_visual
        for group in groups:
            samples, tokens, plan = group.samples, group.tokens, group.plan
            keep_mask[samples, tokens] = False
            keep_mask[samples, tokens.gather(1, plan.keep_idx)] = True
            for number in group.numbers:
                counts[number] -= plan.num_tokens - plan.num_kept
                num_visual -= plan.num_tokens - plan.num_kept
        rows = kept_rows(keep_mask, max(counts))
        places = rows
        if old is not None:
            places = torch.where(rows == PAD, PAD, columns_of(rows.clamp_min(0), old))
        left = Left(
            rows=rows,
            places=places,
            keep_mask=keep_mask,
            visual_mask=call.visual,
            counts=tuple(counts),
            num_visual=num_visual,
        )
        short = narrow_tokens(hidden, places, token_dim=-2)
        for group in groups:
            if group.plan.makes_rows:
                _put_merged(short, group, hidden, old, rows)
        return short, left

    def _counted(self, index: int, groups: list[Group], left: Left) -> Left:
        """With the sizes of merged tokens, where a step so far asks for them."""
        device, sizes = left.rows.device, self._sizes
        if self.setting.steps[index].method.sizes == "log":
            if sizes is None:
                sizes = torch.ones(self.call.batch, self.call.length, device=device)
            sizes = sizes.to(device)
            for group in groups:
                samples, tokens, plan = group.samples, group.tokens, group.plan
                before = sizes[samples, tokens]  # [G, N]
                of_sources = before.gather(1, plan.merge_src)
                sizes[samples, tokens] = before.scatter_add(1, plan.merge_dst, of_sources)
        if sizes is None:
            return left
        self._sizes = sizes
        found = sizes.to(device).log().gather(1, left.rows.clamp_min(0))
        return replace(left, log_sizes=found.masked_fill(left.rows == PAD, 0.0))

    # --- carve the cache ---

    def _carve(self, index: int, cache: Any, before: Left | None, left: Left) -> None:
        """Make every cache layer ready for short K/V; cut what the early layers already hold.

        Args:
            index: of the step's layer.
            before, left: what there was before the step, and after it.
        """
        is_compact = self.setting.steps[index].method.early_cache == "compact"
        num_layers, call = self.setting.num_layers, self.call
        ensure_layers(cache, num_layers)
        same = same_rows(call.batch, left.keep_mask.device)
        cut: dict[int, _Cut] = {}
        for i in range(num_layers):
            layer = carved_form(cache.layers[i], same)
            if layer is None:
                continue
            cache.layers[i] = layer
            if i < index and is_compact:
                held = layer.index
                if id(held) not in cut:
                    cut[id(held)] = self._cut(layer, before, left)
                done = cut[id(held)]
                layer.retain(done.slots, has_empty=done.has_empty, index=done.index)

    def _cut(self, layer: CarvedLayer, before: Left | None, left: Left) -> _Cut:
        """What a step leaves of a cache layer."""
        rows, past = layer.rows, self.call.past
        assert rows is not None
        is_whole = rows.is_whole and rows.index.shape[1] == self.call.length
        if not past and (rows.index is before.rows if before is not None else is_whole):
            return _Cut(rows.index, left.places, left.has_filler, left.rows)
        # By position, not by slot: a sliding layer holds only its last tokens.
        held = rows.index.to(left.keep_mask.device)
        is_old = (held != PAD) & (held < past)
        is_kept = left.keep_mask.gather(1, (held - past).clamp_min(0))
        stays = is_old | (is_kept & (held >= past))
        counts = stays.sum(dim=1).tolist()
        return _Cut(rows.index, kept_rows(stays, max(counts)), min(counts) != max(counts))


def _put_merged(
    short: Tensor, group: Group, hidden: Tensor, before: Tensor | None, after: Tensor
) -> None:
    """Give kept tokens the rows that others are merged into, in what is left of the sequence.

    Args:
        short: [B, L', D] what is left of `hidden`, written to.
        group: that merges.
        hidden: [B, L, D].
        before, after: [B, L] and [B, L'] columns of the rows of both; None for all.
    """
    samples, tokens, plan = group.samples, group.tokens, group.plan
    if before is not None:
        own = columns_of(tokens, _rows_of(before, samples))
        merged = plan.apply(hidden[samples, own])
    elif group.first is not None:  # a slice, of which only what is merged is read
        merged = plan.apply(hidden[group.numbers[0], group.first :][None, : tokens.shape[1]])
    else:
        merged = plan.apply(hidden[samples, tokens])
    slots = columns_of(tokens.gather(1, plan.keep_idx), _rows_of(after, samples))
    short[samples, slots] = merged


def _rows_of(rows: Tensor, samples: Tensor) -> Tensor:
    """The rows [G, L] of some samples [G, 1]."""
    return rows[samples[:, 0].to(rows.device)]


@dataclass(frozen=True, eq=False)
class _Cut:
    """What is left of cache layers that held the same: the positions `held` (so that no other
    tensor gets its id), the slots that stay, whether PAD is among them, their positions if known.
    """

    held: Tensor
    slots: Tensor
    has_empty: bool
    index: Tensor | None = None


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
