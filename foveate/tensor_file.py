"""Tensors in a safetensors file that appears whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from foveate.errors import InputError
from foveate.files import replacing_by_name

__all__ = ["save_tensors"]


def save_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None
) -> None:
    """Write or replace a file.

    Args:
        path: of the file.
        tensors: by name, contiguous and on the CPU.
        about: metadata.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with replacing_by_name(Path(path)) as draft:
            save_file(dict(tensors), str(draft), metadata=dict(about) if about else None)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)!r} cannot be written ({reason}).") from error
