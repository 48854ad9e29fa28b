"""What was really compressed over an evaluation; a silent no-op is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from foveate.carve.method import Method
from foveate.core.report import ImageReport, Report, counted
from foveate.errors import NotFiredError

__all__ = ["Asked", "Tally"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one request of a batch brought.

    Args:
        label: names it in errors, e.g. "textvqa_val/17".
        num_images: of its prompt.
    """

    label: str
    num_images: int


@dataclass(kw_only=True)
class Tally:
    """Sums over all batches of one evaluation.

    Args:
        method: what was attached.
    """

    method: Method
    requests: int = 0
    with_images: int = 0
    images: int = 0
    before: int = 0
    kept: int = 0
    merged: int = 0
    dropped: int = 0
    layer_tokens: float = 0.0
    fired: int = 0
    not_fired: Counter[str] = field(default_factory=Counter)
    kv_bytes: int = 0
    kv_bytes_uncompressed: int = 0
    select_seconds: float = 0.0

    def add(self, asked: Sequence[Asked], reports: Sequence[Report]) -> None:
        """Count one batch, after checking it.

        Args:
            asked: its requests, in order.
            reports: of the prefills since the last batch.

        Raises:
            NotFiredError: a request had images and the method saw none of their tokens, or kept as
                many as it saw although the budget is below.
        """
        found = [image for report in reports for image in report.images]
        by_sample: dict[int, list[ImageReport]] = {}
        for image in found:
            by_sample.setdefault(image.sample, []).append(image)
        mine = [by_sample.get(i, []) for i in range(len(asked))]
        for request, images in zip(asked, mine, strict=True):
            self._check(request, images, reports)
        self.requests += len(asked)
        for request, images in zip(asked, mine, strict=True):
            self.with_images += bool(request.num_images)
            self.images += len(images)
            self.before += sum(image.before for image in images)
            self.kept += sum(image.kept for image in images)
            self.merged += sum(image.merged for image in images)
            self.dropped += sum(image.dropped for image in images)
        if found:
            num_images = sum(map(len, mine))
            for report in reports:
                self._add_prefill(report, num_images)

    def _check(
        self, request: Asked, images: Sequence[ImageReport], reports: Sequence[Report]
    ) -> None:
        if not request.num_images:
            return
        said = next((report.reason for report in reports if report.reason), "no prefill was seen")
        if not images:
            raise NotFiredError(
                f"{request.label} has {counted(request.num_images, 'image')}, but {self.method} "
                f"saw no visual token of it ({said}), so the answer is not that of a compressed "
                "model; check that the processor belongs to the model, or run method=noop."
            )
        for image in images:
            budget = self.method.budget.most(image.before, image=image.image)
            is_whole = budget < image.before <= image.kept
            if self.method.exact_budget and is_whole and not image.remark:
                raise NotFiredError(
                    f"{request.label}: {self.method} kept all {image.before} visual tokens of "
                    f"{image.kind} {image.image} although its budget is {budget} ({said}); the "
                    "answer is that of the uncompressed model. Run method=noop if that is wanted."
                )

    def _add_prefill(self, report: Report, num_images: int) -> None:
        if report.fired:
            self.fired += 1
        else:
            self.not_fired[report.reason] += 1
        self.layer_tokens += report.average_tokens * num_images
        self.kv_bytes += report.kv_bytes or 0
        self.kv_bytes_uncompressed += report.kv_bytes_uncompressed or 0
        self.select_seconds += report.select_seconds

    @property
    def kept_share(self) -> float | None:
        """Visual tokens that went on, of all; None before the first image."""
        return self.kept / self.before if self.before else None

    @property
    def kv_ratio(self) -> float | None:
        """KV cache after the prefill, of the uncompressed one; None without a cache."""
        if not self.kv_bytes_uncompressed:
            return None
        return self.kv_bytes / self.kv_bytes_uncompressed

    def metrics(self) -> dict[str, float]:
        """The figures that belong beside an accuracy."""
        out = {"requests_with_images": float(self.with_images), "images": float(self.images)}
        if self.kept_share is not None and self.images:
            out["visual_tokens_before"] = self.before / self.images
            out["visual_tokens_after"] = self.kept / self.images
            out["visual_tokens_kept_share"] = self.kept_share
            out["visual_tokens_mean_over_layers"] = self.layer_tokens / self.images
        if self.kv_ratio is not None:
            out["kv_cache_share"] = self.kv_ratio
        return out

    def __str__(self) -> str:
        lines = [
            f"{self.method}: {counted(self.requests, 'request')}, {self.with_images} with images, "
            f"{counted(self.images, 'image')} in all"
        ]
        if not self.images:
            return f"{lines[0]}; nothing was there to compress"
        lines.append(
            f"visual tokens: {self.before} -> {self.kept} ({100 * self.kept / self.before:.1f} %), "
            f"{self.before / self.images:.1f} -> {self.kept / self.images:.1f} an image; "
            f"{self.merged} merged, {self.dropped} dropped"
        )
        lines.append(
            f"mean over the decoder layers: {self.layer_tokens / self.images:.1f} an image"
        )
        lines.append(f"compressed prefills: {self.fired}")
        lines += [f"left alone: {count} ({reason})" for reason, count in self.not_fired.items()]
        if self.kv_ratio is not None:
            lines.append(f"KV cache after the prefill: {100 * self.kv_ratio:.1f} % of the full one")
        lines.append(f"selection: {self.select_seconds:.2f} s")
        return "\n".join(lines)
