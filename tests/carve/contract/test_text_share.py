"""TextShare: the most relevant tokens first, the rest as the method inside decides."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch

import foveate
from foveate import METHODS, TextShare
from foveate.carve.composed import Composed
from foveate.carve.frame_method import FrameMethod
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import others
from foveate.core.relevance import Relevance, text_relevance
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError
from tests import tiny_vlm as tiny
from tests.carve.contract.test_methods import COMPRESSING, visual

# What compares whole frames refuses: below.
TAKE_A_SHARE = [n for n in COMPRESSING if not issubclass(foveate.METHODS[n], FrameMethod)]


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("name", TAKE_A_SHARE)
def test_the_most_relevant_and_what_the_method_takes_of_the_others(name: str, share: float) -> None:
    tokens, inner = visual(), foveate.method(name, keep_tokens=10)
    method = TextShare(inner=inner, share=share, relevance="similarity")
    assert "text" in method.needs
    plan = method.select(tokens, 10)
    plan.check(10 if method.exact_budget else plan.num_kept)
    order = text_relevance(tokens, "similarity").argsort(dim=-1, descending=True, stable=True)
    first = order[:, : round(share * 10)]
    rest = others(first, tokens.num_tokens)
    for image, kept in enumerate(plan.keep_idx.tolist()):
        expected = set(first[image].tolist())
        if share < 1:
            own = inner.plan(tokens.tokens(rest), 7).keep_idx[image]
            expected |= set(rest[image, own].tolist())
        assert set(kept) == expected


@pytest.mark.parametrize("relevance", ["attention", "text_attention", "similarity"])
def test_relevance_is_of_the_kind_asked_for(relevance: Relevance) -> None:
    tokens = visual()
    method = TextShare(inner=foveate.DivPrune(keep_tokens=8), share=0.5, relevance=relevance)
    plan = method.plan(tokens, 8)
    found = text_relevance(tokens, relevance)
    torch.testing.assert_close(plan.scores["relevance"], found, rtol=0, atol=0)
    for image, kept in enumerate(plan.keep_idx.tolist()):
        assert set(found[image].topk(4).indices.tolist()) <= set(kept)


def test_no_share_is_the_method_alone() -> None:
    tokens, inner = visual(), foveate.TokenCarve(keep_tokens=9)
    method = TextShare(inner=inner, share=0)
    assert method.needs == inner.needs
    assert method.plan(tokens, 9).to_dict() == inner.plan(tokens, 9).to_dict()


@pytest.mark.parametrize("name", TAKE_A_SHARE)
def test_settings_are_those_of_the_method_and_survive_json(name: str) -> None:
    inner = foveate.method(name, keep_ratio=0.25, prune_layer=3, positions="renumbered")
    method = TextShare(inner=inner, share=0.4, relevance="similarity")
    assert foveate.method(**json.loads(json.dumps(method.to_dict()))) == method
    for setting in ("where", "budget", "prune_layer", "early_cache", "positions", "exact_budget"):
        assert getattr(method, setting) == getattr(inner, setting), setting
    assert str(method) == f"text-share({inner}, share=0.4, relevance='similarity')"
    layers = inner.layers(8, 0)
    assert method.layers(8, 0) == layers
    for step, own in zip(method.steps(8, 0), inner.steps(8, 0), strict=True):
        assert step.method is method
        assert step.needs == own.needs | {"text"}
        assert (step.layer, step.layers, step.number) == (own.layer, own.layers, own.number)
    assert method.keeps(9, 36, layers, 8) == inner.keeps(9, 36, layers, 8)


# What a share around a method says for itself.
ITS_OWN = {"always_named", "paper", "fidelity", "default_layer", "budget", "select", "reference"}


def test_all_else_is_asked_of_the_method_inside() -> None:
    settings = {field.name for field in fields(foveate.Method)}
    said = {name for name in vars(foveate.Method) if not name.startswith("_")} - settings
    asked = {*vars(TextShare), *vars(Composed)}
    assert said - asked == ITS_OWN


@pytest.mark.parametrize("name", TAKE_A_SHARE)
def test_on_a_model_every_method_takes_a_share(name: str) -> None:
    model = tiny.build("llava")
    method = TextShare(inner=foveate.method(name, keep_ratio=0.5), relevance="similarity")
    with foveate.attach(model, method) as run, torch.no_grad():
        model(**tiny.prompts(model, "llava", (1, 2)))
    assert run.report is not None
    assert run.report.average_tokens < sum(image.before for image in run.report.images)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inner": foveate.ToMe(keep_tokens=4)}, "acts inside the vision tower"),
        ({"inner": foveate.DivPrune(keep_tokens=4), "keep_tokens": 5}, "is not that of divprune"),
        ({"inner": {"name": "nerm"}}, "unknown method 'nerm'"),
        ({"inner": "fastv"}, "inner='fastv' is no method"),
        ({}, "needs the setting 'inner'"),
        ({"inner": foveate.FastV(keep_tokens=4), "share": -0.1}, r"outside \[0, 1\]"),
        (
            {"inner": foveate.Stack(stages=(foveate.DivPrune(keep_tokens=4),) * 2)},
            "goes around one method, not around divprune",
        ),
    ],
)
def test_what_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        TextShare.from_dict(settings)


@pytest.mark.parametrize("name", sorted(set(COMPRESSING) - set(TAKE_A_SHARE)))
def test_what_compares_whole_frames_refuses(name: str) -> None:
    with pytest.raises(MethodError, match="compares whole frames"):
        TextShare(inner=foveate.method(name, keep_ratio=0.25))


def test_a_step_that_must_not_know_the_question_is_not_told() -> None:
    """FoveaCarve takes attention that is there for what it asked for."""
    inner = foveate.FoveaCarve(keep_tokens=8)
    with pytest.raises(MethodError, match=r"at layer 5 and not at others.*relevance='similarity'"):
        TextShare(inner=inner).steps(8, 3)
    with pytest.raises(MethodError, match=r"before layer 0, where text-share has no attention"):
        TextShare(inner=inner).steps(8, 0)
    # A fix that is named works: FoveaCarve acts at its depths, wherever prune_layer is.
    for kind in ("attention", "text_attention"):
        with pytest.raises(MethodError, match=r"; use relevance='similarity'\.$"):
            TextShare(inner=inner, relevance=kind).steps(8, 0)
    with pytest.raises(MethodError, match=r"or a later prune_layer\.$"):
        TextShare(inner=foveate.VisionZip(keep_tokens=8)).steps(8, 0)
    steps = TextShare(inner=inner, relevance="similarity").steps(8, 0)
    assert [sorted(step.needs) for step in steps] == [["foresight", "text"], ["attention", "text"]]


@pytest.mark.parametrize("name", ["divprune", "fastv", "visionzip", "pyramiddrop", "sparsevlm"])
def test_on_a_model(name: str) -> None:
    """The tokens that are kept at the first cut hold the most relevant ones."""
    model = tiny.build("llava")
    inner = foveate.method(name, keep_ratio=0.3)
    method = TextShare(inner=inner, share=0.5, relevance="similarity")
    with foveate.attach(model, method) as run, torch.no_grad():
        model(**tiny.prompts(model, "llava", (1, 2)))
    assert run.report is not None
    assert {image.kept for image in run.report.images} == {
        image.kept for image in reports_of(model, inner)
    }
    first = run.plans[0].steps[0]
    num_first = round(0.5 * first.num_kept)
    best = first.scores["relevance"][0].topk(num_first).indices
    assert set(best.tolist()) <= set(first.keep_idx[0].tolist())


def reports_of(model: Any, method: foveate.Method) -> Any:
    with foveate.attach(model, method) as run, torch.no_grad():
        model(**tiny.prompts(model, "llava", (1, 2)))
    assert run.report is not None
    return run.report.images


def test_plans_of_a_strangers_method_are_looked_at() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Twice(foveate.Method):
        """Keeps its first token twice."""

        name = "twice"

        def plan(self, tokens: VisualTokens, keep: int) -> KeepPlan:
            return keep_only(torch.zeros(tokens.num_images, keep, dtype=torch.long),
                             tokens.num_tokens)  # fmt: skip

    try:
        model = tiny.build("llava")
        method = TextShare(inner=Twice(keep_tokens=6), relevance="similarity")
        with (
            foveate.attach(model, method),
            torch.no_grad(),
            pytest.raises(MethodError, match="not ascending"),
        ):
            model(**tiny.prompts(model, "llava", (1,)))
    finally:
        METHODS.pop("twice", None)
