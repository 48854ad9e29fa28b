"""Your own questions: JSONL lines with an image path, a question and the accepted answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.errors import InputError
from foveate.image_file import open_image
from foveate.tasks.question import Question

__all__ = ["jsonl_questions"]


def jsonl_questions(path: str | Path, *, limit: int | None = None) -> Iterator[Question]:
    """Yield the questions of a .jsonl file, or of all .jsonl files in a folder, in order of name.

    A line is an object with `image` (path relative to the file), `question`, `answers` (a text or a
    list of texts) and optionally `kind` and `id`. Empty lines are skipped.

    Args:
        path: the file or folder.
        limit: at most this many questions; None = all.

    Raises:
        InputError: nothing to read, or a bad line (named by file and line number).
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} is below 1; ask for at least one question.")
    count = 0
    last: tuple[Path, Image.Image] | None = None
    for file in _files(Path(path)):
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            if count == limit:
                return
            where = f"{file}, line {number}"
            row = _row(line, where)
            image_path = file.parent / row["image"]
            if last is None or last[0] != image_path:  # questions about one image come in a row
                try:
                    last = (image_path, open_image(image_path))
                except InputError as error:
                    raise InputError(f"{where}: {error}") from error
            yield Question(
                image=last[1],
                question=row["question"],
                answers=row["answers"],
                kind=str(row.get("kind", file.stem)),
                image_id=str(row["image"]),
                id=str(row.get("id", f"{file.stem}-{number}")),
            )
            count += 1
    if count == 0:
        raise InputError(f"{str(path)!r} holds no questions; add lines such as {_EXAMPLE}")


_EXAMPLE = '{"image": "cat.png", "question": "what is it?", "answers": ["a cat"]}'


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.jsonl"))
        if not files:
            raise InputError(f"folder {str(path)!r} has no .jsonl file; see docs for the format.")
        return files
    if not path.exists():
        raise InputError(f"data {str(path)!r} does not exist; check the path.")
    return [path]


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8") as lines:
            yield from lines
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{str(file)!r} cannot be read as UTF-8 text: {error}.") from error


def _row(line: str, where: str) -> dict[str, Any]:
    """The checked object of one line; `answers` becomes a tuple."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg}); write {_EXAMPLE}") from error
    if not isinstance(row, dict):
        raise InputError(f"{where}: got {type(row).__name__}, not an object; write {_EXAMPLE}")
    for key in ("image", "question"):
        value = row.get(key)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: {key!r} is missing or not a text; write {_EXAMPLE}")
    answers = row.get("answers")
    answers = [answers] if isinstance(answers, (str, int, float)) else answers
    if not isinstance(answers, list) or not answers:
        raise InputError(f"{where}: 'answers' is missing or empty; write {_EXAMPLE}")
    if any(isinstance(answer, (dict, list)) or answer is None for answer in answers):
        raise InputError(f"{where}: 'answers' holds something that is not a text; write {_EXAMPLE}")
    row["answers"] = tuple(str(answer) for answer in answers)
    return row
