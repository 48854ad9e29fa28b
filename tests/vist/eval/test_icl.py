"""In-context learning: data, balanced demonstrations, prompts, and who sees which."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

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
from foveate.vist.eval.context import FarContext
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
    nothing, whole, cut, random = views
    assert nothing is None
    assert whole is not None
    assert whole.source.text == far_text
    size = len(whole.ids) // 3
    assert cut is not None
    assert cut.ids == whole.ids[-size:]
    assert random is not None
    assert len(random.ids) == size
    assert random.span == len(whole.ids)

    drawn = [far for _, far, prompt, _ in subjects.vist.seen if prompt == asked]
    true, shuffled, elsewhere = drawn
    assert true is not None
    assert true.text == far_text  # line ends too
    assert shuffled is not None
    assert shuffled.text.count("Sentiment: good") == true.text.count("Sentiment: good")
    assert shuffled.text != true.text
    assert elsewhere is not None
    assert elsewhere.text.startswith("News: agnews train")
    assert {row["set"] for row in result.rows} == {"sst2", "agnews", "average"}


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
