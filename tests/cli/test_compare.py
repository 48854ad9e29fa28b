"""`foveate compare` and `foveate demo` on a tiny checkpoint."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.carve.compare.comparison import BLIND, FULL, CompareSettings, Comparison
from foveate.carve.compare.run import compare
from foveate.cli.compare import expand_lists
from foveate.core.budget import Budget, parse_budget
from foveate.measure.quality import exact_match
from foveate.models.load import load_vlm
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.named import load_questions
from foveate.tasks.question import Question
from tests.cli.conftest import Foveate


@pytest.fixture(scope="module")
def vlm(checkpoint: Path) -> VisionLanguageModel:
    return load_vlm(checkpoint)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return load_questions("easy-vqa", limit=7)


def settings(**changes: Any) -> CompareSettings:
    values: dict[str, Any] = {
        "methods": ("tokencarve",),
        "budgets": (Budget(keep_ratio=0.5), Budget(keep_tokens=3)),
        "rounds": 0,
        "max_new_tokens": 3,
        "batch_size": 3,
    }
    return CompareSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def result(vlm: VisionLanguageModel, questions: list[Question]) -> Comparison:
    return compare(vlm, questions, settings(), data="easy-vqa")


def test_rows_hold_every_arm_and_the_controls(result: Comparison) -> None:
    arms = [(row.method, row.budget) for row in result.rows]
    assert arms == [
        ("full", ""),
        *((name, b) for name in ("tokencarve", "random", "uniform") for b in ("50%", "3 tokens")),
        ("blind", ""),
    ]


def test_savings_are_those_of_the_prompt(result: Comparison) -> None:
    half, three = (row for row in result.rows if row.method == "tokencarve")
    assert (half.kept_tokens, half.kept_share) == (8, 0.5)
    assert (three.kept_tokens, three.kept_share) == (3, 3 / 16)
    assert three.prune_layer == 2
    assert three.kv_ratio is not None
    assert half.kv_ratio is not None
    assert three.kv_ratio < half.kv_ratio < 1
    assert three.flops_ratio is not None
    # two of four layers run short
    assert 0.5 < three.flops_ratio < 1


def test_a_budget_by_information_beside_a_fixed_one(
    vlm: VisionLanguageModel, questions: list[Question]
) -> None:
    told = parse_budget("information=60%:..50%")
    found = compare(vlm, questions, settings(methods=("divprune",), budgets=(told,)))
    rows = {row.method: row for row in found.rows}
    assert rows["divprune"].budget == rows["random"].budget == "information=60%:..50%"
    assert 0 < rows["divprune"].kept_share <= 0.5  # type: ignore[operator]


def test_answers_do_not_depend_on_the_batch_size(
    vlm: VisionLanguageModel, questions: list[Question], result: Comparison
) -> None:
    single = compare(vlm, questions, settings(batch_size=1))
    assert [row.answers for row in single.rows] == [row.answers for row in result.rows]


def test_blind_sees_no_image(vlm: VisionLanguageModel, questions: list[Question]) -> None:
    """Equal questions get equal blind answers, whatever the picture; full answers differ."""
    same = [replace(question, question="what is?") for question in questions]
    rows = {row.method: row for row in compare(vlm, same, settings()).rows}
    assert len(set(rows[BLIND].answers)) == 1
    assert len(set(rows[FULL].answers)) > 1


def test_scores_count_the_right_answers(
    vlm: VisionLanguageModel, questions: list[Question], result: Comparison
) -> None:
    """With the full run's own answers as truth, full is perfect and the rest is measured to it."""
    told = [
        replace(question, answers=(answer,))
        for question, answer in zip(questions, result.rows[0].answers, strict=True)
    ]
    again = compare(vlm, told, settings())
    assert again.rows[0].accuracy.value == 1
    assert again.rows[0].difference is None
    for row, before in zip(again.rows, result.rows, strict=True):
        pairs = zip(before.answers, result.rows[0].answers, strict=True)
        same = [exact_match(answer, [full]) for answer, full in pairs]
        assert row.accuracy.value == pytest.approx(sum(same) / len(same))
        assert row.difference is None or row.difference.value == pytest.approx(
            row.accuracy.value - 1
        )


def test_seed_moves_random_and_nothing_else(
    vlm: VisionLanguageModel, questions: list[Question], result: Comparison
) -> None:
    other = compare(vlm, questions, settings(seed=5))
    changed = {
        row.method
        for row, before in zip(other.rows, result.rows, strict=True)
        if row.answers != before.answers
    }
    assert changed == {"random"}


def test_prefill_is_timed_against_the_full_run(
    vlm: VisionLanguageModel, questions: list[Question]
) -> None:
    steps: list[tuple[str, int, int]] = []
    timed = compare(
        vlm,
        questions[:2],
        settings(rounds=2, budgets=(Budget(keep_tokens=3),)),
        progress=lambda *step: steps.append(step),
    )
    assert timed.rows[0].prefill is None
    assert timed.rows[-1].prefill is None
    for row in timed.rows[1:-1]:
        assert row.prefill is not None
        assert 0 < row.prefill.decoder.low <= row.prefill.decoder.high
        assert row.prefill.first_token.value > 0
    assert ("answering", 5, 5) in steps
    assert steps[-1] == ("timing", 3, 3)
    assert not vlm.model.model.language_model._forward_hooks


def test_command_writes_table_json_and_plot(
    foveate: Foveate, checkpoint: Path, tmp_path: Path
) -> None:
    result = foveate(
        "compare", "--model", checkpoint, "--data", "easy-vqa", "--limit", "4", "--rounds", "1",
        "--methods", "tokencarve", "fastv", "--keep", "50%", "12.5%", "--output", tmp_path / "out",
    )  # fmt: skip
    for method in ("full", "tokencarve", "fastv", "random", "uniform", "blind"):
        assert re.search(rf"^{method} ", result.stdout, re.MULTILINE), method
    assert "2 (12.5%)" in result.stdout
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "| method | kept | mean | accuracy % | minus full | prefill |" in page
    assert "\\[" not in page
    data = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert len(data["rows"]) == 2 + 4 * 2
    answers = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert len(answers) == 1 + 4
    arms = json.loads(answers[0])["arms"]
    assert arms == [f"{row['method']} {row['budget']}".strip() for row in data["rows"]]
    for number, row in enumerate(data["rows"]):
        right = [json.loads(answer)["correct"][number] == "1" for answer in answers[1:]]
        assert row["accuracy"]["value"] == sum(right) / 4
    assert "answers" not in json.loads(answers[1])
    with Image.open(tmp_path / "out" / "compare.png") as plot:
        assert min(plot.size) > 400


def test_json_is_all_of_stdout_and_names_no_place(
    foveate: Foveate, checkpoint: Path, tmp_path: Path
) -> None:
    result = foveate(
        "compare", "--model", checkpoint, "--limit", "4", "--rounds", "0", "--json",
        "--keep", "3", "--output", tmp_path,
    )  # fmt: skip
    manifest = json.loads(result.stdout)["manifest"]
    assert {"foveate", "torch", "transformers", "seed", "hardware", "weights"} <= set(manifest)
    assert (manifest["model"], manifest["data"]) == ("tiny", "reading")
    assert "/" not in json.dumps(manifest["model"]) + json.dumps(manifest["hardware"])


def test_own_data(foveate: Foveate, checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    rows = [{"image": str(picture), "question": "what?", "answers": ["red"]}] * 2
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = foveate(
        "compare", "--model", checkpoint, "--data", tmp_path / "own.jsonl", "--rounds", "0",
        "--output", tmp_path / "out", "--json",
    )  # fmt: skip
    manifest = json.loads(result.stdout)["manifest"]
    assert (manifest["num_questions"], manifest["num_images"]) == (2, 1)
    assert manifest["data"] == "own.jsonl"


@pytest.mark.parametrize(
    ("given", "expanded"),
    [
        (["--keep", "50%", "25%"], ["--keep", "50%", "--keep", "25%"]),
        (["--keep=50%,25%", "--json"], ["--keep", "50%", "--keep", "25%", "--json"]),
        (["--keep", "1", "--limit", "3", "--methods", "a", "b"],
         ["--keep", "1", "--limit", "3", "--methods", "a", "--methods", "b"]),
        (["--limit", "3"], ["--limit", "3"]),
        ([], []),
    ],
)  # fmt: skip
def test_list_options(given: list[str], expanded: list[str]) -> None:
    assert expand_lists(given) == expanded


def test_demo(foveate: Foveate, checkpoint: Path, tmp_path: Path) -> None:
    result = foveate(
        "demo", "--model", checkpoint, "--limit", "12", "--keep", "4", "--output", tmp_path / "out"
    )
    assert "16 -> 4 kept (2 merged into them, 10 dropped)" in result.stdout
    assert "easy-vqa: 6 questions" in result.stdout
    assert "reading: 12 questions" in result.stdout
    assert result.stdout.count("tokencarve against random") == 2
    with Image.open(tmp_path / "out" / "demo.png") as drawn:
        assert min(drawn.size) > 400
    assert (tmp_path / "out" / "compare-reading" / "compare.json").exists()


def test_demo_without_the_embedded_model_says_so(
    foveate: Foveate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveate.assets.vlm_path", lambda: tmp_path / "none")
    result = foveate("demo", "--limit", "2", ok=False)
    assert result.exit_code == 2
    assert "no embedded model; name one with --model PATH_OR_ID" in result.stderr
