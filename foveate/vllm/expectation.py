"""What serving with a budget is expected to save: arithmetic on the model's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.carve.method import Method
from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError
from foveate.measure.flops import prefill_cost

__all__ = ["expected_saving", "tokens_per_image"]

TEXT_TOKENS = 64  # of the prompt that the expectation is about
LARGE_IMAGE = 1024  # visual tokens, where they depend on the image


def tokens_per_image(config: Mapping[str, Any]) -> int | None:
    """Visual tokens of every image; None where they depend on its size.

    Args:
        config: of the model, as in its config.json.
    """
    vision = config.get("vision_config") or {}
    size, patch = vision.get("image_size"), vision.get("patch_size")
    if config.get("model_type") != "llava" or not size or not patch:
        return None
    return int(size // patch) ** 2


def expected_saving(config: Mapping[str, Any], method: Method) -> str:
    """One or two sentences on images.

    Raises:
        BudgetError: the budget exceeds the tokens of every image.
    """
    fixed = tokens_per_image(config)
    num_visual = fixed or LARGE_IMAGE
    keep = method.count(num_visual)
    remark = method.remark(num_visual, None)
    if remark:
        return f"{remark}."
    of = f"the {num_visual}" if fixed else f"{num_visual}, say,"
    text = f"{keep} of {of} visual tokens of an image go on to the language model"
    try:
        shape = DecoderShape.of(config.get("text_config") or config)
    except InputError:  # a config of defaults
        return f"{text}."
    full, short = (
        prefill_cost(shape, num_text=TEXT_TOKENS, num_visual=n) for n in (num_visual, keep)
    )
    flops, kept_cache = full.flops / short.flops, short.kv_bytes / full.kv_bytes
    return (
        f"{text}. With {TEXT_TOKENS} text tokens that is {flops:.1f} times fewer FLOPs of the "
        f"language model in prefill, and {kept_cache:.0%} of the KV cache; the vision tower runs "
        "in full."
    )
