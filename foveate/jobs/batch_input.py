"""Input of a batch job: where its lines are, and what each asks."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.image_file import open_image
from foveate.jobs.harness_turns import question_turns
from foveate.jsonl_file import parse_row
from foveate.models.prompt import Turn

__all__ = ["EXAMPLE", "RESULTS", "InputFile", "LinePlace", "read_row", "row_turns"]

EXAMPLE = '{"image": "cat.png", "question": "what is it?"}'
RESULTS = ("answer", "tokens")
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, kw_only=True)
class LinePlace:
    """A line of the input: its number, counted from 1, and the byte it starts at."""

    number: int
    offset: int


class InputFile:
    """The lines of a file that are not empty; only their places are held in memory.

    Attributes:
        path: of the file.
        fingerprint: a hash of all its bytes.

    Raises:
        InputError: the file cannot be read, or holds nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers, self._offsets = array("q"), array("q")
        digest, offset = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    digest.update(line)
                    if line.strip():
                        self._numbers.append(number)
                        self._offsets.append(offset)
                    offset += len(line)
        except OSError as error:
            raise InputError(
                f"input {str(path)!r} cannot be read ({error.strerror}); check the path."
            ) from error
        if not self._numbers:
            raise InputError(f"input {str(path)!r} holds no lines; write lines such as {EXAMPLE}")
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._numbers)

    def places(self, start: int, stop: int) -> list[LinePlace]:
        """Of the lines that are not empty, those from `start` to before `stop`."""
        return [
            LinePlace(number=self._numbers[i], offset=self._offsets[i])
            for i in range(start, min(stop, len(self)))
        ]


def read_row(line: bytes) -> tuple[str, dict[str, Any]]:
    """(text, object) of a line.

    Raises:
        InputError: it is no JSON object in UTF-8, or has a field that the answer needs.
    """
    row = parse_row(line, fix=f"write {EXAMPLE}")
    taken = [name for name in RESULTS if name in row]
    if taken:
        raise InputError(f"field {taken[0]!r} is where the result goes; rename it in the input.")
    return line.decode("utf-8-sig").strip(), row


def row_turns(row: Mapping[str, Any], folder: Path) -> list[Turn]:
    """The conversation that a line asks for, with its pictures opened.

    Args:
        row: `question` or `messages`; `image` (a path) or `images` (a list of paths), if any.
        folder: that paths are relative to.

    Raises:
        InputError: something is missing, contradictory, or an image cannot be read.
    """
    paths = _paths(row)
    if ("question" in row) == ("messages" in row):
        got = "both" if "question" in row else "neither"
        raise InputError(f"has {got} of 'question' and 'messages'; give one, e.g. {EXAMPLE}")
    if "question" in row:
        question = row["question"]
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"'question' is empty or not a text; write {EXAMPLE}")
        return question_turns(question, [_open(path, folder) for path in paths], "'question'")
    return _message_turns(row["messages"], paths, folder)


def _paths(row: Mapping[str, Any]) -> list[str]:
    if "image" in row and "images" in row:
        raise InputError("has both 'image' and 'images'; give one of them.")
    given = row.get("images", row.get("image"))
    paths = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(path, str) and path for path in paths):
        raise InputError("'image' is not a path, or 'images' no list of paths; write " + EXAMPLE)
    return paths


def _message_turns(messages: Any, paths: Sequence[str], folder: Path) -> list[Turn]:
    """Pictures stand where their parts are; without such parts, before the first user's text."""
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
        part["image"] = _open(part["image"], folder)
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
        path = part.get("image")
        if path is None:
            return {"type": "image"}
        if isinstance(path, str) and path:
            return {"type": "image", "image": path}
    raise InputError(
        f"'messages' has a part of type {kind!r} that cannot be used; write "
        '{"type": "text", "text": "..."} or {"type": "image", "image": "cat.png"}.'
    )


def _open(path: str, folder: Path) -> Any:
    """A picture; errors name it as the line does, whatever machine reads it."""
    whole = folder / path
    try:
        return open_image(whole)
    except InputError as error:
        raise InputError(str(error).replace(repr(str(whole)), repr(path))) from error
