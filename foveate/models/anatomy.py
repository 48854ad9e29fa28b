"""Model families as table rows: where the decoder is, what is visual, what one image is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from foveate.errors import UnsupportedModelError
from foveate.models.layer_kinds import attention_before, attention_of_layer, is_stateful
from foveate.models.tower_tokens import (
    TokenRule,
    merged_tokens,
    next_tokens,
    onevision_tokens,
    patch_tokens,
    pooled_tokens,
    shuffled_tokens,
    unshuffled_tokens,
    windowed_tokens,
)

ADD_FAMILY_PAGE = "docs/add-a-model-family.md"

Modality = Literal["image", "video"]
MODALITIES: tuple[Modality, ...] = ("image", "video")


@dataclass(frozen=True)
class Unit:
    """One image or video frame: its number of visual tokens and its token grid, if it has one."""

    num_tokens: int
    grid: tuple[int, int] | None = None


# (config, bound arguments of get_*_features, features per item) -> units in order
UnitRule = Callable[[Any, Mapping[str, Any], Sequence[int]], list[Unit]]


def square(num_tokens: int) -> tuple[int, int] | None:
    """The square grid of `num_tokens`, or None if there is none."""
    side = math.isqrt(num_tokens)
    return (side, side) if side * side == num_tokens else None


def one_per_item(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Every feature item is an image; square ones have a grid."""
    return [Unit(n, square(n)) for n in lengths]


def gridless_items(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Every feature item is an image made of a base view and tiles: no single grid."""
    return [Unit(n) for n in lengths]


def from_grid_thw(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Qwen-VL: (frames, height, width) in patches, merged spatially; one unit a video frame."""
    grid_thw = inputs.get("image_grid_thw", inputs.get("video_grid_thw"))
    merge = config.vision_config.spatial_merge_size
    units = []
    for frames, height, width in torch.as_tensor(grid_thw).tolist():
        grid = (height // merge, width // merge)
        units += [Unit(grid[0] * grid[1], grid)] * frames
    return units


def pooled_frames(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """LLaVA-OneVision video: equal frames, then one newline token that goes to the last frame."""
    num_frames = inputs["pixel_values_videos"].shape[1]
    units = []
    for length in lengths:
        per_frame = (length - 1) // num_frames
        frame = Unit(per_frame, square(per_frame))
        units += [frame] * (num_frames - 1) + [Unit(length - per_frame * (num_frames - 1))]
    return units


def from_image_sizes(config: Any, inputs: Mapping[str, Any], lengths: Sequence[int]) -> list[Unit]:
    """Pixtral tower: the grid follows from the image size in pixels."""
    cell = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    grids = [(h // cell, w // cell) for h, w in torch.as_tensor(inputs["image_sizes"]).tolist()]
    return [
        Unit(n, grid if grid[0] * grid[1] == n else None)
        for n, grid in zip(lengths, grids, strict=True)
    ]


def first_layer_any(config: Any) -> int:
    """Visual features enter at the embeddings: any layer may be the first short one."""
    return 0


def first_layer_after_deepstack(config: Any) -> int:
    """Qwen3-VL adds visual features to the first decoder layers by mask: prune after the last."""
    return len(config.vision_config.deepstack_visual_indexes)


def first_layer_after_targets(config: Any) -> int:
    """Granite 4 Vision says which decoder layers features are added before: prune at the last."""
    return max(*(layer for _, layer in config.deepstack_layer_map), *config.spatial_target_layers)


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Where a vision tower keeps its layers, and how its patches become visual tokens.

    Args:
        module: attribute of the base model.
        layers: path from there to the list of layers.
        attention: attribute of a layer.
        to_tokens: what becomes of values of patches where features become visual tokens.
        takes_pixels: it is called with pixel_values [B, 3, H, W], can interpolate its position
            embeddings, and every patch is a token, so that images can be made smaller and tokens
            merged on the way.
    """

    module: str
    layers: str
    attention: str = "self_attn"
    to_tokens: TokenRule = patch_tokens
    takes_pixels: bool = False


@dataclass(frozen=True, kw_only=True)
class Family:
    """One row of the table.

    Args:
        title: name people know.
        decoder: attribute of the base model that holds `.layers`, with dots from one module to the
            next; "" if the base model does.
        visual_tokens: modality -> attribute of the config with the placeholder's token id.
        units: modality -> rule that tells images apart.
        tiles: how runs of placeholders form an image: "none" (units tell), "runs" (a run is an
            image), "fenced" (tiles of one image are separated by one marker, images by two).
        first_layer: smallest prune_layer the architecture allows.
        tower: of the vision tower, for methods that read or shorten it; None where its tokens are
            no one-to-one image of the visual tokens.
    """

    title: str
    decoder: str = "language_model"
    visual_tokens: Mapping[Modality, str]
    units: Mapping[Modality, UnitRule]
    tiles: Literal["none", "runs", "fenced"] = "none"
    first_layer: Callable[[Any], int] = first_layer_any
    tower: Tower | None = None


_IMAGE: Mapping[Modality, str] = {"image": "image_token_id"}
_IMAGE_VIDEO: Mapping[Modality, str] = {"image": "image_token_id", "video": "video_token_id"}
_CLIP = Tower(module="vision_tower", layers="encoder.layers", takes_pixels=True)
_CUT_AND_PACKED = replace(_CLIP, takes_pixels=False)
_QWEN_TOWER = Tower(module="visual", layers="blocks", attention="attn", to_tokens=merged_tokens)
_SHUFFLED = Tower(module="vision_model", layers="encoder.layers", to_tokens=shuffled_tokens)
_QWEN = Family(
    title="Qwen2-VL",
    visual_tokens=_IMAGE_VIDEO,
    units={"image": from_grid_thw, "video": from_grid_thw},
    tower=_QWEN_TOWER,
)
_TILED = Family(
    title="SmolVLM",
    decoder="text_model",
    visual_tokens=_IMAGE,
    units={"image": gridless_items},
    tiles="fenced",
    tower=_SHUFFLED,
)

FAMILIES: dict[str, Family] = {
    "llava": Family(
        title="LLaVA-1.5", visual_tokens=_IMAGE, units={"image": one_per_item}, tower=_CLIP
    ),
    "llava_next": Family(
        title="LLaVA-NeXT",
        visual_tokens=_IMAGE,
        units={"image": gridless_items},
        tower=replace(_CUT_AND_PACKED, to_tokens=next_tokens),
    ),
    "llava_onevision": Family(
        title="LLaVA-OneVision",
        visual_tokens=_IMAGE_VIDEO,
        units={"image": gridless_items, "video": pooled_frames},
        tower=replace(_CUT_AND_PACKED, to_tokens=onevision_tokens),
    ),
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": Family(
        title="Qwen2.5-VL",
        visual_tokens=_IMAGE_VIDEO,
        units=_QWEN.units,
        tower=replace(_QWEN_TOWER, to_tokens=windowed_tokens),
    ),
    "qwen3_vl": Family(
        title="Qwen3-VL",
        visual_tokens=_IMAGE_VIDEO,
        units=_QWEN.units,
        first_layer=first_layer_after_deepstack,
        tower=_QWEN_TOWER,
    ),
    "smolvlm": _TILED,
    "idefics3": replace(_TILED, title="Idefics3"),
    "internvl": Family(
        title="InternVL",
        visual_tokens=_IMAGE,
        units={"image": gridless_items},
        tiles="runs",
        tower=Tower(
            module="vision_tower",
            layers="encoder.layer",
            attention="attention",
            to_tokens=unshuffled_tokens,
        ),
    ),
    "paligemma": Family(
        title="PaliGemma", visual_tokens=_IMAGE, units={"image": one_per_item}, tower=_CLIP
    ),
    "gemma3": Family(
        title="Gemma 3",
        visual_tokens=_IMAGE,
        units={"image": one_per_item},
        tower=replace(_CUT_AND_PACKED, to_tokens=pooled_tokens),
    ),
    "mistral3": Family(
        title="Mistral 3 / Pixtral", visual_tokens=_IMAGE, units={"image": from_image_sizes}
    ),
    "mistral_large4": Family(
        title="Mistral Large 4", visual_tokens=_IMAGE, units={"image": from_image_sizes}
    ),
    "qwen3_5": replace(_QWEN, title="Qwen3.5", tower=None),
    "lfm2_vl": Family(title="LFM2-VL", visual_tokens=_IMAGE, units={"image": gridless_items}),
    "gemma3n": Family(title="Gemma 3n", visual_tokens=_IMAGE, units={"image": one_per_item}),
    "gemma4": Family(
        title="Gemma 4",
        visual_tokens=_IMAGE_VIDEO,
        units={"image": gridless_items, "video": gridless_items},
    ),
    "llama4": Family(
        title="Llama 4",
        decoder="language_model.model",
        visual_tokens=_IMAGE,
        units={"image": one_per_item},
    ),
    "granite4_vision": Family(
        title="Granite 4 Vision",
        visual_tokens=_IMAGE,
        units={"image": gridless_items},
        first_layer=first_layer_after_targets,
    ),
}

# Plain decoders take visual embeddings through inputs_embeds; the caller says where they are.
TEXT_DECODER = Family(title="text decoder", decoder="", visual_tokens={}, units={}, tiles="runs")
TEXT_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model that the hooks need."""

    family: Family
    config: Any
    model: nn.Module
    base: nn.Module
    decoder: nn.Module

    @property
    def layers(self) -> nn.ModuleList:
        return self.decoder.layers

    def attention_of(self, index: int) -> nn.Module | None:
        """The attention module of a decoder layer; None where it has none."""
        return attention_of_layer(self.decoder, index)

    def attention_before(self, index: int) -> int:
        """The last decoder layer before `index` that attends; UnsupportedModelError if none."""
        return attention_before(self.decoder, index)

    def is_stateful(self, index: int) -> bool:
        """Whether a decoder layer keeps a state instead of keys and values."""
        return is_stateful(self.decoder, index)

    @property
    def text_config(self) -> Any:
        return self.decoder.config

    @property
    def feature_layer(self) -> Any:
        """Which tower layers the projector takes; None where the configuration is silent."""
        return getattr(self.config, "vision_feature_layer", None)


def anatomy_of(model: nn.Module, *, with_explicit_mask: bool) -> Anatomy:
    """Find the parts of `model`.

    Args:
        model: a transformers model (a PEFT wrapper is looked through).
        with_explicit_mask: the caller marks visual tokens, so plain text decoders are welcome.

    Raises:
        UnsupportedModelError: for anything not in the table; names what is.
    """
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if config is None or model_type is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a transformers model (no config.model_type); "
            "pass the model itself, not a wrapper or a pipeline."
        )
    base = getattr(model, "base_model", model)
    if model_type in FAMILIES:
        family = FAMILIES[model_type]
    elif model_type in TEXT_DECODERS:
        family = TEXT_DECODER
        if not with_explicit_mask:
            raise UnsupportedModelError(
                f"{type(model).__name__} ({model_type}) has no visual tokens of its own; if you "
                "feed visual embeddings through inputs_embeds, mark them with visual_mask=."
            )
    else:
        raise UnsupportedModelError(
            f"model family {model_type!r} ({type(model).__name__}) is not supported; supported are "
            f"{', '.join(f'{f.title} ({key})' for key, f in FAMILIES.items())}. "
            f"Adding one is a table row: see {ADD_FAMILY_PAGE}."
        )
    decoder = base
    for name in family.decoder.split(".") if family.decoder else ():
        decoder = getattr(decoder, name)
    return Anatomy(family, config, model, base, decoder)


def visual_token_ids(anatomy: Anatomy) -> dict[Modality, int]:
    """Placeholder token id of each modality that this model's config defines."""
    ids: dict[Modality, int] = {}
    for modality, attribute in anatomy.family.visual_tokens.items():
        token_id = getattr(anatomy.config, attribute, None)
        if token_id is not None:
            ids[modality] = token_id
    return ids
