"""keep_information on models: each image its own count, whatever it is batched with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from foveate.carve.frame_method import FrameMethod
from foveate.carve.methods import UniformGrid
from foveate.carve.spec import parse_method
from foveate.carve.tower_method import PatchDropping, TowerMethod
from foveate.core.budget import Budget
from foveate.core.information_share import tokens_holding
from foveate.core.visual import VisualTokens
from foveate.errors import BudgetError, FoveateError, UnsupportedModelError
from tests import tiny_vlm as tiny
from tests.carve.oracle.test_steps_equal_masked import check

SHARE = 0.7
INSIDE = [n for n, cls in foveate.METHODS.items() if issubclass(cls, TowerMethod)]
OF_FRAMES = [n for n, cls in foveate.METHODS.items() if issubclass(cls, FrameMethod)]
FREE = [n for n in foveate.METHODS if n not in ("noop", "stack", "text-share", *INSIDE, *OF_FRAMES)]


def plain_images(inputs: dict[str, Any]) -> dict[str, Any]:
    """Every second image is one colour."""
    pixels = inputs["pixel_values"].clone()
    pixels[1::2] = 0.3
    return {**inputs, "pixel_values": pixels}


def run_on(method: Any, num_images: tuple[int, ...] = (1, 2, 0), **changes: Any) -> foveate.Run:
    model = tiny.build("llava")
    inputs = plain_images(tiny.prompts(model, "llava", num_images))
    with foveate.attach(model, method) as run, torch.no_grad():
        model(**{**inputs, **changes})
    return run


def kept(run: foveate.Run) -> list[int]:
    assert run.report is not None
    return [image.kept for image in run.report.images]


class Watch:
    """The states that a step was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[torch.Tensor] = []
        inner = tokens_holding

        def watched(x: torch.Tensor, share: float, *, method: str) -> torch.Tensor:
            self.seen.append(x)
            return inner(x, share, method=method)

        monkeypatch.setattr("foveate.carve.engine.decide.tokens_holding", watched)


@pytest.mark.parametrize("name", FREE)
def test_every_method_keeps_what_its_images_hold(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts follow from the states at the method's first step; blank images keep fewer."""
    watch = Watch(monkeypatch)
    method = foveate.method(name, keep_information=SHARE)
    run = run_on(method)
    assert run.report is not None
    assert run.report.fired
    (states,) = watch.seen  # once a run, whatever the number of steps
    s = torch.linalg.svdvals(states.double())
    wanted = ((s.cumsum(-1) / s.sum(-1, keepdim=True)) < SHARE).sum(-1) + 1
    found = [image.budget for image in run.report.images]
    assert found == wanted.tolist()
    if method.exact_budget and len(run.steps) == 1:
        assert kept(run) == found
    assert found[1] < min(found[0], found[2]), "the image of one colour"


@pytest.mark.parametrize("name", FREE)
def test_report_has_no_budget_of_images_where_it_is_fixed(name: str) -> None:
    run = run_on(foveate.method(name, keep_ratio=0.5), (1,))
    assert run.report is not None
    assert [image.budget for image in run.report.images] == [None]


@pytest.mark.parametrize("name", OF_FRAMES)
def test_methods_of_videos_refuse(name: str) -> None:
    with pytest.raises(BudgetError, match="over the frames of a video, and the budget information"):
        foveate.method(name, keep_information=SHARE)


def test_bounds_without_a_budget_refuse() -> None:
    with pytest.raises(BudgetError, match="got none of"):
        foveate.Dtd(keep_min=5)


@pytest.mark.parametrize("name", INSIDE)
def test_methods_of_the_tower_refuse(name: str) -> None:
    with pytest.raises(FoveateError) as caught:
        foveate.method(name, keep_information=SHARE)
    if issubclass(foveate.METHODS[name], PatchDropping):
        assert "information=70%" in str(caught.value)
        return
    assert str(caught.value) == (
        f"{name} acts inside the vision tower, before there are visual tokens whose information "
        "could be told, and the budget is information=70%; use keep_ratio or keep_tokens."
    )


@pytest.mark.parametrize("name", ["divprune", "tokencarve", "sparsevlm", "foveacarve"])
def test_batch_equals_single_whatever_the_padding(name: str) -> None:
    model = tiny.build("llava")
    inputs = plain_images(tiny.prompts(model, "llava", (1, 2, 0, 1)))
    method = foveate.method(name, keep_information=SHARE)
    with foveate.attach(model, method) as run, torch.no_grad():
        model(**inputs)
    together = [(plan.num_kept, plan.span.sample) for plan in run.plans]
    alone, start = [], 0
    for sample, num_images in enumerate((1, 2, 0, 1)):
        mask = inputs["attention_mask"][sample].bool()
        own = {
            "input_ids": inputs["input_ids"][sample, mask][None],
            "attention_mask": mask[mask][None].long(),
        }
        if num_images:
            own["pixel_values"] = inputs["pixel_values"][start : start + num_images]
        start += num_images
        with foveate.attach(model, method) as run, torch.no_grad():
            model(**own)
        alone += [(plan.num_kept, sample) for plan in run.plans]
    assert together == alone
    assert len({count for count, _ in together}) > 1


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_monotone_and_bounded(share: float) -> None:
    free = kept(run_on(foveate.DivPrune(keep_information=share)))
    more = kept(run_on(foveate.DivPrune(keep_information=min(1.0, share + 0.1))))
    assert all(a <= b for a, b in zip(free, more, strict=True))
    bounded = kept(run_on(foveate.DivPrune(keep_information=share, keep_min=5, keep_max=0.25)))
    assert bounded == [min(max(count, 5), 9) for count in free]


def test_a_blank_image_keeps_the_least() -> None:
    """Tokens that are all alike hold one direction."""
    states = torch.ones(1, 49, 16) * torch.randn(16)
    assert tokens_holding(states, 0.99).tolist() == [1]
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (2,))
    embeds = torch.randn(1, 40, 48)
    embeds[:, 5:25] = embeds[:, 5:6]  # an image of one token twenty times
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[:, 5:25] = True
    del inputs
    for least, count in ((None, 1), (4, 4), (0.5, 10), (30, 20)):
        method = UniformGrid(keep_information=0.99, keep_min=least, prune_layer=0)
        with foveate.attach(model, method, visual_mask=mask) as run, torch.no_grad():
            model(inputs_embeds=embeds)
        assert kept(run) == [count]


def test_all_of_the_information_is_bitwise_nothing() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1, 2, 0))
    with torch.no_grad():
        plain = model(**inputs).logits
        with foveate.attach(model, foveate.DivPrune(keep_information=1.0)) as run:
            through = model(**inputs).logits
    assert torch.equal(plain, through)
    assert run.report is not None
    assert not run.report.fired


@pytest.mark.parametrize("num_images", [(1,), (1, 2, 0)], ids=["single", "ragged"])
@pytest.mark.parametrize(
    "method",
    [
        foveate.DivPrune(keep_information=0.8),
        foveate.TokenCarve(keep_information=0.8),
        foveate.PyramidDrop(keep_information=0.8),
        foveate.FoveaCarve(keep_information=0.8, keep_max=0.5),
        foveate.Stack(
            stages=(foveate.DivPrune(keep_ratio=0.8), foveate.TokenCarve(keep_information=0.8))
        ),
    ],
    ids=str,
)
def test_equals_masked(method: foveate.Method, num_images: tuple[int, ...]) -> None:
    """Generation with a cache equals the slow path that masks what went."""
    early = getattr(method, "early_cache", "compact")
    check("llava", method, num_images, compact=early == "compact")


def test_beams_and_no_cache_see_the_same_images() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1, 2))
    counts = []
    for settings in ({}, {"num_beams": 3}, {"use_cache": False}):
        with foveate.attach(model, "divprune", keep="information=80%") as run:
            model.generate(**inputs, max_new_tokens=3, do_sample=False, **settings)
        assert run.report is not None
        counts.append([(i.sample, i.kept) for i in run.report.images][: len((1, 2)) + 1])
    assert {count for _, count in counts[0]} == {count for _, count in counts[1]}
    assert counts[0] == counts[2]


def test_a_stack_tells_what_is_left() -> None:
    """Both stages by information: the second of what the first one left."""
    stages = (
        foveate.DivPrune(keep_information=0.9),
        foveate.FastV(keep_information=0.5, prune_layer=3),
    )
    stack = foveate.Stack(stages=stages)
    assert str(stack.budget) == "information=50%"
    run = run_on(stack)
    first, second = ([plan.steps[number].num_kept for plan in run.plans] for number in (0, 1))
    assert all(a > b for a, b in zip(first, second, strict=True))
    assert run.report is not None
    assert [image.budget for image in run.report.images] == second


@pytest.mark.parametrize("inside", ["tome", "resize"])
def test_a_stack_tells_what_the_tower_left(inside: str) -> None:
    """The budget is of the method behind the tower, which has states."""
    method = parse_method(f"{inside}:60%+divprune(prune_layer=2)", Budget(keep_information=SHARE))
    run = run_on(method, (2,))
    assert run.report is not None
    first, second = run.plans
    assert [len(plan.steps) for plan in run.plans] == [2, 2]
    assert first.budget == first.num_kept
    assert second.budget == second.num_kept
    assert second.num_kept < first.num_kept, "the second image is of one colour"


def test_a_family_that_shortens_its_prompt_takes_it_before_the_decoder() -> None:
    model = tiny.build("llava")
    inputs = plain_images(tiny.prompts(model, "llava", (1, 2, 0)))
    counts = []
    for cut in ("in_llm", "before_llm"):
        method = foveate.DivPrune(keep_information=SHARE, prune_layer=0)
        with foveate.Run(model, method, cut=cut) as run, torch.no_grad():  # type: ignore[arg-type]
            model(**inputs)
        counts.append(kept(run))
    assert counts[0] == counts[1]
    with pytest.raises(UnsupportedModelError, match="fastv drops some at layer 2"):
        foveate.Run(model, foveate.FastV(keep_information=SHARE), cut="before_llm")


def test_bounds_that_cross_are_said_with_the_image() -> None:
    with pytest.raises(BudgetError, match=r"keep_min=30 is 30 and keep_max=0.25 is 9 of the 36"):
        run_on(foveate.DivPrune(keep_information=0.9, keep_min=30, keep_max=0.25))


def test_plans_alone_know_no_budget() -> None:
    """`plan` and `select` are given a count, as ever."""
    method = foveate.DivPrune(keep_information=0.9)
    plan = method.select(VisualTokens(hidden=torch.randn(1, 20, 8)), 7)
    assert plan.num_kept == 7
