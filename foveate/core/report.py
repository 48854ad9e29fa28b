"""What a run really did, as data; text, Markdown and JSON are views of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from foveate.core.clock import Seconds


@dataclass(frozen=True, kw_only=True)
class ImageReport:
    """Visual tokens of one image or video: before = kept + merged + dropped.

    `kept` tokens go on; `merged` ones were averaged into a kept one; `dropped` ones are gone.
    `budget` is what its information told (keep_information), None where the budget is fixed;
    methods of several steps keep fewer in the last.
    `frames` is 0 for a still image, and for a video whose frames are not known. `remark` is why
    more was kept than the budget; "" otherwise.
    """

    sample: int
    image: int
    kind: str
    before: int
    kept: int
    merged: int
    dropped: int
    budget: int | None = None
    frames: int = 0
    remark: str = ""


class Listed:
    """A report that is a list of labelled values, as text and as Markdown."""

    def lines(self) -> list[tuple[str, str]]:
        """(label, value) pairs, what both text and Markdown show."""
        raise NotImplementedError

    def to_markdown(self) -> str:
        """A two-column table."""
        rows = [f"| {label.strip()} | {value} |" for label, value in self.lines()]
        return "\n".join(["| | |", "|---|---|", *rows])

    def __str__(self) -> str:
        lines = self.lines()
        width = max(len(label) for label, _ in lines)
        return "\n".join(f"{label:<{width}}  {value}" for label, value in lines)


@dataclass(frozen=True, kw_only=True)
class Report(Listed):
    """One prefill under foveate.

    Args:
        method: the method with its settings.
        fired: whether anything was compressed.
        reason: why not, if not; "" otherwise.
        images: one entry per image, in order of sample and appearance.
        prune_layer, num_layers: layers prune_layer..num_layers-1 ran on the short sequence.
        length_before, length_after: longest row of the batch before and after, text included.
        kv_bytes, kv_bytes_uncompressed: KV cache right after the prefill; None without a cache.
        select_seconds: time of scoring, choosing and merging: wall time, on CUDA the device's own,
            which is read when somebody asks for it. A number or a Clock.
        tokens_per_layer: mean visual tokens of an image in each decoder layer.
        ahead_tokens: mean token-layers of an image that reading ahead has cost; part of its budget.
        num_unread: images whose budgets were not worth reading ahead for, or without text.
        rows_per_layer: length of the batch in each decoder layer, as `length_after`; empty where
            there was no visual token.
        num_labels: labels the loss was computed over; None without labels.
        num_labels_dropped: labels that a dropped row would have had to predict, left out of it.
        notes: (label, value) of what the method chose by itself, see KeepPlan.
    """

    method: str
    fired: bool
    reason: str = ""
    images: tuple[ImageReport, ...] = ()
    prune_layer: int = 0
    num_layers: int = 0
    length_before: int = 0
    length_after: int = 0
    kv_bytes: int | None = None
    kv_bytes_uncompressed: int | None = None
    select_seconds: Seconds = Seconds()  # noqa: RUF009 - a descriptor, and the default is its own
    tokens_per_layer: tuple[float, ...] = ()
    ahead_tokens: float = 0.0
    num_unread: int = 0
    rows_per_layer: tuple[int, ...] = ()
    num_labels: int | None = None
    num_labels_dropped: int = 0
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """Why images or videos kept more than the budget, each reason once."""
        return tuple(dict.fromkeys(image.remark for image in self.images if image.remark))

    def _counted_images(self) -> str:
        """ "2 images and 1 video of 8 frames"."""
        videos = [image for image in self.images if image.kind == "video"]
        num_stills, frames = len(self.images) - len(videos), sum(v.frames for v in videos)
        parts = [counted(num_stills, "image")] if num_stills or not videos else []
        if videos:
            of = f" of {counted(frames, 'frame')}" if all(v.frames for v in videos) else ""
            parts.append(counted(len(videos), "video") + of)
        return " and ".join(parts)

    @property
    def average_tokens(self) -> float:
        """Mean visual tokens of an image over all decoder layers: what methods compare by.

        Reading ahead counts as much as tokens that would have cost the same.
        """
        spent = sum(self.tokens_per_layer) + self.ahead_tokens
        return spent / max(1, len(self.tokens_per_layer))

    def _counted_layers(self) -> str:
        """What several steps left: "98 in layers 0..4, 39 in layers 5..7"; "" for one cut."""
        runs: list[tuple[float, int, int]] = []
        for layer, count in enumerate(self.tokens_per_layer):
            if runs and runs[-1][0] == count:
                runs[-1] = (count, runs[-1][1], layer)
            else:
                runs.append((count, layer, layer))
        if sum(first >= self.prune_layer for _, first, _ in runs) < 2:
            return ""
        return ", ".join(
            f"{round(count, 1):g} in " + (f"layers {a}..{b}" if a < b else f"layer {a}")
            for count, a, b in runs
        )

    @property
    def row_share(self) -> float:
        """Rows of all decoder layers as a share of the uncompressed: how long a step still is."""
        if not self.rows_per_layer:
            return 1.0
        uncompressed = self.rows_per_layer[0] * len(self.rows_per_layer)
        return sum(self.rows_per_layer) / uncompressed

    @property
    def before(self) -> int:
        """Visual tokens of all images before."""
        return sum(image.before for image in self.images)

    @property
    def kept(self) -> int:
        """Visual tokens of all images that go on."""
        return sum(image.kept for image in self.images)

    @property
    def merged(self) -> int:
        """Visual tokens averaged into kept ones."""
        return sum(image.merged for image in self.images)

    @property
    def dropped(self) -> int:
        """Visual tokens that are gone."""
        return sum(image.dropped for image in self.images)

    @property
    def kv_ratio(self) -> float | None:
        """KV bytes as a share of the uncompressed cache; None without a cache."""
        if self.kv_bytes is None or not self.kv_bytes_uncompressed:
            return None
        return self.kv_bytes / self.kv_bytes_uncompressed

    def to_dict(self) -> dict[str, Any]:
        """All fields and the derived totals, JSON-ready."""
        names = ("before", "kept", "merged", "dropped", "kv_ratio")
        totals = {name: getattr(self, name) for name in names}
        return {**asdict(self), **totals, "average_tokens": round(self.average_tokens, 2)}

    def lines(self) -> list[tuple[str, str]]:
        out = [("method", self.method)]
        if not self.fired:
            return [*out, ("compression", f"did not fire: {self.reason}")]
        out += self.notes
        told = [image.budget for image in self.images if image.budget is not None]
        if told:
            span = f"{min(told)} to {max(told)}" if min(told) < max(told) else str(told[0])
            out.append(("budget", f"{span} tokens of an image, by its information"))
        if self.ahead_tokens or self.num_unread:
            unread = counted(self.num_unread, "image")
            left_out = f"; left out for {unread}, too much of the budget or no text"
            out.append(
                (
                    "read ahead",
                    f"{self.ahead_tokens:.0f} token-layers an image, out of its budget"
                    + (left_out if self.num_unread else ""),
                )
            )
        out.append(
            (
                "visual tokens",
                f"{self.before} -> {self.kept} kept ({self.merged} merged into them, "
                f"{self.dropped} dropped) in {self._counted_images()}",
            )
        )
        if steps := self._counted_layers():
            kept = sum(self.tokens_per_layer) / len(self.tokens_per_layer)
            out.append(("a layer", f"{kept:.1f} visual tokens of an image: {steps}"))
        out += [("but", remark) for remark in self.remarks]
        if len(self.images) > 1:
            for image in self.images:
                out.append(
                    (
                        f"  sample {image.sample}, {image.kind} {image.image}",
                        f"{image.before} -> {image.kept} ({image.merged} merged, "
                        f"{image.dropped} dropped)",
                    )
                )
        out.append(("sequence", f"{self.length_before} -> {self.length_after} tokens"))
        short = f"{self.prune_layer}..{self.num_layers - 1} of {self.num_layers} run short"
        if self.tokens_per_layer:
            short += f"; on average {self.average_tokens:.0f} tokens of an image a layer"
        out.append(("layers", short))
        if self.kv_bytes is not None and self.kv_ratio is not None:
            assert self.kv_bytes_uncompressed is not None
            out.append(
                (
                    "KV cache",
                    f"{_size(self.kv_bytes)} instead of {_size(self.kv_bytes_uncompressed)} "
                    f"({100 * self.kv_ratio:.1f} %)",
                )
            )
        else:
            out.append(("KV cache", "none (use_cache=False)"))
        if self.num_labels is not None:
            layers = f"{self.num_layers} layers"
            rows = f"{self.num_layers * self.length_before} -> {sum(self.rows_per_layer)}"
            share = f"{100 * self.row_share:.1f} %"
            out.append(("training step", f"{rows} rows of a sample in {layers} ({share})"))
            dropped = self.num_labels_dropped
            left_out = f", {dropped} left out because their rows were dropped" if dropped else ""
            out.append(("labels", f"{self.num_labels} learnt{left_out}"))
        out.append(("selection", f"{1000 * self.select_seconds:.1f} ms"))
        return out


def counted(n: int, noun: str) -> str:
    """ "1 image", "2 images"."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _size(num_bytes: int) -> str:
    if num_bytes < 1024:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            break
    return f"{value:.1f} {unit}"
