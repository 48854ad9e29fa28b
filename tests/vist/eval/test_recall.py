"""Key-value recall: items are where and as long as asked, curves run over the ratio."""

from __future__ import annotations

import re
from typing import Any

import pytest

from foveate.errors import InputError
from foveate.tasks.key_value import KINDS, make_items
from foveate.vist.eval.arms import Subjects
from foveate.vist.eval.recall import RecallSettings, evaluate_recall
from tests.vist.eval.fake_subject import FakeSubject


def count_words(text: str) -> int:
    return len(text.split())


def items(**changes: Any) -> Any:
    values: dict[str, Any] = {"count": 3, "length": 300, "num_tokens": count_words}
    return make_items(**{**values, **changes})


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 1.0])
def test_depth_and_length(depth: float) -> None:
    for item in items(depths=(depth,)):
        assert 285 <= count_words(item.context) <= 300
        at = item.context.index(f"{item.prompt} {item.answer}.") / len(item.context)
        assert abs(at - depth) < 0.12


@pytest.mark.parametrize(
    ("kind", "pattern"), [("words", "[a-z]+ [a-z]+"), ("numbers", r"\d{5}"), ("hex", "[0-9a-f]{6}")]
)
def test_kinds(kind: Any, pattern: str) -> None:
    for item in items(kinds=(kind,)):
        assert re.fullmatch(pattern, item.answer)
        assert item.context.count(item.answer) == 1
        assert item.context.count("The code of") == 4


def test_the_same_seed_gives_the_same_items() -> None:
    assert items(seed=1) == items(seed=1)
    assert items(seed=1) != items(seed=2)
    assert len({item.id for item in items()}) == 27


def test_given_filler() -> None:
    filler = " ".join(f"Line {i} says little." for i in range(200))
    (item,) = items(count=1, kinds=("hex",), depths=(0.5,), filler=filler)
    rest = re.sub(r"The code of \w+ is \w+\. ?", "", item.context)
    assert re.fullmatch(r"(Line \d+ says little\. ?)+", rest)
    with pytest.raises(InputError, match="the filler text has"):
        items(filler="Too short.")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"depths": (2.0,)}, "use 0 to 1"), ({"kinds": ("colours",)}, "use words, numbers, hex"),
     ({"length": 10}, "too short for its pairs"), ({"pairs": 99}, "at most 26")],
)  # fmt: skip
def test_impossible(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        items(**change)


def test_curves_over_the_ratio() -> None:
    raw = FakeSubject()
    vists = {n: FakeSubject(ratio=256 // n, words=raw.words) for n in (64, 128)}
    settings = RecallSettings(contexts=(200,), latents=(64, 128), count=2, depths=(0.5,))
    result = evaluate_recall(lambda n: Subjects(raw=raw, vist=vists[n]), settings)
    whole = {
        (r["arm"], r["latents"]): r for r in result.rows if r["kind"] is None and r["depth"] is None
    }
    # Two-word values: the fake says one word only.
    assert whole["raw", 64]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert whole["none", 64]["accuracy"]["value"] == 0
    assert whole["vist-shuffled", 64]["accuracy"]["value"] == 0
    assert (
        whole["vist", 64]["entries"] < whole["vist", 128]["entries"] < whole["raw", 64]["entries"]
    )
    by_kind = {r["kind"]: r for r in result.rows if r["arm"] == "raw" and r["kind"]}
    assert set(by_kind) == set(KINDS)
    assert by_kind["hex"]["accuracy"]["value"] == 1
    curves = {curve.name: curve for curve in result.curves}
    assert curves["vist"].x == pytest.approx((2, 4), rel=0.02)
    assert curves["raw"].x == curves["vist"].x
    # What does not depend on the latents is asked once: 6 items, then 2 arms at 2 budgets.
    assert len(raw.seen) == 6 * 2 + 6 * 2 * 2
