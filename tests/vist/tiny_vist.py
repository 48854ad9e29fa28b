"""Tiny random language models, a tiny encoder and a tokenizer: everything a Vist needs."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from foveate.text_image.render import StripStyle
from foveate.vist.config import FusionConfig, ResamplerConfig, VistConfig
from foveate.vist.latents.memory import Memory
from foveate.vist.run.vist import Vist

VOCAB, WIDTH, FEATURES = 100, 16, 12
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
}
FAMILIES: dict[str, Any] = {
    "llama": lambda: tf.LlamaConfig(**SIZES),
    "mistral": lambda: tf.MistralConfig(**SIZES, head_dim=12, sliding_window=24),
    "qwen2": lambda: tf.Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=24, max_window_layers=2
    ),
    "qwen3": lambda: tf.Qwen3Config(**SIZES, head_dim=16),
    "smollm3": lambda: tf.SmolLM3Config(**SIZES, no_rope_layer_interval=2),
}
FORMS: dict[str, dict[str, Any]] = {
    "embeddings": {"form": "kv_prefix", "source": "embeddings"},
    "lora": {"form": "kv_prefix", "source": "embeddings", "lora_rank": 2},
    "states": {"form": "kv_prefix", "source": "states"},
    "cross": {"form": "cross_attention"},
    "cross_some": {"form": "cross_attention", "layers": (1, -1), "rotary": False},
}
# One of each kind of code path.
KINDS = ("lora", "states", "cross")
TEXT = " ".join(
    [
        "The harbour master wrote the number of every boat in a green book. On the first of May",
        "the book showed 47 boats, two of them from Bergen, and a note about the broken lamp.",
    ]
    * 6
)


class TinyEncoder(nn.Module):
    """A fixed random map of the ink of each patch: nothing to learn, no page mixed with another."""

    def __init__(self) -> None:
        super().__init__()
        self.style = StripStyle()
        self.width, self.patches = FEATURES, self.style.patches
        generator = torch.Generator().manual_seed(3)
        weight = torch.randn(FEATURES, self.style.patch**2, generator=generator)
        self.weight = nn.Parameter(weight / 14)

    def forward(self, pixels: Tensor, patch_mask: Tensor) -> Tensor:
        ink = 1 - pixels.float() / 255
        patches = ink.unflatten(2, (-1, 14)).transpose(1, 2).flatten(2)  # [P, L, 196]
        return (patches @ self.weight.T) * patch_mask.unsqueeze(-1)


def tokenizer() -> Any:
    """Words and what lies between them are tokens; the vocabulary hardly matters."""
    words = {f"w{i}": i for i in range(VOCAB)}
    made = Tokenizer(models.WordLevel(words, unk_token="w3"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s*\S+"), "isolated")
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w3", pad_token="w0")


def model(family: str = "llama", attention: str = "sdpa", **changes: Any) -> Any:
    """A random model whose attention is not flat."""
    torch.manual_seed(7)
    config = FAMILIES[family]()
    for key, value in changes.items():
        setattr(config, key, value)
    made = tf.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if any(part in name for part in ("q_proj.weight", "k_proj.weight")):
                weight.mul_(8)
            elif "embed_tokens" in name or "lm_head" in name or name.endswith("bias"):
                weight.normal_(std=0.3)
    made.generation_config.pad_token_id = 0
    made.generation_config.eos_token_id = None
    return made.eval()


def vist(llm: Any, form: str = "embeddings", *, trained: bool = True, **resampler: Any) -> Vist:
    """A Vist with random parts; `trained` moves what starts at zero away from it."""
    torch.manual_seed(11)
    shape = {"num_latents": 8, "heads": 2, "head_dim": 8, "ff_mult": 2, **resampler}
    config = VistConfig(
        resampler=ResamplerConfig(input_width=FEATURES, width=WIDTH, **shape),
        fusion=FusionConfig(**FORMS[form]),
    )
    made = Vist(llm, tokenizer(), TinyEncoder(), config)
    if trained:
        with torch.no_grad():
            for name, weight in made.parts.named_parameters():
                if ".up." in name or "o_proj" in name:
                    weight.normal_(std=0.2)
    return made


def memory(num_latents: int, num_tokens: int, seed: int = 0) -> Memory:
    """A random memory."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(num_latents, generator=generator).sort().values * num_tokens
    return Memory(
        latents=torch.randn(num_latents, WIDTH, generator=generator),
        positions=positions,
        num_tokens=num_tokens,
    )


def ids(length: int, seed: int = 0) -> Tensor:
    """Random token ids [length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (length,), generator=generator)


def assert_close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest value; says how far off it was."""
    gap = (got - want).abs()
    limit = tolerance * max(1.0, float(want.abs().max()))
    assert got.shape == want.shape
    assert float(gap.max()) <= limit, f"max {float(gap.max()):.2e}, mean {float(gap.mean()):.2e}"
