"""Carving in one pass: at each step read, decide, narrow the rows, cut what the cache holds."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foveate.carve.engine.call import Call
from foveate.carve.engine.counted import weighed_row
from foveate.carve.engine.cut_cache import cut_cache
from foveate.carve.engine.decide import Decider, Group
from foveate.carve.engine.dummies import with_dummies
from foveate.carve.engine.image_state import ImagePlan, ImageState
from foveate.carve.engine.left import Left, narrowed
from foveate.carve.engine.look import Seen
from foveate.carve.engine.readers import Readers
from foveate.carve.engine.replay import Replay
from foveate.carve.engine.setting import Setting
from foveate.carve.engine.units import image_spans
from foveate.core.clock import Clock
from foveate.core.layout import PAD, ImageSpan, columns_of, sent

# Told (layer, hidden [B, L, D], cache) where tokens are about to be dropped; raises to refuse.
Check = Callable[[int, Tensor, Any], None]


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
        return self._decider.seen.spent if self._decider is not None else ()

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
            self._asked.seen.entering = hidden
        if index in self.setting.steps:
            hidden = self._step(index, hidden, cache)
        left = self.left
        self.visual_per_layer.append(
            self.call.known.num_visual if left is None else left.num_visual
        )
        self.length_per_layer.append(hidden.shape[1])
        after = self.setting.steps.get(index + 1)
        if after is not None and "layer_update" in after.needs and self.replay is None:
            self._asked.seen.layer_input = hidden
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
                row = weighed_row(row, left.log_sizes)
            self._asked.seen.ahead = row

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
        dummies, self._asked.seen.is_dummy = with_dummies(hidden, self._asked.states, self._rows)
        return dummies

    def see_dummies(self, index: int, layer: Callable[[], Any]) -> None:
        """Read the attention that a layer would have if visual tokens had no content.

        Args:
            index: of the layer.
            layer: runs it on `without_content`.
        """
        with self.clock.running(self.call.device):
            self._asked.seen.of_dummies = self._look(index, layer)
            sizes = self.left.log_sizes if self.left is not None else None
            self._asked.seen.sizes = sizes.exp() if sizes is not None else None

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
        decider.seen.spent = tuple((readers.costs[samples] * shares).tolist())
        self.num_unread = sum(
            bool(budget) and not cost
            for budget, cost in zip(budgets.tolist(), decider.seen.spent, strict=True)
        )
        if any(decider.seen.spent):
            with self.clock.running(hidden.device):
                decider.seen.foresight = read(readers)

    def _step(self, index: int, hidden: Tensor, cache: Any) -> Tensor:
        call, setting = self.call, self.setting
        if not self._is_to_drop(index):
            self.groups[index] = self._decide(index, hidden)
            return hidden
        self.check(index, hidden, cache)
        with self.clock.running(hidden.device):
            groups = self.groups[index] = self._decide(index, hidden)
            if not groups:
                return hidden
            before = self.left
            hidden, left = narrowed(groups, hidden, before, call)
            self.left = self._counted(index, groups, left)
            if cache is not None:
                num_early = index if setting.steps[index].method.early_cache == "compact" else 0
                cut_cache(cache, setting.num_layers, num_early, call, before, self.left)
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
        seen = Seen(
            text=call.known.text if needs_text else None,
            serials=self._serials(own),
            tower=setting.tower,
            skipped=tuple(call.length - count for count in call.known.num_begun),
            final_norm=setting.anatomy.final_norm if setting.needs("normed") else None,
        )
        states = [ImageState(span) for span in own]
        return Decider(states, seen, setting.num_layers, call.rows_per_prompt)

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
