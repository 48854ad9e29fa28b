"""`foveate run` on other inputs than JSON Lines with paths: the same answers, and what is said."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from foveate.assets import EMBEDDED_READS
from tests.cli.conftest import Foveate

COMMON = ("--method", "fastv", "--keep", "4", "--batch-size", "3", "--max-new-tokens", "4",
          "--device", "cpu")  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def command(checkpoint: Path) -> list[str]:
    return ["run", "--model", str(checkpoint), *COMMON]


@pytest.fixture
def rows(batch_input: Path) -> list[dict[str, Any]]:
    """Five good lines with images of their own."""
    good = [json.loads(line) for line in batch_input.read_text().splitlines()[:4]]
    return [{**row, "image": str(batch_input.parent / row["image"])} for row in good]


def written(rows: list[Any], path: Path) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


@pytest.fixture
def answers(command: list[str], rows: Any, tmp_path: Path, foveate: Foveate) -> list[str]:
    foveate(*command, "--input", written(rows, tmp_path / "plain.jsonl"),
            "--output", tmp_path / "plain.out")  # fmt: skip
    return [row["answer"] for row in read(tmp_path / "plain.out")]


def test_tables_packed_files_and_standard_input(
    command: list[str], rows: Any, answers: list[str], tmp_path: Path, foveate: Foveate
) -> None:
    plain = tmp_path / "plain.jsonl"
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with (tmp_path / "in.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["image", "question"], extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    for name in ("in.jsonl.gz", "in.csv"):
        output = tmp_path / f"{name}.out"
        first = foveate(*command, "--input", tmp_path / name, "--output", output)
        assert [row["answer"] for row in read(output)] == answers
        again = foveate(*command, "--input", tmp_path / name, "--output", output)
        assert "was finished already" in again.stderr
        assert again.stdout == first.stdout
        left = {path.name for path in Path(f"{output}.parts").iterdir()}
        assert left == {"job.json", "model.json", "summary.json"}
    from foveate.cli.main import app

    for i, name in enumerate(("-", "/dev/stdin")):
        output = tmp_path / f"stdin-{i}.out"
        said = CliRunner().invoke(
            app, [*command, "--input", name, "--output", str(output)], input=plain.read_bytes()
        )
        assert said.exit_code == 0, said.output
        assert output.read_bytes() == (tmp_path / "plain.out").read_bytes()


def test_a_pipe_is_refused_and_not_waited_for(
    command: list[str], tmp_path: Path, foveate: Foveate
) -> None:
    os.mkfifo(tmp_path / "pipe")
    refused = foveate(*command, "--input", tmp_path / "pipe", "--output", tmp_path / "o", ok=False)
    assert "is a pipe, a device or a socket; give a regular file" in refused.stderr


def test_the_errors_file_is_json_whatever_the_ids_are(
    command: list[str], tmp_path: Path, foveate: Foveate
) -> None:
    ids = ("NaN", "1e999", '{"a": [-Infinity]}', '"\\ud800"', "1.5", "null")
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"id": {one}, "image": null, "question": "a"}}\n' for one in ids))
    foveate(*command, "--input", path, "--output", tmp_path / "out", code=1)

    def no_number(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    lines = (tmp_path / "out.errors.jsonl").read_text().splitlines()
    bad = [json.loads(line, parse_constant=no_number) for line in lines]
    assert [row["line"] for row in bad] == [1, 2, 3, 4, 5, 6]
    assert [row.get("id", "none") for row in bad] == ["none"] * 3 + ["\ud800", 1.5, None]


def test_the_summary_says_what_the_embedded_model_reads(
    rows: Any, tmp_path: Path, foveate: Foveate
) -> None:
    arguments = ("run", *COMMON, "--input", written(rows[:1], tmp_path / "in.jsonl"),
                 "--output", tmp_path / "out.jsonl")  # fmt: skip
    assert EMBEDDED_READS in foveate(*arguments).stdout
    assert json.loads(foveate(*arguments, "--json").stdout)["caution"] == EMBEDDED_READS


def test_a_packed_job_goes_on_and_another_input_is_refused(
    command: list[str], rows: Any, tmp_path: Path, foveate: Foveate
) -> None:
    from foveate.jobs.journal import Journal

    packed, output = tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl"
    packed.write_bytes(gzip.compress(written(rows, tmp_path / "in.jsonl").read_bytes()))
    real = Journal.append

    def stopped(self: Journal, records: Any) -> None:
        real(self, records)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", stopped)
        foveate(*command, "--input", packed, "--output", output, ok=False)
    other = tmp_path / "other.jsonl.gz"
    other.write_bytes(gzip.compress(written(rows[:3], tmp_path / "other.jsonl").read_bytes()))
    refused = foveate(*command, "--input", other, "--output", output, ok=False)
    assert "job.json is of another input" in refused.stderr
    foveate(*command, "--input", packed, "--output", output)
    whole = tmp_path / "whole.jsonl"
    foveate(*command, "--input", tmp_path / "in.jsonl", "--output", whole)
    assert output.read_bytes() == whole.read_bytes()


def test_openai_batches(
    command: list[str], rows: Any, answers: list[str], tmp_path: Path, foveate: Foveate
) -> None:
    lines = []
    for i, row in enumerate(rows):
        data = base64.b64encode(Path(row["image"]).read_bytes()).decode()
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        content = [image, {"type": "text", "text": row["question"]}]
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        lines.append({"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions",
                      "body": body})  # fmt: skip
    lines[1]["body"]["max_tokens"] = 1
    lines.append({**lines[0], "custom_id": "bad", "url": "/v1/embeddings"})
    output = tmp_path / "out.jsonl"
    done = foveate(*command, "--input", written(lines, tmp_path / "in.jsonl"), "--output", output)
    assert done.stdout.startswith("5 lines: 4 answered, 1 errors; visual tokens 64 -> 16")
    said = read(output)
    assert [row["custom_id"] for row in said] == ["r0", "r1", "r2", "r3"]
    bodies = [row["response"]["body"] for row in said]
    made = [body["choices"][0]["message"]["content"] for body in bodies]
    assert [made[i] for i in (0, 2, 3)] == [answers[i] for i in (0, 2, 3)]
    assert answers[1].startswith(made[1])
    assert made[1] != answers[1]
    assert bodies[1]["usage"]["completion_tokens"] == 1
    assert bodies[1]["choices"][0]["finish_reason"] == "length"
    assert bodies[0]["tokens"] == {"before": 16, "kept": 4}
    assert bodies[0]["model"] == "tiny"
    (bad,) = read(tmp_path / "out.jsonl.errors.jsonl")
    assert bad["custom_id"] == "bad"
    assert "only POST" in bad["response"]["body"]["error"]["message"]


def test_a_job_without_any_answer_fails(command: list[str], tmp_path: Path, foveate: Foveate
) -> None:  # fmt: skip
    lines = [{"image": None, "question": "what ?"},
             {"image": "http://example.org/a.png", "question": "what ?"}]  # fmt: skip
    arguments = (*command, "--input", written(lines, tmp_path / "in.jsonl"),
                 "--output", tmp_path / "out.jsonl")  # fmt: skip
    for _ in range(2):  # also when it is found finished
        done = foveate(*arguments, code=1)
        assert "2 lines: 0 answered, 2 errors" in done.stdout
        assert "no line was answered; the first: line 1: 'image' is null" in done.stdout
    bad = read(tmp_path / "out.jsonl.errors.jsonl")
    assert "add --allow-http" in bad[1]["error"]
    refused = foveate(*arguments, "--allow-http", code=2, ok=False)
    assert "job.json is of another allow_http" in refused.stderr


def test_with_http_allowed_this_machine_is_still_not_read(
    command: list[str], tmp_path: Path, foveate: Foveate
) -> None:
    lines = [{"image": "http://127.0.0.1:9/a.png", "question": "what ?"}]
    foveate(*command, "--allow-http", "--input", written(lines, tmp_path / "in.jsonl"),
            "--output", tmp_path / "out.jsonl", code=1)  # fmt: skip
    (bad,) = read(tmp_path / "out.jsonl.errors.jsonl")
    assert "leads to 127.0.0.1" in bad["error"]


def test_words_that_the_model_does_not_know_are_said(
    command: list[str], rows: Any, tmp_path: Path, foveate: Foveate
) -> None:
    lines = [{**rows[0], "question": f"what color is the {word} ?"} for word in
             ("zebra", "circle", "zebra", "lamp")]  # fmt: skip
    arguments = (*command, "--input", written(lines, tmp_path / "in.jsonl"),
                 "--output", tmp_path / "out.jsonl")  # fmt: skip
    done = foveate(*arguments)
    assert done.stdout.splitlines()[1].startswith(
        "3 lines with words that the model does not know (zebra, lamp); what it says"
    )
    said = json.loads(foveate(*arguments, "--json").stdout)
    assert (said["unknown_lines"], said["unknown"]) == (3, ["zebra", "lamp"])
