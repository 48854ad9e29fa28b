"""The LoRA's script on the embedded model: what it learns from, and what it leaves behind."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest
import torch

import foveate
from benchmarks.lora import adapted as loaded
from benchmarks.lora import facts_of, last_step
from foveate.tasks.reading import reading_questions
from training.lora import PER_PAGE, ReadingQuestions, main, training_inputs

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"
)


def test_questions_are_those_of_the_training_split_page_after_page() -> None:
    found = list(islice(ReadingQuestions(), 2 * PER_PAGE))
    expected = list(reading_questions(split="train", num_pages=2, per_page=PER_PAGE))
    assert [q.id for q in found] == [q.id for q in expected][: len(found)]


def test_labels_are_the_answers_and_their_ends() -> None:
    vlm = foveate.load_vlm("embedded", device="cpu")
    questions = list(islice(ReadingQuestions(), 6))
    inputs = training_inputs(vlm, questions)
    labels, ids = inputs["labels"], inputs["input_ids"]
    assert labels.shape == ids.shape == inputs["attention_mask"].shape
    learnt = labels != -100
    assert torch.equal(labels[learnt], ids[learnt])
    end = vlm.tokenizer.eos_token
    for row, mask, question in zip(ids, learnt, questions, strict=True):
        said = vlm.tokenizer.decode(row[mask]).replace(" ", "")
        assert said == question.answers[0] + end
    assert bool(inputs["attention_mask"][learnt].all())


@pytest.mark.parametrize("method", ["tokencarve", "none"])
def test_two_steps_leave_an_adapter_in_safetensors(tmp_path: Path, method: str) -> None:
    folder = tmp_path / "run"
    main(
        ["--folder", str(folder), "--method", method, "--steps", "2", "--batch", "2", "--rank", "2"]
    )
    files = {place.name for place in folder.rglob("*") if place.is_file()}
    assert files == {
        "log.jsonl",
        "run.json",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    facts = json.loads((folder / "run.json").read_text())
    assert facts["steps"] == 2
    assert facts["method"] == method
    assert (facts["row_share"] is not None and facts["row_share"] < 0.5) == (method != "none")
    assert facts_of(folder)["steps"] == 2
    assert last_step(folder).name == "step-2"
    plain, tuned = loaded(None).model, loaded(folder).model
    same = [torch.equal(a, b) for a, b in zip(plain.parameters(), tuned.parameters(), strict=True)]
    assert not all(same)
    with pytest.raises(SystemExit, match="not empty"):
        main(["--folder", str(folder)])
