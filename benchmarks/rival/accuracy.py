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
from benchmarks.rival.prompts_file import save_prompts
from foveate.assets import vlm_path
from foveate.errors import InputError
from foveate.measure.manifest import manifest
from foveate.measure.quality import accuracy, exact_match, paired_difference
from foveate.tasks.question import Question
from foveate.tasks.reading import reading_questions

ROOT = Path(__file__).resolve().parents[2]
DROP = 0.5
MAX_NEW_TOKENS = 8
METHODS = ("fastv", "dart", "divprune", "visionzip")
WAYS = {"cached": True, "recomputed": False}
WHY = (
    "Where they part: AngelSlim's DivPrune and VisionZip shorten the prompt but keep the positions "
    "of what stays, and then count decoded tokens on from the shorter prompt. Its FastV takes each "
    "head's softmax over the image alone, so that heads that look at the text count as much as "
    "others; here they are the model's own weights, as in the authors' code. Its DART takes "
    "cosines of states behind the layer's own norm, and lets the image's pivots choose first; here "
    "they are behind the final norm, in the authors' order. Its VisionZip adds every merged token "
    "to a plain mean; here it is the target plus the mean of the others, as in the authors' code."
)


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


class Theirs:
    """AngelSlim, answering in processes of its own.

    Args:
        prompts: all of them; each of `jobs` processes takes a share.
        python: of its environment.
        source: its clone.
    """

    def __init__(
        self, prompts: list[dict[str, Any]], python: Path, source: Path, jobs: int
    ) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._python = python
        self._jobs: list[tuple[subprocess.Popen[bytes], Path]] = []
        size = -(-len(prompts) // jobs)
        for start in range(0, len(prompts), size):
            asked = Path(self._folder.name) / f"prompts-{start}.safetensors"
            said = asked.with_suffix(".json")
            save_prompts(prompts[start : start + size], asked)
            command = [str(python), "-m", "benchmarks.rival.answers", "--source", str(source)]
            command += ["--model", str(vlm_path()), "--prompts", str(asked), "--out", str(said)]
            command += ["--drop", str(DROP), "--tokens", str(MAX_NEW_TOKENS)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._jobs.append((subprocess.Popen(command, env=environment, cwd=ROOT), said))

    def answers(self, vlm: Any, places: list[list[int]]) -> tuple[dict[str, Any], dict[str, str]]:
        """What was answered, by strategy and way, and the versions it ran under.

        Args:
            places: of the visual tokens in each prompt.

        Raises:
            InputError: a process failed.
        """
        parts = []
        for process, said in self._jobs:
            if process.wait():
                raise InputError(
                    f"AngelSlim did not answer ({process.returncode}, see above); {self._python} "
                    "needs torch, PyYAML and a transformers of AngelSlim's pin "
                    "(`make bench-rival-accuracy`)."
                )
            parts.append(json.loads(said.read_text()))
        self._folder.cleanup()

        def joined(strategy: str, way: str) -> Answered:
            found = [part["answers"][strategy][way] for part in parts]
            ids = [one for part in found for one in part["ids"]]
            stayed = [frozenset(one) for part in found for one in part["kept"]]
            return Answered(
                texts=vlm.tokenizer.batch_decode(ids, skip_special_tokens=True),
                kept=[
                    frozenset(i for i, place in enumerate(own) if place in left)
                    for own, left in zip(places, stayed, strict=False)
                ],
            )

        first = parts[0]["answers"]
        arms = {name: {way: joined(name, way) for way in ways} for name, ways in first.items()}
        return arms, parts[0]["versions"]


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
    parser.add_argument("--jobs", type=int, default=1, help="processes of AngelSlim")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    vlm = foveate.load_vlm("embedded", device="cpu")
    pages = -(-given.questions // 3)
    questions = list(islice(reading_questions(num_pages=pages), given.questions))
    prompts = [vlm.inputs(question.question, question.image) for question in questions]
    image_id = vlm.model.config.image_token_id
    places = [(prompt["input_ids"][0] == image_id).nonzero()[:, 0].tolist() for prompt in prompts]
    try:
        asked = Theirs(prompts, given.python, given.source, given.jobs)
        own = {"full": {"cached": ours(vlm, prompts, None, use_cache=True)}}
        for name in METHODS:
            method = foveate.method(name, keep_ratio=1 - DROP)
            own[name] = {
                way: ours(vlm, prompts, method, use_cache=use) for way, use in WAYS.items()
            }
        rival, versions = asked.answers(vlm, places)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    rows = [row_of(arm, own[arm], rival[arm], questions) for arm in own]
    write(rows, versions, len(questions))
    return 0


def row_of(
    arm: str, own: dict[str, Answered], rival: dict[str, Answered], questions: list[Question]
) -> dict[str, Any]:
    """One method's figures; gaps are to AngelSlim with its positions mended."""
    images = [question.image_id for question in questions]
    best = rival.get("positions mended", rival["cached"])
    hits = right(own["cached"], questions), right(best, questions)
    same = sum(a == b for a, b in zip(own["cached"].texts, best.texts, strict=True))
    found: dict[str, Any] = {
        "arm": arm,
        "theirs": {k: scale(accuracy(right(a, questions), images)) for k, a in rival.items()},
        "ours": {k: scale(accuracy(right(a, questions), images)) for k, a in own.items()},
        "ours_minus_theirs": scale(paired_difference(*hits, images)),
        "same_answers": same / len(questions),
    }
    if own["cached"].kept:
        found["common"], found["equal_sets"] = shared(own["cached"], rival["cached"])
    return found


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
        "share of tokens, FastV's and DART's cut (before layer 2, as here) and the layer of the "
        "tower that VisionZip reads (the last, whose features this model takes). Mended: decoded "
        "tokens count their positions on from the whole prompt's. Recomputed: without a cache, so "
        "that every token of an answer comes from a whole prompt. " + WHY,
        table,
        {
            "rows": rows,
            "manifest": manifest(seed=0, questions=count, angelslim=COMMIT, theirs=versions),
        },
        module="rival.accuracy",
    )


if __name__ == "__main__":
    sys.exit(main())
