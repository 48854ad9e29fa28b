"""What the question sees when it reads ahead: the engine equals transformers' own modules.

The slow way runs everything at full length, in eager: a pass in which no token sees a visual one,
then the layer that looks, on the visual tokens as they were and the text as it is by then.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

import foveate
from foveate.carve.engine.decide import Decider
from foveate.carve.engine.foresight import Foresight
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.models.attention import RowRecorder
from tests import tiny_kinds as kinds
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import decoder_of, masked_steps
from tests.carve.oracle.short import short_logits
from tests.carve.oracle.test_pruned_equals_masked import assert_close

RAGGED = (1, 2, 0)
# With an indexer, what a row of text attends to depends on how many tokens there are.
ATTENDING = [
    name
    for name in (*tiny.FAMILIES, *kinds.KINDS)
    if name not in kinds.STATEFUL and not name.startswith("mistral_large4")
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(foveate.FoveaCarve):
    """FoveaCarve that shows what it was given."""

    given: ClassVar[list[VisualTokens]] = []

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        if visual.foresight is not None:
            self.given.append(visual)
        return super().plan(visual, keep)


@pytest.fixture(autouse=True)
def _any_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of nine tokens are never worth reading ahead for."""
    monkeypatch.setattr(Decider, "budgets", lambda self, *_: (1e6,) * len(self.states))
    monkeypatch.setattr(Watched, "adapt", lambda self, visual, keeps, step, n: keeps_of(visual))


def keeps_of(visual: VisualTokens) -> tuple[int, ...]:
    return (max(1, visual.num_tokens // 2),) * visual.num_images


def read_by(model: Any, inputs: dict[str, Any], **settings: Any) -> tuple[Tensor, Any]:
    """The engine's map [B, S], and the layers (step, look)."""
    found: list[Tensor] = []
    read = Foresight.read

    def remember(self: Foresight, given: dict[str, Any]) -> Tensor:
        found.append(read(self, given))
        return found[-1]

    Watched.given.clear()
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Foresight, "read", remember)
        with foveate.attach(model, Watched(keep_ratio=0.5, **settings)) as run:
            model(**inputs)
            ((step, layer),) = run._setting.foresight.items()
    (row,) = found
    return row, (step, layer)


@contextlib.contextmanager
def calls_of(module: Any) -> Iterator[list[Tensor]]:
    """Hidden states and keyword arguments of every call of a decoder layer."""
    found: list[Any] = []

    def remember(module: Any, args: Any, kwargs: Any) -> None:
        found.append((args, kwargs))

    handle = module.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def hidden_of(call: Any) -> Tensor:
    args, kwargs = call
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    return hidden


def alone(model: Any, name: str, inputs: dict[str, Any], visual: Tensor, layer: int) -> Tensor:
    """What goes into a layer where no token sees a visual one; rows of text count."""
    none = torch.empty(0, dtype=torch.long)
    plans = [
        (i, row.nonzero()[:, 0], none, none, none, False)
        for i, row in enumerate(visual)
        if any(row)
    ]
    length = visual.shape[1]
    with torch.no_grad(), calls_of(decoder_of(model).layers[layer]) as calls:
        if layer == 0:
            model(**inputs, use_cache=False)
            return hidden_of(calls[0])
        if name not in kinds.STATEFUL:
            masked_steps(model, inputs, [(0, plans)], length)
            return hidden_of(calls[0])
        # What a state has seen cannot be masked.
        short_logits(model, inputs, plans, 0, length)
        hidden = hidden_of(calls[0])
        return hidden.new_zeros(1, length, hidden.shape[-1]).index_copy(
            1, (~visual[0]).nonzero()[:, 0], hidden
        )


def slow_map(
    model: Any,
    name: str,
    inputs: dict[str, Any],
    step: int,
    layer: int,
    *,
    reads: bool = True,
    visual_at: int | None = None,
) -> Tensor:
    """[B, S] attention of each sample's last row of text over its visual tokens.

    Args:
        step: the layer whose input the visual tokens are taken from.
        layer: the one that looks.
        reads: the text has passed the layers before; otherwise it is the embeddings'.
        visual_at: take the visual tokens from this layer's input instead.
    """
    layers = decoder_of(model).layers
    visual = (inputs["input_ids"] == tiny.IMAGE_ID) & inputs["attention_mask"].bool()
    is_text = inputs["attention_mask"].bool() & ~visual
    at = step if visual_at is None else visual_at
    with torch.no_grad(), calls_of(layers[at]) as first, calls_of(layers[layer]) as looking:
        model(**inputs, use_cache=False)
    text = alone(model, name, inputs, visual, layer if reads else 0)
    hidden = torch.where(visual[..., None], hidden_of(first[0]), text)
    args, kwargs = looking[0]
    opened = torch.where(visual, 0.0, torch.finfo(torch.float32).min)[:, None, None]
    kwargs = {**kwargs, "attention_mask": opened.expand(-1, 1, visual.shape[1], -1)}
    kwargs.pop("hidden_states", None)
    found: list[Any] = []
    handle = layers[layer].self_attn.register_forward_hook(lambda *call: found.append(call[-1]))
    with torch.no_grad():
        layers[layer](hidden, *args[1:], **kwargs)
    handle.remove()
    weights = found[0][1].mean(dim=1)  # [B, S, S]
    last = [int(row.nonzero()[-1]) for row in is_text]
    return torch.stack([weights[i, last[i]] for i in range(len(last))]) * visual


def batch_of(name: str, attention: str, num_images: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """A model, the same in eager, and prompts."""
    model, eager = kinds.build(name, attention), kinds.build(name, "eager")
    for each in (model, eager):
        for key, weight in each.named_parameters():
            if key.endswith("mm_input_projection_weight"):  # zero until trained (Gemma 3)
                torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(3))
    return model, eager, kinds.given(tiny.prompts(model, name, num_images))


@pytest.mark.parametrize("num_images", [(1,), RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ATTENDING)
def test_the_map(name: str, attention: str, num_images: tuple[int, ...]) -> None:
    model, eager, inputs = batch_of(name, attention, num_images)
    fast, layers = read_by(model, inputs)
    slow = slow_map(eager, name, inputs, *layers)
    assert_close(fast, slow, 3e-5)  # queries and keys are large, so that attention is sharp
    assert_close(fast.sum(dim=1), (torch.tensor(num_images) > 0).float())
    others = {
        "text that has not read": slow_map(eager, name, inputs, *layers, reads=False),
        "visual tokens of the next layer": slow_map(
            eager, name, inputs, *layers, visual_at=layers[0] + 1
        ),
    }
    for what, other in others.items():
        assert (slow - other).abs().max() > 1e-4, f"the oracle cannot tell {what}"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", kinds.STATEFUL)
def test_layers_with_a_state(name: str, attention: str) -> None:
    model, eager, inputs = batch_of(name, attention, (1,))
    fast, (step, layer) = read_by(model, inputs, look_depth=0.7)
    assert layer > 1
    slow = slow_map(eager, name, inputs, step, layer)
    assert_close(fast, slow)
    unread = slow_map(eager, name, inputs, step, layer, reads=False)
    assert (slow - unread).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3", "smolvlm"])
def test_each_image_gets_its_own(name: str) -> None:
    model, _, inputs = batch_of(name, "sdpa", RAGGED)
    row, _ = read_by(model, inputs)
    given = torch.cat([image for visual in Watched.given for image in visual.foresight])
    is_visual = (inputs["input_ids"] == tiny.IMAGE_ID) & inputs["attention_mask"].bool()
    assert torch.equal(given.sort().values, row[is_visual].sort().values)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_a_row_of_a_batch_equals_a_single_run(name: str) -> None:
    model = kinds.build(name)
    inputs = tiny.prompts(model, name, RAGGED)
    batch, _ = read_by(model, inputs)
    for sample in (0, 1):
        single = kinds.alone(inputs, model, name, sample, RAGGED)
        row, _ = read_by(model, single)
        assert_close(batch[sample : sample + 1, -row.shape[1] :], row)


def test_the_question_before_the_image_or_behind() -> None:
    """The prompt's last row of text looks, wherever the image stands."""
    model, eager = tiny.build("llava"), tiny.build("llava", "eager")
    inputs = tiny.prompts(model, "llava", (1,))
    ids = inputs["input_ids"]
    is_visual = ids == tiny.IMAGE_ID
    text, image = ids[~is_visual][None], ids[is_visual][None]
    maps = []
    for order in ((text[:, :3], image, text[:, 3:]), (text[:, :-1], image, text[:, -1:])):
        inputs = {**inputs, "input_ids": torch.cat(order, dim=1)}
        fast, layers = read_by(model, inputs)
        assert_close(fast, slow_map(eager, "llava", inputs, *layers))
        maps.append(fast[inputs["input_ids"] == tiny.IMAGE_ID])
    assert not torch.allclose(*maps)
    at_the_end = {**inputs, "input_ids": torch.cat([text, image], dim=1)}
    fast, layers = read_by(model, at_the_end)
    assert_close(fast, slow_map(eager, "llava", at_the_end, *layers))


def test_a_later_turn_reads_its_own_text() -> None:
    """Places go on behind what the cache holds; that itself is not read."""
    model, eager = tiny.build("llava"), tiny.build("llava", "eager")
    inputs = tiny.prompts(model, "llava", (1,))
    cache = DynamicCache(config=model.config.get_text_config())
    before = torch.tensor([[1, *tiny.text(6, 5)]])
    with torch.no_grad():
        model(input_ids=before, past_key_values=cache)
    mask = torch.cat([torch.ones_like(before), inputs["attention_mask"]], dim=1)
    place = torch.arange(before.shape[1], mask.shape[1])[None]
    fast, layers = read_by(model, {**inputs, "attention_mask": mask, "past_key_values": cache})
    slow = slow_map(eager, "llava", {**inputs, "position_ids": place}, *layers)
    assert_close(fast, slow)


def test_what_it_costs() -> None:
    """The rows of text in each layer before, and of the visual tokens the keys alone."""
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    counted: list[int] = []
    read = Foresight.read

    def counting(self: Foresight, given: dict[str, Any]) -> Tensor:
        with FlopCounterMode(display=False) as flops:
            row = read(self, given)
        counted.append(flops.get_total_flops())
        return row

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Foresight, "read", counting)
        with foveate.attach(model, foveate.FoveaCarve(keep_ratio=0.5)) as run:
            model(**inputs)
    weights = sum(w.numel() for w in decoder_of(model).layers[0].parameters() if w.ndim == 2)
    assert run.report is not None
    told = run.report.ahead_tokens * 2 * weights
    # Products of queries and keys are not weights, and the last row needs no feed-forward.
    assert counted[0] == pytest.approx(told, rel=0.1)
    everything = 2 * weights * inputs["input_ids"].shape[1]
    assert counted[0] < everything


@pytest.mark.parametrize("num_images", [(1,), RAGGED], ids=["single", "ragged"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_counts_what_is_merged(attention: str, num_images: tuple[int, ...]) -> None:
    """Behind a step that merges with sizes="log": softmax(l + log n) over the same logits."""
    model, _, inputs = batch_of("llava", attention, num_images)
    pooling = foveate.AveragePooling(keep_ratio=0.5, prune_layer=0, sizes="log")
    later = Watched(keep_ratio=0.3, depths=(0.4, 0.8), look_depth=0.6)
    looked: list[Tensor] = []  # [B, H, V + 1] each, the question's own last
    read, look = Foresight.read, RowRecorder.look

    def remember(self: Foresight, given: dict[str, Any]) -> Tensor:
        try:
            return read(self, given)
        finally:
            looked.append(self._row)

    def plain(self: RowRecorder, *args: Any) -> Tensor:
        looked.append(look(self, *args))
        return looked[-1]

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(Foresight, "read", remember)
        patch.setattr(RowRecorder, "look", plain)
        with foveate.attach(model, foveate.Stack(stages=(pooling, later))) as run:
            model(**inputs)
    without, found = looked
    plans = run.plans
    counts = torch.ones(len(num_images), found.shape[-1])
    of_sample: dict[int, list[int]] = {}
    for entry in plans:
        first = entry.steps[0]
        own = torch.ones(first.num_tokens).scatter_add_(
            0, first.merge_dst[0], torch.ones(first.merge_dst.shape[1])
        )
        of_sample.setdefault(entry.span.sample, []).extend(own[first.keep_idx[0]].tolist())
    for sample, own in of_sample.items():
        counts[sample, -1 - len(own) : -1] = torch.tensor(own)
    assert counts.max() > 1
    weighed = without * counts[:, None]
    expected = weighed / weighed.sum(dim=-1, keepdim=True)
    has_image = torch.tensor(num_images) > 0
    assert_close(found[has_image], expected[has_image], 3e-5)
    assert (found - without)[has_image].abs().max() > 1e-3
