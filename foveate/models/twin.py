"""The twin of a model: its configuration made tiny by rules, with random weights.

A twin has the parts of the model it comes from, layer kinds, attention, rotary scheme and tower
included, at a size that runs in milliseconds. What holds of its code holds of the model's: it is
the same code.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
)

from foveate.errors import UnsupportedModelError
from foveate.models import twin_rules as rules
from foveate.models.stand_in_tower import timm_stood_in
from foveate.models.twin_rules import PAD_ID

# A rule that did not meet a field of a new family would leave it at full size.
_MOST_PARAMETERS = 40_000_000
_KEYS = ("q_proj", "k_proj", "qkv", "q_b_proj", "kv_b_proj", "kv_a_proj", "q_a_proj")
_KEYS += ("query_key_value", "att_proj")
_WIDE = ("embed_tokens", "lm_head", "projector", "wte")


def build_twin(config: PretrainedConfig, attention: str = "sdpa", *, seed: int = 7) -> Any:
    """A tiny random model of the kind that `config` describes, in eval mode on the CPU.

    Args:
        config: of any vision-language model; it is not changed.
        attention: kernel, "sdpa" or "eager".
        seed: of the weights; the caller's random state stays as it is.

    Raises:
        UnsupportedModelError: transformers cannot build it, or the rules leave it large.
    """
    kind = config.model_type
    try:
        small = twin_config(config)
        with timm_stood_in(), torch.device("meta"):
            empty = AutoModelForImageTextToText.from_config(small, trust_remote_code=False)
    except Exception as error:  # shrunken values can fail anywhere inside transformers
        raise UnsupportedModelError(
            f"no tiny twin of {kind!r} can be built ({type(error).__name__}: {_short(error)}), so "
            "nothing can be checked before it is used."
        ) from error
    size = sum(parameter.numel() for parameter in empty.parameters())
    if size > _MOST_PARAMETERS:
        raise UnsupportedModelError(
            f"the tiny twin of {kind!r} would have {size / 1e6:.0f} M parameters, more than "
            f"{_MOST_PARAMETERS / 1e6:.0f} M: a size of it is not known to the rules."
        )
    # The CPU's generator alone: a model is about to be used, maybe with a seed of its own.
    with timm_stood_in(), torch.device("cpu"), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = AutoModelForImageTextToText.from_config(
                small,
                trust_remote_code=False,
                attn_implementation=attention,
                dtype=torch.float32,
            )
        except Exception as error:
            raise UnsupportedModelError(
                f"no tiny twin of {kind!r} can be built with {attention} attention "
                f"({type(error).__name__}: {_short(error)})."
            ) from error
    _make_attention_matter(model)
    settings = getattr(model, "generation_config", None) or GenerationConfig()
    settings.pad_token_id, settings.eos_token_id = PAD_ID, None
    settings.cache_implementation = None
    return model.float().eval()


def typical_config(model_type: str) -> PretrainedConfig:
    """A configuration of a type as its checkpoints have it, where the class's own is plainer.

    Raises:
        KeyError: transformers has no such type.
    """
    cls = CONFIG_MAPPING[model_type]
    changes = rules.TYPICAL.get(model_type)
    if changes is None:
        return cls()
    part = type(cls().text_config)
    return cls(text_config=part(num_hidden_layers=rules.LAYERS, **changes))


def twin_config(config: PretrainedConfig) -> PretrainedConfig:
    """`config` with every size small and everything else as it is."""
    return _shrunk(config, "top", rules.EXCEPTIONS.get(config.model_type, {}))


def _shrunk(config: PretrainedConfig, kind: str, exceptions: Mapping[str, Any]) -> Any:
    cls = type(config)
    fields = _fields(cls)
    plain = cls()
    aliases: Mapping[str, str] = getattr(cls, "attribute_map", None) or {}
    classes: Mapping[str, type] = getattr(cls, "sub_configs", None) or {}
    parts = {
        name: _shrunk(part, _kind_of(name, kind), exceptions.get(name) or {})
        for name in classes
        if isinstance(part := _get(config, name), PretrainedConfig)
    }
    wanted = rules.OF_KIND[kind]
    if (
        kind == "top" and "num_hidden_layers" in fields
    ):  # the decoder has no configuration of its own
        wanted = {**rules.TEXT, **rules.TOP}
    values: dict[str, Any] = {}
    for name in fields - parts.keys():
        # What this configuration sets otherwise than its class is the model's own choice.
        value = _get(config, name)
        if not isinstance(value, PretrainedConfig) and _differs(value, _get(plain, name)):
            values[name] = value
    for name, value in wanted.items():
        field = name if name in fields else aliases.get(name, name)
        if field not in fields or (field != name and field in wanted):
            continue
        old = _get(config, field)
        # A size of 0 or None says that the model does without; an id of None is yet to be given.
        if old or (old is None and field.endswith(("_id", "_index", "head_dim"))):
            values[field] = _like(old, value)
    if "num_key_value_heads" in values and (
        _get(config, "num_key_value_heads") == _get(config, "num_attention_heads")
    ):
        values["num_key_value_heads"] = values.get("num_attention_heads")
    kinds = set(_get(config, "layer_types") or ())
    if values.get("sliding_window") and len(kinds) < 2:
        # Where every layer slides, a small window hides the image from the prompt's end.
        values["sliding_window"] = rules.TEXT["max_position_embeddings"]
    values.update(parts)
    _fit_layers(config, fields, values)
    if kind in ("top", "text"):
        _fit_rotary(config, plain, fields, values)
    for name, value in exceptions.items():
        if name in parts:
            continue
        if value is ...:
            values.pop(name, None)
        elif name in classes and isinstance(value, dict):
            values[name] = _made(classes[name], _kind_of(name, kind), value)
        else:
            values[name] = value
    return cls(**values)


def _get(config: Any, name: str) -> Any:
    """An attribute, None where it is missing or differs from layer to layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # heterogeneous configurations raise an error of their own
        return None


def _like(old: Any, new: Any) -> Any:
    """A new value in the form of the old one: a float, a list as long."""
    if isinstance(old, (list, tuple)) and not isinstance(new, (list, tuple)):
        return type(old)([new] * len(old))
    if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new)
    return new


def _made(cls: type, kind: str, exceptions: Mapping[str, Any]) -> Any:
    """A part that the configuration leaves out and that the twin needs."""
    return dict(exceptions) if cls is AutoConfig else _shrunk(cls(), kind, exceptions)


def _fields(cls: type) -> set[str]:
    if dataclasses.is_dataclass(cls):
        return {field.name for field in dataclasses.fields(cls)}
    return set(inspect.signature(cls.__init__).parameters)


def _kind_of(name: str, around: str) -> str:
    """What a part is, by its name; a part of a tower is of the tower."""
    if around in ("vision", "audio"):
        return around
    if any(part in name for part in ("vision", "visual", "vit", "vq", "sam")):
        return "vision"
    if any(part in name for part in ("audio", "speech", "sound")):
        return "audio"
    return "text"


def _differs(a: Any, b: Any) -> bool:
    try:
        return bool(a != b)
    except (RuntimeError, ValueError):
        return True


def _fit_layers(config: Any, fields: set[str], values: dict[str, Any]) -> None:
    """Lists with an entry a layer get the twin's number of entries, every kind kept."""
    num_layers = _get(config, "num_hidden_layers")
    few = values.get("num_hidden_layers")
    if not isinstance(num_layers, int) or not isinstance(few, int):
        return
    patterns = {
        name: value
        for name in sorted(fields)
        if isinstance(value := _get(config, name), (list, tuple)) and len(value) == num_layers
    }
    if not patterns:
        return
    places = _representative(list(zip(*patterns.values(), strict=True)), few)
    for name, value in patterns.items():
        values[name] = [value[place] for place in places]


def _representative(layers: list[Any], few: int) -> list[int]:
    """`few` places that show every kind of layer: the kinds in turn, the last one at the end.

    In turn, so that few layers suffice to have one of each kind before the middle; the last kind
    stays last, because decoders may insist on what they end with.
    """
    kinds: dict[str, list[int]] = {}
    for place, layer in enumerate(layers):
        kinds.setdefault(repr(layer), []).append(place)
    chosen: list[int] = []
    while len(chosen) < few:
        before = len(chosen)
        for places in kinds.values():
            if places and len(chosen) < few:
                chosen.append(places.pop(0))
        if len(chosen) == before:
            chosen.append(len(layers) - 1)  # fewer layers than asked for: the last again
    last = [i for i, place in enumerate(chosen) if repr(layers[place]) == repr(layers[-1])]
    if last:
        chosen.append(chosen.pop(last[-1]))
    return chosen


def _fit_rotary(config: Any, plain: Any, fields: set[str], values: dict[str, Any]) -> None:
    """Sections of multimodal rotary embeddings must add up to half of the small head."""
    if "rope_parameters" not in fields:
        return
    rope = _get(config, "rope_parameters")
    if not isinstance(rope, dict):
        return
    width = values.get("head_dim") or _get(plain, "head_dim")
    if "head_dim" not in fields or not isinstance(width, int):
        width = values.get("hidden_size", 48) // values.get("num_attention_heads", 4)
    is_multimodal = "mrope_section" in _source_of(type(config))

    def fit(table: dict[str, Any]) -> dict[str, Any]:
        table = dict(table)
        share = table.get("partial_rotary_factor", _get(config, "partial_rotary_factor"))
        if share is not None and share < 0.5:
            share = 0.5  # a quarter of a small head is not enough for three sections
            table["partial_rotary_factor"] = share
        if "mrope_section" in table or is_multimodal:
            count = len(table.get("mrope_section") or (0, 0, 0))
            half = int(width * (share or 1.0)) // 2
            sections = [half // count] * count
            sections[0] += half - sum(sections)
            table["mrope_section"] = sections
        return table

    kinds = set(_get(config, "layer_types") or ())
    if not rope and is_multimodal and kinds:
        rope = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in sorted(kinds)}
    if any(isinstance(value, dict) for value in rope.values()):  # one table a kind of layer
        values["rope_parameters"] = {
            kind: fit(table) if isinstance(table, dict) else table for kind, table in rope.items()
        }
    else:
        values["rope_parameters"] = fit(rope)


def _source_of(config_class: type) -> str:
    """Source of the modeling file beside a configuration's; "" where there is none to read."""
    name = config_class.__module__.replace("configuration_", "modeling_")
    try:
        __import__(name)
        return inspect.getsource(sys.modules[name])
    except (ImportError, OSError, TypeError, KeyError):
        return ""


def _make_attention_matter(model: nn.Module) -> None:
    """Scale what random defaults leave so small that attention is flat and nothing is passed on."""
    generator = torch.Generator().manual_seed(3)

    def noise(like: torch.Tensor, scale: float) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator) * scale

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.numel():
                continue
            if not bool(torch.isfinite(weight).all()) or float(weight.abs().max()) > 1e4:
                weight.copy_(noise(weight, 0.02))  # never initialised
            if any(part in name for part in _KEYS) and weight.ndim == 2:
                weight.mul_(12)
            elif any(part in name for part in _WIDE):
                weight.mul_(8)
            if weight.ndim >= 2 and "embed" not in name and float(weight.abs().max()) == 0:
                weight.copy_(noise(weight, 0.02))
            if "experts" in name and weight.ndim == 3:
                weight.copy_(noise(weight, 0.05))
        for _, buffer in model.named_buffers():
            if buffer.is_floating_point() and not bool(torch.isfinite(buffer).all()):
                buffer.zero_()


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160].rstrip(".")
