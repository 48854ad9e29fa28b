"""Save and load a Vist: find its base model and encoder again, and check that they are the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from foveate.assets import reader_path
from foveate.errors import InputError
from foveate.models.load import check_safetensors, first_line
from foveate.models.smollm2 import EMBEDDED_LLM, smollm2_path
from foveate.vist.checkpoint import (
    Checkpoint,
    Reference,
    check_reference,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from foveate.vist.encoder.text_encoder import TextEncoder, load_text_encoder
from foveate.vist.encoder.vision_encoder import VisionEncoder, load_vision_encoder
from foveate.vist.fusion.prefix import decoder_shape, reader_of
from foveate.vist.parts import VistParts, weights_hash

if TYPE_CHECKING:
    from foveate.vist.run.vist import Vist


def save_vist(
    vist: Vist, folder: str | Path, *, base: str | None, training: dict[str, Any] | None
) -> Path:
    """Write the trained parts of `vist`; see Vist.save."""
    config: Any = vist.anatomy.config
    reference = Reference(
        name=str(getattr(config, "_name_or_path", "")) if base is None else base,
        sha256=weights_hash(vist.anatomy.model),
        revision=str(getattr(config, "_commit_hash", None) or ""),
    )
    about = Checkpoint(
        config=vist.config,
        shape=vist.parts.shape,
        base=reference,
        encoder=encoder_reference(vist.encoder),
        training=training or {},
    )
    return save_checkpoint(folder, vist.parts, about)


def encoder_reference(encoder: Any) -> Reference:
    """How to find an encoder again, as far as its class says."""
    sha256 = weights_hash(encoder) if isinstance(encoder, nn.Module) else ""
    if isinstance(encoder, TextEncoder):
        return Reference(name="reader", sha256=sha256, kind="text_encoder")
    if isinstance(encoder, VisionEncoder):
        return Reference(
            name=encoder.name, sha256=sha256, kind="vision_tower", options=encoder.options
        )
    return Reference(name="", sha256=sha256)


def load_parts(
    folder: str | Path, base: Any, tokenizer: Any, encoder: Any, device: str | torch.device | None
) -> tuple[Any, Any, Any, Checkpoint, VistParts]:
    """Model, tokenizer, encoder, vist.json and trained parts; see Vist.load."""
    about = read_checkpoint(folder)
    model, tokenizer = load_base(about.base, base, tokenizer, device)
    check_reference("base model", about.base, weights_hash(reader_of(model).model))
    place = model.get_input_embeddings().weight.device
    encoder = _encoder(about.encoder, encoder, place)
    if isinstance(encoder, nn.Module):
        check_reference("encoder", about.encoder, weights_hash(encoder))
    anatomy = reader_of(model)
    shape = decoder_shape(anatomy)
    parts = VistParts(about.config, shape, anatomy.layers)
    load_weights(folder, parts)
    return model, tokenizer, encoder, about, parts.float().to(place)


def load_base(
    wanted: Reference, base: Any, tokenizer: Any, device: str | torch.device | None
) -> tuple[Any, Any]:
    """A language model and its tokenizer: `base` where given, else what `wanted` names."""
    if isinstance(base, nn.Module):
        if tokenizer is None:
            name = str(getattr(getattr(base, "config", None), "_name_or_path", ""))
            tokenizer = _tokenizer(name) if name else None
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
        )
    except Exception as error:  # a missing or damaged checkpoint can fail anywhere inside
        raise InputError(
            f"base model {name!r} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "pass base= with a folder or hub id that has it."
        ) from error
    return model.to(place).eval(), tokenizer if tokenizer is not None else _tokenizer(name)


def _tokenizer(name: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"tokenizer of {name!r} cannot be loaded ({type(error).__name__}: "
            f"{first_line(error)}); pass tokenizer=."
        ) from error


def _encoder(wanted: Reference, encoder: Any, device: torch.device) -> Any:
    if encoder is None and wanted.kind == "text_encoder":
        encoder = load_text_encoder(reader_path())
    elif encoder is None and wanted.kind == "vision_tower":
        encoder = load_vision_encoder(wanted.name, **wanted.options)
    elif encoder is None:
        raise InputError(
            "the checkpoint was trained with an encoder of the user's own class; pass encoder=."
        )
    return encoder.to(device) if isinstance(encoder, nn.Module) else encoder
