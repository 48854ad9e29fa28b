"""Tiny random models of Gemma 3, Idefics3, SmolVLM, InternVL, GLM-4V and Qwen3.5 on disk."""

from __future__ import annotations

from typing import Any

import transformers as tf
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from tests.vllm.engine.tiny_models import IDS as COMMON
from tests.vllm.engine.tiny_models import MROPE, PIXELS, QWEN, TEXT, VISION, without_head_dim

# What prompts of these families have around placeholders; longer ones first.
ROWS = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
MARKS = ["\n\n\n\n", "\n\n\n", "\n\n", "\n", "<boi>", "<eoi>", "<soft>", "<img>", "</img>", "<ctx>"]
MARKS += ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *ROWS]
MARKS += ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>"]
MARKS += ["<|begin_of_video|>", "<|end_of_video|>"]
IDS = {**COMMON, **{mark: len(COMMON) + i for i, mark in enumerate(MARKS)}}
WORDS = {**TEXT, "vocab_size": len(IDS)}
# What stands for an image in a prompt.
IMAGES = {
    "gemma3": "<boi>",
    "idefics3": "<image>",
    "smolvlm": "<image>",
    "internvl": "<ctx>",
    "glm4v": "<|begin_of_image|> <|image|> <|end_of_image|>",
    "qwen3_5": "<|vision_start|> <|image_pad|> <|vision_end|>",
}
_NAMED = {
    "gemma3": {"image_token": "<soft>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<ctx>",
        "video_token": "<video>",
    },
}
_LARGE = {**VISION, "image_size": 112}  # 64 patches


def tokenizer(family: str) -> Any:
    made = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+"), "removed", invert=True)
    made.decoder = decoders.Fuse()
    words = tf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        **({"extra_special_tokens": _NAMED[family]} if family in _NAMED else {}),
    )
    marks = [*list(COMMON)[3:9], *MARKS]
    words.add_tokens([tf.AddedToken(m, normalized=False, special=True) for m in marks], True)
    return words


def config_of(family: str) -> Any:
    if family == "gemma3":
        return tf.Gemma3Config(
            text_config=tf.Gemma3TextConfig(**WORDS, sliding_window=1024),
            vision_config=tf.SiglipVisionConfig(**_LARGE, vision_use_head=False),
            mm_tokens_per_image=16,
            boi_token_index=IDS["<boi>"],
            eoi_token_index=IDS["<eoi>"],
            image_token_index=IDS["<soft>"],
        )
    if family in ("idefics3", "smolvlm"):
        kind = (tf.Idefics3Config, tf.Idefics3VisionConfig)
        if family == "smolvlm":
            kind = (tf.SmolVLMConfig, tf.SmolVLMVisionConfig)
        return kind[0](
            text_config=tf.LlamaConfig(**WORDS),
            vision_config=kind[1](**_LARGE),
            scale_factor=2,
            tie_word_embeddings=False,
            image_token_id=IDS["<image>"],
            pad_token_id=0,
        )
    if family == "internvl":
        vision = {**VISION, "image_size": [112, 112], "patch_size": [14, 14]}
        return tf.InternVLConfig(
            text_config=tf.Qwen2Config(**without_head_dim(WORDS)),
            vision_config=tf.InternVLVisionConfig(**vision),
            downsample_ratio=0.5,
            tie_word_embeddings=False,
            image_token_id=IDS["<ctx>"],
            image_seq_length=16,
        )
    if family == "glm4v":
        vision = {
            "depth": 3, "hidden_size": 128, "intermediate_size": 192, "num_heads": 2,
            "out_hidden_size": 128, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "image_size": 112,
        }  # fmt: skip
        # The decoder turns half of a head's width.
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
        return tf.Glm4vConfig(
            text_config={**without_head_dim(WORDS), "rope_parameters": rope},
            vision_config=vision,
            image_token_id=IDS["<|image|>"],
            video_token_id=IDS["<|video|>"],
            image_start_token_id=IDS["<|begin_of_image|>"],
            image_end_token_id=IDS["<|end_of_image|>"],
            video_start_token_id=IDS["<|begin_of_video|>"],
            video_end_token_id=IDS["<|end_of_video|>"],
        )
    assert family == "qwen3_5"
    vision = {
        "depth": 3, "hidden_size": 128, "intermediate_size": 192, "num_heads": 2,
        "out_hidden_size": 128, "patch_size": 14, "spatial_merge_size": 2,
        "temporal_patch_size": 2, "num_position_embeddings": 256,
    }  # fmt: skip
    states = {
        "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    }  # fmt: skip
    rope = {**MROPE, "mrope_interleaved": True, "partial_rotary_factor": 1.0}
    text = {**WORDS, **states, "rope_parameters": rope}
    return tf.Qwen3_5Config(text_config=text, vision_config=vision, **QWEN)


def processor_of(family: str, template: str) -> Any:
    words = tokenizer(family)
    if family == "gemma3":
        images = tf.Gemma3ImageProcessor(size={"height": 112, "width": 112})
        return tf.Gemma3Processor(images, words, template, image_seq_length=16)
    if family in ("idefics3", "smolvlm"):
        sizes = {"size": {"longest_edge": 224}, "max_image_size": {"longest_edge": 112}}
        if family == "idefics3":
            images = tf.Idefics3ImageProcessor(**sizes)
            return tf.Idefics3Processor(images, words, image_seq_len=16, chat_template=template)
        videos = tf.SmolVLMVideoProcessor(size={"longest_edge": 112})
        return tf.SmolVLMProcessor(
            tf.SmolVLMImageProcessor(**sizes), words, videos, 16, chat_template=template
        )
    if family == "internvl":
        size = {"size": {"height": 112, "width": 112}}
        return tf.InternVLProcessor(
            tf.GotOcr2ImageProcessor(**size, crop_to_patches=True, max_patches=4),
            words,
            tf.InternVLVideoProcessor(**size),
            image_seq_length=16,
            chat_template=template,
        )
    sizes = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    if family == "glm4v":
        pixels = {"size": {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 256}}
        return tf.Glm4vProcessor(
            tf.Glm4vImageProcessor(**sizes, **pixels),
            words,
            tf.Glm4vVideoProcessor(**sizes, **pixels),
            chat_template=template,
        )
    return tf.Qwen3VLProcessor(
        image_processor=tf.Qwen2VLImageProcessor(**sizes, **PIXELS),
        tokenizer=words,
        video_processor=tf.Qwen3VLVideoProcessor(**sizes, **PIXELS),
        chat_template=template,
    )
