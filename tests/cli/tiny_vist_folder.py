"""A complete tiny Vist checkpoint on disk: language model, vision tower, trained parts."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers.decoders import Fuse

from foveate.vist.cepe.cepe import Cepe
from foveate.vist.cepe.encoder import CepeConfig, ChunkEncoderConfig
from foveate.vist.config import FusionConfig, ResamplerConfig, VistConfig
from foveate.vist.encoder.vision_encoder import load_vision_encoder
from foveate.vist.run.vist import Vist

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
LETTERS = string.ascii_letters + string.digits + string.punctuation + " \n"


def letter_tokenizer() -> Any:
    """Every printable character is a token."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = Fuse()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        **dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True)),
    )


def tiny_llm(**changes: Any) -> Any:
    torch.manual_seed(5)
    sizes = {
        "vocab_size": len(SPECIAL) + len(LETTERS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,
    }
    return tf.LlamaForCausalLM(tf.LlamaConfig(**{**sizes, **changes})).eval()


def save_tiny_vist(folder: Path, **fusion: Any) -> Path:
    """Write base, tower and Vist below `folder`; returns the Vist's."""
    base, tower = folder / "base", folder / "tower"
    tiny_llm().save_pretrained(base)
    letter_tokenizer().save_pretrained(base)
    torch.manual_seed(6)
    config = tf.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        patch_size=14, image_size=84,
    )  # fmt: skip
    tf.CLIPVisionModel(config).save_pretrained(tower)
    llm = tf.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(7)
    vist = Vist(
        llm,
        letter_tokenizer(),
        load_vision_encoder(str(tower)),
        VistConfig(
            resampler=ResamplerConfig(
                input_width=16, width=16, num_latents=4, heads=2, head_dim=8, ff_mult=2
            ),
            fusion=FusionConfig(**fusion),
        ),
    )
    return vist.save_pretrained(folder / "vist", base=str(base))


def save_tiny_cepe(folder: Path) -> Path:
    """Write a CEPE on the base that `save_tiny_vist` left in `folder`; returns its folder."""
    torch.manual_seed(8)
    config = CepeConfig(
        encoder=ChunkEncoderConfig(width=12, layers=1, heads=2, chunk=16),
        resampler=ResamplerConfig(
            input_width=12, width=12, num_latents=16, heads=2, head_dim=6, layers=1
        ),
        fusion=FusionConfig(),
        resample=False,
    )
    llm = tf.AutoModelForCausalLM.from_pretrained(folder / "base")
    cepe = Cepe(llm, letter_tokenizer(), config)
    cepe.save_pretrained(folder / "cepe", training={"steps": 1})
    return folder / "cepe"
