"""Tiny random models of the served families on disk, with processor and chat template.

Heads are 64 wide, which vLLM's CPU kernels want. Weights get the names of checkpoints on the Hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

WORDS = [f"w{i}" for i in range(100)]
SPECIAL = ["<pad>", "</s>", "<unk>", "<image>", "<video>"]
SPECIAL += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
IDS = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
TEMPLATE = (
    "{{% for message in messages %}}user: {{% if message['content'] is string %}}"
    "{{{{ message['content'] }}}}{{% else %}}{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image} {{% else %}}{{{{ part['text'] }}}} {{% endif %}}"
    "{{% endfor %}}{{% endif %}}{{% endfor %}}assistant:"
)
TEXT: dict[str, Any] = {
    "vocab_size": len(IDS),
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
QWEN: dict[str, Any] = {
    "image_token_id": IDS["<|image_pad|>"],
    "video_token_id": IDS["<|video_pad|>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
    "tie_word_embeddings": False,
}
PIXELS = {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 256}
PINPOINTS = [[56, 112], [112, 56], [112, 112]]


def tokenizer() -> Any:
    made = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+"), "removed", invert=True)
    made.decoder = decoders.Fuse()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
    )


def without_head_dim(text: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in text.items() if name != "head_dim"}


def config_of(family: str) -> Any:
    if family == "qwen2_vl":
        vision = {
            "depth": 3, "embed_dim": 128, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 2,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
        }  # fmt: skip
        text = {**without_head_dim(TEXT), "rope_parameters": MROPE}
        return tf.Qwen2VLConfig(text_config=text, vision_config=vision, **QWEN)
    if family == "qwen2_5_vl":
        vision = {
            "depth": 3, "hidden_size": 128, "intermediate_size": 192, "num_heads": 2,
            "out_hidden_size": 128, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
        }  # fmt: skip
        text = {**without_head_dim(TEXT), "rope_parameters": MROPE}
        return tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **QWEN)
    if family == "qwen3_vl":
        vision = {
            "depth": 3, "hidden_size": 128, "intermediate_size": 192, "num_heads": 2,
            "out_hidden_size": 128, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 256,
        }  # fmt: skip
        text = {**TEXT, "rope_parameters": {**MROPE, "mrope_interleaved": True}}
        return tf.Qwen3VLConfig(text_config=text, vision_config=vision, **QWEN)
    tags = {"image_token_index": IDS["<image>"], "vision_feature_layer": -2}
    if family == "llava_next":
        return tf.LlavaNextConfig(
            text_config=tf.LlamaConfig(**TEXT),
            vision_config=tf.CLIPVisionConfig(**VISION),
            image_grid_pinpoints=PINPOINTS,
            **tags,
        )
    assert family == "llava_onevision"
    return tf.LlavaOnevisionConfig(
        text_config=tf.Qwen2Config(**without_head_dim(TEXT)),
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_grid_pinpoints=PINPOINTS,
        vision_feature_select_strategy="full",
        video_token_index=IDS["<video>"],
        **{**tags, "vision_feature_layer": -1},
    )


def processor_of(family: str, config: Any) -> Any:
    words = tokenizer()
    if family.startswith("qwen"):
        template = TEMPLATE.format(image="<|vision_start|> <|image_pad|> <|vision_end|>")
        sizes = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, **PIXELS}
        kinds = {
            "qwen2_vl": (tf.Qwen2VLProcessor, tf.Qwen2VLVideoProcessor),
            "qwen2_5_vl": (tf.Qwen2_5_VLProcessor, tf.Qwen2VLVideoProcessor),
            "qwen3_vl": (tf.Qwen3VLProcessor, tf.Qwen3VLVideoProcessor),
        }
        make, make_video = kinds[family]
        return make(
            image_processor=tf.Qwen2VLImageProcessor(**sizes),
            tokenizer=words,
            video_processor=make_video(**sizes),
            chat_template=template,
        )
    template = TEMPLATE.format(image="<image>")
    if family == "llava_next":
        return tf.LlavaNextProcessor(
            image_processor=tf.LlavaNextImageProcessor(
                size={"shortest_edge": 56},
                crop_size={"height": 56, "width": 56},
                image_grid_pinpoints=PINPOINTS,
            ),
            tokenizer=words,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=template,
        )
    return tf.LlavaOnevisionProcessor(
        image_processor=tf.LlavaOnevisionImageProcessor(
            size={"height": 56, "width": 56}, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer=words,
        video_processor=tf.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


def save_tiny(family: str, folder: Path) -> Path:
    """A random model of the family in a folder, the same one every time."""
    from tests.vllm.engine import tiny_views as more

    torch.manual_seed(11)
    is_here = family not in more.IMAGES
    config = config_of(family) if is_here else more.config_of(family)
    model = tf.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            # Random defaults are so small that attention is flat; make it matter.
            if "projection_weight" in key:  # zeros by default
                weight.normal_(0, 0.5)
            elif any(part in key for part in ("q_proj", "k_proj", "qkv")) and weight.ndim == 2:
                weight.mul_(6)
            elif config.tie_word_embeddings and ("o_proj" in key or "down_proj" in key):
                weight.mul_(12)  # tied embeddings would say again what comes in
            elif "embed_tokens" in key or "lm_head" in key or "projector" in key:
                weight.mul_(1 if config.tie_word_embeddings else 8)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
    if is_here:
        processor_of(family, config).save_pretrained(folder)
    else:
        template = TEMPLATE.format(image=more.IMAGES[family])
        more.processor_of(family, template).save_pretrained(folder)
    if family.startswith("llava"):
        _rename(folder, model)
    return folder


def _rename(folder: Path, model: Any) -> None:
    """Towers on the Hub have one more level in their names; transformers reads both."""
    state = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("model.")
        if name.startswith("vision_tower.") and "vision_model" not in name:
            name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
        if name.startswith("language_model."):
            name = name.replace("language_model.", "language_model.model.", 1)
        if name.startswith("lm_head."):
            name = f"language_model.{name}"
        state[name] = value.contiguous().clone()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
