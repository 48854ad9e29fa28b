"""Tiny random models whose decoders are of other kinds: states, reused keys, streams, indexers.

Importing this makes them known to `tiny_vlm`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import transformers as tf
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.gemma3n import modeling_gemma3n

from tests import tiny_vlm as tiny
from tests.tiny_vlm import IMAGE_ID, PAD_ID, ROPE, TAGS, TEXT, VISION, VOCAB, without

TOKENS = {"pad_token_id": PAD_ID, "bos_token_id": 1, "eos_token_id": 2}
SLIDING_AND_FULL = ["sliding_attention", "full_attention"]


def qwen3_5_config() -> Any:
    """Gated delta nets, and attention at layers 1 and 4."""
    kinds = ["linear_attention", "full_attention", "linear_attention", "linear_attention"]
    return tf.Qwen3_5Config(
        text_config={
            **TEXT, "layer_types": [*kinds, "full_attention"],
            "linear_key_head_dim": 8, "linear_value_head_dim": 8,
            "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "rope_parameters": {**ROPE, "partial_rotary_factor": 1.0, "mrope_interleaved": True},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": 48, "patch_size": 4, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "num_position_embeddings": 36,
        },
        **TAGS,
        vision_start_token_id=93,
        vision_end_token_id=94,
    )  # fmt: skip


def lfm2_vl_config() -> Any:
    """Short convolutions, and attention at layers 1 and 3."""
    kinds = ["conv", "full_attention", "conv", "full_attention", "conv"]
    return tf.Lfm2VlConfig(
        text_config=tf.Lfm2Config(**without(TEXT, "head_dim"), layer_types=kinds),
        vision_config={**VISION, "model_type": "siglip2_vision_model"},
        image_token_id=IMAGE_ID,
    )


def gemma4_config() -> Any:
    """Layers 3 and 4 attend with keys of 0 to 2; an input of its own for every layer and token."""
    return tf.Gemma4Config(
        text_config={
            **TEXT, "layer_types": [*SLIDING_AND_FULL, *SLIDING_AND_FULL, "full_attention"],
            "sliding_window": 12, "global_head_dim": 12, "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB,
        },
        vision_config=None,
        audio_config=None,
        image_token_id=IMAGE_ID,
        video_token_id=tiny.VIDEO_ID,
        audio_token_id=96,
        boi_token_id=93,
        eoi_token_id=94,
    )  # fmt: skip


def gemma3n_config() -> Any:
    """The same with two residual streams; its towers are stand-ins, see `build`."""
    text = tf.Gemma3nTextConfig(
        **TEXT, layer_types=[*SLIDING_AND_FULL, *SLIDING_AND_FULL, "full_attention"],
        sliding_window=12, num_kv_shared_layers=2, activation_sparsity_pattern=[0.0] * 5,
        hidden_size_per_layer_input=8, vocab_size_per_layer_input=VOCAB, laurel_rank=8,
        altup_num_inputs=2,
    )  # fmt: skip
    return tf.Gemma3nConfig(
        text_config=text,
        vision_config={"hidden_size": 32, "vocab_size": 4, "vocab_offset": VOCAB},
        audio_config={"hidden_size": 32, "vocab_size": 4, "vocab_offset": VOCAB + 4},
        image_token_id=IMAGE_ID,
        audio_token_id=96,
        vision_soft_tokens_per_image=9,
    )


def llama4_config() -> Any:
    """Chunked attention with complex rotary tables; every other layer without any."""
    return tf.Llama4Config(
        text_config={
            **TEXT, **TOKENS, "intermediate_size_mlp": 64, "num_local_experts": 4,
            "num_experts_per_tok": 1, "attention_chunk_size": 64, "interleave_moe_layer_step": 2,
            "no_rope_layers": [1, 0, 1, 0, 1], "floor_scale": 512,
            "layer_types": ["chunked_attention", "full_attention"] * 2 + ["chunked_attention"],
        },
        vision_config={
            **VISION, "intermediate_size": 128, "projector_input_dim": 48,
            "projector_output_dim": 48, "vision_output_dim": 48, "pixel_shuffle_ratio": 0.5,
        },
        image_token_index=IMAGE_ID,
        boi_token_index=93,
        eoi_token_index=94,
    )  # fmt: skip


def mistral_large4_config(**sharing: Any) -> Any:
    """Every query attends to the 12 keys that an indexer chooses."""
    return tf.MistralLarge4Config(
        text_config=tf.MistralLarge4TextConfig(
            **{**without(TEXT, "head_dim"), "num_key_value_heads": 4}, moe_intermediate_size=16,
            n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, n_group=1, topk_group=1,
            first_k_dense_replace=5, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4,
            v_head_dim=8, index_n_heads=32, index_head_dim=8, index_topk=12,
            **sharing,
        ),
        vision_config=tf.PixtralVisionConfig(**{**VISION, "image_size": 32}, head_dim=16),
        image_token_id=IMAGE_ID,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )  # fmt: skip


def granite4_vision_config() -> Any:
    """Features are added to the tokens before layers 0 to 3."""
    tower = {**VISION, "hidden_size": 64}
    return tf.Granite4VisionConfig(
        text_config={
            **TEXT, "model_type": "granite4_vision_text", "attention_multiplier": 12**-0.5,
        },
        vision_config={**tower, "model_type": "siglip_vision_model"},
        qformer_config={
            "model_type": "blip_2_qformer", "hidden_size": 64, "num_attention_heads": 2,
            "intermediate_size": 48, "encoder_hidden_size": 64, "num_hidden_layers": 1,
        },
        image_token_id=IMAGE_ID,
        deepstack_layer_map=[[-1, 0], [-2, 1]],
        spatial_target_layers=[2, 2, 3, 3],
        downsample_rate="1/2",
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )  # fmt: skip


def features(counts: Sequence[int], *, stacked: bool = False) -> Callable[[int], dict[str, Any]]:
    """Makers of what get_image_features would give, one [tokens, 48] an image."""

    def images(n: int) -> dict[str, Any]:
        items: Any = tuple(
            tiny.noise(counts[i % len(counts)], TEXT["hidden_size"]) for i in range(n)
        )
        items = torch.stack(items) if stacked else items
        return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=items)}}

    return images


KINDS: dict[str, tiny.Family] = {
    "qwen3_5": tiny.Family(qwen3_5_config, tiny.patch_images, "vision", "mm_token_type_ids"),
    "lfm2_vl": tiny.Family(lfm2_vl_config, features([9, 6, 4])),
    "gemma4": tiny.Family(gemma4_config, features([9, 6, 4]), "vision", "mm_token_type_ids"),
    "gemma3n": tiny.Family(gemma3n_config, features([9], stacked=True), "vision"),
    "llama4": tiny.Family(llama4_config, tiny.square_images, "vision"),
    "mistral_large4": tiny.Family(mistral_large4_config, tiny.pixtral_images, "rows"),
    # Layers 2 to 4 attend with keys of 0 and 1; 1 and 4 look at what the indexer before chose.
    "mistral_large4_shared": tiny.Family(
        partial(
            mistral_large4_config,
            kv_source_layers=[0, 1, 0, 0, 1],
            no_rope_layers=[1, 0, 1, 1, 0],
            indexer_types=["full", "shared", "full", "full", "shared"],
        ),
        tiny.pixtral_images,
        "rows",
    ),
    "granite4_vision": tiny.Family(
        granite4_vision_config, tiny.anyres_images, "vision", first_layer=3
    ),
}
tiny.OTHERS.update(KINDS)
STATEFUL = ("qwen3_5", "lfm2_vl")


def build(name: str, attention: str = "sdpa") -> Any:
    """A random model, the same weights for every attention implementation."""
    if name != "gemma3n":
        return tiny.build(name, attention)
    # Its towers come from a library that need not be here; features are given to it instead.
    real = modeling_gemma3n.AutoModel

    class TextOnly:
        @staticmethod
        def from_config(config: Any, **settings: Any) -> Any:
            is_text = config.model_type == "gemma3n_text"
            return real.from_config(config, **settings) if is_text else nn.Identity()

    modeling_gemma3n.AutoModel = TextOnly
    try:
        return tiny.build(name, attention)
    finally:
        modeling_gemma3n.AutoModel = real


def given(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of one call: models fill in the features that they are handed."""
    if "mm_encoder_outputs" not in inputs:
        return inputs
    fresh = {
        modality: BaseModelOutputWithPooling(**output)
        for modality, output in inputs["mm_encoder_outputs"].items()
    }
    return {**inputs, "mm_encoder_outputs": fresh}


def alone(
    inputs: dict[str, Any], model: Any, name: str, sample: int, num_images: Sequence[int]
) -> dict[str, Any]:
    """Sample `sample` of a batch, alone and without padding."""
    if "mm_encoder_outputs" not in inputs:
        return tiny.row_of(inputs, model, name, sample, num_images)
    bare = {key: value for key, value in inputs.items() if key != "mm_encoder_outputs"}
    row = tiny.row_of(bare, model, name, sample, [0] * len(num_images))
    first, count = sum(num_images[:sample]), num_images[sample]
    if count:
        items = inputs["mm_encoder_outputs"]["image"].pooler_output[first : first + count]
        row["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=items)}
    return row


def check_finite(model: Any, inputs: dict[str, Any]) -> None:
    with torch.no_grad():
        assert torch.isfinite(model(**given(inputs)).logits).all()
