"""foveate beside AngelSlim's token_compressor: prefill, and what choosing adds, at 128 of 576.

One random LLaVA reads 36 + 576 + 40 tokens on one thread, in turns under each project's form of the
same five methods, cut at the same layer. `make bench-rival` writes docs/results/rival.json and
rival.md.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import foveate
from benchmarks.prefill import IMAGE, LENGTH, SHAPE, SYSTEM
from benchmarks.results import write_results
from benchmarks.rival.angelslim import COMMIT, AngelSlim
from benchmarks.rival.outside import InsideClock, bare_cut
from benchmarks.selection import IMAGE_ID, KEEP, TOWER
from benchmarks.timed import ratio_cell, timed
from foveate.errors import InputError
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians

# Deep enough for a prefill, and, for what a method adds, shallow: its milliseconds would drown in
# those of layers that choose nothing.
DEEP = {"decoder": {"num_hidden_layers": 8}, "tower": {"num_hidden_layers": 4}}
SHALLOW = {
    "decoder": {"num_hidden_layers": 3, "intermediate_size": 512},
    "tower": {"num_hidden_layers": 2, "intermediate_size": 512},
}
# Method -> the layer before which its tokens go, in AngelSlim's configurations.
CUTS = {"fastv": 1, "dart": 1, "divprune": 0, "visionzip": 0, "random": 0}
# Name -> what holds during a pass.
Ways = dict[str, Callable[[], AbstractContextManager[Any]]]
KEPT_ROWS = LENGTH - IMAGE + KEEP


def build(sizes: dict[str, dict[str, int]]) -> Any:
    """The random LLaVA of benchmarks.selection, smaller where no tokens are chosen."""
    torch.manual_seed(0)
    config = LlavaConfig(
        text_config=LlamaConfig(**{**SHAPE, **sizes["decoder"]}),
        vision_config=CLIPVisionConfig(**{**TOWER, **sizes["tower"]}),
        image_token_index=IMAGE_ID,
        image_seq_length=IMAGE,
    )
    return LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def prompt() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 31000, (1, LENGTH), generator=generator)
    ids[:, SYSTEM : SYSTEM + IMAGE] = IMAGE_ID
    pixels = torch.randn(1, 3, TOWER["image_size"], TOWER["image_size"], generator=generator)
    return {"input_ids": ids, "pixel_values": pixels, "use_cache": True, "logits_to_keep": 1}


def contenders(
    model: Any, rival: AngelSlim
) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """What holds during a pass: "ours fastv", "theirs fastv", and "bare 1" for cuts at layer 1."""
    visual = torch.linspace(0, IMAGE - 1, KEEP).round().long() + SYSTEM
    places = torch.arange(LENGTH)
    rows = torch.cat([places[:SYSTEM], visual, places[SYSTEM + IMAGE :]])
    layers = model.base_model.language_model.layers
    made: Ways = {
        f"bare {cut}": partial(bare_cut, layers, cut, rows) for cut in sorted({*CUTS.values()})
    }
    for name, cut in CUTS.items():
        run = foveate.Run(model, foveate.method(name, keep_tokens=KEEP, prune_layer=cut))
        made[f"ours {name}"] = partial(_on, run)
        made[f"theirs {name}"] = partial(rival.attached, model, name, drop=1 - KEEP / IMAGE)
    return made


def _on(run: foveate.Run) -> foveate.Run:
    return run


def measured(
    model: Any, ways: Ways, rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of whole passes and of what was outside, name by name, a value a round.

    Raises:
        InputError: a pass did not keep what it was told to.
    """
    inputs, clock = prompt(), InsideClock(model)
    outside: dict[str, list[float]] = {name: [] for name in ways}

    def once(name: str) -> float:
        with redirect_stdout(io.StringIO()), ways[name]():
            total, rest, out = clock.time(model, inputs)
        kept = out.past_key_values.layers[-1].keys.shape[-2]
        if kept != KEPT_ROWS:
            raise InputError(f"{name} left {kept} rows instead of {KEPT_ROWS}; compare like cuts.")
        outside[name].append(rest)
        return total

    total = timed(f"{rounds} rounds", {name: partial(once, name) for name in ways}, rounds=rounds)
    return total, {name: values[1:] for name, values in outside.items()}


def rows_of(total: dict[str, list[float]], outside: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each method."""
    rows = []
    for name, cut in CUTS.items():
        added = {
            who: [
                1e3 * (own - bare)
                for own, bare in zip(outside[f"{who} {name}"], outside[f"bare {cut}"], strict=True)
            ]
            for who in ("ours", "theirs")
        }
        rows.append(
            {
                "method": name,
                "cut": cut,
                "ours_ms": median(added["ours"]),
                "theirs_ms": median(added["theirs"]),
                "selection_ratio": ratio_of_medians(added["ours"], added["theirs"]).to_dict(),
                "prefill_ratio": ratio_of_medians(
                    total[f"ours {name}"], total[f"theirs {name}"]
                ).to_dict(),
            }
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rival", description=__doc__)
    parser.add_argument("--source", type=Path, default=Path(".rival"), help="AngelSlim's clone")
    parser.add_argument("--rounds", type=int, default=25, help="of the shallow model")
    parser.add_argument("--prefills", type=int, default=5, help="rounds of the deep one")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        rival = AngelSlim(given.source)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    shallow, deep = build(SHALLOW), build(DEEP)
    _, outside = measured(shallow, contenders(shallow, rival), given.rounds)
    prefills, _ = measured(deep, contenders(deep, rival), given.prefills)
    rows = rows_of(prefills, outside)
    table = [
        "| method | cut before layer | ours, ms | theirs, ms | ours / theirs | "
        "prefill, ours / theirs |",
        "|---|---:|---:|---:|---|---|",
        *(
            f"| {row['method']} | {row['cut']} | {row['ours_ms']:.2f} | {row['theirs_ms']:.2f} | "
            f"{ratio_cell(row['selection_ratio'])} | {ratio_cell(row['prefill_ratio'])} |"
            for row in rows
        ),
    ]
    write_results(
        "rival",
        "Beside AngelSlim's token_compressor",
        f"AngelSlim at commit {COMMIT[:12]} and foveate in turns on random LLaVAs of CLIP "
        f"ViT-L/14-336's width and decoder layers of width 2048, fp32, one thread; {KEEP} of "
        f"{IMAGE} visual tokens kept, both cut before the same layer. The milliseconds are what a "
        "method adds to a pass: CPU time outside the model's own modules and attention kernel, "
        "less that of a cut at the same layer that nobody had to choose. Reading attention, "
        "choosing, merging, gathering and reporting are in it, for both. Prefill is CPU time of "
        "the whole pass (4 layers of the tower, 8 of the decoder).",
        table,
        {
            "rows": rows,
            "manifest": manifest(
                seed=0,
                rounds=given.rounds,
                prefills=given.prefills,
                shape=SHAPE,
                angelslim=COMMIT,
                keep=KEEP,
            ),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
