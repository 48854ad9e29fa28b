"""The families of which something is written down: what cannot be read off a model.

A family that is not here is derived from the model (`foveate.models.derive`); a row fills in over
what was derived, so it says no more than it must: the name people know, where the vision tower
keeps its layers, how tiles form an image, and what an image is where the features do not tell.
"""

from __future__ import annotations

from dataclasses import replace

from foveate.models.family import Family, Row, Tower
from foveate.models.image_units import (
    from_image_sizes,
    gridless_items,
    pooled_frames,
)
from foveate.models.tower_tokens import (
    merged_tokens,
    next_tokens,
    onevision_tokens,
    pooled_tokens,
    shuffled_tokens,
    unshuffled_tokens,
    windowed_tokens,
)

ADD_FAMILY_PAGE = "docs/add-a-model-family.md"

_CLIP = Tower(module="vision_tower", layers="encoder.layers", takes_pixels=True)
_CUT_AND_PACKED = replace(_CLIP, takes_pixels=False)
_QWEN_TOWER = Tower(
    module="visual",
    layers="blocks",
    attention="attn",
    to_tokens=merged_tokens,
    takes_patches=True,
)
_TILED = Row(
    title="SmolVLM",
    units={"image": gridless_items},
    tiles="fenced",
    tower=Tower(module="vision_model", layers="encoder.layers", to_tokens=shuffled_tokens),
)

FAMILIES: dict[str, Row] = {
    "llava": Row(title="LLaVA-1.5", tower=_CLIP),
    "llava_next": Row(
        title="LLaVA-NeXT",
        units={"image": gridless_items},
        tower=replace(_CUT_AND_PACKED, to_tokens=next_tokens),
    ),
    "llava_onevision": Row(
        title="LLaVA-OneVision",
        units={"image": gridless_items, "video": pooled_frames},
        tower=replace(_CUT_AND_PACKED, to_tokens=onevision_tokens),
    ),
    "qwen2_vl": Row(title="Qwen2-VL", tower=_QWEN_TOWER),
    "qwen2_5_vl": Row(title="Qwen2.5-VL", tower=replace(_QWEN_TOWER, to_tokens=windowed_tokens)),
    "qwen3_vl": Row(title="Qwen3-VL", tower=_QWEN_TOWER),
    "smolvlm": _TILED,
    "idefics3": replace(_TILED, title="Idefics3"),
    "internvl": Row(
        title="InternVL",
        units={"image": gridless_items},
        tiles="runs",
        tower=Tower(
            module="vision_tower",
            layers="encoder.layer",
            attention="attention",
            to_tokens=unshuffled_tokens,
        ),
    ),
    "paligemma": Row(title="PaliGemma", tower=_CLIP),
    "gemma3": Row(title="Gemma 3", tower=replace(_CUT_AND_PACKED, to_tokens=pooled_tokens)),
    "mistral3": Row(title="Mistral 3 / Pixtral", units={"image": from_image_sizes}),
}

# Plain decoders take visual embeddings through inputs_embeds; the caller says where they are.
TEXT_DECODER = Family(title="text decoder", decoder="", visual_tokens={}, units={}, tiles="runs")
TEXT_DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
