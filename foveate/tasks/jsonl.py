"""Your own questions: JSONL lines with an image path, a question and the accepted answers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from foveate.errors import InputError
from foveate.image_file import open_image
from foveate.jsonl_file import read_rows
from foveate.tasks.documents import data_files
from foveate.tasks.question import NO_ANSWER, Question

__all__ = ["jsonl_questions"]


def jsonl_questions(
    path: str | Path, *, limit: int | None = None, needs_answers: bool = True
) -> Iterator[Question]:
    """Yield the questions of a .jsonl file, or of all .jsonl files in a folder, in order of name.

    A line is an object with `image` (path relative to the file), `question`, `answers` (a text or a
    list of texts) and optionally `kind` and `id`. Empty lines are skipped.

    Args:
        path: the file or folder.
        limit: at most this many questions; None = all.
        needs_answers: refuse a line without `answers`; otherwise NO_ANSWER stands for them.

    Raises:
        InputError: nothing to read, or a bad line (named by file and line number).
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} is below 1; ask for at least one question.")
    count = 0
    last: tuple[Path, Image.Image] | None = None
    for file in data_files(Path(path), (".jsonl",)):
        for row in read_rows(file, fix=f"write {_EXAMPLE}"):
            name = row.text("image", can_be_blank=False)
            question = row.text("question", can_be_blank=False)
            is_blank = not needs_answers and "answers" not in row.fields
            answers = (NO_ANSWER,) if is_blank else row.texts("answers")
            image_path = file.parent / name
            if last is None or last[0] != image_path:  # questions about one image come in a row
                try:
                    last = (image_path, open_image(image_path))
                except InputError as error:
                    raise InputError(f"{row.where}: {error}") from error
            yield Question(
                image=last[1],
                question=question,
                answers=answers,
                kind=str(row.fields.get("kind", file.stem)),
                image_id=os.path.normpath(name),  # "./a.png" is no other image than "a.png"
                id=str(row.fields.get("id", f"{file.stem}-{row.number}")),
            )
            count += 1
            if count == limit:
                return
    if count == 0:
        raise InputError(f"{str(path)!r} holds no questions; add lines such as {_EXAMPLE}")


_EXAMPLE = '{"image": "cat.png", "question": "what is it?", "answers": ["a cat"]}'
