"""Where the shipped model reads: random against attention-guided selection, layer by layer.

``python -m training.vlm.score_layers --out docs/results/embedded-vlm`` keeps a share of the
visual tokens before decoder layer k, chosen at random or by the last prompt token's attention in
layer k - 1, on held-out reading pages. It tells at which layers attention knows what matters.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from pathlib import Path

import torch

from foveate.assets import vlm_path
from training.vlm.evaluate import answers_right, attention_rows
from training.vlm.load import load_model
from training.vlm.packing import pack
from training.vlm.score import NUM_VISUAL, fact_lines, interval, reading_pictures, run_facts
from training.vlm.vision import pixels_of

LAYERS = (2, 3, 4, 5)
RATIOS = (0.5, 0.25, 0.06)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, score, write ``layers.json`` and ``layers.md``."""
    parser = argparse.ArgumentParser(
        prog="python -m training.vlm.score_layers", description=__doc__
    )
    parser.add_argument("--model", type=Path, default=vlm_path())
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--per-page", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    begun = time.time()
    model = load_model(options.model)
    right: dict[tuple[int, float, str], list[float]] = defaultdict(list)
    owner: list[str] = []
    for picture in reading_pictures(options.split, options.pages, options.per_page):
        with torch.no_grad():
            visual = model.eye(pixels_of([picture.questions[0].image]))[0]
        for question in picture.questions:
            owner.append(question.image_id)
            ids, targets = pack([[(question.question, question.answers[0])]])
            last = int((targets[0, 0] != -100).nonzero()[0])
            rows = attention_rows(model, visual, ids[0, 0, : last + 1])
            order = list(range(NUM_VISUAL))
            random.Random(f"layers/{question.id}").shuffle(order)
            for layer in LAYERS:
                best = rows[layer - 1].argsort(descending=True, stable=True)
                for ratio in RATIOS:
                    count = round(NUM_VISUAL * ratio)
                    for name, chosen in (("random", torch.tensor(order)), ("attention", best)):
                        hit = answers_right(
                            model,
                            visual,
                            ids[0],
                            targets[0],
                            keep=chosen[:count],
                            prune_layer=layer,
                        )
                        right[layer, ratio, name].append(float(hit))
    scores = {
        f"layer {layer}/{ratio:g}/{name}": interval(values, owner)
        for (layer, ratio, name), values in sorted(right.items())
    }
    run = run_facts(options, time.time() - begun)
    lines = [
        "# Random against attention-guided selection, by layer",
        "",
        *fact_lines(run),
        "",
        f"Exact match in per cent on {len(owner)} held-out reading questions, 95 % interval. "
        "Selection happens before the layer named; attention is the last prompt token's in "
        "the layer before, mean over heads.",
        "",
        "| before layer | kept | random | attention |",
        "|---:|---:|---:|---:|",
    ]
    for layer in LAYERS:
        for ratio in RATIOS:
            cells = []
            for name in ("random", "attention"):
                row = scores[f"layer {layer}/{ratio:g}/{name}"]
                cells.append(f"{row['exact_match']:.1f} ({row['low']:.0f}-{row['high']:.0f})")
            lines.append(f"| {layer} | {100 * ratio:g} % | " + " | ".join(cells) + " |")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "layers.json").write_text(
        json.dumps({"run": run, "scores": scores}, indent=1) + "\n"
    )
    (options.out / "layers.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
