"""Score the shipped model: ``python -m training.vlm.score --out docs/results/embedded-vlm``.

Exact match with 95 % intervals (bootstrap over pictures) on held-out reading pages and on
easy-VQA's test split, for the full model, without visual tokens ("blind"), and with random or
ink-first selections of the visual tokens kept from decoder layer 2 on.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from foveate.assets import vlm_path
from foveate.measure.manifest import manifest
from foveate.measure.quality import middle_95, resampled_ratios
from foveate.tasks.easy_vqa import easy_vqa_image, easy_vqa_questions, split_placement
from foveate.tasks.question import Question
from foveate.tasks.reading import SEEDS, page_at, reading_questions
from training.vlm.codes import patch_labels
from training.vlm.evaluate import answers_right
from training.vlm.joint import JointModel
from training.vlm.load import load_model
from training.vlm.packing import pack
from training.vlm.shapes import shape_share
from training.vlm.vision import pixels_of

NUM_VISUAL = 196
RATIOS = (0.5, 0.25, 0.125, 0.06)
PRUNE_LAYER = 2


@dataclass(frozen=True)
class Picture:
    """One picture, its questions, and its ink share per patch ([196], an oracle's knowledge)."""

    task: str
    number: int
    questions: tuple[Question, ...]
    ink: np.ndarray


def reading_pictures(split: str, count: int, per_page: int) -> Iterator[Picture]:
    """Pages of the reading world with their questions."""
    rows = reading_questions(split=split, num_pages=count, per_page=per_page)
    for number, questions in _by_image(rows):
        ink = patch_labels(page_at(SEEDS[split], number))[:, 0].gt(0).float().numpy()
        yield Picture("reading", number, questions, ink)


def easy_pictures(split: str, canvas: bool, stride: int) -> Iterator[Picture]:
    """Pictures of easy-VQA with all their questions; every ``stride``-th picture."""
    rows = easy_vqa_questions(split=split, canvas=canvas)
    for number, questions in _by_image(rows):
        if number % stride:
            continue
        placement = split_placement(split, number) if canvas else None
        ink = shape_share(easy_vqa_image(split, number), placement).reshape(-1)
        yield Picture("easy_vqa_canvas" if canvas else "easy_vqa", number, questions, ink)


def _by_image(rows: Iterator[Question]) -> Iterator[tuple[int, tuple[Question, ...]]]:
    group: list[Question] = []
    for row in rows:
        if group and row.image_id != group[0].image_id:
            yield int(group[0].image_id.rsplit("-", 1)[1]), tuple(group)
            group = []
        group.append(row)
    if group:
        yield int(group[0].image_id.rsplit("-", 1)[1]), tuple(group)


def conditions(picture: Picture) -> Iterator[tuple[str, dict[str, Any]]]:
    """The ways of showing the picture: all tokens, none, random and ink-first selections."""
    yield "full", {}
    yield "blind", {"keep": torch.empty(0, dtype=torch.long), "prune_layer": 0}
    order = list(range(NUM_VISUAL))
    random.Random(f"prune/{picture.task}/{picture.number}").shuffle(order)
    inked = sorted(order, key=lambda idx: picture.ink[idx] <= 0.15)
    for ratio in RATIOS:
        count = round(NUM_VISUAL * ratio)
        for name, chosen in (("random", order), ("ink_first", inked)):
            keep = torch.tensor(chosen[:count])
            yield f"{name}/{ratio:g}", {"keep": keep, "prune_layer": PRUNE_LAYER}


def interval(values: list[float], clusters: list[str], seed: int = 0) -> dict[str, float]:
    """Mean in per cent, with a 95 % bootstrap interval over pictures."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster][0] += value
        sums[cluster][1] += 1
    table = np.array(list(sums.values()))
    low, high = middle_95(resampled_ratios(*table.T, resamples=1000, seed=seed))
    return {
        "exact_match": round(100 * sum(values) / len(values), 2),
        "low": round(100 * low, 2),
        "high": round(100 * high, 2),
        "questions": len(values),
        "pictures": len(table),
    }


def score(model: JointModel, pictures: Iterator[Picture]) -> dict[str, dict[str, dict[str, float]]]:
    """Exact match as {group of questions: {condition: mean and interval}}."""
    right: dict[tuple[str, str], list[float]] = defaultdict(list)
    owner: dict[tuple[str, str], list[str]] = defaultdict(list)
    for picture in pictures:
        image = picture.questions[0].image.resize((224, 224), Image.Resampling.BICUBIC)
        with torch.no_grad():
            visual = model.eye(pixels_of([image]))[0]
        ids, targets = pack([[(q.question, q.answers[0]) for q in picture.questions]])
        for name, arguments in conditions(picture):
            hits = answers_right(model, visual, ids[0], targets[0], **arguments).tolist()
            for question, hit in zip(picture.questions, hits, strict=True):
                parts = question.kind.split("/")
                groups = {
                    picture.task,
                    "/".join([picture.task, parts[0]])
                    if picture.task == "reading"
                    else question.kind,
                }
                if picture.task == "reading":
                    groups.add(f"reading/{question.kind}")
                for group in groups:
                    right[group, name].append(float(hit))
                    owner[group, name].append(question.image_id)
    result: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (group, name), values in sorted(right.items()):
        result[group][name] = interval(values, owner[group, name])
    return dict(result)


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown document."""
    names = [
        "full",
        "blind",
        *(f"{kind}/{ratio:g}" for kind in ("random", "ink_first") for ratio in RATIOS),
    ]
    lines = ["# Scores of the embedded vision-language model", ""]
    lines += fact_lines(report["run"])
    lines += [
        "",
        "Exact match in per cent, 95 % bootstrap interval over pictures below it. "
        "`blind`: no visual tokens. `random/r`, `ink_first/r`: that share of the visual "
        f"tokens stays from decoder layer {PRUNE_LAYER} on; ink_first is an oracle that "
        "knows where ink is.",
        "",
        "| questions | n | " + " | ".join(names) + " |",
        "|---|---:|" + "---:|" * len(names),
    ]
    for group, row in report["scores"].items():
        cells = [
            f"{row[n]['exact_match']:.1f}<br>{row[n]['low']:.0f}-{row[n]['high']:.0f}"
            for n in names
        ]
        lines.append(f"| {group} | {row['full']['questions']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def run_facts(options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What was scored on which pages, in which time, and the manifest of the measurement."""
    facts = {"split": options.split, "reading seed": SEEDS[options.split], "pages": options.pages}
    if hasattr(options, "stride"):
        facts["easy-VQA stride"] = options.stride
    # The seed is the bootstrap's.
    return facts | manifest(seed=0, dtype="float32", minutes=round(seconds / 60, 1))


def fact_lines(run: dict[str, Any]) -> list[str]:
    """The facts of a run as a Markdown list."""
    lines = []
    for key, value in run.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
        lines.append(f"- {key}: {value}")
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, score, write ``scores.json`` and ``scores.md``."""
    parser = argparse.ArgumentParser(prog="python -m training.vlm.score", description=__doc__)
    parser.add_argument("--model", type=Path, default=vlm_path())
    parser.add_argument(
        "--split",
        choices=("dev", "test"),
        default="test",
        help="dev scores easy-VQA's training pictures: for development only",
    )
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--per-page", type=int, default=12)
    parser.add_argument("--stride", type=int, default=1, help="every n-th easy-VQA picture")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    begun = time.time()
    model = load_model(options.model)
    scores = score(model, reading_pictures(options.split, options.pages, options.per_page))
    easy = "test" if options.split == "test" else "train"
    for canvas in (False, True):
        scores |= score(model, easy_pictures(easy, canvas, options.stride))
    report = {"run": run_facts(options, time.time() - begun), "scores": scores}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "scores.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.out / "scores.md").write_text(markdown(report))


if __name__ == "__main__":
    main()
