"""What a check of a twin found: what is guaranteed of a kind of model, or why it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A kind of model, and what of it was shown on its tiny twin.

    Args:
        model_type: as its configuration says.
        title: name people know.
        transformers: version of the library that the twin is made of.
        in_llm: tokens may be dropped between decoder layers, and the answers are those of the slow
            path.
        before_llm: the prompt itself may be shortened; None where this was not tried.
        batches: a ragged batch holds too, and every row is its own run.
        video: videos hold too; None where the model takes none.
        kernels: attention kernels it holds for.
        oracle: the slow path: "masked", or "short" for decoders with states, or "before" where only
            the prompt may be shortened; "" if none was run.
        cache_kinds: layers of its KV cache.
        first_layer: smallest prune_layer; None where nothing was derived.
        given_features: why features were given instead of pixels, "" if pixels were.
        findings: name of a check -> "" where it held, else the sentence.
        refusal: why it is not carved in the language model, a sentence; "" if it is.
    """

    model_type: str
    title: str
    transformers: str
    in_llm: bool = False
    before_llm: bool | None = None
    batches: bool = False
    video: bool | None = None
    kernels: tuple[str, ...] = ()
    oracle: str = ""
    cache_kinds: tuple[str, ...] = ()
    first_layer: int | None = None
    given_features: str = ""
    findings: Mapping[str, str] = field(default_factory=dict)
    refusal: str = ""

    @property
    def summary(self) -> str:
        """One line: what works, or why not."""
        if not self.in_llm:
            if self.before_llm:
                return f"before the language model only: {self.refusal}"
            return self.refusal
        parts = ["in the language model"]
        if self.before_llm:
            parts.append("before it")
        parts.append("batches" if self.batches else "one prompt at a time")
        if self.video:
            parts.append("video")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON."""
        out = asdict(self)
        return {**out, "kernels": list(self.kernels), "cache_kinds": list(self.cache_kinds)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Self:
        """Build from `to_dict` output.

        Raises:
            TypeError: an entry is missing or unknown.
        """
        lists = {name: tuple(found[name]) for name in ("kernels", "cache_kinds") if name in found}
        return cls(**{**found, **lists})
