"""Right or wrong in every arm: rows with intervals, paired with no context and with shuffled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.measure.quality import accuracy, macro_mean, macro_ratio, paired_difference
from foveate.vist.eval.arms import shuffled_name
from foveate.vist.eval.result import Table, shown_percent, shown_ratio

COLUMNS = (
    "arm", "entries", "ratio", "correct %", "minus none", "minus raw", "minus shuffled",
)  # fmt: skip
SHARES = ("% of raw's gain", "% of raw's minus shuffled")


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

    Each row also says what share it has of raw's gain over none, and of what raw loses with its
    control ("raw-shuffled"); None where raw gains or loses nothing for certain.
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

    def share(name: str, minus: str, raw_minus: str) -> Any:
        """Of raw's gain, what the arm has of its own."""
        if name == minus or not {name, minus, "raw", raw_minus} <= set(shared):
            return None
        return macro_ratio(
            [
                (
                    np.subtract(hits[name], hits[minus], dtype=float).tolist(),
                    np.subtract(hits["raw"], hits[raw_minus], dtype=float).tolist(),
                    clusters,
                )
                for hits, clusters in groups
            ],
            seed=seed,
        )

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
            "gain_share": share(name, "none", "none"),
            "contrast_share": share(name, shuffled_name(name), "raw-shuffled"),
        }
        for name in shared
    ]


def accuracy_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows as people read them; those of several groups with shares of raw's gains."""
    has_shares = any("gain_share" in row for row in rows)
    return Table(
        title=title,
        columns=COLUMNS + (SHARES if has_shares else ()),
        rows=tuple(
            (
                str(row["arm"]),
                f"{row['entries']:.0f}",
                shown_ratio(row["tokens"], row["entries"]),
                shown_percent(row["accuracy"]),
                *(
                    shown_percent(row[f"minus_{other}"], signed=True)
                    for other in ("none", "raw", "shuffled")
                ),
                *(
                    shown_percent(row[share], digits=0)
                    for share in ("gain_share", "contrast_share")
                    if has_shares
                ),
            )
            for row in rows
        ),
    )
