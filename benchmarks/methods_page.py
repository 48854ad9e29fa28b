"""Write what the comparisons show into docs/methods.md and README.md, from docs/results alone.

`python -m benchmarks.methods_page` fills the part of each page between its two markers, and the
table of how each method stands to its authors' code, from the classes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foveate
from foveate.measure.quality import Interval, paired_difference

ROOT = Path(__file__).resolve().parents[1]
RESULTS = {"reading": "compare-reading", "easy-VQA": "compare-easy-vqa"}
BEGIN, END = "<!-- made by benchmarks.methods_page -->", "<!-- end -->"
FIDELITY = ("<!-- fidelity: made by benchmarks.methods_page -->", "<!-- end of fidelity -->")
OURS, OURS_BEFORE = "foveacarve", "foveacarve(prune_layer=0)"
SHOWN_AT = "25%"  # the budget whose costs the tables show
# The README's: those that cut inside the language model, then those that cut before it.
SHORT_METHODS = (
    *(OURS, "two-stage(first=mmtok)", "two-stage(first=divprune)", "tokencarve", "dart"),
    *("pyramiddrop", "fastv", "random", "uniform"),
    *(OURS_BEFORE, "two-stage(first=mmtok,prune_layer=0)", "mmtok", "scope", "vscan", "divprune"),
    *("tokencarve(where=encoder)", "visionzip", "random(prune_layer=0)"),
)
SHORT_BUDGETS = ("50%", "25%", "12.5%", "6%")


@dataclass(frozen=True)
class Comparison:
    """One compare.json and which arm was right on which question."""

    rows: dict[tuple[str, str], dict[str, Any]]
    correct: dict[str, list[bool]]
    images: list[str]
    manifest: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Comparison:
        data = json.loads((folder / "compare.json").read_text())
        lines = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        arms, records = lines[0]["arms"], lines[1:]
        return cls(
            rows={(row["method"], row["budget"]): row for row in data["rows"]},
            correct={a: [r["correct"][i] == "1" for r in records] for i, a in enumerate(arms)},
            images=[record["image"] for record in records],
            manifest=data["manifest"],
        )

    @property
    def budgets(self) -> list[str]:
        """From the largest to the smallest."""
        return list(dict.fromkeys(budget for _, budget in self.rows if budget))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for method, budget in self.rows if budget))

    def lead(self, method: str, budget: str) -> Interval | None:
        """FoveaCarve minus `method`, paired: the dearer form of it that spends no more.

        None if both spend more. Less than one token of an image, in the mean over the layers, is
        rounding.
        """

        def spent(name: str) -> float:
            return float(self.rows[name, budget]["average_tokens"])

        cheaper = [name for name in (OURS_BEFORE, OURS) if spent(name) < spent(method) + 1]
        if not cheaper:
            return None
        return paired_difference(
            self.correct[f"{cheaper[-1]} {budget}"], self.correct[f"{method} {budget}"], self.images
        )


def section(found: dict[str, Comparison]) -> str:
    """The part of the page between the markers."""
    parts = []
    for name, comparison in found.items():
        facts = comparison.manifest
        parts += [
            f"### {name}",
            "",
            f"{facts['num_questions']} held-out questions on {facts['num_images']} images, "
            "embedded model, exact match in per cent. Everything kept: "
            f"{_percent(comparison, 'full')}; "
            f"no image: {_percent(comparison, 'blind')}. The last three columns are costs at "
            f"{SHOWN_AT}. [All columns, intervals, plot, manifest]"
            f"(results/{RESULTS[name]}/compare.md).",
            "",
            *_accuracy_table(comparison),
            "",
            "FoveaCarve minus each method, paired, 95 % intervals over images. A method of the "
            f"cost of a cut at layer 2 meets `{OURS}`, a cheaper one `{OURS_BEFORE}`: FoveaCarve "
            "never spends more token-layers than what it is compared with.",
            "",
            *_lead_table(comparison),
            "",
        ]
    return "\n".join(parts)


def _percent(comparison: Comparison, method: str) -> str:
    return f"{100 * comparison.rows[method, '']['accuracy']['value']:.1f}"


def _accuracy_table(comparison: Comparison) -> list[str]:
    budgets = comparison.budgets
    ranked = sorted(
        comparison.methods,
        key=lambda m: -sum(comparison.rows[m, b]["accuracy"]["value"] for b in budgets),
    )
    lines = [
        f"| method | {' | '.join(budgets)} | mean tokens | FLOPs | KV |",
        f"|---|{'---:|' * (len(budgets) + 3)}",
    ]
    for method in ranked:
        cells = [f"{100 * comparison.rows[method, b]['accuracy']['value']:.1f}" for b in budgets]
        row = comparison.rows[method, SHOWN_AT]
        costs = [
            f"{row['average_tokens']:.0f}",
            f"{row['flops_ratio']:.2f}",
            f"{row['kv_ratio']:.2f}",
        ]
        lines.append(f"| {method} | {' | '.join([*cells, *costs])} |")
    return lines


def _lead_table(comparison: Comparison) -> list[str]:
    budgets = comparison.budgets
    lines = [f"| method | {' | '.join(budgets)} |", f"|---|{'---:|' * len(budgets)}"]
    for method in comparison.methods:
        if method in (OURS, OURS_BEFORE):
            continue
        cells = []
        for budget in budgets:
            lead = comparison.lead(method, budget)
            if lead is None:
                cells.append("")
                continue
            value, low, high = (100 * x for x in (lead.value, lead.low, lead.high))
            cells.append(f"{value:+.1f} [{low:+.1f}, {high:+.1f}]")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def short_table(comparison: Comparison) -> str:
    """The README's table: some methods and budgets, with intervals."""

    def cell(method: str, budget: str) -> str:
        found = comparison.rows[method, budget]["accuracy"]
        value, low, high = (100 * found[key] for key in ("value", "low", "high"))
        return f"{value:.1f} ({low:.0f}-{high:.0f})"

    lines = [
        f"| | mean tokens at {SHOWN_AT} | {' | '.join(SHORT_BUDGETS)} |",
        f"|---|---:|{'---:|' * len(SHORT_BUDGETS)}",
        f"| everything kept | {comparison.rows['full', '']['average_tokens']:.0f} | "
        f"{' | '.join([cell('full', '')] * len(SHORT_BUDGETS))} |",
    ]
    for method in SHORT_METHODS:
        tokens = comparison.rows[method, SHOWN_AT]["average_tokens"]
        cells = [cell(method, budget) for budget in SHORT_BUDGETS]
        lines.append(f"| {method} | {tokens:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def fidelity_table() -> str:
    """Every published method, and how it stands to its authors' code."""
    lines = ["| method | fidelity |", "|---|---|"]
    for name, cls in sorted(foveate.METHODS.items()):
        if cls.fidelity:
            lines.append(f"| `{name}` | {cls.fidelity} |")
    return "\n".join(lines) + "\n"


def with_section(page: str, text: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """The page with the part between the markers replaced."""
    begin, end = markers
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}{end}{after}"


def main() -> None:
    found = {
        name: Comparison.load(ROOT / "docs" / "results" / folder)
        for name, folder in RESULTS.items()
    }
    for name, text in (
        ("docs/methods.md", section(found)),
        ("README.md", short_table(found["reading"])),
    ):
        page = ROOT / name
        page.write_text(with_section(page.read_text(), text))
    page = ROOT / "docs" / "methods.md"
    page.write_text(with_section(page.read_text(), fidelity_table(), FIDELITY))


if __name__ == "__main__":
    main()
