"""What makes a configuration tiny: the small value of every size by name, and the few exceptions.

A size that no rule names keeps its value. Ids of tokens lie in the twin's vocabulary, so that
prompts can be written without a tokenizer.
"""

from __future__ import annotations

from typing import Any

PAD_ID, IMAGE_ID, VIDEO_ID, START_ID, END_ID, AUDIO_ID, VOCAB = 0, 90, 91, 93, 94, 96, 100
# Every id from here on has a meaning; text is made of those below.
FIRST_SPECIAL_ID = 80
LAYERS = 5

TEXT: dict[str, Any] = {
    "vocab_size": VOCAB, "vocab_size_per_layer_input": VOCAB, "pad_token_id": PAD_ID,
    "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 4096,
    "attention_dropout": 0.0, "sliding_window": 12, "sliding_window_size": 12,
    # sizes
    "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
    "num_global_key_value_heads": 2, "global_head_dim": 12, "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2, "swa_head_dim": 12, "query_pre_attn_scalar": 12,
    "intermediate_size_mlp": 64, "ffn_hidden_size": 64, "ffn_dim": 64, "word_embed_proj_dim": 48,
    # experts
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_topk": 2, "n_shared_experts": 1, "moe_num_shared_experts": 1,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "expert_ffn_hidden_size": 16,
    "moe_hidden_size": 48,
    # states
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8,
    "n_groups": 2, "chunk_size": 8, "conv_kernel": 4, "mamba_d_state": 8, "mamba_d_head": 8,
    "mamba_n_heads": 4, "linear_head_dim": 8, "linear_num_heads": 4, "hc_mult": 2, "hc_count": 2,
    "hc_lowrank": 8,
    # latent attention
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    # Indexers with few heads tie at zero, so that which token counts is chance.
    "index_n_heads": 32, "index_head_dim": 8, "index_topk": 1000,
    # Gemma 3n and 4
    "hidden_size_per_layer_input": 8, "laurel_rank": 8, "altup_num_inputs": 2,
    "num_kv_shared_layers": 2,
}  # fmt: skip

VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "image_size": 24, "patch_size": 4, "depth": 2, "embed_dim": 32,
    "num_heads": 2, "out_hidden_size": 48, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "head_dim": 16, "mlp_ratio": 2, "num_position_embeddings": 36, "projection_dim": 48,
    "vision_use_head": False, "attention_dropout": 0.0, "window_size": 16, "n_layers": 2,
    "base_channels": 32, "num_image_tokens": 36, "image_token_embed_dim": 48,
    "pos_emb_height": 8, "patch_embed_hidden_size": 48, "pos_emb_width": 8,
    "fullatt_block_indexes": [1], "deepstack_visual_indexes": [0, 1], "text_hidden_size": 48,
}  # fmt: skip

AUDIO: dict[str, Any] = {
    "hidden_size": 32, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 32, "output_dim": 48, "conf_num_hidden_layers": 1,
    "conf_num_attention_heads": 2, "num_key_value_heads": 2,
    "text_hidden_size": 48, "out_hidden_size": 48, "downsample_hidden_size": 16,
}  # fmt: skip

TOP: dict[str, Any] = {
    "image_token_id": IMAGE_ID, "image_token_index": IMAGE_ID, "video_token_id": VIDEO_ID,
    "video_token_index": VIDEO_ID, "audio_token_id": AUDIO_ID, "audio_token_index": AUDIO_ID,
    "vision_start_token_id": START_ID, "vision_end_token_id": END_ID,
    "image_start_token_id": START_ID, "image_end_token_id": END_ID,
    "video_start_token_id": 97, "video_end_token_id": 98, "pad_token_id": PAD_ID,
    "bos_token_id": 1, "eos_token_id": 2, "vocab_size": VOCAB, "projection_dim": 48,
    "boi_token_id": START_ID, "eoi_token_id": END_ID, "boa_token_id": 97, "eoa_token_id": 98,
    "boi_token_index": START_ID, "eoi_token_index": END_ID, "mm_tokens_per_image": 9,
    "image_grid_pinpoints": [[24, 48], [48, 24], [48, 48]], "image_seq_length": 9,
    "num_query_tokens": 8, "latent_query_num": 8, "hidden_size": 48, "out_hidden_size": 48,
    "projector_hidden_size": 32, "image_size": 24, "patch_size": 4,
}  # fmt: skip

OF_KIND = {"top": TOP, "text": TEXT, "vision": VISION, "audio": AUDIO}

_SAM = {
    "mlp_ratio": 2.0, "image_size": 32, "window_size": 4, "global_attn_indexes": [1],
    "output_channels": 8, "downsample_channels": [8, 32],
}  # fmt: skip
_VQ = {"channel_multiplier": [1, 1], "num_res_blocks": 1, "base_channels": 32}


def _codes(code: str) -> dict[str, int]:
    """A vocabulary of image codes: twenty of them, and the placeholder."""
    return {"<image>": IMAGE_ID, **{code.format(i): 10 + i for i in range(20)}}


def _lettered() -> dict[str, int]:
    letters = "ABCDEFGHIJ"
    names = [f"IMGIMG{letters[i // 10]}{letters[i % 10]}Z" for i in range(20)]
    return {"<image>": IMAGE_ID, **{name: 10 + i for i, name in enumerate(names)}}


# What no rule can say: sizes that hang together across parts, and configurations whose class leaves
# out what they need.
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "chameleon": {
        "vocabulary_map": _lettered(),
        "vq_config": {
            **_VQ, "num_embeddings": 20, "embed_dim": 8, "latent_channels": 8, "resolution": 16,
        },
    },
    "emu3": {
        "vocabulary_map": _codes("<|visual token {:06d}|>"),
        "vq_config": {
            **_VQ, "codebook_size": 20, "embed_dim": 4, "latent_channels": 4,
            "attn_resolutions": [2], "num_attention_heads": 1,
        },
    },
    "inkling_mm_model": {
        "vision_config": {"num_hidden_layers": 6},
        "text_config": {"logits_mup_width_multiplier": 1.0},  # or logits are too small to differ
    },
    "janus": {"vq_config": _VQ},
    "aria": {"projector_patch_to_query_dict": {36: 9}},
    "vipllava": {"vision_feature_layers": [-1, -2]},
    "qwen2_vl": {"vision_config": {"hidden_size": 48}},
    "kimi_k25": {"projection_hidden_size": 32},
    "deepseek_vl_hybrid": {"high_res_vision_config": {"mlp_ratio": 2.0}},
    "deepseek_ocr2": {
        "vision_config": {"sam_config": _SAM, },
        "text_config": {
            "mlp_layer_types": ["dense", "sparse", "sparse", "dense", "sparse"],
            "num_experts_per_tok": 2,
        },
    },
    "dots3_note": {
        "text_config": {
            "layer_types": ["indexed_attention"] * LAYERS, "per_layer_config": {},
            "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 3, "head_dim": 12,
            "num_attention_heads": 4, "num_key_value_heads": 4,
        },
        "vision_config": {
            "adapter_in_dim": 32, "adapter_out_dim": 48, "n_routed_experts": 4,
        },
        "audio_config": {"adapter_input_size": 32, "adapter_output_size": 48},
    },
    "fast_vlm": {"vision_config": {"model_args": None, "hidden_size": 32}},
    "glm5_next": {"text_config": {"index_topk": 1024, "qk_rope_head_dim": 0, "head_dim": 0}},
    "granite4_vision": {
        "deepstack_layer_map": [[-1, 0], [-2, 1]], "spatial_target_layers": [2, 2, 3, 3],
        "downsample_rate": "1/2", "vision_config": {"hidden_size": 64},
        "qformer_config": {
            "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 48,
            "encoder_hidden_size": 64, "num_hidden_layers": 1,
        },
    },
    "perception_lm": {"vision_config": {"model_args": {"embed_dim": 32}}},
    "minimax_m3_vl": {
        # Blocks small enough that some are left out; one head of the indexer for each of keys.
        "text_config": {
            "index_n_heads": 2, "index_block_size": 4, "index_topk_blocks": 4,
            "dense_intermediate_size": 64, "shared_intermediate_size": 16,
        },
    },
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 32, "indexer_kv_heads": 1, "indexer_head_dim": 12,
            "indexer_budget": 64, "indexer_compress_ratio": 4, "ngram_vocab_size_base": 200,
            "split_ngram_parts": 1, "make_ngram_vocab_size_divisible_by": 1, "ple_layer_ids": [],
        },
    },
    "llama4": {
        "vision_config": {
            "projector_input_dim": 48, "projector_output_dim": 48, "vision_output_dim": 48,
            "intermediate_size": 128, "pixel_shuffle_ratio": 0.5,
        },
    },
    "molmo2": {
        "adapter_config": {
            "hidden_size": 32, "intermediate_size": 48, "head_dim": 16, "num_attention_heads": 2,
            "num_key_value_heads": 2, "vision_feature_layer": [-1],
        },
    },
    "granite_docling": {"vision_config": {"image_size": 32, "scale_factor": 2}},
    "muse_glimmer": {"out_hidden_size": 128},
    "muse_spark": {"out_hidden_size": 128},
    "qwen2_5_omni_thinker": {"vision_start_token_id": START_ID},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": START_ID},
    "step3p7": {"text_config": {"sliding_window": 12}},
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
}  # fmt: skip

# What the checkpoints of a type have and its class leaves out by default: kinds of layers.
TYPICAL: dict[str, dict[str, Any]] = {
    "lfm2_vl": {"layer_types": ["conv", "full_attention", "conv", "full_attention", "conv"]},
    "minimax_m3_vl": {
        "layer_types": [
            "full_attention", "minimax_m3_sparse", "full_attention", "minimax_m3_sparse",
            "full_attention",
        ],
    },
}  # fmt: skip
