"""Prompts as harnesses hand them over -> conversations: text with pictures, or messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.errors import InputError
from foveate.image_file import open_image
from foveate.models.prompt import Turn

__all__ = ["question_turns", "turns_of_messages"]

# Some tasks write where in their text the pictures belong.
MARK = "<image>"


def question_turns(text: str, visuals: Any, label: str) -> list[Turn]:
    """One user turn: the pictures, then the text; or each where the text has a mark for it.

    Args:
        text: the question.
        visuals: pictures or paths of pictures, or None.
        label: names the request in errors.

    Raises:
        InputError: something else than pictures, or another number of marks.
    """
    images = [_picture(visual, label) for visual in _flat(visuals)]
    marks = text.count(MARK)
    if marks == 0:
        return [_user([*map(_image_part, images), _text_part(text)])]
    if marks != len(images):
        raise InputError(
            f"{label}: the text has {marks} times {MARK}, but there are {len(images)} pictures; "
            "the task should write one mark per picture, or none."
        )
    pieces = text.split(MARK)
    parts = [_text_part(pieces[0])] if pieces[0].strip() else []
    for image, piece in zip(images, pieces[1:], strict=True):
        parts.append(_image_part(image))
        if piece.strip():
            parts.append(_text_part(piece))
    return [_user(parts)]


def turns_of_messages(messages: Iterable[Mapping[str, Any]], label: str) -> list[Turn]:
    """Messages with parts of type "text" and "image" (`url`: a picture or its path).

    Raises:
        InputError: another type of part.
    """
    turns: list[Turn] = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        parts = []
        for part in content:
            if part["type"] == "text":
                parts.append(_text_part(part["text"]))
            elif part["type"] == "image":
                parts.append(_image_part(_picture(part.get("url", part.get("image")), label)))
            else:
                raise InputError(_only_pictures(label, f"a part of type {part['type']!r}"))
        turns.append({"role": message["role"], "content": parts})
    return turns


def _flat(visuals: Any) -> list[Any]:
    if visuals is None:
        return []
    if isinstance(visuals, Sequence) and not isinstance(visuals, str):
        return [one for visual in visuals for one in _flat(visual)]
    return [visuals]


def _picture(visual: Any, label: str) -> Image.Image:
    if isinstance(visual, Image.Image):
        return visual.convert("RGB")
    if isinstance(visual, (str, Path)) and Path(visual).suffix.lower() in _SUFFIXES:
        return open_image(Path(visual))
    raise InputError(_only_pictures(label, f"{type(visual).__name__} {str(visual)[:60]!r}"))


_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def _only_pictures(label: str, got: str) -> str:
    return f"{label}: got {got}, but only text and pictures can be asked about; choose image tasks."


def _image_part(image: Image.Image) -> dict[str, Any]:
    return {"type": "image", "image": image}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _user(parts: list[dict[str, Any]]) -> Turn:
    return {"role": "user", "content": parts}
