"""Launches and waits of a prefill and of a decoded token, carved and plain, before and after.

Counted on a device that is pretended on a CPU (benchmarks/pretended.py), in a LLaVA with as many
layers and tokens as LLaVA-1.5-7B and next to no width, on which counts do not depend.
`python -m benchmarks.launches --before PATH`, with an older checkout of foveate at PATH, writes
docs/results/launches.json and launches.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import (
    CLIPVisionConfig,
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from benchmarks.pretended import counting, move, move_model

LAYERS, IMAGE, KEEP = 32, 576, 128
IMAGE_ID = 599
METHODS = {
    "plain": None,
    **{name: name for name in ("fastv", "tokencarve", "divprune", "visionzip", "tome")},
    "foveacarve": "foveacarve",
    "divprune + fastv": ("divprune", "fastv"),
}
BATCHES = {"1": [36], "ragged 4": [36, 20, 50, 9]}  # tokens of text before the image


def build() -> Any:
    """A LLaVA of the right depth and no width."""
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config=LlamaConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=LAYERS,
            num_attention_heads=1,
            vocab_size=600,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=24,
            num_attention_heads=1,
            image_size=336,
            patch_size=14,
        ),
        image_token_index=IMAGE_ID,
        image_seq_length=IMAGE,
    )
    return LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def prompt(before: list[int]) -> dict[str, Any]:
    """A left-padded batch: text, one image, 40 tokens of text in each row."""
    generator = torch.Generator().manual_seed(1)
    rows = [
        torch.cat(
            [
                torch.randint(3, 500, (count,), generator=generator),
                torch.full((IMAGE,), IMAGE_ID),
                torch.randint(3, 500, (40,), generator=generator),
            ]
        )
        for count in before
    ]
    longest = max(map(len, rows))
    pixels = torch.randn(len(rows), 3, 336, 336, generator=generator)
    return {
        "input_ids": torch.stack([pad(row, (longest - len(row), 0)) for row in rows]),
        "attention_mask": torch.stack(
            [pad(torch.ones_like(row), (longest - len(row), 0)) for row in rows]
        ),
        "pixel_values": pixels,
    }


def count(model: Any, given: dict[str, Any], method: Any) -> dict[str, int]:
    """Launches and waits of a prefill, and of the third token decoded after it."""
    run = nullcontext() if method is None else _run(model, method)
    cache = DynamicCache(config=model.config.get_text_config())
    mask = given["attention_mask"]
    token = torch.full((len(mask), 1), 5)
    with run, torch.no_grad():
        with counting() as prefill:
            model(**move(given), past_key_values=cache, logits_to_keep=1)
        tokens = []
        for _ in range(3):
            mask = pad(mask, (0, 1), value=1)
            with counting() as counts:
                model(input_ids=move(token), attention_mask=move(mask), past_key_values=cache)
            tokens.append(counts)
    decoded = tokens[-1]
    return {
        "prefill_launches": prefill.num_launches,
        "prefill_waits": prefill.num_waits,
        "token_launches": decoded.num_launches,
        "token_waits": decoded.num_waits,
    }


def _run(model: Any, method: Any) -> Any:
    import foveate

    if isinstance(method, str):
        return foveate.Run(model, foveate.method(method, keep_tokens=KEEP))
    first, second = method
    stages = (
        foveate.method(first, keep_tokens=2 * KEEP),
        foveate.method(second, keep_tokens=KEEP, prune_layer=2),
    )
    return foveate.Run(model, foveate.Stack(stages=stages))


def count_all() -> list[dict[str, Any]]:
    """Every method and batch, of the foveate that is imported."""
    model = build()
    move_model(model)
    return [
        {"method": name, "batch": batch, **count(model, prompt(before), method)}
        for batch, before in BATCHES.items()
        for name, method in METHODS.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", type=Path, help="an older checkout, for the column before")
    parser.add_argument("--package", type=Path, help="count the foveate in here, print JSON alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.package is not None:
        sys.path.insert(0, str(arguments.package.resolve()))
        print(json.dumps(count_all()))
        return

    before: list[dict[str, Any]] = []
    if arguments.before is not None:
        command = [sys.executable, "-m", "benchmarks.launches", "--package", arguments.before]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        before = json.loads(said.stdout.splitlines()[-1])
    write(count_all(), before)


def write(after: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    from benchmarks.results import write_results
    from foveate.measure.manifest import manifest

    older = {(row["method"], row["batch"]): row for row in before}
    names = ("prefill_launches", "prefill_waits", "token_launches", "token_waits")

    def cell(row: dict[str, Any], name: str) -> str:
        was = older.get((row["method"], row["batch"]))
        now = str(row[name])
        return now if was is None or row["method"] == "plain" else f"{was[name]} -> {now}"

    table = [
        "| batch | method | launches of a prefill | waits | launches of a token | waits |",
        "|---|---|---:|---:|---:|---:|",
        *(
            f"| {row['batch']} | {row['method']} | "
            + " | ".join(cell(row, name) for name in names)
            + " |"
            for row in after
        ),
    ]
    write_results(
        "launches",
        "Launches and waits, before -> after",
        f"LLaVA-1.5-7B's depth ({LAYERS} decoder layers, 24 in the tower), {IMAGE} visual tokens, "
        f"{KEEP} kept; sdpa, with a KV cache. A launch is an operation that a device runs (an "
        "attention, a sort, a decomposition count one each; views none); a wait is one where the "
        "host needs a value or a count before it goes on, or copies without `non_blocking`. "
        "Counted on a pretended device; no GPU ran. The model's own waits are in every row.",
        table,
        {"rows": after, "before": before, "manifest": manifest(seed=0)},
    )


if __name__ == "__main__":
    main()
