"""A Vist on disk: vist.json says what it is, vist.safetensors holds the trained parts only.

The base model and the encoder are named and hashed, never copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError
from foveate.vist.config import VistConfig

ABOUT, WEIGHTS = "vist.json", "vist.safetensors"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A frozen model that a checkpoint needs but does not hold.

    Args:
        name: path, hub id, or what else finds it; "" if only the user knows.
        sha256: `weights_hash` of it.
        kind: of an encoder: "text_encoder", "vision_tower" or "" (the user's own class).
        revision: of the hub id, "" if unknown.
        options: what else it takes to load it the same way.
    """

    name: str
    sha256: str
    kind: str = ""
    revision: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What vist.json holds.

    Args:
        config: of the trained parts.
        shape: of the decoder they are for.
        base, encoder: what else is needed.
        training: free notes of whoever trained it (data, steps, scores), JSON-ready.
    """

    config: VistConfig
    shape: DecoderShape
    base: Reference
    encoder: Reference
    training: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: str | Path, parts: nn.Module, about: Checkpoint) -> Path:
    """Write a folder; weights as fp16.

    Raises:
        InputError: a weight is not finite, or too large for fp16.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, value in parts.state_dict().items():
        half = value.detach().to("cpu", torch.float16).contiguous()
        if not bool(half.isfinite().all()):
            raise InputError(
                f"weight {name} holds values that fp16 cannot (largest "
                f"{float(value.abs().max()):.3g}, limit 65504); the training diverged?"
            )
        weights[name] = half
    # The weights first: a folder with a vist.json is complete.
    save_file(weights, str(folder / WEIGHTS))
    content = {
        "format": FORMAT,
        "config": about.config.to_dict(),
        "shape": vars(about.shape),
        "base": vars(about.base),
        "encoder": vars(about.encoder),
        "training": dict(about.training),
    }
    text = json.dumps(content, indent=2, default=dict) + "\n"
    (folder / ABOUT).write_text(text, encoding="utf-8")
    return folder


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read vist.json.

    Raises:
        InputError: there is none, it is broken, or of a newer format.
        ConfigError: its configuration is impossible.
    """
    path = Path(folder) / ABOUT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format"]
    except OSError as error:
        raise InputError(
            f"folder {str(folder)!r} has no readable {ABOUT}; give a folder written by "
            "save_pretrained."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{ABOUT} of {str(folder)!r} is broken ({error}); copy the checkpoint again."
        ) from error
    if version != FORMAT:
        raise InputError(
            f"checkpoint {str(folder)!r} has format {version}, this version reads {FORMAT}; update "
            "foveate."
        )
    try:
        return Checkpoint(
            config=VistConfig.from_dict(content["config"]),
            shape=DecoderShape(**content["shape"]),
            base=Reference(**content["base"]),
            encoder=Reference(**content["encoder"]),
            training=content.get("training", {}),
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{ABOUT} of {str(folder)!r} lacks or misnames a field ({error}); copy the checkpoint "
            "again."
        ) from error


def load_weights(folder: str | Path, parts: nn.Module) -> None:
    """Put vist.safetensors into `parts`, in the precision `parts` has.

    Raises:
        InputError: the file is missing or broken, or its keys or shapes are not those of `parts`.
    """
    path = Path(folder) / WEIGHTS
    try:
        stored = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error}); copy the checkpoint again."
        ) from error
    wanted = parts.state_dict()
    for found, what in ((wanted.keys() - stored.keys(), "lacks"),
                        (stored.keys() - wanted.keys(), "has unknown")):  # fmt: skip
        if found:
            raise InputError(
                f"{str(path)!r} {what} weights {', '.join(sorted(found)[:3])} ({len(found)} in "
                f"all); it does not belong to the {ABOUT} beside it."
            )
    for name, value in stored.items():
        if value.shape != wanted[name].shape:
            raise InputError(
                f"weight {name} of {str(path)!r} is {tuple(value.shape)}, {ABOUT} asks for "
                f"{tuple(wanted[name].shape)}; use files of one checkpoint."
            )
    parts.load_state_dict(stored)


def check_reference(what: str, wanted: Reference, found: str) -> None:
    """Raise InputError unless the weights' hash is the one recorded."""
    if found != wanted.sha256:
        raise InputError(
            f"the checkpoint was trained with the {what} {wanted.name or '(unnamed)'} (sha256 "
            f"{wanted.sha256[:12]}), and got one with sha256 {found[:12]}; load that {what}, in "
            "the precision it was saved in or a higher one."
        )
