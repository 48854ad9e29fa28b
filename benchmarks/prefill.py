"""Prefill time, selection time and KV bytes of TokenCarve against the uncompressed sdpa run.

A random 16-layer decoder of width 2048 reads 36 + 576 + 40 tokens, the geometry of LLaVA-1.5. Every
figure is a ratio inside one process; rounds are interleaved. `python -m benchmarks.prefill` writes
docs/results/prefill.json and prefill.md.
"""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median

import torch
from rich.console import Console
from rich.progress import Progress

import foveate
from benchmarks.results import write_results
from foveate.hf.random_decoder import random_llama
from foveate.measure.manifest import manifest
from foveate.measure.timing import interleaved, ratio_of_medians, wall_seconds

SYSTEM, IMAGE, QUESTION = 36, 576, 40
LENGTH = SYSTEM + IMAGE + QUESTION
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}
PRUNE_LAYER = 2
BUDGETS = (192, 128, 64)


def expected_ratio(keep: int, layers: int = 16) -> float:
    """What token counts alone predict: layers before prune_layer long, the others short."""
    short = LENGTH - IMAGE + keep
    return (PRUNE_LAYER * LENGTH + (layers - PRUNE_LAYER) * short) / (layers * LENGTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: all)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    model = random_llama(SHAPE, seed=0)
    embeds = torch.randn(1, LENGTH, 2048, generator=torch.Generator().manual_seed(1))
    visual_mask = torch.zeros(1, LENGTH, dtype=torch.bool)
    visual_mask[:, SYSTEM : SYSTEM + IMAGE] = True
    runs = {
        keep: foveate.Run(model, foveate.TokenCarve(keep_tokens=keep), visual_mask=visual_mask)
        for keep in BUDGETS
    }

    def prefill() -> None:
        with torch.no_grad():
            model(inputs_embeds=embeds, logits_to_keep=1)

    def measure(keep: int) -> float:
        if not keep:
            return wall_seconds(prefill)
        with runs[keep]:
            return wall_seconds(prefill)

    names = (0, *BUDGETS)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("prefill", total=arguments.rounds + 1)
        seconds = interleaved(
            {keep: partial(measure, keep) for keep in names},
            rounds=arguments.rounds,
            on_round=lambda done: progress.update(task, completed=done),
        )
    rows = []
    for keep in BUDGETS:
        ratio = ratio_of_medians(seconds[keep], seconds[0])
        reports = runs[keep].reports[-arguments.rounds :]
        selection = median(report.select_seconds for report in reports) / median(seconds[keep])
        report = reports[-1]
        rows.append(
            {
                "keep_tokens": keep,
                "prefill_ratio": ratio.to_dict(),
                "expected_ratio": expected_ratio(keep),
                "difference": ratio.value - expected_ratio(keep),
                "selection_share": selection,
                "kv_ratio": report.kv_ratio,
                "kv_ratio_is_exact": report.kv_bytes * LENGTH
                == report.kv_bytes_uncompressed * (LENGTH - IMAGE + keep),
            }
        )
    table = [
        "| keep of 576 | prefill ratio (95 %) | from token counts | difference | "
        "selection / prefill | KV ratio |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['keep_tokens']} | {r['prefill_ratio']['value']:.3f} "
            f"({r['prefill_ratio']['low']:.3f}-{r['prefill_ratio']['high']:.3f}) | "
            f"{r['expected_ratio']:.3f} | {r['difference']:+.3f} | "
            f"{100 * r['selection_share']:.2f} % | {r['kv_ratio']:.3f} |"
            for r in rows
        ),
    ]
    write_results(
        "prefill",
        "Prefill against the uncompressed sdpa run",
        "16 layers, width 2048, random weights, fp32, 36 + 576 + 40 tokens, TokenCarve at layer 2. "
        "The time with compression holds everything: scoring, merging, gathering.",
        table,
        {"rows": rows, "manifest": manifest(seed=0, rounds=arguments.rounds, shape=SHAPE)},
    )


if __name__ == "__main__":
    main()
