"""Data sets by name: what `--data` of the command line accepts."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from foveate.errors import InputError
from foveate.files import is_there
from foveate.tasks.hub import HUB, Columns, hub_questions
from foveate.tasks.jsonl import jsonl_questions
from foveate.tasks.question import Question

__all__ = ["DATASETS", "load_questions"]

EASY_VQA_TEST = 9_673  # questions in easy-VQA's test split
PER_PAGE = 4


def _easy_vqa(limit: int) -> Iterator[Question]:
    from foveate.tasks.easy_vqa import easy_vqa_questions

    stride = max(1, EASY_VQA_TEST // limit)  # spread over the whole split
    return easy_vqa_questions(split="test", limit=limit, stride=stride)


def _reading(limit: int) -> Iterator[Question]:
    from foveate.tasks.reading import reading_questions

    questions = reading_questions(split="test", num_pages=limit, per_page=PER_PAGE)
    return itertools.islice(questions, limit)


DATASETS: dict[str, Callable[[int], Iterator[Question]]] = {
    "reading": _reading,
    "easy-vqa": _easy_vqa,
}


def load_questions(
    name: str, *, limit: int, columns: Columns | None = None, needs_answers: bool = True
) -> list[Question]:
    """Up to `limit` questions of a data set.

    Args:
        name: one of DATASETS, a .jsonl file or folder, or `hub:NAME[:SPLIT[:CONFIG]]`.
        limit: at most this many.
        columns: of a `hub:` data set.
        needs_answers: whether lines of a .jsonl file have to have some, see `jsonl_questions`.

    Raises:
        InputError: an unknown name, a missing package, or a bad file.
    """
    if limit < 1:
        raise InputError(f"limit={limit} is below 1; ask for at least one question.")
    if name.startswith(HUB):
        return list(hub_questions(name, limit=limit, columns=columns))
    if columns is not None and columns != Columns():
        raise InputError(f"columns are those of {HUB} data, and {name!r} is none; leave them out.")
    if name not in DATASETS:
        if not is_there(name):
            raise InputError(
                f"data {name!r} is neither {' nor '.join(DATASETS)} nor an existing .jsonl file or "
                f"folder; check the name or path, or write {HUB}OWNER/NAME for the Hub."
            )
        return list(jsonl_questions(name, limit=limit, needs_answers=needs_answers))
    try:
        return list(DATASETS[name](limit))
    except ModuleNotFoundError as error:
        raise InputError(f"data {name!r}: {error}") from error
