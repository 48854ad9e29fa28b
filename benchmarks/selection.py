"""What every method costs by itself: selection against the prefill it shortens, at 576 tokens.

A random LLaVA with the vision tower of CLIP ViT-L/14 at 336 pixels and a decoder of 16 layers of
width 2048 reads 36 + 576 + 40 tokens. Times are CPU times of one thread, as ratios inside one
process, rounds interleaved. `python -m benchmarks.selection` writes docs/results/selection.json
and selection.md.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import foveate
from benchmarks.prefill import IMAGE, LENGTH, SHAPE, SYSTEM
from benchmarks.results import write_results
from benchmarks.timed import ratio_cell, timed
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians

KEEP = 128
IMAGE_ID = 31999
TOWER = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
LIMIT = 0.10  # of the prefill: more than that is marked in the table


class Clock:
    """CPU seconds of one module's forward passes, by two hooks on it."""

    def __init__(self, module: torch.nn.Module) -> None:
        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(self._stop)
        self.seconds = 0.0

    def _start(self, *_: object) -> None:
        self._started = time.process_time()

    def _stop(self, *_: object) -> None:
        self.seconds = time.process_time() - self._started


def build() -> Any:
    """The random LLaVA; what it says means nothing, what it costs does."""
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config=LlamaConfig(**SHAPE),
        vision_config=CLIPVisionConfig(**TOWER),
        image_token_index=IMAGE_ID,
        image_seq_length=IMAGE,
    )
    return LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--methods", nargs="*", help="default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    model = build()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 336, 336, generator=generator)
    ids = torch.randint(3, 31000, (1, LENGTH), generator=generator)
    ids[:, SYSTEM : SYSTEM + IMAGE] = IMAGE_ID
    tower = Clock(model.base_model.vision_tower)
    decoder = Clock(model.base_model.language_model)
    names = arguments.methods or [
        name
        for name, cls in foveate.METHODS.items()
        # evs keeps a still image whole.
        if name not in ("noop", "stack", "text-share", "evs") and not cls.counts_itself
    ]
    runs = {name: foveate.Run(model, foveate.method(name, keep_tokens=KEEP)) for name in names}
    tower_seconds: dict[str, list[float]] = {name: [] for name in ("", *names)}

    def measure(name: str) -> float:
        with runs[name] if name else nullcontext(), torch.no_grad():
            model(input_ids=ids, pixel_values=pixels, logits_to_keep=1)
        tower_seconds[name].append(tower.seconds)
        return decoder.seconds

    seconds = timed(
        "prefill", {name: partial(measure, name) for name in ("", *names)}, rounds=arguments.rounds
    )
    rows = []
    for name in names:
        reports = runs[name].reports[-arguments.rounds :]
        rows.append(
            {
                "method": name,
                "where": runs[name].method.where,
                "decoder_ratio": ratio_of_medians(seconds[name], seconds[""]).to_dict(),
                "tower_ratio": ratio_of_medians(
                    tower_seconds[name][1:], tower_seconds[""][1:]
                ).to_dict(),
                "selection_share": median(r.select_seconds for r in reports) / median(seconds[""]),
                "average_tokens": reports[-1].average_tokens,
            }
        )
    rows.sort(key=lambda row: row["selection_share"])
    table = [
        "| method | mean tokens | decoder / full | selection / full decoder | tower / alone |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {r['method']} | {r['average_tokens']:.0f} | {ratio_cell(r['decoder_ratio'])} | "
            f"{100 * r['selection_share']:.1f} %"
            f"{' **above 10 %**' if r['selection_share'] > LIMIT else ''} | "
            f"{ratio_cell(r['tower_ratio'])} |"
            for r in rows
        ),
    ]
    write_results(
        "selection",
        "What selection costs, at 576 visual tokens",
        f"Random LLaVA: CLIP ViT-L/14-336 and 16 layers of width 2048, fp32, one thread; {KEEP} of "
        f"{IMAGE} tokens kept (foveacarve spends the "
        "token-layers of such a cut before layer 2). CPU times, ratios to the run without any "
        "method; the decoder's holds selection and merging. Selection is wall time.",
        table,
        {"rows": rows, "manifest": manifest(seed=0, rounds=arguments.rounds, shape=SHAPE)},
    )


if __name__ == "__main__":
    main()
