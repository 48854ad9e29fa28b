"""The shape and size in which a picture reaches the image processor; evaluations differ in it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from transformers.image_utils import SizeDict

from foveate.errors import InputError
from foveate.models.vlm import VisionLanguageModel

__all__ = ["limit_pixels", "mean_colour", "pad_to_square"]

# Their image processors take any size between two numbers of pixels; others have fixed sizes.
FREE_SIZE = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
GREY = (0.5, 0.5, 0.5)


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """The whole picture in the middle of a square of one colour.

    LLaVA-1.5 was trained and evaluated on such squares (`image_aspect_ratio: pad`), while its
    processor in transformers cuts off what lies outside the central square.
    """
    if image.width == image.height:
        return image
    side = max(image.size)
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def mean_colour(vlm: VisionLanguageModel) -> tuple[int, int, int]:
    """The colour that the image processor maps to zero."""
    part = getattr(vlm.processor, "image_processor", None)
    mean: Sequence[float] = getattr(part, "image_mean", None) or GREY
    red, green, blue = (int(255 * value) for value in mean)
    return red, green, blue


def limit_pixels(
    vlm: VisionLanguageModel, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> None:
    """Change, for good, between which sizes the processor leaves pictures as they are.

    Args:
        vlm: of a Qwen-VL family.
        min_pixels: smaller pictures are enlarged to about this many pixels; None: as it is.
        max_pixels: larger ones are reduced; None: as it is.

    Raises:
        InputError: the family has no such limits, or they are impossible.
    """
    kind = vlm.model.config.model_type
    if kind not in FREE_SIZE:
        raise InputError(
            f"min_pixels and max_pixels are settings of {', '.join(FREE_SIZE)}; {vlm.name!r} is of "
            f"family {kind!r}, whose pictures have fixed sizes. Leave them out."
        )
    part = vlm.processor.image_processor
    low = part.size["shortest_edge"] if min_pixels is None else min_pixels
    high = part.size["longest_edge"] if max_pixels is None else max_pixels
    if not 1 <= low <= high:
        raise InputError(
            f"min_pixels={low}, max_pixels={high}: the first must be at least 1 and at most the "
            "second."
        )
    # The processor's names for them; they are areas all the same.
    part.size = SizeDict(shortest_edge=low, longest_edge=high)
