"""What an arm of a comparison saved, summed over prompts, so that parts of a run add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from foveate.core.decoder_shape import DecoderShape
from foveate.core.report import Report
from foveate.errors import InputError
from foveate.measure.flops import cost_of_layers

__all__ = ["Savings"]


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Sums over prompts; only ratios of them are reported.

    Args:
        prompts: that were answered.
        images: in them.
        text: text tokens, padding left out.
        before: visual tokens of the uncompressed prompts.
        last: visual tokens that the last decoder layer saw.
        layers: visual tokens in each decoder layer.
        kv_bytes, kv_full: KV cache after the prefill, and that of the uncompressed prompts; 0 where
            there was none.
        prune_layer: first layer that ran short.
    """

    prompts: int
    images: int
    text: int
    before: int
    last: int
    layers: tuple[float, ...]
    kv_bytes: int = 0
    kv_full: int = 0
    prune_layer: int | None = None

    @classmethod
    def of_reports(
        cls, reports: Sequence[Report], *, prompts: int, text: int, num_layers: int
    ) -> Savings:
        """Sum up the reports of all prefills of one arm."""
        layers = [0.0] * num_layers
        for report in reports:
            layers = [a + b for a, b in zip(layers, _layers(report, num_layers), strict=True)]
        return cls(
            prompts=prompts,
            images=sum(len(report.images) for report in reports),
            text=text,
            before=sum(report.before for report in reports),
            last=sum(report.kept for report in reports),
            layers=tuple(layers),
            kv_bytes=sum(report.kv_bytes or 0 for report in reports),
            kv_full=sum(report.kv_bytes_uncompressed or 0 for report in reports),
            prune_layer=reports[-1].prune_layer if reports else None,
        )

    @classmethod
    def of_full(cls, *, prompts: int, visual: int, text: int, num_layers: int) -> Savings:
        """Of uncompressed prompts with one image each."""
        return cls(
            prompts=prompts,
            images=prompts,
            text=text,
            before=visual,
            last=visual,
            layers=(float(visual),) * num_layers,
        )

    @classmethod
    def total(cls, several: Sequence[Mapping[str, Any]]) -> Savings:
        """Add what `to_dict` gave for several parts of a run.

        Raises:
            InputError: no part.
        """
        if not several:
            raise InputError("no part of the run says what it saved; answer at least one question.")
        sums = {
            name: sum(each[name] for each in several)
            for name in ("prompts", "images", "text", "before", "last", "kv_bytes", "kv_full")
        }
        layers = tuple(
            float(sum(counts)) for counts in zip(*(e["layers"] for e in several), strict=True)
        )
        return cls(**sums, layers=layers, prune_layer=several[0]["prune_layer"])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def kept_tokens(self) -> float:
        """Mean visual tokens of an image from the first short layer on.

        With one step that is what is left; with several, what a budget is measured by.
        """
        short = self.layers[self.prune_layer or 0 :]
        return sum(short) / len(short) / max(1, self.images)

    @property
    def kept_share(self) -> float:
        """The same, of the uncompressed image's."""
        return self.kept_tokens * self.images / max(1, self.before)

    @property
    def last_tokens(self) -> float:
        """Mean visual tokens of an image in the last layer."""
        return self.last / max(1, self.images)

    @property
    def average_tokens(self) -> float:
        """Mean visual tokens of an image over all decoder layers."""
        return sum(self.layers) / len(self.layers) / max(1, self.images)

    @property
    def kv_ratio(self) -> float | None:
        """KV bytes against the uncompressed cache; None without a cache."""
        return self.kv_bytes / self.kv_full if self.kv_full else None

    def flops_ratio(self, shape: DecoderShape) -> float:
        """Prefill FLOPs of the decoder against the uncompressed run's, for a mean prompt."""
        text = round(self.text / self.prompts)
        short = [count / self.prompts for count in self.layers]
        full = [self.before / self.prompts] * shape.num_layers
        ours, theirs = (
            cost_of_layers(shape, num_text=text, visual_tokens=counts) for counts in (short, full)
        )
        return ours.flops / theirs.flops


def _layers(report: Report, num_layers: int) -> list[float]:
    """Visual tokens of all images of one prefill in each decoder layer.

    What reading ahead has cost is spread over all layers.
    """
    if report.tokens_per_layer:
        ahead = report.ahead_tokens / len(report.tokens_per_layer)
        return [(mean + ahead) * len(report.images) for mean in report.tokens_per_layer]
    early = report.prune_layer if report.fired else num_layers
    return [float(report.before if i < early else report.kept) for i in range(num_layers)]
