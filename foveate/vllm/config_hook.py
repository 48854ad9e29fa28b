"""When an engine is configured: read its "foveate" entry, refuse what cannot be, pass it on.

vLLM's processors and models see the model's configuration, not --additional-config. So the checked
entry travels in the former, as the attribute `foveate`, to every process of the engine.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from foveate.carve.frame_method import FrameMethod
from foveate.carve.method import Method
from foveate.carve.registry import find_method
from foveate.errors import ConfigError, MethodError, UnsupportedModeError, UnsupportedModelError
from foveate.vllm.settings import KEY, OF_THE_TOWER, Served, method_of, served_of

__all__ = [
    "CANDIDATES",
    "FAMILIES",
    "ServedFamily",
    "configure",
    "method_in",
    "served_in",
]

logger = logging.getLogger("vllm.foveate")  # vLLM shows its own loggers only

# Where --video-pruning-rate travels, as settings of the method that does it.
OF_VIDEOS = f"{KEY}_of_videos"


@dataclass(frozen=True)
class ServedFamily:
    """A model family that can be served compressed.

    Args:
        title: name people know.
        home: "module:class" that replaces vLLM's.
        positions: of kept tokens; "renumbered" where vLLM counts the tokens of the prompt.
        modalities: what is compressed; requests with others are refused.
        takes_any_tower: a checkpoint says which tower it has, and what of it is used.
        reads_tower: methods that read the tower are held to what they read in transformers.
    """

    title: str
    home: str
    positions: Literal["original", "renumbered"]
    modalities: tuple[str, ...] = ("image",)
    takes_any_tower: bool = False
    reads_tower: bool = True


_LLAVA = "foveate.vllm.llava"
_VIEWS = "foveate.vllm.views"
_QWEN = "foveate.vllm.qwen"
_BOTH = ("image", "video")
FAMILIES: Mapping[str, ServedFamily] = {
    "LlavaForConditionalGeneration": ServedFamily(
        "LLaVA-1.5", f"{_LLAVA}:CarvedLlava", "renumbered", takes_any_tower=True
    ),
    "LlavaNextForConditionalGeneration": ServedFamily(
        "LLaVA-NeXT", f"{_LLAVA}:CarvedLlavaNext", "renumbered", takes_any_tower=True
    ),
    "LlavaOnevisionForConditionalGeneration": ServedFamily(
        "LLaVA-OneVision", f"{_LLAVA}:CarvedLlavaOnevision", "renumbered", takes_any_tower=True
    ),
    "Qwen2VLForConditionalGeneration": ServedFamily(
        "Qwen2-VL", f"{_QWEN}:CarvedQwen2VL", "original", _BOTH
    ),
    "Qwen2_5_VLForConditionalGeneration": ServedFamily(
        "Qwen2.5-VL", f"{_QWEN}:CarvedQwen2_5_VL", "original", _BOTH
    ),
    "Qwen3VLForConditionalGeneration": ServedFamily(
        "Qwen3-VL", f"{_QWEN}:CarvedQwen3VL", "original"
    ),
    "InternVLForConditionalGeneration": ServedFamily(
        "InternVL", f"{_VIEWS}:CarvedInternVL", "renumbered"
    ),
}
# Written, and not yet held to transformers on a running engine: refused. Their tests put them into
# FAMILIES; what passes moves there.
CANDIDATES: Mapping[str, ServedFamily] = {
    "Qwen3_5ForConditionalGeneration": ServedFamily(
        "Qwen3.5", f"{_QWEN}:CarvedQwen3_5", "original", reads_tower=False
    ),
    "Glm4vForConditionalGeneration": ServedFamily(
        "GLM-4V", f"{_QWEN}:CarvedGlm4v", "original", reads_tower=False
    ),
    "Gemma3ForConditionalGeneration": ServedFamily(
        "Gemma 3", f"{_VIEWS}:CarvedGemma3", "renumbered"
    ),
    "Idefics3ForConditionalGeneration": ServedFamily(
        "Idefics3", f"{_VIEWS}:CarvedIdefics3", "renumbered"
    ),
    "SmolVLMForConditionalGeneration": ServedFamily(
        "SmolVLM", f"{_VIEWS}:CarvedSmolVLM", "renumbered"
    ),
}
# What else people ask for first, and why it is not served.
_REASONS: Mapping[str, str] = {
    "Mistral3ForConditionalGeneration": "its prompts have a mark behind each row of an image, "
    "whose place depends on what is kept of the row, and vLLM fixes it before there are features",
    "PixtralForConditionalGeneration": "its prompts have a mark behind each row of an image, "
    "whose place depends on what is kept of the row, and vLLM fixes it before there are features",
    "CohereCompassForConditionalGeneration": "it was not tried",
    **dict.fromkeys(CANDIDATES, "foveate's class for it was not held to transformers yet"),
    "InternVLChatModel": "it runs a checkpoint's own code; convert it to transformers' InternVL",
}


def configure(vllm_config: Any) -> Method | None:
    """Check an engine's configuration and put its "foveate" entry where models find it.

    Args:
        vllm_config: vLLM's VllmConfig, complete.

    Returns:
        The method in force; None without an entry, and then nothing is touched.

    Raises:
        UnsupportedModelError: the model cannot be compressed in vLLM.
        UnsupportedModeError: an option of the engine does not go with it.
        ConfigError, MethodError, BudgetError: see `method_of`.
    """
    method = method_of(vllm_config.additional_config)
    if method is None:
        return None
    model_config = vllm_config.model_config
    family = FAMILIES.get(model_config.architecture)
    if family is None:
        reason = _REASONS.get(model_config.architecture)
        raise UnsupportedModelError(
            f"--additional-config asks for {KEY}, and {model_config.architecture} cannot be "
            f"compressed in vLLM{f' ({reason})' if reason else ''}; serve one of "
            f"{', '.join(entry.title for entry in FAMILIES.values())}, or leave {KEY} out."
        )
    hf_config = model_config.hf_config
    if isinstance(vllm_config.additional_config[KEY].get("method"), Mapping):
        _check_tuned(family, hf_config, method)
    if family.positions == "original":
        if method.positions == "renumbered":
            raise MethodError(
                f"positions='renumbered' needs one-dimensional rotary positions, and "
                f"{family.title} has others; use positions='original'."
            )
    else:
        method = replace(method, positions="renumbered")
        if family.takes_any_tower:
            _check_tower(family, hf_config, method)
    if method.needs & OF_THE_TOWER and not family.reads_tower:
        raise UnsupportedModelError(
            f"{method.name} reads the vision tower, and that of {family.title} is not known to "
            "foveate; use a method that does not read it, e.g. divprune."
        )
    _check_options(vllm_config, method)
    if isinstance(method, FrameMethod) and "video" not in family.modalities:
        raise MethodError(
            f"{method.name} compares the frames of videos, and foveate serves only images of "
            f"{family.title}; use another method, or serve Qwen2-VL or Qwen2.5-VL."
        )
    of_videos = _take_video_pruning(model_config.multimodal_config, family)
    if of_videos is not None:
        setattr(hf_config, OF_VIDEOS, of_videos.to_dict())
        logger.info("foveate: %s on videos, for --video-pruning-rate", of_videos)
    hf_config.foveate = dict(vllm_config.additional_config[KEY])
    if family.positions == "original":
        from foveate.vllm.pruning_config import announce_pruning

        announce_pruning(model_config.multimodal_config)
    logger.info("foveate: %s on %s", method, family.title)
    return method


def method_in(hf_config: Any, modality: str = "image") -> Method | None:
    """The method that `configure` left in a model's configuration for images, or for videos."""
    served = served_in(hf_config)
    of_videos = getattr(hf_config, OF_VIDEOS, None)
    if served is not None and modality == "video" and of_videos is not None:
        return find_method(of_videos["name"]).from_dict(of_videos)
    return None if served is None else served.method


def served_in(hf_config: Any) -> Served | None:
    """What `configure` left in a model's configuration."""
    entry = getattr(hf_config, KEY, None)
    return None if entry is None else _served_of_text(json.dumps(entry))


def _take_video_pruning(multimodal: Any, family: ServedFamily) -> Method | None:
    """What --video-pruning-rate asks for, as a method of our own; vLLM is not to do it as well.

    Raises:
        UnsupportedModeError: videos of the family are not served.
        MethodError: the rule has a name that foveate does not know.
    """
    rate = multimodal.video_pruning_rate
    if not rate:
        return None
    if "video" not in family.modalities:
        raise UnsupportedModeError(
            f"--video-pruning-rate {rate} is for videos, and beside {KEY} only images of "
            f"{family.title} are served; leave one of them out."
        )
    name = getattr(multimodal, "video_pruning_method", None) or "evs"
    multimodal.video_pruning_rate = None
    return find_method(name)(keep_ratio=1 - rate, prune_layer=0)


@functools.lru_cache(maxsize=8)
def _served_of_text(entry: str) -> Served | None:
    """Every request asks for it."""
    return served_of({KEY: json.loads(entry)})


def _check_tuned(family: ServedFamily, hf_config: Any, method: Method) -> None:
    """A method of a profile acts here as it did when it was tuned, or not at all."""
    if family.positions == "renumbered" and method.positions != "renumbered":
        raise MethodError(
            f"{method} was tuned with positions={method.positions!r}, and vLLM numbers the tokens "
            f"of {family.title} without gaps; tune for it, e.g. --methods "
            "'divprune(positions=renumbered)', or use this profile in transformers "
            "(`foveate run`)."
        )
    if getattr(hf_config.vision_config, "deepstack_visual_indexes", None):
        raise UnsupportedModeError(
            f"features enter {family.title} at several decoder layers, and {method} was tuned to "
            "cut behind them, where vLLM cuts before; use this profile in transformers "
            "(`foveate run`), or give --method and --keep."
        )


def _check_tower(family: ServedFamily, hf_config: Any, method: Method) -> None:
    """The tower's patches must be the visual tokens, and its CLS token known."""
    kind = str(hf_config.vision_config.model_type)
    strategy = getattr(hf_config, "vision_feature_select_strategy", "default")
    fits = {"clip_vision_model": "default", "siglip_vision_model": "full"}
    if kind not in fits:
        raise UnsupportedModelError(
            f"this {family.title} has a {kind} tower; towers that can be compressed are "
            f"{' and '.join(fits)}."
        )
    if method.needs and strategy != fits[kind]:
        raise UnsupportedModelError(
            f"this {family.title} has a {kind} tower and takes its features by the strategy "
            f"{strategy!r}, where patches are not the visual tokens (it would have to be "
            f"{fits[kind]!r}); use a method that does not read the tower, e.g. divprune."
        )


def _check_options(vllm_config: Any, method: Method) -> None:
    """Options of the engine that would go past the plugin."""
    multimodal = vllm_config.model_config.multimodal_config
    if multimodal is None or getattr(multimodal, "language_model_only", False):
        raise UnsupportedModeError(
            f"the engine runs the language model only, so there is nothing for {KEY} to compress; "
            f"leave --language-model-only or {KEY} out."
        )
    if KEY in (getattr(multimodal, "mm_processor_kwargs", None) or {}):
        raise ConfigError(
            f"--mm-processor-kwargs has {KEY!r}, which is for requests; the server's own budget "
            "goes into --additional-config."
        )
    if getattr(multimodal, "enable_mm_embeds", False):
        raise UnsupportedModeError(
            f"--enable-mm-embeds lets requests bring features of their own, which {KEY} would "
            "have to take for the tower's; leave one of them out."
        )
    lora = vllm_config.lora_config
    if lora is not None and getattr(lora, "enable_tower_connector_lora", False):
        raise UnsupportedModeError(
            "--enable-tower-connector-lora counts the tower's tokens by the placeholders in the "
            f"prompt, which {KEY} makes fewer; leave one of them out."
        )
    if not method.needs & OF_THE_TOWER:
        return
    if multimodal.mm_encoder_tp_mode == "data" and (
        vllm_config.parallel_config.tensor_parallel_size > 1
    ):
        raise UnsupportedModeError(
            f"{method.name} reads the vision tower, and --mm-encoder-tp-mode data spreads images "
            "over devices so that each sees some; use --mm-encoder-tp-mode weights, or a method "
            "that does not read the tower, e.g. divprune."
        )
    if getattr(vllm_config.compilation_config, "compile_mm_encoder", False):
        raise UnsupportedModeError(
            f"{method.name} reads the vision tower, which cannot be read once it is compiled; set "
            "compile_mm_encoder to false, or use a method that does not read it, e.g. divprune."
        )
