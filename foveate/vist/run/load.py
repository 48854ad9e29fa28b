"""Find a checkpoint's base model and encoder again, and check that they are the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from foveate.assets import text_encoder_path
from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError
from foveate.files import is_there
from foveate.models.load import (
    check_kernel,
    check_safetensors,
    first_line,
    looks_like_path,
    pick_device,
)
from foveate.models.smollm2 import EMBEDDED_LLM, smollm2_path
from foveate.vist.checkpoint import (
    Checkpoint,
    Reference,
    check_reference,
    check_weights,
    load_weights,
    read_checkpoint,
)
from foveate.vist.config import VistConfig
from foveate.vist.encoder.text_encoder import TextEncoder, load_text_encoder
from foveate.vist.encoder.vision_encoder import VisionEncoder, load_vision_encoder
from foveate.vist.fusion.prefix import decoder_of, decoder_shape
from foveate.vist.index_file import INDEX, load_index
from foveate.vist.latents.index_head import IndexHead
from foveate.vist.parts import VistParts, weights_hash

COMMIT = "[0-9a-f]{40}"  # a branch or a tag can be moved
PROBE = "Two  words,\n1234567890\tÄ€漢 don't\n\n"
TOWER_OPTIONS = {"normalise", "style"}  # of load_vision_encoder, that a checkpoint may set


def base_reference(
    model: Any, tokenizer: Any, name: str | None, known: Reference | None
) -> Reference:
    """How to find a language model again.

    Args:
        model: the language model.
        tokenizer: its tokenizer, None if there is none.
        name: to call it; None is where it was loaded from.
        known: what the checkpoint it came with calls it; holds as long as the weights are the same.
    """
    sha256 = weights_hash(model)
    mark = tokenizer_hash(tokenizer) if tokenizer is not None else ""
    if known is not None and known.sha256 == sha256 and name in (None, known.name):
        return replace(known, tokenizer=mark or known.tokenizer)
    return Reference(
        name=str(getattr(model.config, "_name_or_path", "")) if name is None else name,
        sha256=sha256,
        revision=str(getattr(model.config, "_commit_hash", None) or ""),
        tokenizer=mark,
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
            revision=known.revision if is_known else encoder.revision,
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
    # What can be said of a stranger's files comes before anything they name is asked for.
    if about.config.fusion.form == "kv_prefix":
        _check_parts(folder, about.config, about.shape, ())
    if base is None:
        check_pinned("base model", about.base, "base")
    if encoder is None and about.encoder.kind == "vision_tower":
        _check_options(about.encoder)
        check_pinned("encoder", about.encoder, "encoder")
    model, tokenizer = load_base(about.base, base, tokenizer, device, **access)
    check_reference("base model", about.base, weights_hash(decoder_of(model).model))
    if tokenizer is not None and about.base.tokenizer:
        check_tokenizer(about.base, tokenizer)
    place = model.get_input_embeddings().weight.device
    encoder = _encoder(about.encoder, encoder, place, access)
    if isinstance(encoder, nn.Module):
        check_reference("encoder", about.encoder, weights_hash(encoder))
    anatomy = decoder_of(model)
    shape = decoder_shape(anatomy)
    _check_parts(folder, about.config, shape, anatomy.layers)
    parts = VistParts(about.config, shape, anatomy.layers)
    load_weights(folder, parts)
    parts.index = _index(Path(folder) / INDEX, about, encoder, shape)
    return model, tokenizer, encoder, about, parts.float().to(place)


def _index(path: Path, about: Checkpoint, encoder: Any, shape: DecoderShape) -> IndexHead | None:
    """The index beside a checkpoint, None where there is none."""
    if not is_there(path):
        return None
    return load_index(
        path,
        encoder=about.encoder.sha256,
        base=about.base.sha256,
        widths=(encoder.width, shape.hidden_size),
    )


def _check_parts(folder: str | Path, config: VistConfig, shape: DecoderShape, layers: Any) -> None:
    """Hold the file's header to the configuration, without room for a single weight."""
    with torch.device("meta"):
        check_weights(folder, VistParts(config, shape, layers))


def check_pinned(what: str, reference: Reference, argument: str) -> None:
    """Raise InputError if a checkpoint names something on the hub without its commit.

    Whoever owns the name could put anything there; it is not even asked for.
    """
    if is_hub_id(reference.name) and not re.fullmatch(COMMIT, reference.revision):
        raise InputError(
            f"the checkpoint names its {what} {reference.name!r} on the hub without the commit it "
            f"was trained with, so what is there now is anyone's; pass {argument}= if you trust it."
        )


def is_hub_id(name: str) -> bool:
    """Whether loading `name` would ask the hub."""
    is_here = not name or name == EMBEDDED_LLM or is_there(name)
    return not is_here and not looks_like_path(name)


def tokenizer_hash(tokenizer: Any) -> str:
    """sha256 of a tokenizer's vocabulary and of how it writes a few signs and words."""
    seen = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items()):
        seen.update(f"{index} {token}\n".encode("utf-8", "surrogatepass"))
    seen.update(repr(tokenizer(PROBE, add_special_tokens=False)["input_ids"]).encode())
    return seen.hexdigest()


def check_tokenizer(wanted: Reference, tokenizer: Any) -> None:
    """Raise InputError unless it is the tokenizer that the parts were trained with."""
    found = tokenizer_hash(tokenizer)
    if found != wanted.tokenizer:
        raise InputError(
            f"the checkpoint was trained with another tokenizer of {wanted.name or '(unnamed)'} "
            f"(sha256 {wanted.tokenizer[:12]}, got {found[:12]}); pass tokenizer= with that one."
        )


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
    revision = wanted.revision or None if base is None else None
    if not name:
        raise InputError(
            "the checkpoint does not say where its base model is; pass base= (a model, a folder or "
            "a hub id)."
        )
    if name == EMBEDDED_LLM:
        name = str(smollm2_path())
    check_safetensors(name)
    check_kernel(name, _from_base(AutoConfig, name, revision=revision, **access))
    place = pick_device(str(device)) if device is not None else torch.device("cpu")
    model = _from_base(
        AutoModelForCausalLM,
        name,
        # Half precision is slow on a CPU; elsewhere the checkpoint's own.
        dtype=torch.float32 if place.type == "cpu" else "auto",
        revision=revision,
        use_safetensors=True,
        **access,
    )
    if tokenizer is None:
        tokenizer = _tokenizer(name, revision=revision, **access)
    return model.to(place).eval(), tokenizer


def _from_base(kind: Any, name: str, **settings: Any) -> Any:
    """What a class of transformers loads of the base model."""
    try:
        return kind.from_pretrained(name, trust_remote_code=False, **settings)
    except Exception as error:  # a missing or damaged checkpoint can fail anywhere inside
        raise InputError(
            f"base model {name!r} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "pass base= with a folder or hub id that has it."
        ) from error


def _tokenizer(name: str, **access: Any) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **access)
    except Exception as error:
        raise InputError(
            f"tokenizer of {name!r} cannot be loaded ({type(error).__name__}: "
            f"{first_line(error)}); pass tokenizer=."
        ) from error


def _check_options(wanted: Reference) -> None:
    """Raise InputError unless all that a checkpoint asks of the vision tower is known here."""
    if unknown := sorted(set(wanted.options) - TOWER_OPTIONS):
        raise InputError(
            f"the checkpoint has options {', '.join(unknown)} of the vision tower that this "
            "version does not know; update foveate, or pass encoder=."
        )


def _encoder(
    wanted: Reference, encoder: Any, device: torch.device, access: Mapping[str, Any]
) -> Any:
    if encoder is None and wanted.kind == "text_encoder":
        encoder = load_text_encoder(text_encoder_path())
    elif encoder is None and wanted.kind == "vision_tower":
        revision = {"revision": wanted.revision} if wanted.revision else {}
        encoder = load_vision_encoder(wanted.name, **wanted.options, **revision, **access)
    elif encoder is None:
        raise InputError(
            "the checkpoint was trained with an encoder of the user's own class; pass encoder=."
        )
    return encoder.to(device) if isinstance(encoder, nn.Module) else encoder
