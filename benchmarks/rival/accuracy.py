"""foveate beside AngelSlim's token_compressor: what is kept of pages, and what is read of them.

Each asks the embedded model the same held-out reading questions at half of the visual tokens:
AngelSlim in an environment of its own, under a transformers that its pin allows, foveate in this
one. `make bench-rival-accuracy` writes docs/results/rival-accuracy.json and rival-accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import foveate
from benchmarks.results import write_results
from benchmarks.rival.angelslim import COMMIT
from foveate.assets import vlm_path
from foveate.errors import InputError
from foveate.measure.manifest import manifest
from foveate.measure.quality import accuracy, exact_match, paired_difference
from foveate.tasks.question import Question
from foveate.tasks.reading import reading_questions

ROOT = Path(__file__).resolve().parents[2]
DROP = 0.5
MAX_NEW_TOKENS = 8
# AngelSlim's arm -> the method here that cuts where it does.
OURS = {
    "fastv, cut before layer 1": foveate.method("fastv", keep_ratio=1 - DROP, prune_layer=1),
    "fastv, cut before layer 2": foveate.method("fastv", keep_ratio=1 - DROP, prune_layer=2),
    "dart, cut before layer 1": foveate.method("dart", keep_ratio=1 - DROP, prune_layer=1),
    "dart, cut before layer 2": foveate.method("dart", keep_ratio=1 - DROP, prune_layer=2),
    "divprune": foveate.method("divprune", keep_ratio=1 - DROP),
    "visionzip, tower layer -1": foveate.method("visionzip", keep_ratio=1 - DROP),
}

WHY = ""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One arm's answers.

    Args:
        texts: one for each question.
        kept: places in the image of the visual tokens that stayed, for each question.
    """

    texts: list[str]
    kept: list[frozenset[int]]


def ours(
    vlm: Any, prompts: list[dict[str, Any]], method: foveate.Method | None, *, use_cache: bool
) -> Answered:
    """What foveate answers."""
    texts, kept = [], []
    run = foveate.Run(vlm.model, method) if method is not None else None
    for prompt in prompts:
        if run is None:
            said = vlm.generate(prompt, max_new_tokens=MAX_NEW_TOKENS, use_cache=use_cache)
        else:
            with run:
                said = vlm.generate(prompt, max_new_tokens=MAX_NEW_TOKENS, use_cache=use_cache)
            (image,) = run.plans
            assert image.plan is not None
            kept.append(frozenset(image.plan.keep_idx[0].tolist()))
        texts.append(said[0].text)
    return Answered(texts=texts, kept=kept)


def theirs(
    vlm: Any, prompts: list[dict[str, Any]], python: Path, source: Path
) -> tuple[dict[str, dict[str, Answered]], dict[str, str]]:
    """What AngelSlim answers, by arm and way, and the versions it ran under.

    Raises:
        InputError: it did not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, said = Path(folder) / "prompts.pt", Path(folder) / "answers.json"
        torch.save(prompts, asked)
        command = [str(python), "-m", "benchmarks.rival.answers", "--source", str(source)]
        command += ["--model", str(vlm_path()), "--prompts", str(asked), "--out", str(said)]
        command += ["--drop", str(DROP), "--tokens", str(MAX_NEW_TOKENS)]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT)
        if done.returncode:
            raise InputError(
                f"AngelSlim did not answer ({done.returncode}, see above); {python} needs torch, "
                "PyYAML and a transformers of AngelSlim's pin (`make bench-rival-accuracy`)."
            )
        found = json.loads(said.read_text())
    image_id = vlm.model.config.image_token_id
    places = [(prompt["input_ids"][0] == image_id).nonzero()[:, 0].tolist() for prompt in prompts]
    arms = {
        arm: {
            way: Answered(
                texts=vlm.tokenizer.batch_decode(answers["ids"], skip_special_tokens=True),
                kept=[
                    frozenset(i for i, place in enumerate(own) if place in set(stayed))
                    for own, stayed in zip(places, answers["kept"], strict=False)
                ],
            )
            for way, answers in ways.items()
        }
        for arm, ways in found["answers"].items()
    }
    return arms, found["versions"]


def right(answered: Answered, questions: Iterable[Question]) -> list[bool]:
    return [
        exact_match(text, question.answers)
        for text, question in zip(answered.texts, questions, strict=True)
    ]


def shared(a: Answered, b: Answered) -> tuple[float, float]:
    """Mean share of the kept tokens that both kept, and share of questions with equal sets."""
    pairs = list(zip(a.kept, b.kept, strict=True))
    common = sum(len(x & y) / max(len(x), len(y)) for x, y in pairs) / len(pairs)
    return common, sum(x == y for x, y in pairs) / len(pairs)


def scale(interval: Any) -> dict[str, float]:
    """In percent."""
    return {name: 100 * value for name, value in interval.to_dict().items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rival.accuracy", description=__doc__
    )
    parser.add_argument("--source", type=Path, default=Path(".rival"), help="AngelSlim's clone")
    parser.add_argument(
        "--python", type=Path, default=Path(".venv-rival/bin/python"), help="of its environment"
    )
    parser.add_argument("--questions", type=int, default=300)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    vlm = foveate.load_vlm("embedded", device="cpu")
    pages = -(-given.questions // 3)
    questions = list(islice(reading_questions(num_pages=pages), given.questions))
    prompts = [vlm.inputs(question.question, question.image) for question in questions]
    try:
        rival, versions = theirs(vlm, prompts, given.python, given.source)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    images = [question.image_id for question in questions]

    def scored(answered: Answered) -> dict[str, Any]:
        return scale(accuracy(right(answered, questions), images))

    rows = []
    for arm, ways in rival.items():
        method = OURS.get(arm)
        own = {
            way: ours(vlm, prompts, method, use_cache=way == "cached")
            for way in ("cached", "recomputed")
            if method is not None or (arm == "full" and way == "cached")
        }
        row: dict[str, Any] = {
            "arm": arm,
            "theirs": {way: scored(answered) for way, answered in ways.items()},
            "ours": {way: scored(answered) for way, answered in own.items()},
        }
        if own:
            best = ways.get("positions mended", ways["cached"])
            gap = paired_difference(right(own["cached"], questions), right(best, questions), images)
            row["ours_minus_theirs"] = scale(gap)
            same = sum(a == b for a, b in zip(own["cached"].texts, best.texts, strict=True))
            row["same_answers"] = same / len(questions)
        if method is not None:
            row["common"], row["equal_sets"] = shared(own["cached"], ways["cached"])
        rows.append(row)
    write(rows, versions, len(questions))
    return 0


def cell(found: dict[str, dict[str, float]], way: str, sign: str = "") -> str:
    if way not in found:
        return ""
    i = found[way]
    return f"{i['value']:{sign}.1f} [{i['low']:{sign}.0f}, {i['high']:{sign}.0f}]"


def write(rows: list[dict[str, Any]], versions: dict[str, str], count: int) -> None:
    table = [
        "| | theirs, cached | theirs, cached, positions mended | theirs, recomputed | "
        "ours, cached | ours, recomputed | ours minus theirs | same kept | same answers |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        own = {"gap": row["ours_minus_theirs"]} if "ours_minus_theirs" in row else {}
        kept = f"{100 * row['common']:.1f} %" if "common" in row else ""
        same = f"{100 * row['same_answers']:.1f} %" if "same_answers" in row else ""
        table.append(
            f"| {row['arm']} | {cell(row['theirs'], 'cached')} | "
            f"{cell(row['theirs'], 'positions mended')} | {cell(row['theirs'], 'recomputed')} | "
            f"{cell(row['ours'], 'cached')} | {cell(row['ours'], 'recomputed')} | "
            f"{cell(own, 'gap', '+')} | {kept} | {same} |"
        )
    write_results(
        "rival-accuracy",
        "Beside AngelSlim's token_compressor: answers",
        f"{count} held-out reading questions to the embedded model, half of its 196 visual tokens "
        "kept, greedy answers, fp32: accuracy in % with 95 % intervals, bootstrapped over images. "
        f"AngelSlim at commit {COMMIT[:12]} under transformers {versions['transformers']}, torch "
        f"{versions['torch']}, which its pin allows, with its own LLaVA configurations but for the "
        "share of tokens and the layers that a row names. Recomputed: without a cache, so that "
        "every token of an answer comes from a whole prompt. " + WHY,
        table,
        {
            "rows": rows,
            "manifest": manifest(seed=0, questions=count, angelslim=COMMIT, theirs=versions),
        },
        module="rival.accuracy",
    )


if __name__ == "__main__":
    sys.exit(main())
