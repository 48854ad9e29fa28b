"""Prefill time, selection time and KV bytes of TokenCarve against the uncompressed sdpa run.

A random 16-layer decoder of width 2048 reads 36 + 576 + 40 tokens, the geometry of LLaVA-1.5. Every
figure is a ratio inside one process; rounds are interleaved. `python -m benchmarks.prefill` writes
docs/results/prefill.json and prefill.md.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from functools import partial
from statistics import median

import torch

import foveate
from benchmarks.random_decoder import random_llama
from benchmarks.results import write_results
from benchmarks.timed import ratio_cell, timed
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians, wall_seconds

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
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args()
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

    names = (0, *BUDGETS)
    cpu: dict[int, list[float]] = {keep: [] for keep in names}

    def measure(keep: int) -> float:
        with runs[keep] if keep else nullcontext():
            started = time.process_time()
            wall = wall_seconds(prefill)
            cpu[keep].append(time.process_time() - started)
        return wall

    seconds = timed(
        "prefill", {keep: partial(measure, keep) for keep in names}, rounds=arguments.rounds
    )
    rows = []
    for keep in BUDGETS:
        ratio = ratio_of_medians(seconds[keep], seconds[0])
        # CPU time of the process: on one thread it does not depend on what else is running.
        cpu_ratio = ratio_of_medians(cpu[keep][1:], cpu[0][1:])
        reports = runs[keep].reports[-arguments.rounds :]
        selection = median(report.select_seconds for report in reports) / median(seconds[keep])
        report = reports[-1]
        rows.append(
            {
                "keep_tokens": keep,
                "prefill_ratio": ratio.to_dict(),
                "cpu_time_ratio": cpu_ratio.to_dict(),
                "expected_ratio": expected_ratio(keep),
                "difference": ratio.value - expected_ratio(keep),
                "cpu_time_difference": cpu_ratio.value - expected_ratio(keep),
                "selection_share": selection,
                "kv_ratio": report.kv_ratio,
                "kv_ratio_is_exact": report.kv_bytes * LENGTH
                == report.kv_bytes_uncompressed * (LENGTH - IMAGE + keep),
            }
        )
    table = [
        "| keep of 576 | wall time (95 %) | CPU time (95 %) | from token counts | "
        "selection / prefill | KV ratio |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r['keep_tokens']} | {ratio_cell(r['prefill_ratio'])} | "
            f"{ratio_cell(r['cpu_time_ratio'])} | {r['expected_ratio']:.3f} | "
            f"{100 * r['selection_share']:.2f} % | {r['kv_ratio']:.3f} |"
            for r in rows
        ),
    ]
    write_results(
        "prefill",
        "Prefill against the uncompressed sdpa run",
        "16 layers, width 2048, random weights, fp32, 36 + 576 + 40 tokens, TokenCarve at layer 2. "
        "Ratios to the uncompressed run; the time with compression holds everything: scoring, "
        "merging, gathering. CPU time is the process's own, over all its threads.",
        table,
        {"rows": rows, "manifest": manifest(seed=0, rounds=arguments.rounds, shape=SHAPE)},
    )


if __name__ == "__main__":
    main()
