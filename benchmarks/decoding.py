"""Decoding under a carved KV cache against a plain model whose cache is as long from the start.

A random decoder reads 36 + 576 + 40 tokens, of which 128 visual ones stay; the plain one reads as
many as are left. Then both decode the same tokens, in turn, in one process. CPU time of one thread,
as ratios. `python -m benchmarks.decoding` writes docs/results/decoding.json and decoding.md.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

import foveate
from benchmarks.random_decoder import random_llama
from benchmarks.results import write_results
from benchmarks.timed import ratio_cell
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians

IMAGE, QUESTION, KEEP = 576, 40, 128
BATCHES = {"1": [36], "ragged 4": [36, 20, 50, 9]}  # tokens of text before the image
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 4000,
}
LIMIT = 1.02


class Decoding:
    """A decoder in the middle of an answer.

    Args:
        model: to run.
        before: tokens of text before the image, for each row.
        num_visual: visual tokens in the prompt.
        run: a method to carve them by, None for none.
    """

    def __init__(self, model: Any, before: list[int], num_visual: int, run: Any = None) -> None:
        self._model, self._run = model, run
        lengths = [count + num_visual + QUESTION for count in before]
        longest = max(lengths)
        generator = torch.Generator().manual_seed(1)
        embeds = torch.randn(len(before), longest, SHAPE["hidden_size"], generator=generator)
        self._mask = torch.ones(len(before), longest, dtype=torch.long)
        visual = torch.zeros(len(before), longest, dtype=torch.bool)
        for row, (length, count) in enumerate(zip(lengths, before, strict=True)):
            self._mask[row, : longest - length] = 0
            first = longest - length + count
            visual[row, first : first + num_visual] = True
        self._cache = DynamicCache(config=model.config)
        if run is not None:
            run.visual_mask = visual
        self._call(inputs_embeds=embeds)

    @property
    def num_held(self) -> set[int]:
        """Slots of the layers' keys."""
        return {int(layer.keys.shape[2]) for layer in self._cache.layers}

    def _call(self, **tokens: Tensor) -> None:
        with self._run or nullcontext(), torch.no_grad():
            started = time.thread_time()
            self._model(
                **tokens, attention_mask=self._mask, past_key_values=self._cache, logits_to_keep=1
            )
            self.seconds = time.thread_time() - started

    def step(self) -> float:
        """CPU seconds of one more token."""
        self._mask = pad(self._mask, (0, 1), value=1)
        self._call(input_ids=torch.full((len(self._mask), 1), 7))
        return self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = random_llama(SHAPE, seed=0)
    rows = []
    for batch, before in BATCHES.items():
        run = foveate.Run(
            model,
            foveate.FastV(keep_tokens=KEEP, early_cache="compact"),  # as short in every layer
            visual_mask=torch.zeros(1, 1, dtype=torch.bool),
        )
        contenders = [Decoding(model, before, IMAGE, run), Decoding(model, before, KEEP)]
        held = set[int]().union(*(contender.num_held for contender in contenders))
        assert len(held) == 1, held
        seconds: list[list[float]] = [[], []]
        for round_ in range(arguments.rounds + 4):
            # Whoever comes second finds the weights in the cache: take turns.
            for i in (0, 1) if round_ % 2 else (1, 0):
                taken = contenders[i].step()
                if round_ >= 4:
                    seconds[i].append(taken)
        ratio = ratio_of_medians(*seconds)
        rows.append(
            {
                "batch": batch,
                "slots": held.pop(),
                "ratio": ratio.to_dict(),
                "milliseconds_plain": 1000 * median(seconds[1]),
            }
        )
    table = [
        "| batch | slots after the prefill | ms a token, plain | carved / plain |",
        "|---|---:|---:|---:|",
        *(
            f"| {row['batch']} | {row['slots']} | {row['milliseconds_plain']:.1f} | "
            f"{ratio_cell(row['ratio'])}"
            f"{' **above 1.02**' if row['ratio']['value'] > LIMIT else ''} |"
            for row in rows
        ),
    ]
    write_results(
        "decoding",
        "Decoding under a carved cache",
        "8 layers, width 1024, random weights, fp32, one thread; FastV at layer 2 keeps "
        f"{KEEP} of {IMAGE} visual tokens, in the cache of the layers before it too, and the plain "
        f"model reads a prompt with {KEEP}. CPU time of "
        "a decoded token, carved over plain, taken in turns.",
        table,
        {"rows": rows, "manifest": manifest(seed=0, rounds=arguments.rounds, shape=SHAPE)},
    )


if __name__ == "__main__":
    main()
