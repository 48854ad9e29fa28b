"""The cost table: FLOPs and memory by arithmetic and counter, and a reduced scale really run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmarks.vist_cost.arithmetic import PIECES, CostShape, pieces_of
from benchmarks.vist_cost.memory import memory_lines
from foveate.errors import InputError
from foveate.measure.manifest import manifest
from foveate.measure.progress import Progress, no_progress
from foveate.measure.quality import Interval
from foveate.measure.timing import interleaved, ratio_of_medians, wall_seconds
from foveate.vist.eval.result import Curve, EvalResult, Table, json_ready, shown

# Table 1 of the paper: (TFLOPs, GB) by arm and total tokens; its vist has 146 tokens an image.
PAPER = {
    ("raw", 4096): (8.47, 5.46),
    ("cepe", 4096): (8.26, 4.80),
    ("cepe", 8192): (13.27, 7.74),
    ("cepe", 16384): (23.30, 13.59),
    ("vist", 4096): (7.72, 4.59),
    ("vist", 8192): (11.65, 4.94),
    ("vist", 16384): (19.52, 6.75),
}
PAPER_TOKENS_PER_IMAGE = 146.0
# The goal at 16k tokens against CEPE.
GOAL_FLOPS, GOAL_MEMORY = -0.16, -0.50


@dataclass(frozen=True, kw_only=True)
class CostSettings:
    """What to compare.

    Args:
        totals: tokens of text.
        tokens_per_image: each is a row of the Vist arms.
        arms: from arithmetic.PIECES; () is all.
        count: run torch's FLOP counter too.
        measured: totals to run at the reduced scale; () measures nothing.
        new_tokens: decoded in a measured run (the paper's throughput is over 256).
        rounds: interleaved timing rounds.
    """

    totals: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    tokens_per_image: tuple[float, ...] = (PAPER_TOKENS_PER_IMAGE, 187.0)
    arms: tuple[str, ...] = ()
    count: bool = True
    measured: tuple[int, ...] = ()
    new_tokens: int = 32
    rounds: int = 3

    def __post_init__(self) -> None:
        unknown = sorted(set(self.arms) - set(PIECES))
        if unknown:
            raise InputError(f"unknown arms {', '.join(unknown)}; choose from {', '.join(PIECES)}.")
        if not self.totals or not self.tokens_per_image:
            raise InputError("no totals or no tokens per image; give at least one of each.")
        if self.new_tokens < 1 or self.rounds < 1:
            raise InputError(
                f"new_tokens={self.new_tokens}, rounds={self.rounds}; use 1 or more of each."
            )


def evaluate_cost(
    settings: CostSettings,
    *,
    shape: CostShape | None = None,
    count: Callable[[CostShape, str, int], Mapping[str, int]] | None = None,
    probe: Any = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> EvalResult:
    """Cost of every arm at every length.

    Args:
        settings: what to compare.
        shape: of the models; None is the paper's.
        count: the counter (benchmarks.vist_cost.models.count_flops); needed where settings.count.
        probe: what runs the reduced scale: `run(arm, total, split, new_tokens)` and
            `peak(arm, total, split, new_tokens)`; needed where settings.measured.
        seed: of the timing's bootstrap.
    """
    shape = shape if shape is not None else CostShape()
    names = [name for name in PIECES if not settings.arms or name in settings.arms]
    if "cepe" not in names:
        names.insert(0, "cepe")  # everything is compared with it
    rows: list[dict[str, Any]] = []
    for number, total in enumerate(settings.totals):
        for name in names:
            packed = settings.tokens_per_image if name.startswith("vist") else (None,)
            for per_image in packed:
                own = replace(shape, tokens_per_image=per_image) if per_image else shape
                rows.append(_row(own, name, total, per_image, settings, count))
        progress("cost", number + 1, len(settings.totals))
    for row in rows:
        base = next(r for r in rows if (r["arm"], r["total"]) == ("cepe", row["total"]))
        row["flops_vs_cepe"] = row["flops"] / base["flops"] - 1
        row["memory_vs_cepe"] = row["memory_eager"] / base["memory_eager"] - 1
        row["memory_fused_vs_cepe"] = row["memory_fused"] / base["memory_fused"] - 1
    measured = _measure(settings, shape, names, probe, seed, progress) if settings.measured else []
    tables = [table for total in settings.totals for table in _tables(rows, total)]
    if measured:
        tables.append(_measured_table(measured))
    labels = list(dict.fromkeys(_label(row) for row in rows))
    return EvalResult(
        task="cost",
        heading="Cost of far context: FLOPs, memory, throughput",
        notes=_notes(rows, shape),
        rows=tuple(json_ready(row) for row in [*rows, *measured]),
        tables=tuple(tables),
        curves=tuple(
            Curve(
                name=label,
                x=tuple(row["total"] for row in rows if _label(row) == label),
                y=tuple(
                    Interval(value=v, low=v, high=v)
                    for v in (row["flops"] / 1e12 for row in rows if _label(row) == label)
                ),
            )
            for label in labels
        ),
        axes=("tokens of text", "TFLOPs of one pass"),
        log_x=True,
        manifest=manifest(
            seed=seed,
            totals=list(settings.totals),
            tokens_per_image=list(settings.tokens_per_image),
            resampler=shape.resampler.to_dict(),
            measured=list(settings.measured),
            new_tokens=settings.new_tokens,
            rounds=settings.rounds,
        ),
    )


def _row(
    shape: CostShape,
    arm: str,
    total: int,
    per_image: float | None,
    settings: CostSettings,
    count: Callable[[CostShape, str, int], Mapping[str, int]] | None,
) -> dict[str, Any]:
    pieces, entries = pieces_of(shape, arm, total)
    far, raw = shape.split(total) if arm != "raw" else (0, total)
    parts: dict[str, int] = {}
    for piece in pieces:
        parts[piece.name] = parts.get(piece.name, 0) + piece.flops
    counted = None
    if settings.count:
        if count is None:
            raise InputError("settings.count needs a counter; pass count=, or set count=False.")
        counted = sum(count(shape, arm, total).values())
    is_papers = per_image in (None, PAPER_TOKENS_PER_IMAGE)
    paper = PAPER.get((arm, total)) if is_papers else None
    return {
        "total": total,
        "arm": arm,
        "tokens_per_image": per_image,
        "far": far,
        "raw": raw,
        "entries": entries,
        "flops": sum(parts.values()),
        "flops_projections": sum(piece.projections for piece in pieces),
        "flops_counted": counted,
        "flops_parts": parts,
        "memory_eager": memory_lines(shape, arm, total, "eager")["peak"],
        "memory_fused": memory_lines(shape, arm, total, "fused")["peak"],
        "memory_lines": memory_lines(shape, arm, total, "eager"),
        "paper_tflops": paper[0] if paper else None,
        "paper_gb": paper[1] if paper else None,
    }


def _measure(
    settings: CostSettings,
    shape: CostShape,
    names: Sequence[str],
    probe: Any,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Throughput against raw text in one process, peak memory each in its own."""
    if probe is None:
        raise InputError("settings.measured needs something to run; pass probe=.")
    rows = []
    arms = list(dict.fromkeys(["raw", *names]))
    for total in settings.measured:
        split = shape.split(total)

        def seconds(arm: str, total: int, split: tuple[int, int]) -> float:
            return wall_seconds(partial(probe.run, arm, total, split, settings.new_tokens))

        def told(done: int, total: int) -> None:
            progress(f"timing {total} tokens", done, settings.rounds + 1)

        times = interleaved(
            {arm: partial(seconds, arm, total, split) for arm in arms},
            rounds=settings.rounds,
            on_round=partial(told, total=total),
        )
        memory = {arm: probe.peak(arm, total, split, settings.new_tokens) for arm in arms}
        for arm in arms:
            rows.append(
                {
                    "scale": "reduced",
                    "total": total,
                    "arm": arm,
                    "throughput_vs_raw": ratio_of_medians(times["raw"], times[arm], seed=seed),
                    "added_bytes": memory[arm],
                    "memory_vs_cepe": memory[arm] / max(1, memory["cepe"]) - 1,
                    "memory_vs_raw": memory[arm] / max(1, memory["raw"]) - 1,
                }
            )
    return rows


def _label(row: Mapping[str, Any]) -> str:
    per_image = row["tokens_per_image"]
    return f"{row['arm']}, {per_image:g} a strip" if per_image else str(row["arm"])


def _tables(rows: Sequence[Mapping[str, Any]], total: int) -> list[Table]:
    """FLOPs and memory at one length."""
    own = [row for row in rows if row["total"] == total]
    flops = Table(
        title=f"{total:,} tokens: TFLOPs",
        columns=("arm", "entries", "all", "counted", "projections", "vs CEPE", "paper"),
        rows=tuple(
            (
                _label(row),
                f"{row['entries']}",
                f"{row['flops'] / 1e12:.2f}",
                "" if row["flops_counted"] is None else f"{row['flops_counted'] / 1e12:.2f}",
                f"{row['flops_projections'] / 1e12:.2f}",
                f"{row['flops_vs_cepe']:+.0%}",
                "" if row["paper_tflops"] is None else f"{row['paper_tflops']:.2f}",
            )
            for row in own
        ),
    )
    memory = Table(
        title=f"{total:,} tokens: peak memory, GB",
        columns=("arm", "eager", "vs CEPE", "paper", "fused", "vs CEPE"),
        rows=tuple(
            (
                _label(row),
                f"{row['memory_eager'] / 1e9:.2f}",
                f"{row['memory_vs_cepe']:+.0%}",
                "" if row["paper_gb"] is None else f"{row['paper_gb']:.2f}",
                f"{row['memory_fused'] / 1e9:.2f}",
                f"{row['memory_fused_vs_cepe']:+.0%}",
            )
            for row in own
        ),
    )
    return [flops, memory]


def _measured_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    return Table(
        title="really run, at a reduced scale (random weights, float32, fused attention)",
        columns=("tokens", "arm", "throughput vs raw", "MB added", "vs CEPE", "vs raw"),
        rows=tuple(
            (
                f"{row['total']:,}",
                row["arm"],
                shown(row["throughput_vs_raw"], digits=2),
                f"{row['added_bytes'] / 1e6:.0f}",
                f"{row['memory_vs_cepe']:+.0%}",
                f"{row['memory_vs_raw']:+.0%}",
            )
            for row in rows
        ),
    )


def _notes(rows: Sequence[Mapping[str, Any]], shape: CostShape) -> tuple[str, ...]:
    last = max(row["total"] for row in rows)
    verdicts = [
        f"{_label(row)}: FLOPs {row['flops_vs_cepe']:+.0%}, memory {row['memory_vs_cepe']:+.0%} "
        f"with eager attention and {row['memory_fused_vs_cepe']:+.0%} with a fused kernel"
        for row in rows
        if row["total"] == last and row["arm"].startswith("vist")
    ]
    return (
        "One forward pass over one document: far text through its encoder, raw text (half, at most "
        f"{shape.window:,} tokens) through the language model with its output head at every "
        "position. All: matrix products by formula; counted: the same by torch's counter on "
        "the meta device; projections: without the products of queries, keys and values, which the "
        "paper's 8.47 TFLOPs of TinyLlama at 4,096 tokens leave out. GB: peak memory by formula in "
        "half precision, lines in the JSON; eager holds all attention scores of a layer, fused "
        "none.",
        f"At {last:,} tokens against CEPE, where the paper reports -16 % and -50 %: "
        + "; ".join(verdicts)
        + ".",
        "A vision tower of the size of CEPE's text encoder sees 256 patches where that sees the "
        "146 to 187 tokens they show, so that with the stated components its FLOPs cannot come out "
        "below CEPE's by the encoder alone; the paper's own figure for CEPE is larger than the sum "
        "of its stated parts. vist-reader has the small text-reading encoder instead. "
        "cepe-resampled gives CEPE the same resampler: what of the saving the pictures have no "
        "part in.",
    )
