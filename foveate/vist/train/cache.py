"""What the frozen parts computed, on disk: a folder for each configuration, safetensors shards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveate.errors import InputError
from foveate.files import replacing, replacing_by_name

__all__ = ["FrozenCache"]

ABOUT = "about.json"  # what the values were computed with
FORMAT = 1


class FrozenCache:
    """Tensors by sample, kept in float16; another configuration is another folder.

    A miss is stored rounded and handed out rounded, so that a run sees the same numbers whether it
    computed them or read them. Several processes may share the folder: each writes its own shards
    and sees those that were there when it began.

    Args:
        folder: where caches lie.
        identity: everything the tensors depend on but the sample itself, JSON-ready: models by
            hash, styles, settings.
        shard_bytes: a shard is written when it holds so much.
        writer: tells processes apart.

    Raises:
        InputError: the folder cannot be written, or holds the description of another.
    """

    def __init__(
        self,
        folder: str | Path,
        identity: Mapping[str, Any],
        *,
        shard_bytes: int = 64 << 20,
        writer: int = 0,
    ) -> None:
        text = json.dumps({"format": FORMAT, **identity}, sort_keys=True, indent=1)
        self.name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder = Path(folder) / self.name
        self.shard_bytes, self.writer = shard_bytes, writer
        self._waiting: dict[str, dict[str, Tensor]] = {}
        self._waiting_bytes = 0
        self._shards: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        about = self.folder / ABOUT
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not about.exists():
                with replacing(about, mark=f".{os.getpid()}") as file:
                    file.write(text.encode())
            found = about.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"the cache folder {folder} cannot be used ({error}); set data.cache to one that "
                "can be written, or to '' for none."
            ) from error
        if found != text:
            raise InputError(
                f"{about} does not describe this configuration though its folder is named after "
                "it; delete the folder."
            )
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(str(path), framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118
                        self._shards[name.split("/", 1)[0]] = path
            except SafetensorError as error:
                raise InputError(f"{path} is damaged ({error}); delete it.") from error

    def __contains__(self, key: str) -> bool:
        return key in self._waiting or key in self._shards

    def __len__(self) -> int:
        return len(self._shards.keys() | self._waiting.keys())

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of a sample in float16, or None."""
        if key in self._waiting:
            return self._waiting[key]
        path = self._shards.get(key)
        if path is None:
            return None
        if path not in self._open:
            self._open[path] = safe_open(str(path), framework="pt")
        file, prefix = self._open[path], f"{key}/"
        names = json.loads(file.metadata()[key])
        return {name: file.get_tensor(prefix + name) for name in names}

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep tensors of a sample; returns them as `get` will."""
        kept = {
            name: t.detach().to("cpu", torch.float16).contiguous().clone()
            for name, t in tensors.items()
        }
        self._waiting[key] = kept
        self._waiting_bytes += sum(t.numel() * t.element_size() for t in kept.values())
        if self._waiting_bytes >= self.shard_bytes:
            self.flush()
        return kept

    def flush(self) -> None:
        """Write what waits. An interrupted write leaves nothing behind that would be read."""
        if not self._waiting:
            return
        tensors = {f"{key}/{n}": t for key, held in self._waiting.items() for n, t in held.items()}
        about = {key: json.dumps(sorted(held)) for key, held in self._waiting.items()}
        digest = hashlib.sha256("".join(sorted(about)).encode()).hexdigest()[:16]
        path = self.folder / f"{self.writer:03d}-{digest}.safetensors"
        with replacing_by_name(path, mark=f".{os.getpid()}") as draft:
            save_file(tensors, str(draft), metadata=about)
        self._shards.update(dict.fromkeys(self._waiting, path))
        self._waiting, self._waiting_bytes = {}, 0
