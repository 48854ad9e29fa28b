"""Key-value recall: items are where and as long as asked, curves run over the ratio."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import InputError
from foveate.measure.parts import Parts
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


def subjects_of() -> Any:
    raw = FakeSubject()
    made = {
        n: Subjects(
            raw=raw,
            vist=FakeSubject(ratio=256 // n, words=raw.words),
            looking=lambda share: FakeSubject(ratio=round(1 / share), words=raw.words),
        )
        for n in (64, 128)
    }
    return made.__getitem__


def evaluate(subjects: Any, parts: Parts | None = None, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "contexts": (200,), "latents": (64, 128), "count": 2, "depths": (0.5,),
        "budgets": (0.2, 0.5),
    }  # fmt: skip
    return evaluate_recall(subjects, RecallSettings(**{**values, **changes}), parts=parts)


def test_curves_over_the_ratio() -> None:
    subjects = subjects_of()
    result = evaluate(subjects)
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
    assert set(curves["vist"].x) < set(curves["raw"].x)
    assert len(curves["bm25"].x) == 2


def test_looking_again_within_a_budget() -> None:
    rows = {
        r["arm"]: r for r in evaluate(subjects_of()).rows if r["kind"] is r["depth"] is r["latents"]
    }
    assert list(rows) == [
        "none", "raw", "truncated@0.2", "truncated@0.5", "segments@0.2", "segments@0.5",
        "bm25@0.2", "bm25@0.5", "bm25-twice@0.2", "bm25-twice@0.5", "fixate@0.2", "fixate@0.5",
        "fixate-shuffled@0.2", "fixate-shuffled@0.5",
    ]  # fmt: skip
    right = {name: row["accuracy"]["value"] for name, row in rows.items()}
    # The key's sentence is found, whatever the budget; another document does not know the value.
    assert right["bm25@0.2"] == right["fixate@0.2"] == right["raw"] == pytest.approx(2 / 3)
    assert right["fixate-shuffled@0.5"] == 0
    assert rows["fixate@0.2"]["minus_shuffled"]["value"] == pytest.approx(2 / 3)
    for name, row in rows.items():
        if "@" in name:
            assert row["entries"] <= float(name.split("@")[1]) * row["tokens"] + 1


def test_each_arm_is_asked_once() -> None:
    subjects = subjects_of()
    evaluate(subjects)
    # Of the raw reader: none and raw, 4 arms at 2 budgets, 2 arms at 2 numbers of latents.
    assert len(subjects(64).raw.seen) == 6 * (2 + 4 * 2 + 2 * 2)


def test_shares_say_what_one_run_says(tmp_path: Path) -> None:
    for index in (0, 1):
        assert evaluate(subjects_of(), Parts(folder=tmp_path, index=index, count=2)) is None
    joined = evaluate(subjects_of(), Parts(folder=tmp_path))
    assert joined.rows == evaluate(subjects_of()).rows
    # A budget more needs no other arm again.
    more = evaluate(subjects_of(), Parts(folder=tmp_path), budgets=(0.2, 0.5, 0.9), arms=("bm25",))
    assert [r["arm"] for r in more.rows if r["kind"] is r["depth"] is None] == [
        "none", "raw", "bm25@0.2", "bm25@0.5", "bm25@0.9",
    ]  # fmt: skip
    with pytest.raises(InputError, match="another max_new_tokens"):
        evaluate(subjects_of(), Parts(folder=tmp_path), max_new_tokens=3)


def test_arms_without_a_model() -> None:
    alone = Subjects(raw=FakeSubject(), vist=FakeSubject(ratio=4))
    names = {row["arm"] for row in evaluate(lambda n: alone).rows}
    assert not any(name.startswith("fixate") for name in names)
    with pytest.raises(InputError, match="cannot run the arms fixate"):
        evaluate(lambda n: alone, arms=("fixate",))
    with pytest.raises(InputError, match="unknown arms sight"):
        evaluate(lambda n: alone, arms=("sight",))
    with pytest.raises(InputError, match="above 0 and up to 1"):
        RecallSettings(budgets=(0.0,))
