"""Tiny random models of every family, and batches of prompts with any number of images for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers as tf
from torch import Tensor

from foveate.carve.engine.units import feature_lengths

IMAGE_ID, VIDEO_ID, PAD_ID, FENCE_ID, VOCAB = 90, 91, 0, 92, 100
TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": 4096,
    "pad_token_id": PAD_ID,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 24,
    "patch_size": 4,
}
TAGS: dict[str, Any] = {"image_token_id": IMAGE_ID, "video_token_id": VIDEO_ID}


def only(keys: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: keys[name] for name in names}


def without(keys: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in keys.items() if name not in names}


def llava_config() -> Any:
    return tf.LlavaConfig(
        text_config=tf.LlamaConfig(**TEXT),
        vision_config=tf.CLIPVisionConfig(**VISION),
        image_token_index=IMAGE_ID,
        vision_feature_layer=-1,
    )


def llava_next_config() -> Any:
    return tf.LlavaNextConfig(
        text_config=tf.LlamaConfig(**TEXT),
        vision_config=tf.CLIPVisionConfig(**VISION),
        image_token_index=IMAGE_ID,
        vision_feature_layer=-1,
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
    )


def llava_onevision_config() -> Any:
    return tf.LlavaOnevisionConfig(
        text_config=tf.Qwen2Config(**without(TEXT, "head_dim")),
        vision_config=tf.SiglipVisionConfig(**VISION),
        image_token_index=IMAGE_ID,
        video_token_index=VIDEO_ID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]],
        vision_aspect_ratio="anyres_max_9",
    )


ROPE = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}


def qwen2_vl_config() -> Any:
    return tf.Qwen2VLConfig(
        text_config={**without(TEXT, "head_dim"), "rope_parameters": ROPE},
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 2, "mlp_ratio": 2,
            "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
        },
        **TAGS,
        vision_start_token_id=93,
        vision_end_token_id=94,
    )  # fmt: skip


def qwen2_5_vl_config() -> Any:
    return tf.Qwen2_5_VLConfig(
        text_config={**without(TEXT, "head_dim"), "rope_parameters": ROPE},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": 48, "patch_size": 4, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
        },
        **TAGS,
        vision_start_token_id=93,
        vision_end_token_id=94,
    )  # fmt: skip


def qwen3_vl_config() -> Any:
    return tf.Qwen3VLConfig(
        text_config={**TEXT, "rope_parameters": ROPE},
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": 48, "patch_size": 4, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "deepstack_visual_indexes": [0, 1],
            "num_position_embeddings": 36,
        },
        **TAGS,
        vision_start_token_id=93,
        vision_end_token_id=94,
    )  # fmt: skip


def tiled_config(config_class: type) -> Any:
    return config_class(
        text_config=tf.LlamaConfig(**TEXT),
        vision_config=VISION,
        image_token_id=IMAGE_ID,
        scale_factor=2,
        pad_token_id=PAD_ID,
    )


def internvl_config() -> Any:
    vision = {**VISION, "image_size": [24, 24], "patch_size": [4, 4]}
    return tf.InternVLConfig(
        text_config=tf.Qwen2Config(**without(TEXT, "head_dim")),
        vision_config=vision,
        image_token_id=IMAGE_ID,
        image_seq_length=9,
        downsample_ratio=0.5,
    )


def paligemma_config() -> Any:
    return tf.PaliGemmaConfig(
        text_config=tf.GemmaConfig(**TEXT),
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_index=IMAGE_ID,
        projection_dim=48,
    )


def gemma3_config() -> Any:
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    return tf.Gemma3Config(
        text_config=tf.Gemma3TextConfig(
            **{**TEXT, "num_hidden_layers": 6}, sliding_window=12, layer_types=layers * 2,
            query_pre_attn_scalar=12,
        ),
        vision_config=tf.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_index=IMAGE_ID,
        mm_tokens_per_image=9,
    )  # fmt: skip


def mistral3_config() -> Any:
    return tf.Mistral3Config(
        text_config=tf.MistralConfig(**TEXT, sliding_window=None),
        vision_config=tf.PixtralVisionConfig(**{**VISION, "image_size": 32}, head_dim=16),
        image_token_index=IMAGE_ID,
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )


@dataclass
class Family:
    """A config and how to make its vision inputs.

    `images(n)` gives the keyword arguments of get_image_features for n images; `markers` says what
    surrounds the placeholders of one image in the prompt.
    """

    config: Callable[[], Any]
    images: Callable[[int], dict[str, Any]]
    markers: str = "plain"
    types: str | None = None  # name of the token type argument, 1 at images
    first_layer: int = 0
    videos: Callable[[int], dict[str, Any]] | None = None
    tiles: Sequence[int] = field(default_factory=tuple)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def square_images(n: int) -> dict[str, Any]:
    return {"pixel_values": noise(n, 3, 24, 24)}


def anyres_images(n: int) -> dict[str, Any]:
    sizes = torch.tensor([[24, 48], [40, 24], [48, 48]])[torch.arange(n) % 3]
    return {"pixel_values": noise(n, 5, 3, 24, 24), "image_sizes": sizes}


def patch_images(n: int) -> dict[str, Any]:
    grids = torch.tensor([[1, 8, 8], [1, 4, 12], [1, 6, 6]])[torch.arange(n) % 3]
    patches = int(grids.prod(-1).sum())
    return {"pixel_values": noise(patches, 3 * 2 * 4 * 4), "image_grid_thw": grids}


def patch_videos(n: int) -> dict[str, Any]:
    grids = torch.tensor([[3, 6, 6], [2, 4, 8]])[torch.arange(n) % 2]
    patches = int(grids.prod(-1).sum())
    return {"pixel_values_videos": noise(patches, 3 * 2 * 4 * 4), "video_grid_thw": grids}


def frame_videos(n: int) -> dict[str, Any]:
    return {"pixel_values_videos": noise(n, 3, 3, 24, 24)}


def pixtral_images(n: int) -> dict[str, Any]:
    sizes = torch.tensor([[32, 24], [16, 32], [32, 32]])[torch.arange(n) % 3]
    return {"pixel_values": noise(n, 3, 32, 32), "image_sizes": sizes}


FAMILIES: dict[str, Family] = {
    "llava": Family(llava_config, square_images),
    "llava_next": Family(llava_next_config, anyres_images),
    "llava_onevision": Family(llava_onevision_config, anyres_images, videos=frame_videos),
    "qwen2_vl": Family(
        qwen2_vl_config, patch_images, "vision", "mm_token_type_ids", videos=patch_videos
    ),
    "qwen2_5_vl": Family(
        qwen2_5_vl_config, patch_images, "vision", "mm_token_type_ids", videos=patch_videos
    ),
    "qwen3_vl": Family(
        qwen3_vl_config, patch_images, "vision", "mm_token_type_ids", first_layer=2,
        videos=patch_videos,
    ),
    "smolvlm": Family(
        partial(tiled_config, tf.SmolVLMConfig), square_images, "fenced", tiles=(3, 1, 2)
    ),
    "idefics3": Family(
        partial(tiled_config, tf.Idefics3Config), square_images, "fenced", tiles=(3, 1, 2)
    ),
    "internvl": Family(internvl_config, square_images, "plain", tiles=(2, 1, 3)),
    "paligemma": Family(paligemma_config, square_images, types="token_type_ids"),
    "gemma3": Family(gemma3_config, square_images, types="token_type_ids"),
    "mistral3": Family(mistral3_config, pixtral_images, "rows"),
}  # fmt: skip


# Families with decoders of other kinds, from tests that need them; see `tiny_kinds`.
OTHERS: dict[str, Family] = {}


def family_of(name: str) -> Family:
    return FAMILIES[name] if name in FAMILIES else OTHERS[name]


def build(name: str, attention: str = "sdpa") -> Any:
    """A random model of the family, the same weights for every attention implementation."""
    torch.manual_seed(7)
    config = family_of(name).config()
    model = tf.AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            # Random defaults are so small that attention is flat; make it matter.
            if any(part in key for part in ("q_proj", "k_proj", "qkv")) and weight.ndim == 2:
                weight.mul_(12)
            elif "embed_tokens" in key or "lm_head" in key or "projector" in key:
                weight.mul_(8)
    model.generation_config.pad_token_id = PAD_ID
    model.generation_config.eos_token_id = None
    return model.eval()


def text(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 80, (length,), generator=generator).tolist()


def wrap(markers: str, counts: Sequence[int], token: int = IMAGE_ID) -> list[int]:
    """Placeholders of one image (several counts: its tiles) with the family's markers."""
    if markers == "vision":
        return [93, *[token] * sum(counts), 94]
    if markers == "fenced":
        tiles = [[FENCE_ID, 60 + i, *[token] * n] for i, n in enumerate(counts)]
        return [*[i for tile in tiles for i in tile], FENCE_ID]
    if markers == "rows":
        return [*[token] * sum(counts), 95]
    return [token] * sum(counts)


def prompts(
    model: Any, name: str, num_images: Sequence[int], *, video: bool = False, seed: int = 0
) -> dict[str, Any]:
    """A left-padded batch: sample i shows num_images[i] images between text of varying length."""
    family = family_of(name)
    total = sum(num_images)
    vision: dict[str, Any] = {}
    counts: list[list[int]] = []
    token = VIDEO_ID if video else IMAGE_ID
    if total and video:
        assert family.videos is not None
        vision = family.videos(total)
        with torch.no_grad():
            counts = [[n] for n in feature_lengths(model.base_model.get_video_features(**vision))]
    elif total and family.tiles:
        tiles = [family.tiles[i % len(family.tiles)] for i in range(total)]
        if name == "internvl":
            vision = {"pixel_values": noise(sum(tiles), 3, 24, 24)}
            per_tile = 9
        else:
            per_sample = []
            start = 0
            for n in num_images:
                per_sample.append(sum(tiles[start : start + n]))
                start += n
            pixels = torch.zeros(len(num_images), max(per_sample), 3, 24, 24)
            for i, n in enumerate(per_sample):
                pixels[i, :n] = noise(n, 3, 24, 24) if n else 0
            vision = {"pixel_values": pixels}
            per_tile = 9
        counts = [[per_tile] * n for n in tiles]
    elif total:
        vision = family.images(total)
        with torch.no_grad():
            output = (
                vision["mm_encoder_outputs"]["image"]
                if "mm_encoder_outputs" in vision
                else model.base_model.get_image_features(**vision)
            )
            counts = [[n] for n in feature_lengths(output)]
    rows = []
    for sample, n in enumerate(num_images):
        row = [1, *text(3 + sample, seed + sample)]
        for _ in range(n):
            shown = counts.pop(0)
            if video and name == "qwen3_vl":
                # Every frame stands alone, with its time stamp as text before it.
                frames = int(vision["video_grid_thw"][len(rows) % 2, 0])
                for _ in range(frames):
                    frame = [shown[0] // frames]
                    row += [*text(2, seed + 30), *wrap(family.markers, frame, token)]
                row += text(2, seed + 10 + sample)
                continue
            row += [*wrap(family.markers, shown, token), *text(2, seed + 10 + sample)]
        rows.append([*row, *text(6 - sample, seed + 20 + sample)])
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[PAD_ID] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask, **vision}
    if family.types:
        inputs[family.types] = (ids == IMAGE_ID).long() + 2 * (ids == VIDEO_ID).long()
    if name == "paligemma":
        # PaliGemma reads its prefix in both directions: type 0 is prefix, 1 is what follows.
        inputs[family.types] = torch.zeros_like(ids)  # type: ignore[index]
    return inputs


def row_of(
    inputs: dict[str, Any], model: Any, name: str, sample: int, num_images: Sequence[int]
) -> dict[str, Any]:
    """Sample `sample` of a batch, alone and without padding."""
    keep = inputs["attention_mask"][sample].bool()
    alone = {"input_ids": inputs["input_ids"][sample : sample + 1, keep]}
    alone["attention_mask"] = torch.ones_like(alone["input_ids"])
    types = family_of(name).types
    if types:
        alone[types] = inputs[types][sample : sample + 1, keep]
    first, count = sum(num_images[:sample]), num_images[sample]
    if not count:
        return alone
    if name in ("smolvlm", "idefics3"):
        tiles = FAMILIES[name].tiles
        used = sum(tiles[i % len(tiles)] for i in range(first, first + count))
        return {**alone, "pixel_values": inputs["pixel_values"][sample : sample + 1, :used]}
    if name == "internvl":
        tiles = FAMILIES[name].tiles
        before = sum(tiles[i % len(tiles)] for i in range(first))
        used = sum(tiles[i % len(tiles)] for i in range(first, first + count))
        return {**alone, "pixel_values": inputs["pixel_values"][before : before + used]}
    for key in ("image_sizes", "image_grid_thw"):
        if key in inputs:
            alone[key] = inputs[key][first : first + count]
    pixels = inputs["pixel_values"]
    if "image_grid_thw" in inputs:
        sizes = inputs["image_grid_thw"].prod(-1).tolist()
        alone["pixel_values"] = pixels[sum(sizes[:first]) : sum(sizes[: first + count])]
    else:
        alone["pixel_values"] = pixels[first : first + count]
    return alone
