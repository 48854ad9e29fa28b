"""Find a checkpoint's base model and encoder again, and check that they are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from foveate.assets import text_encoder_path
from foveate.errors import InputError
from foveate.models.load import check_safetensors, first_line
from foveate.models.smollm2 import EMBEDDED_LLM, smollm2_path
from foveate.vist.checkpoint import (
    Checkpoint,
    Reference,
    check_reference,
    load_weights,
    read_checkpoint,
)
from foveate.vist.encoder.text_encoder import TextEncoder, load_text_encoder
from foveate.vist.encoder.vision_encoder import VisionEncoder, load_vision_encoder
from foveate.vist.fusion.prefix import decoder_of, decoder_shape
from foveate.vist.parts import VistParts, weights_hash

TOWER_OPTIONS = {"normalise", "style"}  # of load_vision_encoder, that a checkpoint may set


def base_reference(model: Any, name: str | None, known: Reference | None) -> Reference:
    """How to find a language model again.

    Args:
        model: the language model.
        name: to call it; None is where it was loaded from.
        known: what the checkpoint it came with calls it; holds as long as the weights are the same.
    """
    sha256 = weights_hash(model)
    if known is not None and known.sha256 == sha256 and name in (None, known.name):
        return known
    return Reference(
        name=str(getattr(model.config, "_name_or_path", "")) if name is None else name,
        sha256=sha256,
        revision=str(getattr(model.config, "_commit_hash", None) or ""),
    )


def encoder_reference(encoder: Any, known: Reference | None = None) -> Reference:
    """How to find an encoder again, as far as its class says; arguments as `base_reference`."""
    sha256 = weights_hash(encoder) if isinstance(encoder, nn.Module) else ""
    if isinstance(encoder, TextEncoder):
        return Reference(name="embedded", sha256=sha256, kind="text_encoder")
    if isinstance(encoder, VisionEncoder):
        is_known = known is not None and known.sha256 == sha256
        return Reference(
            name=known.name if is_known else encoder.name,
            sha256=sha256,
            kind="vision_tower",
            options=encoder.options,
        )
    return Reference(name="", sha256=sha256)


def load_parts(
    folder: str | Path,
    base: Any,
    tokenizer: Any,
    encoder: Any,
    device: str | torch.device | None,
    access: Mapping[str, Any],
) -> tuple[Any, Any, Any, Checkpoint, VistParts]:
    """Model, tokenizer, encoder, vist.json and trained parts; see Vist.from_pretrained."""
    about = read_checkpoint(folder)
    model, tokenizer = load_base(about.base, base, tokenizer, device, **access)
    check_reference("base model", about.base, weights_hash(decoder_of(model).model))
    place = model.get_input_embeddings().weight.device
    encoder = _encoder(about.encoder, encoder, place, access)
    if isinstance(encoder, nn.Module):
        check_reference("encoder", about.encoder, weights_hash(encoder))
    anatomy = decoder_of(model)
    parts = VistParts(about.config, decoder_shape(anatomy), anatomy.layers)
    load_weights(folder, parts)
    return model, tokenizer, encoder, about, parts.float().to(place)


def load_base(
    wanted: Reference,
    base: Any,
    tokenizer: Any,
    device: str | torch.device | None,
    **access: Any,
) -> tuple[Any, Any]:
    """A language model and its tokenizer: `base` where given, else what `wanted` names.

    Args:
        access: cache_dir, token, local_files_only, for the hub.
    """
    if isinstance(base, nn.Module):
        if tokenizer is None:
            name = str(getattr(getattr(base, "config", None), "_name_or_path", ""))
            tokenizer = _tokenizer(name, **access) if name else None
        return base, tokenizer
    name = str(base) if base is not None else wanted.name
    if not name:
        raise InputError(
            "the checkpoint does not say where its base model is; pass base= (a model, a folder or "
            "a hub id)."
        )
    if name == EMBEDDED_LLM:
        name = str(smollm2_path())
    check_safetensors(name)
    place = torch.device(device) if device is not None else torch.device("cpu")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name,
            # Half precision is slow on a CPU; elsewhere the checkpoint's own.
            dtype=torch.float32 if place.type == "cpu" else "auto",
            revision=wanted.revision or None if base is None else None,
            use_safetensors=True,
            trust_remote_code=False,
            **access,
        )
    except Exception as error:  # a missing or damaged checkpoint can fail anywhere inside
        raise InputError(
            f"base model {name!r} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "pass base= with a folder or hub id that has it."
        ) from error
    if tokenizer is None:
        tokenizer = _tokenizer(name, **access)
    return model.to(place).eval(), tokenizer


def _tokenizer(name: str, **access: Any) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **access)
    except Exception as error:
        raise InputError(
            f"tokenizer of {name!r} cannot be loaded ({type(error).__name__}: "
            f"{first_line(error)}); pass tokenizer=."
        ) from error


def _encoder(
    wanted: Reference, encoder: Any, device: torch.device, access: Mapping[str, Any]
) -> Any:
    if encoder is None and wanted.kind == "text_encoder":
        encoder = load_text_encoder(text_encoder_path())
    elif encoder is None and wanted.kind == "vision_tower":
        if unknown := sorted(set(wanted.options) - TOWER_OPTIONS):
            raise InputError(
                f"the checkpoint has options {', '.join(unknown)} of the vision tower that this "
                "version does not know; update foveate, or pass encoder=."
            )
        encoder = load_vision_encoder(wanted.name, **wanted.options, **access)
    elif encoder is None:
        raise InputError(
            "the checkpoint was trained with an encoder of the user's own class; pass encoder=."
        )
    return encoder.to(device) if isinstance(encoder, nn.Module) else encoder
