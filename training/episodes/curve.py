"""What training on episodes teaches, checkpoint by checkpoint, on episodes of another draw.

    python -m training.episodes.curve --data held-out.jsonl --run run/latents --count 40

Writes docs/results/vist-episodes.md and .json: without far text, with the memory as it was before
training, as every checkpoint of the run left it (`training.episodes.train --keep-last 99`), and
with the far text raw. What was scored is kept in a file (`--scored`), and a call goes on from it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from foveate.assets import vist_path
from foveate.measure.manifest import manifest
from foveate.measure.quality import clustered_mean
from foveate.vist.run.vist import Vist
from foveate.vist.train.checkpoint import load_weights, read_snapshot
from training.episodes.batches import EpisodeBatches
from training.episodes.draw import read_episodes
from training.episodes.trainee import EpisodeTrainee, NothingTrainee, trainee_of

__all__ = ["main"]

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
NONE, BEFORE = "none", "step 0"
Scores = list[dict[str, float]]  # of each episode


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, score what has not been scored, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m training.episodes.curve", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="episodes of another draw")
    parser.add_argument("--vist", default=str(vist_path()), help="what the run began from")
    parser.add_argument("--run", type=Path, required=True, help="FOLDER/FORM of a run")
    parser.add_argument("--every", type=int, default=1, help="score one of so many checkpoints")
    parser.add_argument("--count", type=int, default=40, help="episodes")
    parser.add_argument("--scored", type=Path, default=Path("out/vist-episodes.jsonl"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    steps = sorted(options.run.glob("step-*"))
    if not steps:
        raise SystemExit(f"{options.run} holds no checkpoint; give FOLDER/FORM of a run.")
    # The last one always, and before it one of `every`.
    steps = steps[::-1][:: options.every][::-1]
    settings = read_snapshot(steps[-1]).state["settings"]
    if settings["form"] != "latents":
        raise SystemExit(
            f"{options.run} trained the form {settings['form']}; this scores latents, whose "
            "entries no choice stands between."
        )
    vist = Vist.from_pretrained(options.vist)
    vist.model.to(torch.bfloat16)
    episodes = read_episodes(options.data)
    batches = EpisodeBatches(episodes, vist.tokenizer, size=1, share=1 / 3, vist=vist)
    held = _Scored(options.scored, batches, options.count)
    trainee = trainee_of(vist, settings["form"], settings["cut"], settings["rank"])
    points = [held.point(NONE, NothingTrainee(vist)), held.point(BEFORE, trainee)]
    for place in steps:
        snapshot = read_snapshot(place)
        load_weights(trainee, snapshot.weights)
        minutes = snapshot.state["cpu_seconds"] / 60
        points.append(held.point(f"step {snapshot.state['step']}", trainee, minutes))
    _write(options.out, points, episodes=options.count, form=settings["form"])


class _Scored:
    """Scores of each episode by the name of a point, kept in a file.

    Args:
        path: of the file, JSON lines.
        batches: of one episode each.
        count: how many.
    """

    def __init__(self, path: Path, batches: EpisodeBatches, count: int) -> None:
        self.path, self.batches, self.count = path, batches, count
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        self.known: dict[str, Scores] = {row["name"]: row["scores"] for row in rows}

    @torch.no_grad()
    def point(self, name: str, trainee: EpisodeTrainee, minutes: float = 0.0) -> dict[str, Any]:
        """A point of the curve: the trainee's scores on all episodes."""
        scores = self.known.get(name, [])[: self.count]
        if len(scores) < self.count:
            for number in range(len(scores), self.count):
                losses = trainee(self.batches[number])
                scores.append({key: value.item() for key, value in losses.items()})
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": name, "scores": scores}) + "\n")
        return {"name": name, "core_minutes": round(minutes, 1), "scores": scores}


def _write(out: Path, points: Sequence[dict[str, Any]], *, episodes: int, form: str) -> None:
    before = next(point for point in points if point["name"] == BEFORE)
    raw = {"divergence": 0.0, "nll": "raw_nll", "right": "raw_right"}
    rows: list[dict[str, Any]] = []
    for point in points:
        row: dict[str, Any] = {key: point[key] for key in ("name", "core_minutes")}
        for key in raw:
            row[key] = _mean([s[key] for s in point["scores"]])
        pairs = zip(before["scores"], point["scores"], strict=True)
        row["saved"] = _mean([a["divergence"] - b["divergence"] for a, b in pairs])
        rows.append(row)
    whole = {key: _mean([s[name] for s in before["scores"]]) for key, name in raw.items() if name}
    rows.append({"name": "raw", "core_minutes": 0.0, "divergence": None, "saved": None, **whole})
    facts = manifest(seed=0, form=form, episodes=episodes)
    lines = [
        "# What training on episodes teaches",
        "",
        f"{episodes} episodes of another draw than those trained on: demonstrations or facts far, "
        "labels and values asked for near. Divergence: of the answers' distributions from those "
        "with the far text raw, nats a token, 0 is raw. Right: answers' tokens that are the "
        "likeliest ones. Brackets: 95 % interval over episodes. none: no far text. step 0: the "
        f"{form} that the run began with. Core minutes of the run as its process counted them.",
        "",
        "| | core minutes | divergence | less than step 0 | nats | right % |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [_shown(row["divergence"]), "", _shown(row["nll"]), _shown(row["right"], 100, 1)]
        if row["name"] not in ("raw", BEFORE):
            cells[1] = _shown(row["saved"], signed=True)
        minutes = f"{row['core_minutes']:.1f}" if row["core_minutes"] else ""
        lines.append(f"| {row['name']} | {minutes} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Made by `python -m training.episodes.curve`: foveate {facts['foveate']} at commit "
        f"{facts['commit']}, torch {facts['torch']}, {facts['hardware']['cpu']}, "
        f"{facts['hardware']['threads']} threads.",
        "",
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "vist-episodes.md").write_text("\n".join(lines), encoding="utf-8")
    data = {"points": rows, "manifest": facts}
    (out / "vist-episodes.json").write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _mean(values: Sequence[float]) -> dict[str, float]:
    found = clustered_mean(values, [str(i) for i in range(len(values))])
    return {"value": found.value, "low": found.low, "high": found.high}


def _shown(
    mean: dict[str, float] | None, scale: float = 1.0, digits: int = 3, *, signed: bool = False
) -> str:
    if mean is None:
        return "0"
    value, low, high = (scale * mean[key] for key in ("value", "low", "high"))
    sign = "+" if signed else ""
    return f"{value:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


if __name__ == "__main__":
    main()
