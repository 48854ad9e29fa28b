"""Questions about images -> tensors, through the processor's own chat template."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from foveate.errors import InputError, check_unicode
from foveate.image_file import open_image, to_rgb
from foveate.models.special_tokens import check_no_marks

__all__ = [
    "Picture",
    "Pictures",
    "Turn",
    "chat_tensors",
    "chat_text",
    "conversations_of",
    "num_images",
]

# An image, or the path of an image file.
Picture = Image.Image | str | os.PathLike[str]
# Those of one question.
Pictures = Picture | Sequence[Picture] | None

# {"role": "system" | "user" | "assistant", "content": [part, ...]}; a part is
# {"type": "text", "text": str} or {"type": "image", "image": Picture}.
Turn = Mapping[str, Any]

# For processors without a chat template.
PLAIN_FORM = "{images}\n{question}\n"
PLAIN_FORMS = {"paligemma": "{images}answer en {question}"}  # its processor ends the line itself


def conversations_of(
    question: str | Sequence[str], images: Pictures | Sequence[Pictures] = None
) -> list[list[Turn]]:
    """Questions as conversations of one user turn: its images first, then the question.

    Raises:
        InputError: the counts differ, or there is no question.
    """
    if not isinstance(question, (str, list, tuple)) or not all(
        isinstance(text, str) for text in question
    ):
        raise InputError(f"got {type(question).__name__} as the question; give a text, or a list.")
    questions = [question] if isinstance(question, str) else list(question)
    lists: Any = images
    if isinstance(question, str):
        lists = [images]
    elif images is None:
        lists = [None] * len(questions)
    elif _is_picture(images):
        raise InputError(
            f"got {len(questions)} questions and a single image; give one list of images (it may "
            "be empty) per question."
        )
    if not questions or len(questions) != len(lists):
        raise InputError(
            f"got {len(questions)} questions and {len(lists)} lists of images; give one list of "
            "images (it may be empty) per question, and at least one question."
        )
    return [[_turn(text, several)] for text, several in zip(questions, lists, strict=True)]


def chat_tensors(
    processor: Any, model_type: str, conversations: Sequence[Sequence[Turn]]
) -> dict[str, torch.Tensor]:
    """What a processor makes of a batch of conversations, padded as its tokenizer pads.

    Args:
        processor: of the model.
        model_type: of its config; PLAIN_FORMS has forms for processors without a chat template.
        conversations: B lists of turns; the start of the next answer is added.

    Raises:
        InputError: the processor cannot take what it was given, a text holds a mark of the prompt,
            an image cannot be read, or there is no chat template and more than one user turn.
    """
    # A turn's parts together: templates write them one after the other, and two halves make a mark.
    texts = [
        "".join(str(part["text"]) for part in turn["content"] if part["type"] == "text")
        for turns in conversations
        for turn in turns
    ]
    for text in texts:
        check_unicode("the question", text)
    check_no_marks(texts, processor)
    shown = [[_opened(turn) for turn in turns] for turns in conversations]
    try:
        if _has_chat_template(processor):
            tensors = processor.apply_chat_template(
                shown,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                processor_kwargs={"padding": True, "return_tensors": "pt"},
            )
        else:
            plain = [_plain(processor, model_type, turns) for turns in shown]
            asked = [text for text, _ in plain]
            pictures = [images for _, images in plain]
            if any(pictures):
                tensors = processor(text=asked, images=pictures, padding=True, return_tensors="pt")
            else:  # PaliGemma's processor refuses to work without images
                tokenizer = getattr(processor, "tokenizer", processor)
                tensors = tokenizer(asked, padding=True, return_tensors="pt")
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{type(processor).__name__} cannot prepare this prompt: {error}"
        ) from error
    return {key: value for key, value in tensors.items() if isinstance(value, torch.Tensor)}


def chat_text(processor: Any, model_type: str, turns: Sequence[Turn]) -> str:
    """The text that `chat_tensors` makes of a conversation, one mark per image."""
    if not _has_chat_template(processor):
        return _plain(processor, model_type, turns)[0]
    text: str = processor.apply_chat_template(
        list(turns), add_generation_prompt=True, tokenize=False
    )
    return text


def num_images(turns: Sequence[Turn]) -> int:
    """Images of a conversation."""
    return sum(part["type"] == "image" for turn in turns for part in turn["content"])


def _has_chat_template(processor: Any) -> bool:
    return bool(getattr(processor, "chat_template", None))


def _is_picture(given: Any) -> bool:
    return isinstance(given, (Image.Image, str, os.PathLike))


def _turn(question: str, images: Pictures) -> Turn:
    if not (images is None or _is_picture(images) or isinstance(images, (list, tuple))):
        raise InputError(
            f"got {type(images).__name__} as an image; give a PIL image (Image.fromarray makes one "
            "of an array), the path of a file, or a list of these."
        )
    several = [images] if _is_picture(images) else list(images or ())
    pictures = [{"type": "image", "image": image} for image in several]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": question}]}


def _opened(turn: Turn) -> dict[str, Any]:
    """The turn with RGB images: paths are opened here, not by the processor, which takes URLs."""
    parts = [
        {"type": "image", "image": _rgb(part.get("image"))} if part["type"] == "image" else part
        for part in turn["content"]
    ]
    return {**turn, "content": parts}


def _rgb(given: Any) -> Image.Image:
    if isinstance(given, Image.Image):
        return given if given.mode == "RGB" else to_rgb(given)
    if _is_picture(given):
        return open_image(given)
    raise InputError(
        f"got {type(given).__name__} as an image; give a PIL image or the path of an image file."
    )


def _plain(processor: Any, model_type: str, turns: Sequence[Turn]) -> tuple[str, list[Image.Image]]:
    """(prompt, images) of the one user turn that a processor without a chat template can ask."""
    if [turn["role"] for turn in turns] != ["user"]:
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(
            f"{type(processor).__name__} has no chat template, so it takes one user turn, not "
            f"{len(turns)} turns ({roles}); leave out system prompts and earlier turns."
        )
    parts = turns[0]["content"]
    images = [part["image"] for part in parts if part["type"] == "image"]
    question = "".join(part["text"] for part in parts if part["type"] == "text")
    token = str(getattr(processor, "image_token", "<image>"))
    form = PLAIN_FORMS.get(model_type, PLAIN_FORM)
    text = form.format(images=token * len(images), question=question)
    return text.lstrip("\n"), images
