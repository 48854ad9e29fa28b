"""What a comparison prints and writes: the table, a page, JSON, single answers, the plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from foveate.cli.console import results_in, titled_table
from foveate.files import write_text

if TYPE_CHECKING:
    from foveate.carve.compare.comparison import Comparison, Row
    from foveate.measure.quality import Interval

DONE = "compare.json"


def comparison_table(result: Comparison) -> Table:
    """The rows as people read them; every ratio is against the full run of the same process."""
    facts = result.manifest
    against = facts.get("against")
    table = titled_table(
        "{data}: {num_questions} questions on {num_images} images".format(**facts),
        caption="full: no compression; blind: no image, what can be guessed; [..]: 95 % interval\n"
        "prefill (measured), FLOPs (arithmetic) and KV cache: ratios to the full run"
        + (f"\nref.: {against}" if against and _reference(against) != against else ""),
        caption_justify="left",
    )
    # Fits 80 columns with the widest numbers: only long descriptions are folded.
    table.add_column("method", overflow="fold")
    gap = f"minus {_reference(against)}" if against else "minus full"
    for name in ("kept", "accuracy %", gap, "prefill", "FLOPs", "KV"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in result.rows:
        if previous is not None and row.method != previous:
            table.add_row()
        previous = row.method
        cells = _cells(row)
        names = ("method", "kept", "accuracy %", "against" if against else "minus full")
        table.add_row(*(cells[name] for name in (*names, "prefill", "FLOPs", "KV")))
    return table


def _reference(name: str) -> str:
    """Short enough for the head of a column."""
    return name if len(name) <= 10 else "ref."


def comparison_markdown(result: Comparison) -> str:
    """All that a row holds as a Markdown page, with the manifest below."""
    facts = result.manifest
    heads = {name: name for name in _cells(result.rows[0])}
    if facts.get("against"):
        heads["against"] = f"minus {facts['against']}"
    else:
        del heads["against"]
    lines = [
        "# {data}: {num_questions} questions on {num_images} images".format(**facts),
        "",
        "full: no compression; blind: no image, what can be guessed; brackets: 95 % interval, "
        "bootstrapped over images, paired where two runs are compared. kept: visual tokens of an "
        "image from the first short layer on; mean: over all decoder layers. prefill and first "
        "token (measured), FLOPs (arithmetic, of the decoder) and KV cache are ratios to the full "
        "run of the same process; selection is its share of the time until the first token.",
        "",
        f"| {' | '.join(heads.values())} |",
        f"|---|{'---:|' * (len(heads) - 1)}",
    ]
    for row in result.rows:
        cells = _cells(row)
        lines.append(f"| {' | '.join(cells[name] for name in heads)} |".replace("\\[", "["))
    lines += [
        "",
        "![accuracy against tokens, FLOPs and time](compare.png)",
        "",
        "```json",
        json.dumps(facts, indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _cells(row: Row) -> dict[str, str]:
    """Column -> text."""
    time = row.prefill
    return {
        "method": row.method,
        "kept": f"{row.kept_tokens:.0f} ({100 * row.kept_share:.3g}%)",
        "mean": f"{row.average_tokens:.0f}",
        "accuracy %": _interval(row.accuracy),
        "minus full": _interval(row.difference, signed=True),
        "against": _interval(row.against, signed=True),
        "prefill": f"{time.decoder.value:.2f}" if time else "",
        "first token": f"{time.first_token.value:.2f}" if time else "",
        "selection": f"{100 * time.selection:.1f} %" if time else "",
        "FLOPs": f"{row.flops_ratio:.2f}" if row.flops_ratio is not None else "",
        "KV": f"{row.kv_ratio:.2f}" if row.kv_ratio is not None else "",
    }


def _interval(interval: Interval | None, *, signed: bool = False) -> str:
    if interval is None:
        return ""
    sign = "+" if signed else ""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return rf"{value:{sign}.1f} \[{low:{sign}.0f}, {high:{sign}.0f}]"


def write_comparison(result: Comparison, folder: Path, *, answers: bool = False) -> list[Path]:
    """compare.md, answers.jsonl, compare.png and, last, compare.json in `folder`.

    Args:
        answers: write what every arm said, not only who was right.
    """
    from foveate.draw.accuracy_plot import Point, draw_accuracy

    def point(row: Row) -> Point:
        return Point(
            method=row.method,
            kept_share=row.kept_share,
            flops=row.flops_ratio,
            prefill=row.prefill.decoder.value if row.prefill else None,
            **row.accuracy.to_dict(),
        )

    files = [folder / name for name in ("compare.md", "answers.jsonl", "compare.png", DONE)]
    facts = result.manifest
    records = result.answers(in_full=answers)
    with results_in(folder):
        write_text(files[0], comparison_markdown(result))
        write_text(files[1], "".join(json.dumps(record) + "\n" for record in records))
        draw_accuracy(
            [point(row) for row in result.rows[1:-1]],
            full=point(result.rows[0]),
            blind=point(result.rows[-1]),
            title=f"{facts['model']} on {facts['data']}, {facts['num_questions']} questions",
            path=files[2],
        )
        write_text(files[3], json.dumps(result.to_dict(), indent=2) + "\n")
    return files
