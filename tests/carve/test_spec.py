"""Methods as people type them."""

from __future__ import annotations

import json

import pytest

import foveate
from foveate.carve.method import Method
from foveate.carve.methods import DivPrune, FastV, PixelPrune, RandomTokens, TokenCarve
from foveate.carve.spec import parse_method, spec_name, split_outside
from foveate.carve.stack import Stack
from foveate.carve.text_share import TextShare
from foveate.core.budget import Budget, parse_budget
from foveate.errors import BudgetError, MethodError

QUARTER = Budget(keep_ratio=0.25)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tokencarve", TokenCarve(keep_ratio=0.25)),
        (" tokencarve( attention_weight = 0.3 ) ",
         TokenCarve(keep_ratio=0.25, attention_weight=0.3)),
        ("tokencarve(attention_weight=1,information_score=norm)",
         TokenCarve(keep_ratio=0.25, attention_weight=1, information_score="norm")),
        ("tokencarve(information_score='norm')",
         TokenCarve(keep_ratio=0.25, information_score="norm")),
        ("fastv()", FastV(keep_ratio=0.25)),
    ],
)  # fmt: skip
def test_names_and_settings(text: str, expected: Method) -> None:
    assert parse_method(text, QUARTER) == expected


def test_counts_and_shared_settings() -> None:
    assert parse_method("fastv", Budget(keep_tokens=9)) == FastV(keep_tokens=9)
    # Shared settings go to the methods that have them, and what is written wins.
    assert parse_method("random", QUARTER, seed=4) == RandomTokens(keep_ratio=0.25, seed=4)
    assert parse_method("random(seed=2)", QUARTER, seed=4) == RandomTokens(keep_ratio=0.25, seed=2)
    assert parse_method("divprune", QUARTER, seed=4) == DivPrune(keep_ratio=0.25)


def test_stacks() -> None:
    stack = parse_method("divprune:50% + random(prune_layer=1):70+fastv(prune_layer=3)", QUARTER,
                         seed=1)  # fmt: skip
    assert isinstance(stack, Stack)
    assert stack.stages == (
        DivPrune(keep_ratio=0.5),
        RandomTokens(keep_tokens=70, prune_layer=1, seed=1),
        FastV(keep_ratio=0.25, prune_layer=3),
    )
    assert stack.budget == QUARTER
    first = parse_method("divprune(prune_layer=1):50%+fastv", QUARTER)
    assert isinstance(first, Stack)
    assert first.stages[0] == DivPrune(keep_ratio=0.5, prune_layer=1)


def test_around_a_method() -> None:
    text = "text-share( random(prune_layer=1) , share = 0.5, relevance=similarity ):50% + fastv"
    stack = parse_method(text, QUARTER, seed=3)
    inner = RandomTokens(keep_ratio=0.5, prune_layer=1, seed=3)
    assert isinstance(stack, Stack)
    assert stack.stages == (
        TextShare(inner=inner, share=0.5, relevance="similarity"),
        FastV(keep_ratio=0.25),
    )
    assert parse_method("text-share(fastv)", QUARTER) == TextShare(inner=FastV(keep_ratio=0.25))
    assert spec_name("text-share( fastv, share=0.3)") == "text-share(fastv,share=0.3)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text-share", "does not say which method text-share goes around; write it first"),
        ("text-share(share=0.3)", "does not say which method text-share goes around"),
        ("text-share(divprune+fastv)", "put text-share around its stages"),
        ("text-share(divprune:50%)", r"inside its brackets; .*: .*\(divprune, ...\):50%"),
        ("text-share(noop)", "noop keeps 100% whatever its budget, so a text share with it at the"),
        ("divprune:50%+noop", "noop keeps 100% whatever its budget, so a stack with it at the end"),
        ("text-share(fastv, text_relevance=similarity)", "no setting .*; it is called relevance"),
        ("text-share(fastv, text_share=0.3)", "no setting 'text_share'; it is called share"),
        ("text-share(tome)", "inside the vision tower, where no text is seen; take text-share off"),
        ("text-share(fastv, 0.3)", "'0.3' is not setting=value"),
        ("text-share(fastv, share=1.5)", r"share=1.5 is outside \[0, 1\]"),
        ("text-share(fastv, relevance=x)", "relevance='x' is unknown; use one of 'attention'"),
        ("text-share(fastv, inner=fastv)", "inner='fastv' is no method"),
        ("text-share(fastv, early_cache=full)", "text-share has no setting 'early_cache'"),
        ("fastv(text_share=0.3)", r"fastv has no setting 'text_share'; wrap .* text-share\(fastv,"),
        ("toktok", "unknown method 'toktok'; choose one of"),
        ("tokencarve:50%", "budget of its own, which only stages of a stack may have"),
        ("tokencarve(", "does not name a method; write e.g. tokencarve"),
        ("tokencarve(0.3)", "'0.3' is not setting=value"),
        ("tokencarve(weight=0.3)", "tokencarve has no setting 'weight'; it has"),
        (
            "tokencarve(attention_weight=low)",
            "attention_weight='low' is no finite number; write e.g.",
        ),
        ("tokencarve(attention_weight=3)", r"attention_weight=3.0 is outside \[0, 1\]"),
        ("fastv(keep_ratio=0.5)", "the budget is not a setting here; give it with --keep"),
        ("", "does not name a method"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parse_method(text, QUARTER)


def test_a_stage_that_counts_itself_takes_no_budget_from_the_stack() -> None:
    stack = parse_method("pixelprune(threshold=0.1)+fastv", QUARTER)
    assert isinstance(stack, Stack)
    assert stack.stages == (
        PixelPrune(threshold=0.1, keep_ratio=1.0),
        FastV(keep_ratio=0.25),
    )
    with pytest.raises(MethodError, match="whatever the budget"):
        parse_method("pixelprune:50%+fastv", QUARTER)
    with pytest.raises(MethodError, match="whatever the budget"):
        parse_method("pixelprune", QUARTER)


def test_stacks_that_cannot_be() -> None:
    with pytest.raises(BudgetError, match="budget 'half' is not a count or a share"):
        parse_method("divprune:half+fastv", QUARTER)
    with pytest.raises(MethodError, match="gives its last stage a budget of its own"):
        parse_method("divprune+fastv:10%", QUARTER)


def test_text_helpers() -> None:
    assert spec_name(" a ( b = 1 ) + c ") == "a(b=1)+c"
    assert split_outside("a(b=1,c='x,y'), d,[1,2]", ",") == ["a(b=1,c='x,y')", "d", "[1,2]"]


@pytest.mark.parametrize(
    "text",
    ["divprune:information=90%+fastv", "divprune:information=90%:4..50%+fastv(prune_layer=3)"],
)
def test_stages_by_information(text: str) -> None:
    last = Budget(keep_information=0.8, keep_max=0.5)
    stack = parse_method(text, last)
    assert isinstance(stack, Stack)
    assert stack.budget == stack.stages[1].budget == last
    assert stack.stages[0].budget == parse_budget(text.split("+")[0].partition(":")[2])
    assert foveate.method(**json.loads(json.dumps(stack.to_dict()))) == stack
