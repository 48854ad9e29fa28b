"""BatchSettings: what answers a batch job, whatever the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foveate.assets import EMBEDDED
from foveate.carve.method import Method
from foveate.carve.profile import Profile
from foveate.errors import InputError
from foveate.measure.manifest import public_name

__all__ = ["BatchSettings", "Engine"]

Engine = Literal["transformers", "vllm"]


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What answers a job's lines.

    Args:
        method: what to keep.
        model: a folder or hub id, or "embedded" for the model that comes with foveate.
        batch_size: lines that are answered at once.
        max_new_tokens: longest answer of a line that does not say it itself.
        device, dtype: as for foveate.models.load.load_vlm.
        allow_http: fetch images of http(s) addresses.
        engine: what runs the model.
        spelled: the method as it was written; of the engine "vllm".
        options: of the engine "vllm", by their names in vLLM.
        profile: that the method is of; no other model than its own answers.

    Raises:
        InputError: a number below 1.
    """

    method: Method
    model: str = EMBEDDED
    batch_size: int = 8
    max_new_tokens: int = 64
    device: str = "auto"
    dtype: str = "auto"
    allow_http: bool = False
    engine: Engine = "transformers"
    spelled: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    profile: Profile | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is below 1; use at least 1.")

    @property
    def public_model(self) -> str:
        """The model's name in what others read."""
        return public_name(self.model)

    @property
    def names(self) -> set[str]:
        """What a request may call the model."""
        return {self.model, self.public_model, Path(self.model).name}

    def facts(self) -> dict[str, Any]:
        """What answers depend on, JSON-ready; a job whose parts have other facts is another job."""
        return {
            "model": self.public_model,
            "method or keep": self.method.to_dict(),
            "max_new_tokens": self.max_new_tokens,
            "dtype": self.dtype,
            "allow_http": self.allow_http,
            "engine": self.engine,
            "engine options": dict(self.options),
        }
