"""OpenAI's batch format: what a line may ask, and what the results look like."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.errors import InputError
from foveate.jobs.openai_batch import asked_of, error_of, is_openai_row, result_of
from foveate.jobs.outcome import Outcome

MESSAGES = [{"role": "user", "content": "what?"}]


def row(**body: Any) -> dict[str, Any]:
    body = {"messages": MESSAGES, **body}
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}


def asked(line: dict[str, Any]) -> Any:
    return asked_of(line, max_new_tokens=64, names={"folder/tiny", "tiny"})


def test_which_lines_have_the_format() -> None:
    assert is_openai_row(row())
    assert is_openai_row({"body": 3})
    assert not is_openai_row({"custom_id": "a", "question": "what?"})


@pytest.mark.parametrize(
    ("body", "length", "until"),
    [
        ({}, 64, ()),
        ({"model": "tiny", "max_tokens": 5}, 5, ()),
        ({"model": "folder/tiny", "max_completion_tokens": 900, "max_tokens": 900}, 900, ()),
        ({"stop": "x", "temperature": 0, "top_p": 0.9, "seed": 3, "user": "me"}, 64, ("x",)),
        ({"stop": ["x", "y"], "n": 1, "stream": False, "temperature": None}, 64, ("x", "y")),
    ],
)
def test_what_a_request_asks(body: Any, length: int, until: Any) -> None:
    messages, generation = asked(row(**body))
    assert messages == MESSAGES
    assert dict(generation.arguments)["max_new_tokens"] == length
    assert dict(generation.arguments)["do_sample"] is False
    assert generation.until == until


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (row(model="gpt-5"), "asks the model 'gpt-5', and this job runs 'folder/tiny'"),
        (row(model=["gpt-5"]), "asks the model ['gpt-5'], and this job runs 'folder/tiny'"),
        (row(temperature=0.7), "has temperature=0.7, and a job gives one greedy answer"),
        (row(n=2), "has n=2"),
        (row(stream=True), "has stream=True"),
        (row(tools=[{}]), "has tools="),
        (row(response_format={"type": "json_object"}), "has response_format="),
        (row(max_tokens=0), "is not a whole number of at least 1"),
        (row(max_tokens=True), "is not a whole number of at least 1"),
        (row(max_tokens=10**400), "max_new_tokens is above the limit of 2,147,483,647"),
        (row(max_tokens="5"), "is not a whole number of at least 1"),
        (row(max_tokens=5, max_completion_tokens=6), "gives max_completion_tokens and another"),
        (row(stop=3), "has stop=3"),
        (row(top_k=3), "has the parameter 'top_k', which is unknown"),
        ({**row(), "custom_id": 3}, "'custom_id' is missing or not a text"),
        ({**row(), "method": "GET"}, "only POST /v1/chat/completions is answered"),
        ({**row(), "url": "/v1/embeddings"}, "only POST /v1/chat/completions is answered"),
        ({**row(), "body": []}, "'body' is missing or no object"),
        ({**row(), "image": "a.png"}, "has 'image' beside 'custom_id' and 'body'"),
    ],
)
def test_requests_that_cannot_be(line: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        asked(line)
    assert words in str(caught.value)


def test_results() -> None:
    outcome = Outcome(line=3, answer="red", before=16, kept=4, prompt_tokens=20, answer_tokens=2,
                      finish="length")  # fmt: skip
    said = result_of(row(), outcome, "tiny")
    assert said["custom_id"] == "a"
    assert said["error"] is None
    assert said["response"]["status_code"] == 200
    body = said["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "red"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"] == {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22}
    assert body["tokens"] == {"before": 16, "kept": 4}
    failed = error_of({"body": 3}, Outcome(line=4, error="no image"))
    assert failed["custom_id"] is None
    assert failed["line"] == 4
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["message"] == "no image"


def test_results_are_what_the_client_reads() -> None:
    openai = pytest.importorskip("openai", reason="make test-vllm has the package openai")
    made = result_of(row(), Outcome(line=3, answer="red"), "tiny")["response"]["body"]
    said = openai.types.chat.ChatCompletion.model_validate(made, strict=True)
    assert said.choices[0].message.content == "red"
