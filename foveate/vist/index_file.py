"""An IndexHead on disk: one safetensors file beside vist.json, matrices in eight bits.

It names the encoder and the language model it was trained with by hash: entries of another encoder
would be compared in silence, and mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from foveate.core.eight_bit import pack, unpack
from foveate.errors import ConfigError, InputError
from foveate.files import open_regular
from foveate.tensor_file import save_tensors
from foveate.vist.latents.index_head import IndexConfig, IndexHead

__all__ = ["INDEX", "load_index", "save_index"]

INDEX = "index.safetensors"
MOST_CHARS = 10_000  # of what a file says of itself
_KEY = "foveate_index"


def save_index(head: IndexHead, path: str | Path, *, encoder: str, base: str) -> None:
    """Write a head: float16, its large matrices in eight bits.

    Args:
        head: of any precision.
        path: the file.
        encoder, base: `weights_hash` of the encoder and of the language model.

    Raises:
        InputError: a weight is not finite, or too large for float16.
    """
    weights = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in head.state_dict().items()
    }
    broken = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if broken:
        raise InputError(
            f"weight {broken[0]} of the index holds values that fp16 cannot; the training diverged?"
        )
    about = {"config": head.config.to_dict(), "encoder": encoder, "base": base}
    save_tensors(path, pack(weights), {_KEY: json.dumps(about)})


def load_index(
    path: str | Path,
    *,
    encoder: str = "",
    base: str = "",
    widths: tuple[int, int] | None = None,
) -> IndexHead:
    """Read what `save_index` wrote, in float32, frozen.

    Args:
        path: the file.
        encoder, base: hashes that it must have been trained with; "" is not checked.
        widths: of the features and embeddings that it will be given; None is not checked.

    Raises:
        InputError: it is no such file, or of another encoder or language model.
    """
    try:
        open_regular(path).close()
        with safe_open(str(path), framework="pt") as file:
            told = (file.metadata() or {})[_KEY]
            if len(told) > MOST_CHARS:
                raise ValueError("it says too much of itself")
            about = json.loads(told)
            config = IndexConfig(**about["config"])
            names = sorted(file.keys())
            weights = unpack({name: file.get_tensor(name) for name in names})
        # Shapes before memory: a config may claim what its file does not hold.
        with torch.device("meta"):
            wanted = IndexHead(config).state_dict()
        shapes = {name: tuple(value.shape) for name, value in weights.items()}
        if shapes != {name: tuple(value.shape) for name, value in wanted.items()}:
            raise ValueError("its weights are not those of its sizes")
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise ValueError("it holds weights that are not finite")
        trained_with = {"encoder": str(about["encoder"]), "language model": str(about["base"])}
    except (
        OSError, SafetensorError, ConfigError, KeyError, TypeError, ValueError, RecursionError,
        RuntimeError,
    ) as error:  # fmt: skip
        raise InputError(
            f"{str(path)!r} is no index written by foveate ({type(error).__name__}: {error}); copy "
            "it again, or remove it to do without."
        ) from error
    for what, hash_here in (("encoder", encoder), ("language model", base)):
        if hash_here and trained_with[what] != hash_here:
            raise InputError(
                f"the index {str(path)!r} was trained with another {what} "
                f"({trained_with[what][:12]}, here {hash_here[:12]}); train it again, or remove it."
            )
    own = (config.input_width, config.embedding_width)
    if widths not in (None, own):
        raise InputError(
            f"the index {str(path)!r} takes features and embeddings of widths {own}, and these "
            f"models give {widths}; train it again, or remove it."
        )
    head = IndexHead(config)
    head.load_state_dict({name: value.float() for name, value in weights.items()})
    return head.eval().requires_grad_(False)
