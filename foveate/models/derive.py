"""derive(model): the family read off the model itself, or the sentence why it cannot be carved."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from transformers.models.auto import configuration_auto

from foveate.models.cache_kinds import why_not_in_llm
from foveate.models.class_source import is_self, tree_of
from foveate.models.derive_host import (
    check_language_model,
    host_of,
    part_that_generates,
    puts_features_in_front,
    refusal,
)
from foveate.models.family import (
    MODALITIES,
    Family,
    FirstLayer,
    Host,
    Modality,
    UnitRule,
    first_layer_any,
)
from foveate.models.image_units import from_grids, gridless_items, videos

_MERGING = ("get_placeholder_mask", "inputs_merger", "forward")
_FROM_AN_ENCODER = ("encoder_hidden_states", "cross_attention_states", "encoder_attention_mask")
_CROSS = ("encoder_attn", "cross_attn", "crossattention")
# Where configurations say at which decoder layers visual features come in, and how to read off the
# first layer whose input has all of them: tower layers, one for each decoder layer from 0 on; pairs
# of (tower layer, decoder layer); decoder layers.
_DEEPSTACK: dict[str, Callable[[Any], int]] = {
    "deepstack_visual_indexes": len,
    "deepstack_layer_map": lambda pairs: max(int(layer) for _, layer in pairs),
    "spatial_target_layers": max,
}
# Parts of names of ids that surround placeholders.
_MARKERS = ("start", "end", "bos", "eos", "begin", "row", "split")
# How far the list of layers may be from what get_decoder() gives.
_NESTED = 4


def derive(model: nn.Module) -> Family:
    """The family of a transformers model, from its parts, its configuration and its source.

    Nothing here is certain: what is guessed wrong must be refused by the guards of a run, and by
    the check of a tiny twin before the first use (`foveate.carve.attach`).

    Args:
        model: a vision-language model, its weights may be on the meta device.

    Raises:
        UnsupportedModelError: says what is missing.
    """
    base: Any = getattr(model, "base_model", model)
    config: Any = model.config
    check_language_model(model)
    decoder = decoder_of(model)
    host = host_of(model, decoder)
    if host is not None:
        return _around(model, decoder, host)
    path = next((name for name, module in base.named_modules() if module is decoder), None)
    if path is None:
        raise refusal(model, "its decoder is not inside its base model, so no hook would see it")
    found = placeholders(base, config)
    modalities = [m for m in found if callable(getattr(base, f"get_{m}_features", None))]
    if not found:
        raise refusal(model, "no placeholder token for images is named in its configuration")
    if not modalities:
        raise refusal(
            model,
            f"{type(base).__name__} has no get_image_features, so it does not put images in the "
            "place of tokens",
        )
    why = why_not_in_llm(config)
    return Family(
        title=title_of(config.model_type, model),
        decoder=path,
        visual_tokens={modality: found[modality] for modality in modalities},
        units={modality: _unit_rule(config, modality) for modality in modalities},
        first_layer=_first_layer(decoder, config),
        cut="before_llm" if why else "in_llm",
        why=why,
    )


def _around(model: nn.Module, decoder: nn.Module, host: Host) -> Family:
    """The family of a model around a language model of its own."""
    config: Any = model.config
    found = {} if host.mask else placeholders(model, config)
    found = {m: name for m, name in found.items() if hasattr(model, f"get_{m}_features")}
    if not found and not host.mask:
        part = part_that_generates(model)
        raise refusal(
            model,
            f"its generate() runs {part}.generate(), past the model's own forward pass, and no "
            "placeholder says where images are",
        )
    why = why_not_in_llm(decoder.config)
    return Family(
        title=title_of(config.model_type, model),
        decoder="",
        visual_tokens=found,
        units={},
        first_layer=_first_layer(decoder, config),
        cut="before_llm" if why else "in_llm",
        why=why,
        host=host,
    )


def decoder_of(model: nn.Module) -> nn.Module:
    """The module that holds the decoder's `.layers`.

    Raises:
        UnsupportedModelError: there is none, or its layers read an encoder.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise refusal(model, "it is an encoder with a decoder that reads it by cross-attention")
    place: Any = None
    if hasattr(model, "get_decoder"):
        try:
            place = model.get_decoder()
        except (AttributeError, NotImplementedError):
            place = None
    for _ in range(_NESTED):
        if place is None or isinstance(getattr(place, "layers", None), nn.ModuleList):
            break
        inner = getattr(place, "model", None)
        place = inner if isinstance(inner, nn.Module) else getattr(place, "decoder", None)
    layers = getattr(place, "layers", None)
    if not isinstance(place, nn.Module) or not isinstance(layers, nn.ModuleList) or not layers:
        if puts_features_in_front(model):
            raise refusal(
                model,
                "it puts features of images in front of its text behind the embeddings, so that "
                "its layers run on more tokens than it was given ids for and none of these says "
                "where an image is",
            )
        raise refusal(model, "no decoder with a list of layers was found in it")
    # Kosmos-2 has the arguments and, as its configuration says, not the modules.
    may_cross = getattr(place.config, "add_cross_attention", None) is not False
    for layer in layers:
        reads = inspect.signature(type(layer).forward).parameters
        if (may_cross and any(name in reads for name in _FROM_AN_ENCODER)) or any(
            hasattr(layer, n) for n in _CROSS
        ):
            raise refusal(
                model,
                f"its {type(layer).__name__}s read images by cross-attention, so there are no "
                "visual tokens in its decoder",
            )
    return place


def placeholders(base: nn.Module, config: Any) -> dict[Modality, str]:
    """Modality -> attribute of the configuration with the id that the model's own code looks for.

    Args:
        base: the base model; its class's source is read.
        config: of the whole model.
    """
    found: dict[Modality, str] = {}
    compared = _compared(type(base))
    for modality in MODALITIES:
        own = [name for target, name in compared if modality in target]
        usual = [f"{modality}_token_id", f"{modality}_token_index"]
        named = [name for _, name in compared if modality in name]
        for name in (*own, *named, *usual):
            is_marker = any(part in name for part in _MARKERS)
            if not is_marker and isinstance(getattr(config, name, None), int):
                found[modality] = name
                break
    if "image" in found and "video" not in found and hasattr(base, "get_video_features"):
        found["video"] = found["image"]  # frames stand where images do
    return found


def title_of(model_type: str, model: nn.Module | None = None) -> str:
    """A readable name of a model type."""
    names = getattr(configuration_auto, "MODEL_NAMES_MAPPING", {})
    if model_type in names:
        return str(names[model_type])
    if model is None:
        return model_type
    return re.sub(r"(ForConditionalGeneration|ForCausalLM|Model)$", "", type(model).__name__)


def _unit_rule(config: Any, modality: Modality) -> UnitRule:
    if modality == "video":
        return videos
    # With pinpoints an image is a base view and tiles, whose features stand one after the other.
    is_tiled = getattr(config, "image_grid_pinpoints", None)
    return gridless_items if is_tiled else from_grids


def _first_layer(decoder: nn.Module, config: Any) -> FirstLayer:
    """Behind the layers to which the decoder adds visual features."""
    takes = inspect.signature(type(decoder).forward).parameters
    if not any("deepstack" in name for name in takes):
        return first_layer_any
    parts = (getattr(config, "vision_config", None), config, decoder.config)
    firsts = [
        first(value)
        for name, first in _DEEPSTACK.items()
        for part in parts
        if (value := getattr(part, name, None)) is not None
    ]
    # Where the depth is not said no layer is safe, and the engine's guard would find the features.
    return functools.partial(_after, max(firsts, default=len(decoder.layers)))


def _after(layer: int, config: Any) -> int:
    return layer


def _compared(cls: type) -> list[tuple[str, str]]:
    """(what is assigned, attribute) of every `x = ... == self.config.attribute` where it merges."""
    pairs: list[tuple[str, str]] = []
    for method in _MERGING:
        for node in ast.walk(tree_of(getattr(cls, method, None))):
            if isinstance(node, ast.Assign):
                target = ast.unparse(node.targets[0])
            elif isinstance(node, ast.Compare):
                target = ""
            else:
                continue
            pairs += [(target, name) for name in _attributes_compared(node)]
    return pairs


def _attributes_compared(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if not isinstance(part, ast.Compare):
            continue
        for side in (part.left, *part.comparators):
            if isinstance(side, ast.Attribute) and (
                is_self(side.value)
                or (isinstance(side.value, ast.Attribute) and side.value.attr == "config")
            ):
                yield side.attr
