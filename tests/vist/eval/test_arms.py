"""Every arm reads exactly what its name says."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.errors import InputError
from foveate.vist.eval.arms import ARMS, ArmRun, Subjects, arm_runs, derangement
from foveate.vist.eval.context import EncodedText, FarContext, Score, best_option
from tests.vist.eval.fake_subject import FakeSubject

CLUSTERS = ["a", "a", "b", "c", "c", "d"]


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    raw = FakeSubject()
    return Subjects(
        raw=raw,
        vist=FakeSubject(ratio=3, words=raw.words),
        cepe=FakeSubject(ratio=2, words=raw.words),
    )


@pytest.fixture(scope="module")
def fars(subjects: Subjects) -> list[FarContext]:
    texts = [" ".join(f"w{i}x{j}" for j in range(12)) for i in range(len(CLUSTERS))]
    return [FarContext(source=subjects.raw.encode(text)) for text in texts]


@pytest.fixture(scope="module")
def arms(subjects: Subjects, fars: list[FarContext]) -> dict[str, ArmRun]:
    made = arm_runs(subjects.arms(), subjects, fars, CLUSTERS, seed=3)
    return {arm.name: arm for arm in made}


def test_all_arms_run_in_order(arms: dict[str, ArmRun]) -> None:
    assert list(arms) == list(ARMS)


@pytest.mark.parametrize(
    ("name", "entries"),
    [("none", 0), ("raw", 12), ("truncated", 4), ("random", 4), ("vist", 4),
     ("vist-shuffled", 4), ("cepe", 6), ("cepe-shuffled", 6)],
)  # fmt: skip
def test_entries(arms: dict[str, ArmRun], name: str, entries: int) -> None:
    assert arms[name].entries() == [entries] * len(CLUSTERS)


def test_readers(arms: dict[str, ArmRun], subjects: Subjects) -> None:
    for name, arm in arms.items():
        family = name.split("-")[0]
        assert arm.subject is (getattr(subjects, family, None) or subjects.raw)


def test_truncated_is_the_end_right_before_the_window(
    arms: dict[str, ArmRun], fars: list[FarContext]
) -> None:
    for cut, far in zip(arms["truncated"].fars, fars, strict=True):
        assert cut is not None
        assert cut.ids == far.ids[-4:]
        assert far.text.endswith(cut.text)
        assert cut.positions is None
        assert cut.span == 4


def test_random_tokens_stay_at_their_positions(
    arms: dict[str, ArmRun], fars: list[FarContext]
) -> None:
    chosen = set()
    for cut, far in zip(arms["random"].fars, fars, strict=True):
        assert cut is not None
        assert cut.positions is not None
        assert list(cut.positions) == sorted(set(cut.positions))
        assert cut.ids == tuple(far.ids[i] for i in cut.positions)
        assert cut.span == 12
        chosen.add(cut.positions)
    assert len(chosen) > 1


def test_shuffled_is_another_documents(arms: dict[str, ArmRun], fars: list[FarContext]) -> None:
    taken = [fars.index(far) for far in arms["vist-shuffled"].fars if far is not None]
    assert sorted(taken) == list(range(len(fars)))
    assert all(CLUSTERS[i] != CLUSTERS[j] for i, j in enumerate(taken))
    assert arms["vist-shuffled"].fars == arms["cepe-shuffled"].fars


def test_a_longer_document_is_cut_to_length(subjects: Subjects) -> None:
    fars = [FarContext(source=subjects.raw.encode(text)) for text in ("a b c d e", "f g h")]
    (arm,) = arm_runs(("vist-shuffled",), subjects, fars, ["x", "y"], seed=0)
    assert [far.text for far in arm.fars if far] == ["f g h", " c d e"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (2, 1, 1), (5, 1, 1), (4, 3, 2, 1)])
def test_derangement(sizes: tuple[int, ...], seed: int) -> None:
    clusters = [str(i) for i, size in enumerate(sizes) for _ in range(size)]
    partner = derangement(clusters, seed=seed)
    assert all(clusters[i] != clusters[j] for i, j in enumerate(partner))
    if 2 * max(sizes) <= len(clusters):
        assert sorted(partner) == list(range(len(clusters)))
    assert partner == derangement(clusters, seed=seed)


def test_derangement_stays_in_its_group() -> None:
    groups = ["x"] * 4 + ["y"] * 4
    partner = derangement([str(i) for i in range(8)], seed=0, groups=groups)
    assert all(groups[i] == groups[j] for i, j in enumerate(partner))


def test_one_document_cannot_be_shuffled() -> None:
    with pytest.raises(InputError, match="needs at least 2 documents, got 1"):
        derangement(["a", "a"], seed=0)


def test_names(subjects: Subjects) -> None:
    assert subjects.arms(["grown", "vist"]) == ("none", "truncated", "vist")
    with pytest.raises(InputError, match="unknown arms nope; choose from none, raw"):
        subjects.arms(["nope"])
    without = Subjects(raw=subjects.raw, vist=subjects.vist)
    assert "cepe" not in without.arms()
    with pytest.raises(InputError, match="--cepe PATH"):
        without.arms(["cepe"])


def test_cut_keeps_characters_and_tokens_together() -> None:
    text = EncodedText(text="one two three", ids=(1, 2, 3), starts=(0, 3, 7))
    assert text.cut(1, 3) == EncodedText(text=" two three", ids=(2, 3), starts=(0, 4))
    assert text.cut(0, 1).text == "one"


def test_nothing_left_is_no_context() -> None:
    far = FarContext(source=EncodedText(text="a b", ids=(1, 2), starts=(0, 1)))
    assert far.last(0) is None
    assert far.sample(0, np.random.default_rng(0)) is None
    assert far.last(9) == far


def test_length_rules() -> None:
    scores = [Score(nats=3.0, tokens=1), Score(nats=4.0, tokens=2)]
    assert best_option(scores, "sum") == 0
    assert best_option(scores, "mean") == 1
    assert best_option([scores[0], scores[0]]) == 0
