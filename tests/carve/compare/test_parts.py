"""A comparison in parts: stopped and gone on with, shared out, and always the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foveate.carve.compare import answering
from foveate.carve.compare.answering import Answering, chunks_of
from foveate.carve.compare.comparison import CompareSettings, Comparison
from foveate.carve.compare.run import answer_share, compare
from foveate.core.budget import Budget
from foveate.errors import InputError
from foveate.measure.parts import Parts
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.named import load_questions
from foveate.tasks.question import Question
from tests.cli.vlm_folder import save_tiny_vlm


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return load_vlm(save_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return load_questions("easy-vqa", limit=11)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "CHUNK", 4)


def settings(**changes: Any) -> CompareSettings:
    values: dict[str, Any] = {
        "methods": ("fastv",),
        "budgets": (Budget(keep_ratio=0.5),),
        "rounds": 0,
        "max_new_tokens": 3,
        "batch_size": 2,
    }
    return CompareSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def whole(vlm: VisionLanguageModel, questions: list[Question]) -> Comparison:
    return compare(vlm, questions, settings())


def same(a: Comparison, b: Comparison) -> bool:
    return [(row.answers, row.kv_ratio, row.flops_ratio) for row in a.rows] == [
        (row.answers, row.kv_ratio, row.flops_ratio) for row in b.rows
    ]


def test_chunks_end_where_batches_end(questions: list[Question]) -> None:
    sizes = [(chunk.start, len(chunk.questions)) for chunk in chunks_of(questions, 2)]
    assert sizes == [(0, 4), (4, 4), (8, 3)]
    sizes = [(chunk.start, len(chunk.questions)) for chunk in chunks_of(questions, 6)]
    assert sizes == [(0, 6), (6, 5)]


def test_a_stopped_run_goes_on(
    vlm: VisionLanguageModel,
    questions: list[Question],
    whole: Comparison,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Answering.answer
    asked: list[int] = []

    def until(limit: int) -> Callable[..., Any]:
        def answer(self: Answering, chunk: Any, arms: Any) -> Any:
            if len(asked) == limit:
                raise KeyboardInterrupt
            asked.append(chunk.start)
            return real(self, chunk, arms)

        return answer

    monkeypatch.setattr(Answering, "answer", until(1))
    with pytest.raises(KeyboardInterrupt):
        compare(vlm, questions, settings(), parts=Parts(folder=tmp_path))
    monkeypatch.setattr(Answering, "answer", until(99))
    steps: list[tuple[str, int, int]] = []
    resumed = compare(
        vlm, questions, settings(), parts=Parts(folder=tmp_path),
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert asked == [0, 4, 8]
    assert same(resumed, whole)
    assert steps[0] == ("answering", 10, 30)  # two batches of five arms are there already
    assert steps[-1] == ("answering", 30, 30)


def test_another_method_is_added_without_answering_anew(
    vlm: VisionLanguageModel,
    questions: list[Question],
    whole: Comparison,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compare(vlm, questions, settings(), parts=Parts(folder=tmp_path))
    real = Answering.answer
    asked: list[list[str]] = []

    def answer(self: Answering, chunk: Any, arms: Any) -> Any:
        asked.append([arm.key for arm in arms])
        return real(self, chunk, arms)

    monkeypatch.setattr(Answering, "answer", answer)
    more = compare(
        vlm, questions, settings(methods=("fastv", "divprune")), parts=Parts(folder=tmp_path)
    )
    assert asked == [["divprune 50%"]] * 3
    rows = [row for row in more.rows if row.method != "divprune"]
    assert same(replace(more, rows=tuple(rows)), whole)


def test_shares_add_up_to_one_process(
    vlm: VisionLanguageModel, questions: list[Question], whole: Comparison, tmp_path: Path
) -> None:
    for index in (1, 0):
        answer_share(vlm, questions, settings(), parts=Parts(folder=tmp_path, index=index, count=2))
    monkey = Parts(folder=tmp_path, index=1, count=2)  # compare always reads all of it
    assert same(compare(vlm, questions, settings(), parts=monkey), whole)


def test_a_share_needs_a_folder(vlm: VisionLanguageModel, questions: list[Question]) -> None:
    with pytest.raises(InputError, match="needs a folder to keep its parts in"):
        answer_share(vlm, questions, settings(), parts=Parts())


@pytest.mark.parametrize(
    ("changes", "odd"),
    [({"max_new_tokens": 2}, "max_new_tokens"), ({"batch_size": 4}, "batch_size")],
)
def test_parts_of_other_settings_are_refused(
    vlm: VisionLanguageModel,
    questions: list[Question],
    tmp_path: Path,
    changes: dict[str, int],
    odd: str,
) -> None:
    compare(vlm, questions[:4], settings(), parts=Parts(folder=tmp_path))
    with pytest.raises(InputError, match=rf"manifest\.json was made with another {odd}; restore"):
        compare(vlm, questions[:4], settings(**changes), parts=Parts(folder=tmp_path))


def test_parts_of_other_questions_or_pixels_are_refused(
    vlm: VisionLanguageModel, questions: list[Question], tmp_path: Path
) -> None:
    compare(vlm, questions[:4], settings(), parts=Parts(folder=tmp_path))
    turned = [replace(q, image=q.image.rotate(90)) for q in questions[:4]]
    with pytest.raises(InputError, match=r"000000-000004\.json was made with another questions"):
        compare(vlm, turned, settings(), parts=Parts(folder=tmp_path))
    # Another seed is another random method; the others' answers stay.
    with pytest.raises(InputError, match=r"random-50pct.*was made with another method"):
        compare(vlm, questions[:4], settings(seed=1), parts=Parts(folder=tmp_path))


def test_a_part_says_what_made_it(
    vlm: VisionLanguageModel, questions: list[Question], tmp_path: Path
) -> None:
    compare(vlm, questions[:4], settings(), parts=Parts(folder=tmp_path))
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {"torch", "transformers", "weights", "device"} <= manifest["settings"].keys()
    assert {"commit", "hardware", "seed"} <= manifest["part"].keys()
    assert str(tmp_path) not in json.dumps(manifest)
    (part,) = tmp_path.glob("fastv-50pct-*/000000-000004.json")
    kept = json.loads(part.read_text())
    assert kept["settings"]["method"]["name"] == "fastv"
    assert len(kept["part"]["answers"]) == 4
    assert kept["part"]["savings"]["layers"] == [64, 64, 32, 32]


def test_timing_is_kept_too(
    vlm: VisionLanguageModel, questions: list[Question], tmp_path: Path
) -> None:
    first, again = (
        compare(vlm, questions[:2], settings(rounds=1), parts=Parts(folder=tmp_path))
        for _ in range(2)
    )
    assert [row.prefill for row in first.rows] == [row.prefill for row in again.rows]
    assert first.rows[1].prefill is not None
    assert 0 < first.rows[1].prefill.selection < 1
