"""Questions about images -> model inputs -> answers, through the processor's own chat template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from foveate.errors import InputError
from foveate.models.load import VisionLanguageModel

# {"role": "system" | "user" | "assistant", "content": [part, ...]}; a part is
# {"type": "text", "text": str} or {"type": "image", "image": RGB image}.
Turn = Mapping[str, Any]

# For processors without a chat template.
PLAIN_FORM = "{images}\n{question}\n"
PLAIN_FORMS = {"paligemma": "{images}answer en {question}"}  # its processor ends the line itself


def prompt_inputs(
    vlm: VisionLanguageModel,
    questions: Sequence[str],
    images: Sequence[Sequence[Image.Image]],
) -> dict[str, Any]:
    """Inputs of `model.generate` for a batch of questions, padded on the left, on its device.

    Each prompt is one user turn: its images first, then the question, then the start of the answer.
    Processors without a chat template get PLAIN_FORM, or their family's own of PLAIN_FORMS.

    Args:
        questions: B plain texts.
        images: B lists of RGB images; an empty list asks without an image.

    Raises:
        InputError: the counts differ, or the processor cannot take what it was given.
    """
    if not questions or len(questions) != len(images):
        raise InputError(
            f"got {len(questions)} questions and {len(images)} lists of images; give one list of "
            "images (it may be empty) per question, and at least one question."
        )
    return chat_inputs(vlm, [[_turn(q, p)] for q, p in zip(questions, images, strict=True)])


def chat_inputs(
    vlm: VisionLanguageModel, conversations: Sequence[Sequence[Turn]]
) -> dict[str, Any]:
    """Inputs of `model.generate` for a batch of conversations, padded on the left, on its device.

    Unlike in `prompt_inputs`, images may stand anywhere, and there may be several turns and a
    system turn, as far as the processor's chat template knows them.

    Args:
        conversations: B lists of turns, see Turn; the start of the next answer is added.

    Raises:
        InputError: the processor cannot take what it was given, or has no chat template and got
            more than one user turn.
    """
    processor = vlm.processor
    try:
        if has_chat_template(vlm):
            inputs = processor.apply_chat_template(
                [list(turns) for turns in conversations],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                processor_kwargs={"padding": True, "return_tensors": "pt"},
            )
        else:
            plain = [_plain(vlm, turns) for turns in conversations]
            texts = [text for text, _ in plain]
            pictures = [images for _, images in plain]
            if any(pictures):
                inputs = processor(text=texts, images=pictures, padding=True, return_tensors="pt")
            else:  # PaliGemma's processor refuses to work without images
                inputs = vlm.tokenizer(texts, padding=True, return_tensors="pt")
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{type(processor).__name__} cannot prepare this prompt: {error}"
        ) from error
    dtype = vlm.model.dtype
    return {
        key: value.to(vlm.device, dtype) if value.is_floating_point() else value.to(vlm.device)
        for key, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }


def has_chat_template(vlm: VisionLanguageModel) -> bool:
    return bool(getattr(vlm.processor, "chat_template", None))


def prompt_text(vlm: VisionLanguageModel, turns: Sequence[Turn]) -> str:
    """The text that `chat_inputs` makes of a conversation, one mark per image."""
    if not has_chat_template(vlm):
        return _plain(vlm, turns)[0]
    text: str = vlm.processor.apply_chat_template(
        list(turns), add_generation_prompt=True, tokenize=False
    )
    return text


def generate_answers(
    vlm: VisionLanguageModel, inputs: dict[str, Any], *, max_new_tokens: int = 32
) -> list[str]:
    """Greedy answers, one per row of `inputs`, without the prompt and special tokens."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens} is below 1; ask for at least one.")
    tokenizer = vlm.tokenizer
    output = vlm.model.generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    new = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def unknown_words(vlm: VisionLanguageModel, text: str) -> list[str]:
    """Words of `text` that the tokenizer can only write as its unknown token, without repeats.

    Tokenizers that spell any word from pieces have none; the embedded model's has many.
    """
    tokenizer = vlm.tokenizer
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return []

    def is_known(word: str) -> bool:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        return bool(ids) and unknown not in ids  # some tokenizers drop what they cannot write

    words = dict.fromkeys(re.findall(r"\w+(?:'\w+)?", text))
    return [word for word in words if not is_known(word)]


def _turn(question: str, images: Sequence[Image.Image]) -> Turn:
    pictures = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": question}]}


def _plain(vlm: VisionLanguageModel, turns: Sequence[Turn]) -> tuple[str, list[Image.Image]]:
    """(prompt, images) of the one user turn that a processor without a chat template can ask."""
    if [turn["role"] for turn in turns] != ["user"]:
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(
            f"{type(vlm.processor).__name__} has no chat template, so it takes one user turn, not "
            f"{len(turns)} turns ({roles}); leave out system prompts and earlier turns."
        )
    parts = turns[0]["content"]
    images = [part["image"] for part in parts if part["type"] == "image"]
    question = "".join(part["text"] for part in parts if part["type"] == "text")
    token = str(getattr(vlm.processor, "image_token", "<image>"))
    form = PLAIN_FORMS.get(vlm.model.config.model_type, PLAIN_FORM)
    text = form.format(images=token * len(images), question=question)
    return text.lstrip("\n"), images
