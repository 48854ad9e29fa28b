"""Budgets by information against fixed ones, on a mix of dense and sparse reading pages.

`python -m benchmarks.keep_information` writes docs/results/keep-information.json and
keep-information.md. How information is told was chosen on pages of the dev split (first table); the
held-out pages were then answered once.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

import foveate
from benchmarks.given_counts import GIVEN, GivenDivPrune
from benchmarks.information_definitions import DEFINITIONS, counts_at_mean
from benchmarks.mixed_pages import Asked
from benchmarks.results import write_results
from foveate.carve.method import Method
from foveate.carve.methods import DivPrune
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.measure.manifest import manifest
from foveate.measure.quality import Interval, accuracy, paired_difference
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.reading_page import PITCH, SIZE

SHARES = (0.9, 0.95, 0.98)
MEAN_ON_DEV = 49  # a quarter of the 196 tokens of a page
METHODS: dict[str, dict[str, Any]] = {
    "divprune": {"prune_layer": 0},
    "tokencarve": {"prune_layer": 2},
    "random": {"prune_layer": 0},
}


@dataclass(frozen=True, kw_only=True)
class Seen(DivPrune):
    """DivPrune that remembers what the language model would be given, [N, D] of each image."""

    held: ClassVar[list[torch.Tensor]] = []

    def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
        self.held.extend(visual.hidden.double())
        return super().plan(visual, keep)


def choose(vlm: VisionLanguageModel, num_pages: int, progress: Progress) -> list[dict[str, Any]]:
    """Every definition at the same mean tokens, on dev pages, with DivPrune."""
    asked = Asked.of("dev", num_pages)
    Seen.held.clear()
    asked.answer(vlm, {"": Seen(keep_tokens=1)}, progress)
    states = torch.stack(Seen.held)
    inked = [asked.inked[page] for page in asked.pages]
    told = {"every page the same": (math.nan, [MEAN_ON_DEV] * len(inked))}
    for name, define in DEFINITIONS.items():
        told[name] = counts_at_mean(define(states), MEAN_ON_DEV)
    arms: dict[str, Method | None] = {
        name: GivenDivPrune(keep_ratio=1.0, counts=tuple(counts))
        for name, (_, counts) in told.items()
    }
    found = asked.answer(vlm, arms, progress)
    reference = found["every page the same"][0]
    return [
        {
            "definition": name,
            "share": None if math.isnan(share) else share,
            "rank_correlation_with_ink": _rank_correlation(counts, inked),
            **_kinds(asked, found[name][0], counts),
            "difference": _difference(found[name][0], reference, asked),
        }
        for name, (share, counts) in told.items()
    ]


def measure(
    vlm: VisionLanguageModel, num_pages: int, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(a row for each method and share, the full run) on held-out pages."""
    asked = Asked.of("test", num_pages)
    first: dict[str, Method | None] = {"full": None} | {
        f"{name} {share}": foveate.method(name, keep_information=share, **settings)
        for name, settings in METHODS.items()
        for share in SHARES
    }
    by_information = asked.answer(vlm, first, progress)
    second: dict[str, Method | None] = {}
    for name, settings in METHODS.items():
        for share in SHARES:
            counts = by_information[f"{name} {share}"][1]
            # Rounded up: what is rounded is to the good of the fixed budget.
            fixed = math.ceil(sum(counts) / len(counts))
            second[f"{name} {share} fixed"] = foveate.method(name, keep_tokens=fixed, **settings)
            if name in GIVEN:
                second[f"{name} {share} shuffled"] = GIVEN[name](
                    keep_ratio=1.0, counts=_of_other_pages(counts, asked.pages), **settings
                )
    others = asked.answer(vlm, second, progress)
    rows = []
    for arm in list(first)[1:]:
        right, counts = by_information[arm]
        name, share = arm.split()
        row = {"method": name, "share": float(share), "information": _kinds(asked, right, counts)}
        for control in ("fixed", "shuffled"):
            if f"{arm} {control}" not in others:
                continue
            own, kept = others[f"{arm} {control}"]
            row[control] = _kinds(asked, own, kept)
            row[f"minus_{control}"] = _difference(right, own, asked)
        rows.append(row)
    return rows, _kinds(asked, by_information["full"][0], [SIZE**2 // PITCH**2] * len(asked.pages))


def _of_other_pages(counts: Sequence[int], pages: Sequence[int]) -> tuple[int, ...]:
    """Each page keeps what another one would have."""
    of_page = dict(zip(pages, counts, strict=True))
    order = list(of_page)
    random.Random(0).shuffle(order)
    other = dict(zip(order, order[1:] + order[:1], strict=True))
    return tuple(of_page[other[page]] for page in pages)


def _rank_correlation(a: Sequence[int], b: Sequence[int]) -> float | None:
    """Spearman's; None where one of them is the same everywhere."""

    def ranks(values: Sequence[int]) -> np.ndarray:
        array = np.asarray(values)
        # Ties have their mean rank.
        return (array[:, None] > array).sum(1) + ((array[:, None] == array).sum(1) - 1) / 2

    if len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def _kinds(asked: Asked, right: Sequence[bool], counts: Sequence[int]) -> dict[str, Any]:
    """Accuracy with its interval and mean tokens, of all and of dense and sparse pages."""
    found: dict[str, Any] = {}
    for kind, wanted in (("all", (0, 1)), ("dense", (0,)), ("sparse", (1,))):
        at = [i for i, page in enumerate(asked.pages) if page % 2 in wanted]
        found[kind] = {
            "accuracy": accuracy([right[i] for i in at], [asked.images[i] for i in at]).to_dict(),
            "mean_tokens": sum(counts[i] for i in at) / len(at),
            "questions": len(at),
        }
    return found


def _difference(right: Sequence[bool], other: Sequence[bool], asked: Asked) -> dict[str, float]:
    return paired_difference(right, other, asked.images).to_dict()


def _cell(interval: dict[str, float], sign: str = "") -> str:
    found = Interval(**interval)
    value, low, high = (100 * x for x in (found.value, found.low, found.high))
    return f"{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def _pair(kinds: dict[str, Any]) -> str:
    """ "82.1 (61) / 96.0 (36)": dense and sparse, tokens in brackets."""
    return " / ".join(
        f"{100 * kinds[k]['accuracy']['value']:.1f} ({kinds[k]['mean_tokens']:.0f})"
        for k in ("dense", "sparse")
    )


def _table(chosen: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## What to call information: dev pages",
        "",
        f"DivPrune before the first layer, {MEAN_ON_DEV} of 196 tokens a page on average whatever "
        "the definition; k tokens hold the k largest of what it lists. Dense and sparse: accuracy "
        "and mean tokens.",
        "",
        "| definition | share | rank correlation with inked tokens | dense / sparse | accuracy "
        "minus the same for every page |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in chosen:
        share, rho = row["share"], row["rank_correlation_with_ink"]
        lines.append(
            f"| {row['definition']} | {'' if share is None else f'{share:.4f}'} | "
            f"{'' if rho is None else f'{rho:.2f}'} | {_pair(row)} | "
            f"{_cell(row['difference'], '+')} |"
        )
    lines += [
        "",
        "## Held-out pages",
        "",
        "| method | keep_information | mean tokens | accuracy | fixed | minus fixed | minus "
        "shuffled | dense / sparse | fixed: dense / sparse |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        own, fixed = row["information"], row["fixed"]
        shuffled = _cell(row["minus_shuffled"], "+") if "shuffled" in row else ""
        lines.append(
            f"| {row['method']} | {row['share']} | {own['all']['mean_tokens']:.1f} | "
            f"{_cell(own['all']['accuracy'])} | {_cell(fixed['all']['accuracy'])} | "
            f"{_cell(row['minus_fixed'], '+')} | {shuffled} | "
            f"{_pair(own)} | {_pair(fixed)} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pages", type=int, default=160, help="held-out, half of them sparse")
    parser.add_argument("--dev-pages", type=int, default=80)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vlm = foveate.load_vlm("embedded", device="cpu")
    with Progress(console=Console(stderr=True)) as progress:
        chosen = choose(vlm, arguments.dev_pages, progress)
        rows, full = measure(vlm, arguments.pages, progress)
    whole = full["all"]
    write_results(
        "keep-information",
        "Budgets by information against fixed ones",
        f"{whole['questions']} held-out questions on {arguments.pages} reading pages, half of them "
        "dense and half with 1 to 8 cells of ink, embedded model, exact match in per cent, 95 % "
        f"intervals over pages, paired for differences; all 196 tokens: "
        f"{_cell(whole['accuracy'])}. Fixed: the same count for every page, the mean rounded up. "
        "Shuffled: each page gets the count of another. DivPrune and random act before the first "
        "layer, TokenCarve before layer 2; each tells information from the states it is given.",
        _table(chosen, rows),
        {
            "definitions": chosen,
            "rows": rows,
            "full": full,
            "manifest": manifest(seed=0, pages=arguments.pages, dev_pages=arguments.dev_pages),
        },
    )


if __name__ == "__main__":
    main()
