"""Random LLaVA-1.5-7B and Qwen2.5-VL-7B, prompts for them, and the same in tiny."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf
from torch import Tensor

SYSTEM, QUESTION = 36, 40  # text tokens around the image


class Shapes:
    """How large the two models are.

    Args:
        tiny: of a size for a CPU and some seconds.
    """

    def __init__(self, *, tiny: bool) -> None:
        self.tiny = tiny
        self.llava_text: dict[str, Any] = {
            "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
        }  # fmt: skip
        self.llava_tower: dict[str, Any] = {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        }  # fmt: skip
        self.qwen_text: dict[str, Any] = {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
        }  # fmt: skip
        self.qwen_tower: dict[str, Any] = {
            "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "depth": 32,
            "fullatt_block_indexes": [7, 15, 23, 31],
        }  # fmt: skip
        # Rows and columns of the image's visual tokens.
        self.qwen_sides = {"1k": 32, "4k": 64}
        self.llava_keeps = (192, 128, 64)
        if tiny:
            text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6,
                    "num_attention_heads": 4, "vocab_size": 500}  # fmt: skip
            self.llava_text = {**text, "num_key_value_heads": 4}
            self.qwen_text = {**text, "num_key_value_heads": 2}
            self.llava_tower = {**self.llava_tower, "hidden_size": 64, "intermediate_size": 96,
                                "num_hidden_layers": 3, "num_attention_heads": 4,
                                "image_size": 168}  # fmt: skip
            self.qwen_tower = {"hidden_size": 64, "intermediate_size": 96, "num_heads": 4,
                               "depth": 2, "fullatt_block_indexes": [1]}  # fmt: skip
            self.qwen_sides = {"1k": 8, "4k": 12}
            self.llava_keeps = (48, 32)

    @property
    def llava_tokens(self) -> int:
        """Visual tokens of an image."""
        return int((self.llava_tower["image_size"] // self.llava_tower["patch_size"]) ** 2)


def build_llava(shapes: Shapes, device: torch.device) -> Any:
    """Random weights: bfloat16 on a GPU, float32 on a CPU."""
    config = tf.LlavaConfig(
        text_config=tf.LlamaConfig(
            **shapes.llava_text, max_position_embeddings=4096, tie_word_embeddings=False
        ),
        vision_config=tf.CLIPVisionConfig(**shapes.llava_tower),
        image_token_index=shapes.llava_text["vocab_size"] - 10,
        image_seq_length=shapes.llava_tokens,
    )
    return _built(tf.LlavaForConditionalGeneration, config, device)


def llava_prompts(shapes: Shapes, device: torch.device, *, batch: int) -> dict[str, Tensor]:
    """An image each between 36 and 40 text tokens."""
    vocab, image = shapes.llava_text["vocab_size"], shapes.llava_tokens
    ids = _text(batch, SYSTEM + image + QUESTION, vocab)
    ids[:, SYSTEM : SYSTEM + image] = vocab - 10
    side = shapes.llava_tower["image_size"]
    pixels = torch.randn(batch, 3, side, side, generator=_generator())
    return _on(device, input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels)


def build_qwen(shapes: Shapes, device: torch.device) -> Any:
    """Random weights: bfloat16 on a GPU, float32 on a CPU."""
    text, vocab = shapes.qwen_text, shapes.qwen_text["vocab_size"]
    half = text["hidden_size"] // text["num_attention_heads"] // 2
    section = [half // 4, half * 3 // 8]
    rope = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [*section, half - sum(section)],
    }
    config = tf.Qwen2_5_VLConfig(
        text_config={
            **text,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
            "rope_parameters": rope,
        },
        vision_config={
            **shapes.qwen_tower,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
        },
        image_token_id=vocab - 9,
        video_token_id=vocab - 8,
        vision_start_token_id=vocab - 7,
        vision_end_token_id=vocab - 6,
    )
    return _built(tf.Qwen2_5_VLForConditionalGeneration, config, device)


def qwen_prompt(shapes: Shapes, device: torch.device, *, side: int) -> dict[str, Tensor]:
    """One image of side x side visual tokens, four patches each."""
    vocab, image = shapes.qwen_text["vocab_size"], side * side
    ids = _text(1, SYSTEM + 1 + image + 1 + QUESTION, vocab)
    ids[:, SYSTEM], ids[:, SYSTEM + 1 + image] = vocab - 7, vocab - 6
    ids[:, SYSTEM + 1 : SYSTEM + 1 + image] = vocab - 9
    return _on(
        device,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == vocab - 9).long(),
        pixel_values=torch.randn(4 * image, 3 * 2 * 14 * 14, generator=_generator()),
        image_grid_thw=torch.tensor([[1, 2 * side, 2 * side]]),
    )


def dtype_on(device: torch.device) -> torch.dtype:
    """What models are measured in."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _built(model_class: Any, config: Any, device: torch.device) -> Any:
    torch.manual_seed(0)
    with torch.device(device):
        model = model_class._from_config(
            config, dtype=dtype_on(device), attn_implementation="sdpa"
        ).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _text(rows: int, length: int, vocab: int) -> Tensor:
    return torch.randint(3, vocab - 100, (rows, length), generator=_generator())


def _on(device: torch.device, **inputs: Tensor) -> dict[str, Tensor]:
    dtype = dtype_on(device)
    return {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
    }
