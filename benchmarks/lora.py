"""What a LoRA trained under compression is worth, on held-out questions, with its controls.

`python -m benchmarks.lora --adapter carved=run/carved --adapter plain=run/plain` writes
docs/results/lora.json and lora.md. An adapter is a folder of `python -m training.lora`, finished or
not: the last checkpoint in it is scored.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from rich.console import Console
from rich.progress import Progress

import foveate
from benchmarks.results import write_results
from foveate.carve.engine.run import Run
from foveate.carve.spec import parse_method
from foveate.core.budget import parse_budget
from foveate.measure.manifest import manifest
from foveate.measure.quality import accuracy, exact_match, paired_difference
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.question import Question
from foveate.tasks.reading import reading_questions
from training.lora import METHOD

BATCH = 50
BASE, FULL = "no LoRA", "uncompressed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--method", action="append", default=[], help="as trained, and others")
    parser.add_argument("--keep", default="12.5%")
    parser.add_argument(
        "--pages", type=int, default=500, help="of the test split, 4 questions each"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    folders = {BASE: None, **{n: Path(f) for n, f in (a.split("=", 1) for a in arguments.adapter)}}
    methods = [None, *(arguments.method or [METHOD, METHOD.replace("full", "compact")])]
    questions = list(reading_questions(split="test", num_pages=arguments.pages))
    said: dict[tuple[str, str], dict[str, Any]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        total = -(-len(questions) // BATCH) * len(folders) * len(methods)
        task = progress.add_task("asking", total=total)
        for name, folder in folders.items():
            vlm = adapted(folder)
            for method in methods:
                said[name, method or FULL] = answer(
                    vlm, method, arguments.keep, questions, lambda: progress.advance(task)
                )
    rows = rows_of(said, [question.image_id for question in questions])
    trained = {name: facts_of(folder) for name, folder in folders.items() if folder is not None}
    write_results(
        "lora",
        "A LoRA trained under compression",
        f"{len(questions)} held-out questions on reading pages, embedded model, {arguments.keep} "
        "of the visual tokens kept, exact match in per cent, 95 % intervals over pages; in "
        f"parentheses the difference to the row `{BASE}` under the same method, paired. rows: what "
        "the decoder layers computed in a training step, as a share of the uncompressed. "
        + " ".join(sentence(name, facts) for name, facts in trained.items()),
        table_of(rows),
        {
            "rows": rows,
            "keep": arguments.keep,
            "trained": trained,
            "manifest": manifest(seed=0, rounds=1, num_questions=len(questions)),
        },
    )


def adapted(folder: Path | None) -> VisionLanguageModel:
    """The embedded model, with the last checkpoint of a LoRA merged into it if one is given."""
    vlm = foveate.load_vlm("embedded", device="cpu")
    if folder is None:
        return vlm
    wrapped = PeftModel.from_pretrained(vlm.model, str(last_step(folder)))
    model = wrapped.merge_and_unload().eval()
    return VisionLanguageModel(name=folder.name, model=model, processor=vlm.processor)


def last_step(folder: Path) -> Path:
    """The newest `step-N` of a folder of training.lora."""
    steps = sorted(folder.glob("step-*"), key=lambda place: int(place.name.split("-")[1]))
    if not steps:
        raise SystemExit(f"{folder} holds no step-N; train it with python -m training.lora.")
    return steps[-1]


def answer(
    vlm: VisionLanguageModel,
    method: str | None,
    keep: str,
    questions: Sequence[Question],
    advance: Any,
) -> dict[str, Any]:
    """Which questions are answered right, and how many visual tokens the layers see."""
    run = None
    if method is not None:
        run = Run(vlm.model, parse_method(method, parse_budget(keep)))
    right: list[bool] = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        inputs = vlm.inputs([q.question for q in batch], [q.image for q in batch])
        if run is not None:
            with run:
                texts = vlm.answer(inputs, max_new_tokens=8)
        else:
            texts = vlm.answer(inputs, max_new_tokens=8)
        right += [exact_match(text, q.answers) for text, q in zip(texts, batch, strict=True)]
        advance()
    report = run.report if run is not None else None
    return {"right": right, "tokens_per_layer": list(report.tokens_per_layer) if report else None}


def rows_of(said: dict[tuple[str, str], dict[str, Any]], images: list[str]) -> list[dict[str, Any]]:
    """One row for each adapter and method, beside the model without an adapter."""
    return [
        {
            "adapter": name,
            "method": method,
            "tokens_per_layer": found["tokens_per_layer"],
            "accuracy": accuracy(found["right"], images).to_dict(),
            "gain": None
            if name == BASE
            else paired_difference(found["right"], said[BASE, method]["right"], images).to_dict(),
        }
        for (name, method), found in said.items()
    ]


def facts_of(folder: Path) -> dict[str, Any]:
    """How an adapter was trained: what its log says, and its manifest if it was finished."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    finished = folder / "run.json"
    return {
        "steps": int(last_step(folder).name.split("-")[1]),
        "minutes": log[-1]["minutes"],
        "row_share": log[-1].get("row_share"),
        "losses": [[line["step"], line["loss"]] for line in log if "loss" in line],
        "finished": json.loads(finished.read_text()) if finished.exists() else None,
    }


def sentence(name: str, facts: dict[str, Any]) -> str:
    """A LoRA's training, for people."""
    share = facts["row_share"]
    rows = f", rows {100 * share:.0f} %" if share is not None else ", without a method"
    return f"`{name}`: {facts['steps']} steps in {facts['minutes']:.0f} minutes{rows}."


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown: an adapter a line, a method a column."""

    def cell(row: dict[str, Any]) -> str:
        text = "{value:.1f} [{low:.0f}, {high:.0f}]".format(**_per_cent(row["accuracy"]))
        if row["gain"] is not None:
            text += " ({value:+.1f} [{low:+.0f}, {high:+.0f}])".format(**_per_cent(row["gain"]))
        return text

    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [f"| trained | {' | '.join(methods)} |", f"|---|{'---:|' * len(methods)}"]
    for name in dict.fromkeys(row["adapter"] for row in rows):
        cells = [cell(row) for row in rows if row["adapter"] == name]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _per_cent(interval: dict[str, float]) -> dict[str, float]:
    return {name: 100 * value for name, value in interval.items()}


if __name__ == "__main__":
    main()
