"""In-context learning: data, balanced demonstrations, prompts, and who sees which."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.tasks.icl import (
    Demonstration,
    IclSet,
    Template,
    label_words,
    load_icl,
    load_icl_sets,
    shuffle_labels,
)
from foveate.vist.eval.arms import Subjects
from foveate.vist.eval.context import FarContext, Score
from foveate.vist.eval.icl import IclSettings, evaluate_icl
from tests.vist.eval.fake_subject import FakeSubject


def data_set(name: str = "sst2", labels: tuple[str, ...] = ("bad", "good")) -> IclSet:
    train = tuple(
        Demonstration(text=f"{name} train {i}", label=labels[i % len(labels)]) for i in range(40)
    )
    test = tuple(
        Demonstration(text=f"{name} test {i}", label=labels[i % len(labels)]) for i in range(8)
    )
    return IclSet(name=name, labels=labels, train=train, test=test)


def save(folder: Path, data: IclSet) -> Path:
    (folder / data.name).mkdir()
    (folder / data.name / "labels.json").write_text(json.dumps(data.labels))
    for name, examples in (("train", data.train), ("test", data.test)):
        lines = [json.dumps(vars(example)) for example in examples]
        (folder / data.name / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder / data.name


@pytest.mark.parametrize("count", [3, 20])
@pytest.mark.parametrize("num_labels", [2, 3, 7, 30])
def test_demonstrations_are_balanced(count: int, num_labels: int) -> None:
    data = data_set(labels=tuple(f"l{i}" for i in range(num_labels)))
    shown = data.demonstrations(count, 42)
    counts = Counter(example.label for example in shown)
    assert len(shown) == len({example.text for example in shown}) == count
    # 40 examples of 30 labels: some labels have a single one.
    assert max(counts.values()) - min(counts.get(f"l{i}", 0) for i in range(num_labels)) <= 1
    assert shown == data.demonstrations(count, 42)
    assert shown != data.demonstrations(count, 43)


def test_too_few_demonstrations() -> None:
    with pytest.raises(InputError, match="fewer than the 50 demonstrations"):
        data_set().demonstrations(50, 0)


def test_questions() -> None:
    data = data_set()
    assert len(data.questions(5, 42)) == 5
    assert sorted(q.text for q in data.questions(99, 1)) == [q.text for q in data.test]


def test_shuffled_labels_are_all_wrong_and_as_many() -> None:
    examples = data_set(labels=("a", "b", "c")).demonstrations(18, 0)
    wrong = shuffle_labels(examples)
    assert [e.text for e in wrong] == [e.text for e in examples]
    assert Counter(e.label for e in wrong) == Counter(e.label for e in examples)
    assert all(a.label != b.label for a, b in zip(examples, wrong, strict=True))


@pytest.mark.parametrize(
    ("label", "words"),
    [("NUM:dist", "number distance"), ("MeanOfTransportation", "mean of transportation"),
     ("World", "world"), ("Refund not showing up", "Refund not showing up"),
     ("positive", "positive"), ("ENTY:color", "entity color")],
)  # fmt: skip
def test_labels_as_words(label: str, words: str) -> None:
    assert label_words(label) == words


def test_template() -> None:
    template = Template(question="Review", answer="Sentiment")
    assert template.asked("so\n good ") == "Review: so good\nSentiment:"
    assert template.shown("fine", "positive") == "Review: fine\nSentiment: positive"


@pytest.fixture(scope="module")
def run() -> tuple[Subjects, IclSettings]:
    raw = FakeSubject()
    subjects = Subjects(raw=raw, vist=FakeSubject(ratio=3, words=raw.words))
    settings = IclSettings(raw=2, far=6, items=4, seeds=(42, 43))
    return subjects, settings


def test_every_arm_reads_what_it_claims(run: tuple[Subjects, IclSettings]) -> None:
    subjects, settings = run
    data, other = data_set(), data_set("agnews", ("Sea", "Land"))
    result = evaluate_icl([data, other], subjects, settings)
    assert isinstance(subjects.raw, FakeSubject)
    assert isinstance(subjects.vist, FakeSubject)
    shown = data.demonstrations(8, 42)
    far_text = "".join(f"{data.shown(e)}\n\n" for e in shown[:6])
    prompts = "".join(f"{data.shown(e)}\n\n" for e in shown[6:])
    item = data.questions(4, 42)[0]
    asked = subjects.raw.encode(prompts + data.template.asked(item.text)).ids
    views = [far for _, far, prompt, _ in subjects.raw.seen if prompt == asked]
    nothing, whole, wrong, cut, wrong_cut, random, *fewer = views
    assert nothing is None
    assert whole is not None
    assert whole.source.text == far_text
    size = len(whole.ids) // 3
    assert cut is not None
    assert cut.ids == whole.ids[-size:]
    assert random is not None
    assert len(random.ids) == size
    assert random.span == len(whole.ids)
    for true, shuffled in ((whole, wrong), (cut, wrong_cut)):
        assert shuffled is not None
        assert shuffled.source.text != true.source.text
        assert len(shuffled.ids) == len(true.ids)
    # Fewer shots and BM25, each with its control; no states, so no nearest ones.
    assert len(fewer) == 4
    units = {f"{data.shown(e)}\n\n" for e in shown[:6]}
    for view in (fewer[0], fewer[2]):
        assert view is not None
        assert 0 < len(view.ids) <= 0.4 * len(whole.ids)
        assert set(view.source.text.strip().split("\n\n")) <= {text.strip() for text in units}

    drawn = [far for _, far, prompt, _ in subjects.vist.seen if prompt == asked]
    true_one, shuffled_one, elsewhere = drawn
    assert true_one is not None
    assert true_one.text == far_text  # line ends too
    assert shuffled_one is not None
    assert shuffled_one.text.count("Sentiment: good") == true_one.text.count("Sentiment: good")
    assert shuffled_one.text != true_one.text
    assert elsewhere is not None
    assert elsewhere.text.startswith("News: agnews train")
    assert {row["set"] for row in result.rows} == {"sst2", "agnews", "average"}


@dataclass
class Alike(FakeSubject):
    """Texts are alike by the number in them."""

    def states(self, texts: Sequence[str]) -> Any:
        number = [int(re.findall(r"\d+", text)[-1]) for text in texts]
        return np.array([[np.cos(n / 7), np.sin(n / 7)] for n in number])


@pytest.mark.parametrize("arm", ["nearest", "nearest-shuffled", "bm25", "fixate"])
def test_the_choice_is_the_questions(arm: str) -> None:
    raw = Alike()
    looking: list[FakeSubject] = []

    def make(share: float) -> FakeSubject:
        looking.append(FakeSubject(words=raw.words))
        return looking[-1]

    subjects = Subjects(raw=raw, vist=FakeSubject(ratio=3, words=raw.words), looking=make)
    data = data_set()
    settings = IclSettings(far=10, items=8, seeds=(1,), arms=(arm,), budgets=(0.25,))
    evaluate_icl([data], subjects, settings)
    seen = looking[-1].seen if arm == "fixate" else raw.seen[8:]
    items = data.questions(8, 1)
    shown = data.demonstrations(12, 1)[:10]
    for (_, far, _, _), item in zip(seen, items, strict=True):
        assert far is not None
        if arm == "fixate":
            assert far.question == data.template.asked(item.text)
            continue
        assert 0 < len(far.ids) <= 0.25 * 10 * len(raw.encode(data.shown(shown[0])))
        if arm.startswith("nearest"):
            mean = raw.states([e.text for e in shown]).mean(axis=0)
            asked = raw.states([item.text])[0] - mean
            rows = raw.states([e.text for e in shown]) - mean
            best = int((rows @ asked / np.linalg.norm(rows, axis=1)).argmax())
            assert shown[best].text in far.source.text


def test_groups_and_shares_of_raws_gain() -> None:
    class Reader(FakeSubject):
        """Right where the far text has the item's number with its label."""

        def option_nll(self, far: Any, prompt: str, options: Any) -> list[Score]:
            number = int(prompt.split()[-2])
            text = far.source.text if far else ""
            right = f"test {number % 4}\n" in text.replace("train", "test")
            want = (number + (0 if right else 1)) % 2
            return [Score(nats=float(i != want), tokens=1) for i, _ in enumerate(options)]

    raw = Reader()
    subjects = Subjects(raw=raw, vist=Reader(ratio=3, words=raw.words))
    sets = [data_set("dbpedia"), data_set("banking77"), data_set("mr")]
    settings = IclSettings(far=20, items=8, seeds=(1, 2), arms=("raw", "truncated"))
    rows = {(r["set"], r["arm"]): r for r in evaluate_icl(sets, subjects, settings).rows}
    assert {name for name, _ in rows} == {"average", "helped", "dbpedia", "banking77", "mr"}
    for group, members in (
        ("average", [s.name for s in sets]),
        ("helped", ["dbpedia", "banking77"]),
    ):
        gain = {
            arm: sum(rows[name, arm]["minus_none"]["value"] for name in members)
            for arm in ("raw", "truncated")
        }
        assert gain["raw"] > 0
        share = rows[group, "truncated"]["gain_share"]
        assert share["value"] == pytest.approx(gain["truncated"] / gain["raw"])
        assert share["low"] <= share["value"] <= share["high"]
        assert rows[group, "raw"]["gain_share"]["value"] == 1
        assert rows[group, "raw"]["contrast_share"] is None


def test_unknown_and_impossible_arms() -> None:
    subjects = Subjects(raw=FakeSubject(), vist=FakeSubject(ratio=3))
    for arm in ("nearest", "fixate", "fixate-shuffled"):
        with pytest.raises(InputError, match=f"cannot run the arms {arm}"):
            evaluate_icl([data_set()], subjects, IclSettings(far=3, arms=(arm,)))
    with pytest.raises(InputError, match="unknown arms none-shuffled"):
        evaluate_icl([data_set()], subjects, IclSettings(far=3, arms=("none-shuffled",)))


def test_numbers_add_up(run: tuple[Subjects, IclSettings]) -> None:
    subjects, settings = run
    sets = [data_set(), data_set("agnews", ("Sea", "Land"))]
    result = evaluate_icl(sets, subjects, settings)
    rows = {(row["set"], row["arm"]): row for row in result.rows}
    for arm in ("none", "raw", "vist", "vist-other"):
        own = [rows[data.name, arm] for data in sets]
        mean = sum(row["accuracy"]["value"] for row in own) / 2
        assert rows["average", arm]["accuracy"]["value"] == pytest.approx(mean)
        for row in own:
            assert row["items"] == 8
            per_seed = sum(row["per_seed"].values()) / 2
            assert row["accuracy"]["value"] == pytest.approx(per_seed)
    assert rows["sst2", "none"]["minus_none"] is None
    assert rows["sst2", "vist"]["minus_shuffled"] is not None
    assert len(result.samples) == 2 * 2 * 4
    assert "## average: 2 raw, 6 far demonstrations" in result.markdown()
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_single_set_has_no_other(run: tuple[Subjects, IclSettings]) -> None:
    subjects, _ = run
    few = IclSettings(far=3, items=2, seeds=(1,))
    assert "vist-other" not in {r["arm"] for r in evaluate_icl([data_set()], subjects, few).rows}
    asked = IclSettings(far=3, items=2, seeds=(1,), arms=("vist-other",))
    with pytest.raises(InputError, match="needs a second set"):
        evaluate_icl([data_set()], subjects, asked)


def test_far_is_shared_by_all_items_of_a_seed(run: tuple[Subjects, IclSettings]) -> None:
    """So that a subject that keeps its last far context reads it once."""
    raw = FakeSubject()
    subjects = Subjects(raw=raw, vist=FakeSubject(ratio=3, words=raw.words))
    evaluate_icl([data_set()], subjects, IclSettings(far=3, items=4, seeds=(1,), arms=("raw",)))
    fars = [far for _, far, _, _ in raw.seen]
    assert isinstance(fars[-1], FarContext)
    assert fars[4:] == [fars[-1]] * 4


def test_load(tmp_path: Path) -> None:
    data = data_set()
    assert load_icl(save(tmp_path, data)) == data
    save(tmp_path, data_set("mr"))
    assert [d.name for d in load_icl_sets(tmp_path)] == ["mr", "sst2"]
    assert [d.name for d in load_icl_sets(tmp_path, ["sst2"])] == ["sst2"]
    assert [d.name for d in load_icl_sets(tmp_path / "mr")] == ["mr"]
    with pytest.raises(InputError, match="has no data set agnews; it has mr, sst2"):
        load_icl_sets(tmp_path, ["agnews"])


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no folder with labels\.json"):
        load_icl_sets(tmp_path)
    folder = save(tmp_path, data_set())
    (folder / "test.jsonl").write_text('{"text": "x", "label": "odd"}\n')
    with pytest.raises(InputError, match=r"test\.jsonl, line 1: label 'odd' is not in labels"):
        load_icl(folder)
    (folder / "test.jsonl").write_text("[1]\n")
    with pytest.raises(InputError, match="line 1: got list, not an object; write"):
        load_icl(folder)


@pytest.mark.parametrize("change", [{"far": 0}, {"seeds": ()}, {"rule": "max"}])
def test_impossible_settings(change: dict[str, object]) -> None:
    with pytest.raises(InputError):
        IclSettings(**change)  # type: ignore[arg-type]


def test_the_papers_sets() -> None:
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / "icl"
    if not folder.exists():
        pytest.skip("no ../shared/data/icl beside the clone")
    sets = load_icl_sets(folder)
    assert len(sets) == 11
    for data in sets:
        assert len(data.demonstrations(20, 42)) == 20
        assert len(data.questions(250, 42)) == 250
        assert data.template.question != "Text"
