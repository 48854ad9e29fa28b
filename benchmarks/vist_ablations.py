"""What each part of Vist's training is worth: one short training a row, all else equal.

Every row starts fresh from the same seed and learns for the same number of steps on the same
windows; then the loss of held-out documents is measured as `foveate eval vist perplexity
--protocol near` does. Rows that are there already are kept, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import FOLDER
from foveate.measure.manifest import manifest
from foveate.tasks.documents import Document, load_documents
from foveate.vist.config import FusionConfig
from foveate.vist.eval.arms import Subjects
from foveate.vist.eval.perplexity import evaluate_perplexity
from foveate.vist.eval.perplexity_targets import PerplexitySettings
from foveate.vist.eval.result import shown
from foveate.vist.eval.subjects import RawSubject, VistSubject
from foveate.vist.train.build import build_source, build_vist, tiny_recipe, tiny_vist
from foveate.vist.train.loop import Trainer, make_accelerator
from foveate.vist.train.pve import PveConfig
from foveate.vist.train.recipe import Recipe, load_recipe
from foveate.vist.train.recipe_tables import StageConfig

RECIPE = "vist-smollm2-cpu"
BASE = {"distil": 1.0, "next_token": 0.5, "pve": 0.1}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training."""

    objectives: Mapping[str, float]
    form: str = "kv_prefix"
    mask: str = "frequency"
    num_latents: int = 64


ROWS = {
    "all": Row(objectives=BASE),
    "no distillation": Row(objectives={"next_token": 0.5, "pve": 0.1}),
    "no PVE": Row(objectives={"distil": 1.0, "next_token": 0.5}),
    "PVE, no masking": Row(objectives=BASE, mask="none"),
    "PVE, random masking": Row(objectives=BASE, mask="random"),
    "cross-attention (no distillation)": Row(
        objectives={"next_token": 0.5, "pve": 0.1}, form="cross_attention"
    ),
    "32 latents": Row(objectives=BASE, num_latents=32),
    "128 latents": Row(objectives=BASE, num_latents=128),
}


def recipe_of(row: Row, base: Recipe, steps: int, lr: float) -> Recipe:
    """The recipe of a row."""
    fusion = base.vist.fusion
    if row.form == "cross_attention":
        fusion = FusionConfig(form="cross_attention")
    wanted: Any = base.vist.resampler
    resampler = dataclasses.replace(
        wanted,
        num_latents=row.num_latents,
        # Fewer latents, larger groups.
        group_tokens=round(wanted.group_tokens * wanted.num_latents / row.num_latents),
    )
    stage = StageConfig(
        name="ablation",
        steps=steps,
        lr=lr,
        objectives=row.objectives,
    )
    return dataclasses.replace(
        base,
        vist=dataclasses.replace(base.vist, resampler=resampler, fusion=fusion),
        objectives=dataclasses.replace(
            base.objectives,
            pve=PveConfig(mask=row.mask),  # type: ignore[arg-type]
        ),
        stages=(stage,),
    )


def measure(
    wanted: Recipe,
    dry_run: bool,
    folder: Path,
    documents: Sequence[Document],
    settings: PerplexitySettings,
) -> dict[str, Any]:
    """Train a row (or find it trained) and score it; `dry_run` is on tiny random models."""
    accelerator = make_accelerator(wanted, cpu=True)
    if dry_run:
        from foveate.vist.train.build import MadeUpText

        source: Any = MadeUpText()
        vist = tiny_vist(wanted, source)
    else:
        source, vist = build_source(wanted), build_vist(wanted)
    trainer = Trainer(wanted, vist, source, folder, accelerator=accelerator)
    records = trainer.run(resume=True)
    vist.parts.eval()
    subjects = Subjects(raw=RawSubject(vist.model, vist.tokenizer), vist=VistSubject(vist))
    result = evaluate_perplexity(documents, subjects, settings)
    together = result.rows[-1]["domain"]
    found = {row["arm"]: row for row in result.rows if row["domain"] == together}
    return {
        "last_losses": {
            name: sum(r[name] for r in records[-10:]) / len(records[-10:])
            for name in wanted.stages[0].objectives
        },
        "entries": found["vist"]["entries"],
        "tokens": found["vist"]["tokens"],
        "documents": found["vist"]["documents"],
        "raw_gain": found["raw"]["gain"],
        "gain": found["vist"]["gain"],
        "minus_shuffled": found["vist"]["minus_shuffled"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=[], help="training documents")
    parser.add_argument("--domain", nargs="+", default=[], help="NAME=PATH of held-out documents")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, default=30, help="targets a domain")
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE of the recipe")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--output", type=Path, default=Path("out/vist-ablations"))
    parser.add_argument("--dry-run", action="store_true", help="tiny random models")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.dry_run and not (options.data and options.domain):
        parser.error("give --data and --domain (or --dry-run)")
    named = [(text.split("=", 1)[0], Path(text.split("=", 1)[1])) for text in options.domain]
    documents = load_documents([], domains=named)
    base = load_recipe(RECIPE, [f"data.files={json.dumps(options.data or ['-'])}", *options.set])
    settings = PerplexitySettings(
        arms=("none", "raw", "vist", "vist-shuffled"), windows=1, limit=options.limit
    )
    if options.dry_run:
        base = tiny_recipe(base)
        settings = dataclasses.replace(settings, contexts=(40,), score=8, limit=2)
    for name in options.rows:
        folder = options.output / name.replace(" ", "-").replace(",", "").strip("()")
        done = folder / "row.json"
        if done.exists():
            continue
        wanted = recipe_of(ROWS[name], base, options.steps, options.lr)
        found = measure(wanted, options.dry_run, folder, documents, settings)
        done.write_text(json.dumps({"row": name, **found}, indent=2) + "\n")
    if not options.dry_run:
        write(options)


def write(options: argparse.Namespace) -> None:
    """The table of all rows that are there."""
    rows = [
        json.loads(file.read_text())
        for file in sorted(options.output.glob("*/row.json"))
    ]  # fmt: skip
    rows.sort(key=lambda row: list(ROWS).index(row["row"]))
    from foveate.measure.quality import Interval

    def cell(found: Mapping[str, float]) -> str:
        return shown(Interval(**found), signed=True)

    table = ["| row | tokens -> entries | gain over no context | true minus shuffled |",
             "|---|---|---|---|"]  # fmt: skip
    table += [
        f"| {row['row']} | {row['tokens']:.0f} -> {row['entries']:.0f} | {cell(row['gain'])} "
        f"| {cell(row['minus_shuffled'])} |"
        for row in rows
    ]
    facts = manifest(seed=0)
    text = [
        "# Ablations of Vist's training", "",
        f"Each row: {options.steps} steps of 2 windows from the same "
        "fresh start; nats per token on held-out documents, protocol near, "
        f"95 % intervals over {rows[0]['documents']} documents. Raw context gains "
        f"{cell(rows[0]['raw_gain'])}.", "",
        *table, "",
        f"Made by `python -m benchmarks.vist_ablations --steps {options.steps} --lr {options.lr} "
        f"--limit {options.limit}` with the recipe's data"
        + (f" and `--set {' '.join(options.set)}`." if options.set else "."), "",
        "```json", json.dumps(facts, indent=2), "```", "",
    ]  # fmt: skip
    (FOLDER / "vist-ablations.md").write_text("\n".join(text))
    (FOLDER / "vist-ablations.json").write_text(
        json.dumps({"manifest": facts, "rows": rows}, indent=2) + "\n"
    )
    print("\n".join(table))


if __name__ == "__main__":
    main()
