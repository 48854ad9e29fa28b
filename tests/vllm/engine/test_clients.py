"""Clients that people have - openai, LangChain, lmms-eval - against one `foveate serve`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lmms_eval_task import write_task
from foveate.measure.quality import exact_match
from foveate.tasks.named import load_questions
from foveate.tasks.question import Question
from tests.vllm.engine.server import Server, data_url, serving

NUM_QUESTIONS, KEEP = 12, 98


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return load_questions("reading", limit=NUM_QUESTIONS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = ["-m", "foveate", "serve", "embedded", "--keep", str(KEEP), "--method", "divprune"]
    with serving(command, log) as running:
        yield running


@pytest.fixture(scope="module")
def answers(server: Server, questions: list[Question]) -> list[str]:
    """As plain requests get them."""
    return [server.ask([q.image], q.question, max_tokens=16).text for q in questions]


def messages(question: Question) -> list[dict[str, Any]]:
    image = {"type": "image_url", "image_url": {"url": data_url(question.image)}}
    return [{"role": "user", "content": [image, {"type": "text", "text": question.question}]}]


def base(server: Server) -> dict[str, str]:
    return {"base_url": f"http://127.0.0.1:{server.port}/v1", "api_key": "none"}


def test_the_openai_package(server: Server, questions: list[Question], answers: list[str]) -> None:
    openai = pytest.importorskip("openai")
    client: Any = openai.OpenAI(**base(server))
    assert [model.id for model in client.models.list()] == ["served"]
    before = server.counters()
    for question, answer in zip(questions, answers, strict=True):
        said = client.chat.completions.create(
            model="served", messages=messages(question), max_tokens=16, temperature=0
        )
        assert said.choices[0].message.content.strip() == answer
        assert KEEP < said.usage.prompt_tokens < 196
    counted = server.counters()
    assert counted["kept_tokens"] - before["kept_tokens"] == KEEP * NUM_QUESTIONS
    pieces = client.chat.completions.create(
        model="served", messages=messages(questions[0]), max_tokens=16, temperature=0, stream=True
    )
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text.strip() == answers[0]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model="served", messages=[{"role": "user", "content": "what? " * 4000}], max_tokens=16
        )


def test_langchain(server: Server, questions: list[Question], answers: list[str]) -> None:
    chat = pytest.importorskip("langchain_openai")
    model: Any = chat.ChatOpenAI(model="served", temperature=0, max_tokens=16, **base(server))
    said = model.batch([messages(question) for question in questions])
    assert [one.content.strip() for one in said] == answers
    streamed = "".join(piece.content for piece in model.stream(messages(questions[0])))
    assert streamed.strip() == answers[0]


@pytest.mark.skipif(
    importlib.util.find_spec("lmms_eval") is None, reason="lmms-eval is not installed"
)
def test_the_openai_route_of_lmms_eval(
    server: Server, questions: list[Question], answers: list[str], tmp_path: Path
) -> None:
    write_task(questions, "reading", tmp_path / "task")
    settings = {"model": "served", **base(server), "num_concurrent": "4", "timeout": "120"}
    done = subprocess.run(
        [
            sys.executable, "-m", "lmms_eval", "--model", "openai",
            "--model_args", ",".join(f"{name}={value}" for name, value in settings.items()),
            "--include_path", str(tmp_path / "task"), "--tasks", "foveate_reading",
            "--output_path", str(tmp_path / "out"), "--log_samples",
        ],
        capture_output=True, text=True, timeout=900,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"),
             "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    (samples,) = (tmp_path / "out").rglob("*_samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    said = [row["filtered_resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]
    assert [text.strip() for text in said] == answers, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("*_results.json")
    accuracy = json.loads(results.read_text())["results"]["foveate_reading"]["exact_match,none"]
    right = sum(exact_match(text, q.answers) for text, q in zip(answers, questions, strict=True))
    assert accuracy == pytest.approx(right / NUM_QUESTIONS)
