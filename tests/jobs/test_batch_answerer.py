"""BatchAnswerer on real models: no batch size matters, and bad lines spoil nobody else's answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from foveate.carve.answerer import Answerer
from foveate.carve.spec import parse_method
from foveate.core.budget import Budget
from foveate.errors import InputError, NotFiredError
from foveate.jobs.batch_answerer import BatchAnswerer
from foveate.jobs.batch_input import InputFile
from foveate.jobs.batch_settings import BatchSettings
from foveate.jobs.outcome import Outcome
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.named import load_questions
from foveate.tasks.question import Question


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load_vlm("embedded")


@pytest.fixture(scope="module")
def asked() -> list[Question]:
    return load_questions("reading", limit=8)


@pytest.fixture(scope="module")
def rows(asked: list[Question], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pages")
    for i, question in enumerate(asked):
        question.image.save(folder / f"{i}.png")
    return [{"image": str(folder / f"{i}.png"), "question": q.question}
            for i, q in enumerate(asked)]  # fmt: skip


def settings_of(method: str, **settings: Any) -> BatchSettings:
    made = parse_method(method, Budget(keep_tokens=settings.pop("keep", 49)))
    return BatchSettings(method=made, max_new_tokens=6, **settings)


def outcomes(
    vlm: VisionLanguageModel, rows: Sequence[Any], folder: Path, settings: BatchSettings
) -> list[Outcome]:
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = InputFile(path)
    answerer = BatchAnswerer(vlm, settings, questions.lines)
    size = settings.batch_size
    batches = [questions.places(i, i + size) for i in range(0, len(questions), size)]
    return [outcome for made in answerer.answers(batches) for outcome in made]


@pytest.mark.parametrize("method", ["tokencarve", "divprune:50%+fastv", "random(seed=3)"])
def test_the_batch_size_does_not_change_the_output(
    method: str, vlm: VisionLanguageModel, rows: Any, tmp_path: Path
) -> None:
    made = [
        outcomes(vlm, rows, tmp_path, settings_of(method, batch_size=size)) for size in (1, 3, 8)
    ]
    assert made[0] == made[1] == made[2]
    assert [outcome.line for outcome in made[0]] == list(range(1, 9))
    assert {(outcome.before, outcome.kept) for outcome in made[0]} == {(196, 49)}
    assert len({outcome.answer for outcome in made[0]}) > 2


def test_a_method_with_a_number_of_stages_is_no_stack(
    vlm: VisionLanguageModel, rows: Any, tmp_path: Path
) -> None:
    said = outcomes(
        vlm, rows[:2], tmp_path, settings_of("pyramiddrop(prune_layer=2)", batch_size=2)
    )
    assert all(outcome.answer and outcome.kept < 196 for outcome in said)


def test_answers_are_foveates_own(
    vlm: VisionLanguageModel, asked: list[Question], rows: Any, tmp_path: Path
) -> None:
    settings = settings_of("noop", keep=196, batch_size=8)
    said = outcomes(vlm, rows, tmp_path, settings)
    inputs = vlm.inputs([q.question for q in asked], [q.image for q in asked])
    assert [outcome.answer for outcome in said] == vlm.answer(inputs, max_new_tokens=6)


def test_bad_lines_leave_the_others_of_their_batch_alone(
    vlm: VisionLanguageModel, rows: Any, tmp_path: Path
) -> None:
    """What a file, the prompt's length and the budget refuse, each in a batch of its own."""
    (tmp_path / "torn.png").write_bytes(b"\x89PNG")
    torn = {**rows[1], "image": "torn.png"}
    endless = {**rows[1], "question": "what " * 3000}
    settings = settings_of("tokencarve", batch_size=4)
    good = outcomes(vlm, rows, tmp_path, settings)
    said = outcomes(vlm, [rows[0], torn, rows[2], rows[3], rows[4], endless, *rows[6:]],
                    tmp_path, settings)  # fmt: skip
    assert [bool(outcome.error) for outcome in said] == [False, True, False, False] * 2
    assert "'torn.png' is not an image" in said[1].error
    assert "above the model's window of" in said[5].error
    for row in (0, 2, 3, 4, 6, 7):
        assert said[row] == good[row]


def test_a_budget_above_an_image_is_its_lines_error(
    vlm: VisionLanguageModel, rows: Any, tmp_path: Path
) -> None:
    said = outcomes(vlm, rows[:2], tmp_path, settings_of("fastv", keep=500, batch_size=2))
    assert all("keep_tokens=500 exceeds the 196 visual tokens" in line.error for line in said)


def test_several_pictures_count_together(
    vlm: VisionLanguageModel, rows: Any, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    two = {"images": ["red.png", rows[0]["image"]], "question": "what color is the circle?"}
    none = {"question": "what color is the circle?"}
    said = outcomes(vlm, [two, none, rows[0]], tmp_path, settings_of("fastv", batch_size=3))
    assert [(line.before, line.kept) for line in said] == [(392, 98), (0, 0), (196, 49)]


def test_a_method_that_never_fires_ends_the_job(
    vlm: VisionLanguageModel, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from foveate.carve.engine.run import Run

    monkeypatch.setattr(Run, "_install", lambda self: None)
    with pytest.raises(NotFiredError, match=r"line 1 has 1 image, but fastv.* saw no visual token"):
        outcomes(vlm, rows[:2], tmp_path, settings_of("fastv", batch_size=2))


def test_too_little_memory_says_what_to_do(
    vlm: VisionLanguageModel, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Answerer, "answer", full)
    with pytest.raises(InputError, match=r"lines 1 to 4 do not fit.*--batch-size below 4, what is"):
        outcomes(vlm, rows, tmp_path, settings_of("fastv", batch_size=4))


@pytest.mark.parametrize("name", ["batch_size", "max_new_tokens"])
def test_numbers_below_one(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}=0 is below 1; use at least 1"):
        BatchSettings(method=settings_of("noop").method, **{name: 0})
