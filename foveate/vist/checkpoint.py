"""A Vist on disk: vist.json says what it is, vist.safetensors holds the trained parts only.

The base model and the encoder are named and hashed, never copied. Weights are fp16; in a file that
was saved with `eight_bit` large matrices are int8 with a scale for each row (see core.eight_bit).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from foveate.core.decoder_shape import DecoderShape
from foveate.core.eight_bit import MARK, pack, unpack
from foveate.errors import ConfigError, InputError
from foveate.files import make_folder, open_regular, write_text
from foveate.tensor_file import save_tensors
from foveate.vist.config import VistConfig
from foveate.vist.sizes import check_size

ABOUT, WEIGHTS = "vist.json", "vist.safetensors"
FLOATS = ("F16", "BF16", "F32")
MOST_BYTES = 1 << 20  # of vist.json
MOST_CHARS = 1000  # of a name in it
OWN_FILE = "index."  # weights that foveate.vist.index_file keeps
# Odd: fp16. Even: matrices may be int8, which readers of the odd one before do not know.
FORMAT, EIGHT_BIT_FORMAT = 3, 4  # latents that are pointed at tokens fold those the encoder reads
OLD_FORMATS = (1, 2)  # they named tokens by a trained network of their own


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A frozen model that a checkpoint needs but does not hold.

    Args:
        name: path, hub id, or what else finds it; "" if only the user knows.
        sha256: `weights_hash` of it.
        kind: of an encoder: "text_encoder", "vision_tower" or "" (the user's own class).
        revision: of the hub id, "" if unknown.
        options: what else it takes to load it the same way.
        tokenizer: of a language model: `tokenizer_hash` of its tokenizer; "" if unknown.

    Raises:
        ConfigError: a field is of another kind or too long.
    """

    name: str
    sha256: str
    kind: str = ""
    revision: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = ""

    def __post_init__(self) -> None:
        for name in ("name", "sha256", "kind", "revision", "tokenizer"):
            value = getattr(self, name)
            if not isinstance(value, str) or len(value) > MOST_CHARS or not value.isprintable():
                raise ConfigError(f"a reference got {name}={str(value)[:80]!r}; use a short text.")
        for name in ("sha256", "tokenizer"):
            value = getattr(self, name)
            if value and not re.fullmatch("[0-9a-f]{64}", value):
                raise ConfigError(f"a reference got {name}={value!r}; use a sha256, 64 digits.")
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"a reference got options={self.options!r}; use an object.")


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


def save_checkpoint(
    folder: str | Path, parts: nn.Module, about: Checkpoint, *, eight_bit: bool = False
) -> Path:
    """Write a folder; weights as fp16.

    Args:
        eight_bit: large matrices as int8 with a scale for each row: half the file, and about one
            part in a hundred of noise on each weight.

    Raises:
        InputError: a weight is not finite, or too large for fp16.
    """
    folder = make_folder(folder)
    weights = {}
    for name, value in parts.state_dict().items():
        if name.startswith(OWN_FILE):
            continue
        half = value.detach().to("cpu", torch.float16).contiguous()
        if not bool(half.isfinite().all()):
            raise InputError(
                f"weight {name} holds values that fp16 cannot (largest "
                f"{float(value.abs().max()):.3g}, limit 65504); the training diverged?"
            )
        weights[name] = half
    # The weights first: a folder with a vist.json is complete.
    save_tensors(folder / WEIGHTS, pack(weights) if eight_bit else weights)
    content = {
        "format": EIGHT_BIT_FORMAT if eight_bit else FORMAT,
        "config": about.config.to_dict(),
        "shape": vars(about.shape),
        "base": vars(about.base),
        "encoder": vars(about.encoder),
        "training": dict(about.training),
    }
    text = json.dumps(content, indent=2, default=dict) + "\n"
    write_text(folder / ABOUT, text)
    return folder


def read_about(folder: str | Path) -> dict[str, Any]:
    """The object in a folder's vist.json, of any kind of memory.

    Raises:
        InputError: there is none, or it is too large, nested too deeply or no JSON object.
    """
    path = Path(folder) / ABOUT
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        content = json.loads(data.decode("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except OSError as error:
        raise InputError(
            f"folder {str(folder)!r} has no readable {ABOUT}; give a folder written by "
            "save_pretrained."
        ) from error
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(
            f"{ABOUT} of {str(folder)!r} is nested too deeply; copy the checkpoint again."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{ABOUT} of {str(folder)!r} is broken ({error}); copy the checkpoint again."
        ) from error


def read_checkpoint(folder: str | Path) -> Checkpoint:
    """Read vist.json.

    Raises:
        InputError: there is none, it is broken, or of a newer format.
        ConfigError: its configuration is impossible.
    """
    content = read_about(folder)
    version = content.get("format")
    if version not in (*OLD_FORMATS, FORMAT, EIGHT_BIT_FORMAT):
        raise InputError(
            f"checkpoint {str(folder)!r} has format {version}, this version reads "
            f"{OLD_FORMATS[0]} to {EIGHT_BIT_FORMAT}; update foveate."
        )
    if version in OLD_FORMATS and _has_reading_network(content.get("config")):
        raise InputError(
            f"checkpoint {str(folder)!r} has format {version}, whose latents are made by a "
            "network that reads tokens; this version lets the frozen encoder read them and has no "
            "such network. Train it again from its parts: name the folder in model.init."
        )
    try:
        return Checkpoint(
            config=VistConfig.from_dict(content["config"]),
            shape=_shape(content["shape"]),
            base=Reference(**content["base"]),
            encoder=Reference(**content["encoder"]),
            training=_notes(content.get("training", {})),
        )
    except ConfigError as error:
        raise ConfigError(f"{ABOUT} of {str(folder)!r}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{ABOUT} of {str(folder)!r} lacks or misnames a field ({error}); copy the checkpoint "
            "again."
        ) from error


def _has_reading_network(config: Any) -> bool:
    """Whether a configuration of an old format is of latents that are pointed at tokens."""
    resampler = config.get("resampler") if isinstance(config, dict) else None
    return isinstance(resampler, dict) and "inner" in resampler


def _notes(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"training={str(values)[:40]!r} is no object; copy the checkpoint again.")
    return values


def _shape(values: Mapping[str, Any]) -> DecoderShape:
    for name, value in values.items():
        is_rms = name == "embedding_rms" and isinstance(value, float) and 0 < value < math.inf
        if not (is_rms or (name == "gated" and isinstance(value, bool))):
            check_size("the shape of the decoder", name, value)
    return DecoderShape(**values)


def check_weights(folder: str | Path, parts: nn.Module) -> None:
    """Hold the header of vist.safetensors to `parts`, which may be on the meta device.

    Raises:
        InputError: the file is missing or broken, or its keys or shapes are not those of `parts`.
    """
    path = Path(folder) / WEIGHTS
    try:
        open_regular(path).close()  # a pipe would hold up safetensors, and all of Python
        with safe_open(str(path), framework="pt") as file:
            header = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            stored = {name: tuple(entry.get_shape()) for name, entry in header.items()}
            kinds = {name: entry.get_dtype() for name, entry in header.items()}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error}); copy the checkpoint again."
        ) from error
    wanted = {name: tuple(value.shape) for name, value in parts.state_dict().items()}
    # A matrix of whole numbers is nothing without its scales.
    wanted |= {name + MARK: wanted[name][:1] for name in wanted if kinds.get(name) == "I8"}
    for found, what in ((wanted.keys() - stored.keys(), "lacks"),
                        (stored.keys() - wanted.keys(), "has unknown")):  # fmt: skip
        if found:
            raise InputError(
                f"{str(path)!r} {what} weights {', '.join(sorted(found)[:3])} ({len(found)} in "
                f"all); it does not belong to the {ABOUT} beside it."
            )
    for name, kind in kinds.items():
        if name.endswith(MARK):
            known: tuple[str, ...] = ("F32",)
        else:
            known = (*FLOATS, "I8") if len(wanted[name]) == 2 else FLOATS
        if kind not in known:
            raise InputError(
                f"weight {name} of {str(path)!r} is stored as {kind}, and only as "
                f"{', '.join(known)} it can be read; save the checkpoint with foveate again."
            )
    for name, shape in stored.items():
        if shape != wanted[name]:
            raise InputError(
                f"weight {name} of {str(path)!r} is {shape}, {ABOUT} asks for {wanted[name]}; use "
                "files of one checkpoint."
            )


def load_weights(folder: str | Path, parts: nn.Module) -> None:
    """Put vist.safetensors into `parts`, in the precision `parts` has.

    Raises:
        InputError: the file is missing or broken, or its keys or shapes are not those of `parts`.
    """
    check_weights(folder, parts)
    parts.load_state_dict(read_weights(folder))


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """The weights in a folder's vist.safetensors, eight-bit matrices as fp16.

    Raises:
        InputError: numbers are not finite, as they are stored or with their scales.
    """
    path = Path(folder) / WEIGHTS
    stored = load_file(str(path))
    weights = unpack(stored)
    for name, value in (*stored.items(), *weights.items()):
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise InputError(f"{name} of {str(path)!r} is not finite; copy the checkpoint again.")
    return weights


def check_reference(what: str, wanted: Reference, found: str) -> None:
    """Raise InputError unless the weights' hash is the one recorded."""
    if found != wanted.sha256:
        raise InputError(
            f"the checkpoint was trained with the {what} {wanted.name or '(unnamed)'} (sha256 "
            f"{wanted.sha256[:12]}), and got one with sha256 {found[:12]}; load that {what}, in "
            "the precision it was saved in or a higher one."
        )
