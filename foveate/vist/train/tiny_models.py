"""Tiny random models of real classes, for trying out a training recipe in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from foveate.errors import ConfigError

if TYPE_CHECKING:
    from foveate.vist.encoder.vision_encoder import VisionEncoder

__all__ = ["TINY_WIDTH", "tiny_language_model", "tiny_tokenizer", "tiny_vision_encoder"]

VOCABULARY = 384
TINY_WIDTH = 32  # of the language models
_LLM: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": TINY_WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LANGUAGE_MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_LLM),
    "mistral": lambda: MistralConfig(**_LLM, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**_LLM),
    "qwen3": lambda: Qwen3Config(**_LLM, head_dim=8),
}
_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TOWERS = ("clip", "siglip", "siglip2")


def tiny_language_model(kind: str, *, seed: int = 0) -> Any:
    """A random causal language model of model type `kind` with two layers.

    Raises:
        ConfigError: `kind` has no tiny form.
    """
    if kind not in LANGUAGE_MODELS:
        raise ConfigError(
            f"model.llm_type={kind!r} has no tiny form; use {', '.join(LANGUAGE_MODELS)}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(LANGUAGE_MODELS[kind]())
    return model.eval()


def tiny_tokenizer(texts: Iterable[str]) -> Any:
    """A byte-level BPE tokenizer of at most 384 tokens, learned from `texts`."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="<s>")


def tiny_vision_encoder(kind: str, *, seed: int = 0) -> VisionEncoder:
    """A random vision tower of one layer, as an encoder of strips.

    Raises:
        ConfigError: `kind` has no tiny form.
    """
    if kind not in TOWERS:
        raise ConfigError(f"model.encoder_type={kind!r} has no tiny form; use text, "
                          f"{', '.join(TOWERS)}.")  # fmt: skip
    # Three families of models take seconds to import; most recipes need none.
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        Siglip2VisionConfig,
        Siglip2VisionModel,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    from foveate.vist.encoder.vision_encoder import VisionEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "clip":
            tower = CLIPVisionModel(CLIPVisionConfig(**_TOWER, image_size=224, patch_size=14))
        elif kind == "siglip":
            tower = SiglipVisionModel(SiglipVisionConfig(**_TOWER, image_size=224, patch_size=16))
        else:
            tower = Siglip2VisionModel(
                Siglip2VisionConfig(**_TOWER, num_patches=256, patch_size=16)
            )
        return VisionEncoder(tower)
