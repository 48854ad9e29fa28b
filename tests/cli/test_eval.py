"""`foveate eval vist ...` from start to end on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.vist.index_file import save_index
from foveate.vist.latents.index_head import IndexConfig, IndexHead
from tests.cli.conftest import Foveate
from tests.cli.tiny_vist_folder import save_tiny_cepe, save_tiny_vist

PROSE = "The harbour master wrote the number of every boat in a green book, number {}. " * 3


@pytest.fixture(scope="module")
def vist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vist(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    for domain in ("sea", "land"):
        lines = [json.dumps({"text": domain + PROSE.replace("{}", str(i))}) for i in range(2)]
        (folder / f"{domain}.jsonl").write_text("\n".join(lines))
    return folder


def written(folder: Path, task: str) -> dict[str, Any]:
    """The JSON, after a look at the other files."""
    page = (folder / f"{task}.md").read_text()
    assert f"![{task}]({task}.png)" in page
    with Image.open(folder / f"{task}.png") as plot:
        assert min(plot.size) > 400
    assert (folder / f"{task}-items.jsonl").read_text()
    data: dict[str, Any] = json.loads((folder / f"{task}.json").read_text())
    assert {"foveate", "torch", "seed", "hardware", "commit"} <= set(data["manifest"])
    assert "/" not in json.dumps(data["manifest"]["model"])
    return data


def test_perplexity(foveate: Foveate, vist: Path, documents: Path, tmp_path: Path) -> None:
    result = foveate(
        "eval", "vist", "perplexity", "--model", vist, "--data", documents, "--context", "40,80",
        "--window", 10, "--score", 12, "--windows", 1, "--output", tmp_path,
    )  # fmt: skip
    assert "all: 40 far tokens, window 10, 4 targets in 4 documents" in result.stdout
    data = written(tmp_path, "perplexity")
    arms = [r["arm"] for r in data["rows"] if (r["domain"], r["context"]) == ("sea", 40)]
    assert arms == ["none", "raw", "truncated", "random", "vist", "vist-shuffled"]
    rows = {r["arm"]: r for r in data["rows"] if (r["domain"], r["context"]) == ("all", 80)}
    assert rows["truncated"]["entries"] == rows["random"]["entries"] == rows["vist"]["entries"]
    assert rows["raw"]["entries"] == rows["vist"]["tokens"] == 80
    assert data["manifest"]["model"] == "vist"
    assert data["manifest"]["latents_per_strip"] == 4


def test_json_is_all_of_stdout(
    foveate: Foveate, vist: Path, documents: Path, tmp_path: Path
) -> None:
    result = foveate(
        "eval", "vist", "perplexity", "--model", vist, "--domain", f"x={documents}", "--protocol",
        "near", "--context", 40, "--score", 5, "--limit", 2, "--arms", "vist,grown", "--json",
        "--output", tmp_path,
    )  # fmt: skip
    rows = json.loads(result.stdout)["rows"]
    assert [(r["domain"], r["arm"]) for r in rows] == [
        ("x", "none"), ("x", "truncated"), ("x", "vist"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("icl")
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "labels.json").write_text('["no", "yes"]')
        lines = [
            json.dumps({"text": f"{name} {i}", "label": ("no", "yes")[i % 2]}) for i in range(8)
        ]
        for part in ("train", "test"):
            (folder / name / f"{part}.jsonl").write_text("\n".join(lines))
    return folder


def test_icl(foveate: Foveate, vist: Path, labelled: Path, tmp_path: Path) -> None:
    result = foveate(
        "eval", "vist", "icl", "--model", vist, "--data", labelled, "--far", 4, "--limit", 2,
        "--seeds", "42,43", "--output", tmp_path,
    )  # fmt: skip
    assert "average: 2 raw, 4 far demonstrations" in result.stdout
    rows = written(tmp_path, "icl")["rows"]
    arms = [row["arm"] for row in rows if row["set"] == "two"]
    assert arms == [
        "none", "raw", "raw-shuffled", "truncated", "truncated-shuffled", "random", "vist",
        "vist-shuffled", "shots@0.4", "shots-shuffled@0.4", "bm25@0.4", "bm25-shuffled@0.4",
        "nearest@0.4", "nearest-shuffled@0.4", "fixate@0.4", "fixate-shuffled@0.4",
        "apart@0.4", "apart-shuffled@0.4", "latents+look@0.4", "latents+look-shuffled@0.4",
        "states@0.4", "states-shuffled@0.4", "states+look@0.4", "states+look-shuffled@0.4",
        "vist-other",
    ]  # fmt: skip


def test_icl_in_shares_says_what_one_run_says(
    foveate: Foveate, vist: Path, labelled: Path, tmp_path: Path
) -> None:
    common = [
        "eval", "vist", "icl", "--model", vist, "--data", labelled, "--far", 4, "--limit", 2,
        "--seeds", "42,43", "--arms", "raw,vist", "--dtype", "bfloat16",
    ]  # fmt: skip
    foveate(*common, "--output", tmp_path / "whole")
    shares = [*common, "--output", tmp_path / "shares"]
    assert "This share is done" in foveate(*shares, "--share", "0/2").stderr
    assert len(list((tmp_path / "shares/icl-parts").iterdir())) == 6
    foveate(*shares, "--share", "1/2")
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "shares/icl-parts").iterdir()}
    assert len(made) == 12
    foveate(*shares, "--resume")
    assert {file: file.stat().st_mtime_ns for file in made} == made
    whole, joined = written(tmp_path / "whole", "icl"), written(tmp_path / "shares", "icl")
    assert whole["rows"] == joined["rows"]
    assert whole["manifest"]["dtype"] == "bfloat16"
    other = foveate(*shares, "--resume", "--length-rule", "sum", ok=False)
    assert "was made with another rule; restore the options" in other.stderr


def test_the_rival_beside_it_in_another_precision(
    foveate: Foveate, vist: Path, labelled: Path, tmp_path: Path
) -> None:
    """Checkpoints name their base by its weights, as they were before --dtype."""
    foveate(
        "eval", "vist", "icl", "--model", vist, "--data", labelled, "--far", 4, "--limit", 1,
        "--seeds", "42", "--cepe", save_tiny_cepe(vist.parent), "--dtype", "bfloat16",
        "--output", tmp_path,
    )  # fmt: skip
    data = written(tmp_path, "icl")
    assert {"vist", "cepe", "cepe-shuffled"} <= {row["arm"] for row in data["rows"]}
    assert (data["manifest"]["cepe"], data["manifest"]["dtype"]) == ("cepe", "bfloat16")


def test_qa(foveate: Foveate, vist: Path, tmp_path: Path) -> None:
    rows = [
        {"question": f"what is {i}?", "answers": ["x"], "passages": [f"It is {i}.", "No.", "Yes."]}
        for i in range(3)
    ]
    (tmp_path / "qa.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    foveate(
        "eval", "vist", "qa", "--model", vist, "--data", tmp_path / "qa.jsonl", "--raw", 1,
        "--far", 2, "--max-new-tokens", 3, "--output", tmp_path,
    )  # fmt: skip
    data = written(tmp_path, "qa")
    assert [row["items"] for row in data["rows"]] == [3] * 6
    result = foveate(
        "eval", "vist", "qa", "--model", vist, "--data", tmp_path / "qa.jsonl", ok=False
    )
    assert "line 1: 3 passages, and 15 are needed" in result.stderr


def test_questions(foveate: Foveate, vist: Path, tmp_path: Path) -> None:
    rows = [
        {"title": f"T{i // 2}", "passage": f"The boat {i} is red. It left.", "answers": ["red"],
         "question": f"what is boat {i}", "id": f"{i}"}
        for i in range(12)
    ]  # fmt: skip
    data = tmp_path / "q.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    common = [
        "eval", "vist", "questions", "--model", vist, "--data", data, "--tokens", "80",
        "--limit", 4, "--max-new-tokens", 3,
    ]  # fmt: skip
    foveate(*common, "--output", tmp_path / "whole")
    result = written(tmp_path / "whole", "questions")
    assert result["manifest"]["prompt"] == "plain"
    rows_by_arm = {row["arm"]: row for row in result["rows"]}
    assert {"raw", "bm25@0.05", "vist"} <= set(rows_by_arm)
    assert rows_by_arm["raw"]["questions"] >= 4
    shares = [*common, "--output", tmp_path / "shares"]
    foveate(*shares, "--share", "0/2")
    foveate(*shares, "--share", "1/2")
    foveate(*shares, "--resume")
    assert written(tmp_path / "shares", "questions")["rows"] == result["rows"]
    words = tmp_path / "p.jsonl"
    words.write_text(json.dumps({"id": "2", "question": "Which colour has it?"}))
    other = foveate(*common, "--paraphrases", words, "--output", tmp_path, ok=False)
    assert "1 document of 80 tokens leaves nothing to shuffle with" in other.stderr
    wrong = foveate(*common, "--prompt", "chat", "--output", tmp_path, ok=False)
    assert "the model has no chat template; use plain" in wrong.stderr


def test_recall(foveate: Foveate, vist: Path, tmp_path: Path) -> None:
    foveate(
        "eval", "vist", "recall", "--model", vist, "--context", 300, "--latents", "2,4", "--pairs",
        2, "--depths", "0.5", "--kinds", "hex", "--limit", 2, "--output", tmp_path,
        "--budgets", "1/4,0.5",
    )  # fmt: skip
    found = written(tmp_path, "recall")["rows"]
    assert {"bm25@0.25", "bm25@0.5", "fixate@0.25"} <= {row["arm"] for row in found}
    rows = [r for r in found if r["arm"] == "vist" and r["kind"]]
    few, many = rows
    assert few["entries"] * 2 == many["entries"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "middle"], "unknown protocol 'middle'; use near or far."),
        (["--context", "a"], "--context 'a' is not a list of whole numbers."),
        (["--domain", "x"], "--domain 'x' is not NAME=PATH"),
        (["--arms", "nope", "--context", "40"], "unknown arms nope"),
        (["--context", "4000"], "shorten --context"),
        ([], "no document has the 609 tokens"),
    ],
)
def test_mistakes_are_one_sentence(
    foveate: Foveate, vist: Path, documents: Path, options: list[str], message: str
) -> None:
    result = foveate(
        "eval", "vist", "perplexity", "--model", vist, "--data", documents, *options, ok=False
    )
    assert result.exit_code == 2
    assert message in result.stderr


def test_retrieval(foveate: Foveate, vist: Path, tmp_path: Path) -> None:
    rows = [
        {
            "title": f"Article {i}",
            "passage": f"The lamp of tower {i} is kept by keeper{i}. Boats pass.",
            "question": f"Who keeps the lamp of tower {i}?",
            "answers": [f"keeper{i}"],
        }
        for i in range(12)
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    widths = {"input_width": 16, "embedding_width": 32}
    head = IndexHead(IndexConfig(**widths, inner=8, picture_inner=8))
    about = json.loads((vist / "vist.json").read_text())
    hashes = {name: about[name]["sha256"] for name in ("encoder", "base")}
    save_index(head, tmp_path / "other.safetensors", **hashes)
    result = foveate(
        "eval", "vist", "retrieval", "--model", vist, "--data", data, "--passages", 3, "--layer", 1,
        "--shares", "0.2,1", "--pairs", 0, "--index", f"other={tmp_path / 'other.safetensors'}",
        "--output", tmp_path,
    )  # fmt: skip
    assert "asked: 6 questions" in result.stdout
    found = written(tmp_path, "retrieval")
    recall = {
        (row["arm"], row["share"]): row["recall"]["value"]
        for row in found["rows"]
        if row["kind"] == "asked"
    }
    # This Vist has no index of its own; the one given is an arm.
    assert {arm for arm, _ in recall} == {"random", "bm25", "embeddings", "states", "index-other"}
    assert recall["bm25", 0.2] == 1.0
    assert all(value == 1.0 for (_, share), value in recall.items() if share == 1.0)
    assert found["manifest"]["articles"] == "odd"
    refused = foveate("eval", "vist", "retrieval", "--model", vist, "--pairs", 0, code=2)
    assert "nothing to ask: give --data" in refused.stderr
