"""Lines in the format of OpenAI's batch API: a chat completion asked for, and its result.

In: {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}. Out:
{"id": ..., "custom_id": "a", "response": {"status_code": 200, "request_id": ..., "body": {...}},
"error": null}. Ids follow from the number of the line and `created` is 0, so that a job that was
stopped writes the bytes of one that was not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from foveate.errors import InputError
from foveate.jobs.generation_settings import GenerationSettings
from foveate.jobs.outcome import Outcome

__all__ = ["asked_of", "error_of", "is_openai_row", "result_of"]

URL = "/v1/chat/completions"
LENGTHS = ("max_completion_tokens", "max_tokens")
# Values that ask for nothing but one greedy answer; null is a parameter left out.
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "temperature": (0,),
    "n": (1,),
    "stream": (False,),
    "logprobs": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "tools": ([],),
}
# Parameters that change nothing in a greedy answer, or are for the bookkeeping of a server.
IDLE = ("metadata", "seed", "service_tier", "store", "top_p", "user")


def is_openai_row(row: Mapping[str, Any]) -> bool:
    """Whether a line has this format; a `custom_id` alone may be a field of any other."""
    return "body" in row or {"custom_id", "url"} <= row.keys()


def asked_of(
    row: Mapping[str, Any], *, max_new_tokens: int, names: Collection[str]
) -> tuple[Any, GenerationSettings]:
    """(messages, how to answer) of a line.

    Args:
        row: the line.
        max_new_tokens: longest answer where the request does not say.
        names: that the request may call the model.

    Raises:
        InputError: it is no chat completion, asks for another model, or for what is not done here.
    """
    _check_envelope(row)
    body = dict(row["body"])
    messages = body.pop("messages", None)
    model = body.pop("model", None)
    if model is not None and model not in list(names):  # it may be of any type
        raise InputError(
            f"asks the model {model!r}, and this job runs {sorted(names)[0]!r}; leave 'model' out, "
            "or write that name."
        )
    given = {key: value for key, value in body.items() if value is not None}
    lengths = [given.pop(name) for name in LENGTHS if name in given]
    if len(lengths) == 2 and lengths[0] != lengths[1]:
        raise InputError(f"gives {LENGTHS[0]} and another {LENGTHS[1]}; give one of them.")
    settings = {"max_new_tokens": lengths[0] if lengths else max_new_tokens}
    stop = given.pop("stop", [])
    if not isinstance(stop, (str, list)):
        raise InputError(f"has stop={stop!r}; give a text or a list of texts.")
    for key, value in given.items():
        if key in IDLE:
            continue
        if key not in PLAIN:
            known = ("messages", "model", *LENGTHS, "stop", *PLAIN, *IDLE)
            raise InputError(
                f"has the parameter {key!r}, which is unknown; use {', '.join(known)}."
            )
        if value not in PLAIN[key]:
            raise InputError(
                f"has {key}={value!r}, and a job gives one greedy answer a line; leave it out or "
                f"write {PLAIN[key][0]!r}."
            )
    return messages, GenerationSettings.of({**settings, "until": stop})


def result_of(row: Mapping[str, Any], outcome: Outcome, model: str) -> dict[str, Any]:
    """The line of the output.

    Args:
        row: of the input.
        outcome: an answer.
        model: that gave it.
    """
    usage = {
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.answer_tokens,
        "total_tokens": outcome.prompt_tokens + outcome.answer_tokens,
    }
    message = {"role": "assistant", "content": outcome.answer, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": outcome.finish,
    }
    body = {
        "id": f"chatcmpl-{outcome.line}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": usage,
        "tokens": {"before": outcome.before, "kept": outcome.kept},
    }
    return _envelope(row, outcome, 200, body)


def error_of(row: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """The line of the errors file."""
    error = {
        "message": outcome.error,
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    return {**_envelope(row, outcome, 400, {"error": error}), "line": outcome.line}


def _envelope(
    row: Mapping[str, Any], outcome: Outcome, status: int, body: Mapping[str, Any]
) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"line-{outcome.line}", "body": body}
    return {
        "id": f"batch_req_{outcome.line}",
        "custom_id": row.get("custom_id"),
        "response": response,
        "error": None,
    }


def _check_envelope(row: Mapping[str, Any]) -> None:
    odd = [key for key in row if key not in ("custom_id", "method", "url", "body")]
    if odd:
        raise InputError(f"has {odd[0]!r} beside 'custom_id' and 'body'; take it out.")
    if not isinstance(row.get("custom_id"), str):
        raise InputError("'custom_id' is missing or not a text; give each line one of its own.")
    if row.get("method") != "POST" or row.get("url") != URL:
        raise InputError(
            f"asks for {row.get('method')!r} {row.get('url')!r}; only POST {URL} is answered."
        )
    if not isinstance(row.get("body"), dict):
        raise InputError("'body' is missing or no object; write {\"messages\": [...]}.")
