"""The tokens of a causal language model and their input embeddings, without the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from foveate.errors import InputError
from foveate.models.token_offsets import Tokens, check_offsets, tokenise

__all__ = ["LlmVocabulary", "load_llm_vocabulary"]

_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")


@dataclass(frozen=True, kw_only=True)
class LlmVocabulary:
    """A tokenizer and one input embedding per token.

    Attributes:
        tokenizer: a fast tokenizer.
        embeddings: float32 [V, D].
    """

    tokenizer: PreTrainedTokenizerBase
    embeddings: torch.Tensor

    def tokens_of(self, text: str) -> Tokens:
        """Tokens of a text; see `tokenise`."""
        return tokenise(self.tokenizer, text)


def load_llm_vocabulary(folder: str | Path) -> LlmVocabulary:
    """Load tokenizer and input embeddings from a model's folder; the rest stays on disk.

    Args:
        folder: a folder with the tokenizer's files and the weights as safetensors.

    Raises:
        InputError: if the folder has no such weights, or the tokenizer is not a fast one.
    """
    path = Path(folder)
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            found = [name for name in weights.keys() if name.endswith(_EMBEDDINGS)]  # noqa: SIM118
            if found:
                embeddings = weights.get_tensor(found[0]).float()
                break
    else:
        raise InputError(
            f"{path} holds no input embeddings in safetensors; give the folder of a language "
            "model (with tokenizer files) saved by save_pretrained."
        )
    tokenizer = AutoTokenizer.from_pretrained(path)
    check_offsets(tokenizer)
    return LlmVocabulary(tokenizer=tokenizer, embeddings=embeddings)
