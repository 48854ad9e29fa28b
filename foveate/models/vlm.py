"""A vision-language model and its processor as one thing that takes questions about images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from foveate.assets import EMBEDDED_MODEL, EMBEDDED_READS
from foveate.models.anatomy import anatomy_of
from foveate.models.family import Family
from foveate.models.generation import Answer, generate
from foveate.models.prompt import (
    Pictures,
    Turn,
    chat_tensors,
    chat_text,
    conversations_of,
)

__all__ = ["VisionLanguageModel", "unknown_words"]


@dataclass(frozen=True, kw_only=True)
class VisionLanguageModel:
    """A model that is ready to answer, with everything needed to ask it.

    Args:
        name: the path or hub id it was loaded from, as given, or what else outputs call it.
        model: in eval mode on its device.
        processor: turns images and text into the model's inputs; pads on the left.
        weights: tells checkpoints apart: the hub's commit, or a hash of local files; "" if unknown.
    """

    name: str
    model: Any = field(repr=False)
    processor: Any = field(repr=False)
    weights: str = ""

    @property
    def family(self) -> Family:
        return anatomy_of(self.model, with_explicit_mask=False).family

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def caution(self) -> str:
        """What a user of its answers has to know; "" for all models but the embedded one."""
        return EMBEDDED_READS if self.name == EMBEDDED_MODEL else ""

    @property
    def attention(self) -> str:
        """Name of the attention kernel."""
        return str(self.model.config._attn_implementation)

    @property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    # --- questions ---

    def inputs(
        self, question: str | Sequence[str], images: Pictures | Sequence[Pictures] = None
    ) -> dict[str, Any]:
        """Inputs of `model.generate` for a question or a batch of them, on the model's device.

        Each prompt is one user turn: its images first, then the question, then the start of the
        answer. Processors without a chat template get a plain form of that.

        Args:
            question: a text, or B of them.
            images: of the question: a PIL image, the path of an image file, a list of these, or
                None. With B questions B of those, or None for no images at all.

        Returns:
            Tensors by name, `input_ids` [B, S] padded on the left among them.

        Raises:
            InputError: the counts differ, an image cannot be read, a text holds a mark of the
                prompt (`<image>`, `<|im_end|>`), or the processor cannot take what it was given.

        Example:
            inputs = vlm.inputs("what is the price of tea?", "shelf.png")
            both = vlm.inputs(["what is this?", "which is older?"], ["a.png", ["a.png", "b.png"]])
        """
        return self.chat_inputs(conversations_of(question, images))

    def chat_inputs(self, conversations: Sequence[Sequence[Turn]]) -> dict[str, Any]:
        """Inputs of `model.generate` for a batch of conversations, on the model's device.

        Unlike in `inputs`, images may stand anywhere, and there may be several turns and a system
        turn, as far as the processor's chat template knows them.

        Args:
            conversations: B lists of turns, see foveate.models.prompt.Turn; the start of the next
                answer is added.

        Returns:
            As `inputs`.

        Raises:
            InputError: as `inputs`; or there is no chat template and more than one user turn.
        """
        tensors = chat_tensors(self.processor, self._model_type, conversations)
        dtype = self.model.dtype
        return {
            key: value.to(self.device, dtype)
            if value.is_floating_point()
            else value.to(self.device)
            for key, value in tensors.items()
        }

    def chat_text(self, turns: Sequence[Turn]) -> str:
        """The text that `chat_inputs` makes of a conversation, one mark per image."""
        return chat_text(self.processor, self._model_type, turns)

    def unknown_words(self, text: str) -> list[str]:
        """Words of `text` that the tokenizer can only write as its unknown token, without repeats.

        Tokenizers that spell any word from pieces have none; the embedded model's has many.
        """
        return unknown_words(self.tokenizer, text)

    # --- answers ---

    def answer(self, inputs: dict[str, Any], *, max_new_tokens: int = 32) -> list[str]:
        """Greedy answers, one per row of `inputs`, without the prompt and special tokens.

        Raises:
            InputError: max_new_tokens is below 1.
        """
        return [said.text for said in self.generate(inputs, max_new_tokens=max_new_tokens)]

    def generate(self, inputs: dict[str, Any], **settings: Any) -> list[Answer]:
        """Answers with their tokens, one per row of `inputs`.

        Args:
            inputs: what `inputs` or `chat_inputs` returned.
            settings: as for `foveate.models.generation.generate`: max_new_tokens, stop,
                probabilities, and whatever `model.generate` takes.
        """
        return generate(self.model, self.tokenizer, inputs, **settings)

    @property
    def _model_type(self) -> str:
        return str(self.model.config.model_type)


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """Words of `text` that a tokenizer can only write as its unknown token, without repeats."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None:
        return []

    def is_known(word: str) -> bool:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        return bool(ids) and unknown not in ids  # some tokenizers drop what they cannot write

    words = dict.fromkeys(re.findall(r"\w+(?:'\w+)?", text))
    return [word for word in words if not is_known(word)]
