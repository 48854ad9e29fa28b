"""Open-domain questions: the file, the prompts, exact match in every arm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.tasks.open_qa import load_open_qa, question_prompt
from foveate.vist.eval.arms import Subjects
from foveate.vist.eval.qa import QaSettings, evaluate_qa, qa_prompt
from tests.vist.eval.fake_subject import FakeSubject

ROWS = [
    {
        "question": f"who built bridge {i}",
        "answers": ["the Builder" + str(i), "nobody"],
        "passages": [
            {"title": f"Bridge {i}", "text": "It is long."},
            "Plain   passage.",
            {"text": f"Question: who built bridge {i}? Answer: Builder{i}."},
        ],
    }
    for i in range(4)
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "qa.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def test_load(file: Path) -> None:
    questions = load_open_qa(file, need_passages=3)
    assert len(questions) == 4
    assert questions[1].passages[:2] == ("Bridge 1: It is long.", "Plain passage.")
    assert questions[1].answers == ("the Builder1", "nobody")
    assert questions[2].id == "3"


def test_arms_and_scores(file: Path) -> None:
    raw = FakeSubject()
    subjects = Subjects(raw=raw, vist=FakeSubject(ratio=3, words=raw.words))
    questions = load_open_qa(file)
    result = evaluate_qa(questions, subjects, QaSettings(raw=2, far=1))
    prompt = qa_prompt(questions[0], 2)
    assert prompt == (
        "Bridge 0: It is long.\n\nPlain passage.\n\nQuestion: who built bridge 0?\nAnswer:"
    )
    seen = [far for _, far, asked, _ in raw.seen if asked == raw.encode(prompt).ids]
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1].source.text == questions[0].passages[2] + "\n\n"
    # The fake repeats what follows "Answer:" in what it reads.
    rows = {row["arm"]: row for row in result.rows}
    right = {arm: row["accuracy"]["value"] for arm, row in rows.items()}
    assert right["raw"] == right["vist"] == 1.0
    assert right["none"] == right["vist-shuffled"] == 0.0
    assert rows["vist"]["minus_shuffled"]["value"] == 1.0
    assert result.samples[0]["answers"]["raw"] == "Builder0"


def test_without_passages_the_error_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "closed.jsonl"
    path.write_text('{"question": "who?", "answers": ["x"]}\n')
    with pytest.raises(InputError, match=r"line 1: 0 passages, and 15 are needed; retrieve them"):
        load_open_qa(path, need_passages=15)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nope", "not JSON"),
        ('{"answers": ["a"]}', "'question' is missing"),
        ('{"question": "a"}', "'answers' is missing"),
        ('{"question": "a", "answers": ["a"], "passages": "x"}', "'passages' is not a list"),
        ('{"question": "a", "answers": ["a"], "passages": [3]}', "neither a text nor an object"),
        ("", "holds no questions"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=message):
        load_open_qa(path)


def test_question_marks() -> None:
    assert question_prompt("who?") == "Question: who?\nAnswer:"
    assert question_prompt("who") == "Question: who?\nAnswer:"
