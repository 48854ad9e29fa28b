"""What a line of a batch job asks: its question or messages, and its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foveate.errors import InputError
from foveate.jobs.batch_input import EXAMPLE
from foveate.jobs.harness_turns import question_turns
from foveate.jobs.image_source import ImageSource
from foveate.models.prompt import Turn, num_images

__all__ = ["message_turns", "row_turns"]

ROLES = ("system", "user", "assistant")
# Keys that image parts have here and in transformers; of OpenAI's see `_openai_place`.
PLACES = ("image", "url", "path", "base64")


def row_turns(row: Mapping[str, Any], images: ImageSource) -> list[Turn]:
    """The conversation that a line asks for, with its pictures opened.

    Args:
        row: `question` or `messages`; `image` (a path or address) or `images` (a list of them), if
            any; `text_only`, if there are none on purpose.
        images: opens them.

    Raises:
        InputError: something is missing, contradictory, or an image cannot be read.
    """
    paths = _paths(row)
    given = [name for name in ("question", "messages") if row.get(name) is not None]
    if len(given) != 1:
        got = "both" if given else "neither"
        raise InputError(f"has {got} of 'question' and 'messages'; give one, e.g. {EXAMPLE}")
    if given == ["question"]:
        question = row["question"]
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"'question' is empty or not a text; write {EXAMPLE}")
        return question_turns(question, [images.open(path) for path in paths], "'question'")
    turns = message_turns(row["messages"], images, paths)
    if row.get("text_only") and num_images(turns):
        raise InputError("'text_only' is true, and 'messages' has images; take out one of them.")
    return turns


def _paths(row: Mapping[str, Any]) -> list[str]:
    if "image" in row and "images" in row:
        raise InputError("has both 'image' and 'images'; give one of them.")
    name = "images" if "images" in row else "image"
    given, is_text = row.get(name), row.get("text_only", False)
    if not isinstance(is_text, bool):
        raise InputError(f"'text_only' is {is_text!r}; write true, or leave it out.")
    if is_text:
        if given:
            raise InputError(f"'text_only' is true, and there is {name!r}; take out one of them.")
        return []
    if given is None and name in row:
        # What a program writes that did not find the image.
        raise InputError(
            f'{name!r} is null; give the image, or say "text_only": true if there is to be none.'
        )
    paths = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(path, str) and path for path in paths):
        raise InputError("'image' is not a path, or 'images' no list of paths; write " + EXAMPLE)
    return paths


def message_turns(messages: Any, images: ImageSource, paths: Sequence[str] = ()) -> list[Turn]:
    """A conversation with its pictures opened.

    Pictures stand where their parts are; without such parts, before the first user's text.

    Args:
        messages: as in a line.
        images: opens them.
        paths: those that stand beside the messages.

    Raises:
        InputError: something is missing, contradictory, or an image cannot be read.
    """
    if not isinstance(messages, list) or not messages:
        raise InputError('\'messages\' is no list of turns; write [{"role": "user", ...}].')
    turns: list[Turn] = [_turn(message) for message in messages]
    if turns[-1]["role"] == "assistant":
        raise InputError("'messages' ends with an assistant's turn; end it with a user's.")
    parts = [part for turn in turns for part in turn["content"] if part["type"] == "image"]
    if not parts and paths:
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if first is None:
            raise InputError("'messages' has no user turn to show the images in; add one.")
        parts = [{"type": "image"} for _ in paths]
        first["content"][:0] = parts
    unnamed = [part for part in parts if "image" not in part]
    if len(unnamed) != len(paths):
        raise InputError(
            f"'messages' has {len(unnamed)} image parts without a path, and there are {len(paths)} "
            "paths beside it; give one path for each."
        )
    for part, path in zip(unnamed, paths, strict=True):
        part["image"] = path
    for part in parts:
        part["image"] = images.open(part["image"])
    return turns


def _turn(message: Any) -> dict[str, Any]:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        raise InputError(f"a turn of 'messages' has role {role!r}; use {', '.join(ROLES)}.")
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise InputError("a turn of 'messages' has no content; give a text or a list of parts.")
    return {"role": role, "content": [_part(part) for part in content]}


def _part(part: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image":
        given = {name: part[name] for name in PLACES if name in part}
        if not given:
            return {"type": "image"}
        named = {name: place for name, place in given.items() if place is not None}
        name, place = next(iter(named.items()), ("", None))
        if len(named) == 1 and isinstance(place, str) and place:
            if name == "base64" and not place.startswith("data:"):  # as transformers has it
                place = f"data:;base64,{place}"
            return {"type": "image", "image": place}
    if kind == "image_url":
        place = _openai_place(part.get("image_url"))
        if place:
            return {"type": "image", "image": place}
    raise InputError(
        f"'messages' has a part of type {kind!r} that cannot be used; write "
        '{"type": "text", "text": "..."} or {"type": "image", "image": "cat.png"}.'
    )


def _openai_place(given: Any) -> str | None:
    """The address in `{"url": "...", "detail": "auto"}`, or the address alone."""
    if isinstance(given, dict):
        given = given.get("url")  # `detail` asks for another size, which is the processor's here
    return given if isinstance(given, str) else None
