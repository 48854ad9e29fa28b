"""Load a processor without torchvision: images are prepared by Pillow, video parts are left out."""

from __future__ import annotations

import functools
import logging
from typing import Any

import transformers
from transformers import AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.utils import is_torchvision_available

from foveate.errors import InputError

logger = logging.getLogger(__name__)


def load_processor(name: str, model_type: str) -> Any:
    """The processor of a checkpoint, padding on the left as generation needs it.

    Processors that also handle video cannot be built by transformers without torchvision. Without
    it they are loaded with their video part left out: images work as usual.

    Raises:
        InputError: the checkpoint has no processor, or a broken one.
    """
    try:
        if is_torchvision_available():
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        else:
            processor = _pillow_class(model_type).from_pretrained(name)
    except ImportError as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"the processor of {name!r} needs a package that is not installed ({reason} ...)."
        ) from error
    except Exception as error:  # JSON, type and value errors of any processor class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"the processor of {name!r} cannot be loaded ({reason}); a checkpoint needs its "
            "tokenizer and preprocessor files beside the weights."
        ) from error
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def _pillow_class(model_type: str) -> Any:
    """What loads a family's processor: AutoProcessor, unless that would ask for torchvision."""
    names = PROCESSOR_MAPPING_NAMES.get(model_type)
    class_name = names[0] if isinstance(names, tuple) else names
    original = getattr(transformers, class_name or "", None)
    if original is None or "video_processor" not in original.get_attributes():
        return AutoProcessor
    logger.info("torchvision is missing: %s is loaded without its video part", class_name)
    return without_video(original)


@functools.cache
def without_video(original: Any) -> Any:
    """A subclass of the processor class `original` that has no video part."""

    class ImagesOnly(original):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in original.get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: list[Any], *rest: Any, **kwargs: Any) -> Any:
            return super().from_args_and_dict([*args, None], *rest, **kwargs)

    ImagesOnly.__name__ = original.__name__
    return ImagesOnly
