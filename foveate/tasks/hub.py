"""Questions of a data set that the package `datasets` reads: from the Hub, or from a folder."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.errors import InputError
from foveate.files import open_regular
from foveate.image_file import decode_image
from foveate.tasks.question import Question

__all__ = ["HUB", "Columns", "hub_questions", "public_hub_name"]

HUB = "hub:"
MOST_BYTES = 200_000_000  # of a picture's file
SPLITS = ("test", "validation", "val", "dev", "train")  # the first that a data set has
SAVED = ("dataset_dict.json", "state.json")  # written by datasets' own save_to_disk


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns hold what; "" takes the usual name.

    Args:
        image: default `image`.
        question: default `question`.
        answers: default `answers`, else `answer`.
        kind: class of the question, by which scores are grouped; default none.
    """

    image: str = ""
    question: str = ""
    answers: str = ""
    kind: str = ""

    @classmethod
    def parse(cls, text: str) -> Columns:
        """Read "image=picture,answers=label".

        Raises:
            InputError: text of another form.
        """
        known = [entry.name for entry in fields(cls)]
        chosen = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not value or key not in known:
                raise InputError(
                    f"columns {part!r}: write {', '.join(f'{name}=COLUMN' for name in known)}."
                )
            chosen[key] = value
        return cls(**chosen)


def public_hub_name(name: str) -> str:
    """`hub:NAME...` without the folders that a local data set lies in; others stay whole."""
    source, colon, rest = name.removeprefix(HUB).partition(":")
    return f"{HUB}{Path(source).resolve().name}{colon}{rest}" if Path(source).exists() else name


def hub_questions(name: str, *, limit: int, columns: Columns | None = None) -> Iterator[Question]:
    """Yield the first `limit` questions of `hub:NAME[:SPLIT[:CONFIG]]`.

    NAME is an id on the Hub, which is streamed, or a local folder: one that `datasets` saved, or
    one with Parquet files. An answer is a text, a number, a list of those, or a list of records
    with an `answer`. Questions with equal pixels are about one image.

    Raises:
        InputError: `datasets` is missing, the data set cannot be read, or lacks a column.
    """
    columns = columns or Columns()
    source, _, rest = name.removeprefix(HUB).partition(":")
    split, _, config = rest.partition(":")
    if not source:
        raise InputError(f"data {name!r} names no data set; write hub:OWNER/NAME[:SPLIT[:CONFIG]].")
    rows, split = _open(source, split, config)
    rows = _undecoded(rows, columns.image or "image")
    label = Path(source).name
    count = 0
    for number, row in enumerate(itertools.islice(rows, limit)):
        where = f"row {number} of {source!r}"
        image = _image(_value(row, columns.image or "image", where), where)
        question = _value(row, columns.question or "question", where)
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"{where}: the question is {question!r}, not a text.")
        yield Question(
            image=image,
            question=question,
            answers=_answers(row, columns.answers, where),
            kind=str(_value(row, columns.kind, where)) if columns.kind else label,
            image_id=hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:16],
            id=f"{label}-{split}-{number}",
        )
        count += 1
    if count == 0:
        raise InputError(f"{source!r} holds no rows in the split {split!r}; choose another.")


def _open(source: str, split: str, config: str) -> tuple[Any, str]:
    """(rows, name of their split)."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"data {HUB + source!r} needs the package datasets; install it with "
            "pip install 'foveate[hub]'."
        ) from error
    saved = any((Path(source) / name).exists() for name in SAVED)
    try:
        if saved:
            opened = datasets.load_from_disk(source)
        else:
            opened = datasets.load_dataset(source, config or None, streaming=True)
    except Exception as error:  # anything from the network to a broken file
        raise InputError(
            f"data set {source!r} cannot be read ({type(error).__name__}: {error}); check its "
            "name, split and configuration, and the connection."
        ) from error
    if not isinstance(opened, Mapping):
        return opened, split or str(getattr(opened, "split", None) or "all")
    found = [split] if split else [known for known in SPLITS if known in opened]
    if not found or found[0] not in opened:
        raise InputError(
            f"data set {source!r} has the splits {', '.join(map(str, opened))}; "
            f"name one: {HUB}{source}:SPLIT."
        )
    return opened[found[0]], found[0]


def _value(row: Mapping[str, Any], column: str, where: str) -> Any:
    if column not in row:
        raise InputError(
            f"{where} has no column {column!r}; it has {', '.join(sorted(row))}; name the right "
            "one with --columns."
        )
    return row[column]


def _image(value: Any, where: str) -> Image.Image:
    """RGB pixels of an image's bytes, of its file, or of a list with one of those."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping) and value.get("bytes"):
        value = value["bytes"]
    if isinstance(value, Image.Image):
        raise InputError(
            f"{where}: the image came decoded, past the limits on formats and sizes; save the data "
            "set with a column of the kind datasets.Image."
        )
    if isinstance(value, Mapping) and isinstance(value.get("path"), str):
        value = _fetched(value["path"], where)
    if isinstance(value, bytes):
        return decode_image(io.BytesIO(value), f"of {where}")
    raise InputError(
        f"{where}: got {type(value).__name__} as the image; one picture is needed, as a column of "
        "images or as bytes."
    )


def _fetched(path: str, where: str) -> bytes:
    """A picture that a data set holds as a file of its own, here or on the Hub."""
    from datasets.utils.file_utils import xopen

    try:
        if Path(path).exists():
            with open_regular(path) as own:
                return own.read(MOST_BYTES)
        with xopen(path, "rb") as file:
            return bytes(file.read(MOST_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: the image cannot be read ({error}).") from error


def _undecoded(rows: Any, column: str) -> Any:
    """The rows with images as bytes: `datasets` would open any format, without our limits."""
    feature = (getattr(rows, "features", None) or {}).get(column)
    return rows if feature is None else rows.cast_column(column, _without_decoding(feature))


def _without_decoding(feature: Any) -> Any:
    import datasets

    if isinstance(feature, datasets.Image):
        return datasets.Image(mode=feature.mode, decode=False)
    inner = getattr(feature, "feature", None)
    return feature if inner is None else replace(feature, feature=_without_decoding(inner))


def _answers(row: Mapping[str, Any], column: str, where: str) -> tuple[str, ...]:
    name = column or ("answers" if "answers" in row else "answer")
    value = _value(row, name, where)
    several = value if isinstance(value, (list, tuple)) else [value]
    texts = [item.get("answer") if isinstance(item, Mapping) else item for item in several]
    if not texts or any(not isinstance(text, (str, int, float)) for text in texts):
        raise InputError(
            f"{where}: no accepted answers in {name!r} (got {value!r}); choose a split or column "
            "that has them."
        )
    return tuple(dict.fromkeys(str(text) for text in texts))
