"""Tiny random LLaVA checkpoints on disk: 16 visual tokens, three layers, a word-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

SIZE, PATCH, NUM_VISUAL = 32, 8, 16
WORDS = ["<pad>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:", "?"]
WORDS += ["what", "color", "is", "the", "shape", "a", "there", "in", "image", "does", "contain"]
WORDS += ["not", "no", "yes", "circle", "rectangle", "triangle", "red", "blue", "green"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\?|[^\s?]+"), "removed", invert=True)
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )


def tiny_model(seed: int = 0) -> LlavaForConditionalGeneration:
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=SIZE,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
            initializer_range=0.3,
        ),
        image_token_index=WORDS.index("<image>"),
        vision_feature_layer=-1,
        initializer_range=0.3,
    )
    return LlavaForConditionalGeneration(config).eval()


def tiny_processor(*, template: str | None = TEMPLATE) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        ),
        tokenizer=tiny_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def save_tiny_vlm(folder: Path, *, seed: int = 0, template: str | None = TEMPLATE) -> Path:
    """Write a complete safetensors checkpoint to `folder`."""
    tiny_model(seed).save_pretrained(folder)
    tiny_processor(template=template).save_pretrained(folder)
    return folder
