"""Right or wrong in every arm: rows with intervals, paired with no context and with shuffled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.measure.quality import accuracy, macro_mean, paired_difference
from foveate.vist.eval.arms import shuffled_name
from foveate.vist.eval.result import Table, shown_percent, shown_ratio

COLUMNS = (
    "arm", "entries", "ratio", "correct %", "minus none", "minus raw", "minus shuffled",
)  # fmt: skip


def accuracy_rows(
    correct: Mapping[str, Sequence[bool]],
    entries: Mapping[str, Sequence[int]],
    tokens: Sequence[int],
    clusters: Sequence[str],
    *,
    seed: int,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One row an arm.

    Args:
        correct: arm -> one entry an item.
        entries: arm -> far entries that the LLM reads, one an item.
        tokens: far tokens, one an item.
        clusters: items of one cluster are not independent.
        seed: of the bootstrap.
        facts: what all rows say too.
    """
    rows = []
    for name, hits in correct.items():
        shuffled = correct.get(shuffled_name(name))
        raw = correct.get("raw")
        rows.append(
            {
                **facts,
                "arm": name,
                "items": len(hits),
                "tokens": float(np.mean(tokens)),
                "entries": float(np.mean(entries[name])),
                "accuracy": accuracy(hits, clusters, seed=seed),
                "minus_none": paired_difference(hits, correct["none"], clusters, seed=seed)
                if name != "none"
                else None,
                "minus_raw": paired_difference(hits, raw, clusters, seed=seed)
                if raw is not None and name != "raw"
                else None,
                "minus_shuffled": paired_difference(hits, shuffled, clusters, seed=seed)
                if shuffled is not None
                else None,
            }
        )
    return rows


def average_rows(
    groups: Sequence[tuple[Mapping[str, Sequence[bool]], Sequence[str]]],
    rows: Sequence[Mapping[str, Any]],
    *,
    seed: int,
    facts: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One row an arm that all groups have, averaged over groups of equal weight.

    Args:
        groups: (arm -> correct, clusters) of each.
        rows: of all groups, for the means of tokens and entries.
    """
    shared = [name for name in groups[0][0] if all(name in hits for hits, _ in groups)]

    def mean(name: str, minus: str | None = None) -> Any:
        if minus is not None and (minus == name or minus not in shared):
            return None
        sides = [
            (
                np.asarray(hits[name], dtype=float)
                - (np.asarray(hits[minus], dtype=float) if minus else 0.0),
                clusters,
            )
            for hits, clusters in groups
        ]
        return macro_mean([(v.tolist(), c) for v, c in sides], seed=seed)

    return [
        {
            **facts,
            "arm": name,
            "items": sum(len(hits[name]) for hits, _ in groups),
            "tokens": float(np.mean([row["tokens"] for row in rows if row["arm"] == name])),
            "entries": float(np.mean([row["entries"] for row in rows if row["arm"] == name])),
            "accuracy": mean(name),
            "minus_none": mean(name, "none"),
            "minus_raw": mean(name, "raw"),
            "minus_shuffled": mean(name, shuffled_name(name)),
        }
        for name in shared
    ]


def accuracy_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as people read them."""
    return Table(
        title=title,
        columns=COLUMNS,
        rows=tuple(
            (
                str(row["arm"]),
                f"{row['entries']:.0f}",
                shown_ratio(row["tokens"], row["entries"]),
                shown_percent(row["accuracy"]),
                shown_percent(row["minus_none"], signed=True),
                shown_percent(row["minus_raw"], signed=True),
                shown_percent(row["minus_shuffled"], signed=True),
            )
            for row in rows
        ),
    )
