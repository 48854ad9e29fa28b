"""PixelPrune on screens and pages of text: tokens kept, cost of the tower, pixels rebuilt.

Drawn pictures go through the image processors of Qwen2.5-VL and Qwen3-VL. Pixels are rebuilt from
the patches that stay and compared bit by bit; the control leaves as many out at random. Towers of
random weights are timed. `python -m benchmarks.pixelprune` writes docs/results/pixelprune.json and
pixelprune.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

import foveate
from benchmarks.results import write_results
from benchmarks.screens import CONTROLS, PAGES, SCREENS, as_jpeg
from benchmarks.timed import ratio_cell, timed
from benchmarks.tower_cost import QWEN2_5, QWEN3, tower_flops
from foveate.core.patch_prediction import rebuild, unpredicted
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians

LEVEL = 2 / 255  # of grey, in Qwen3-VL's normalised pixels
LEVELS = (0, 1, 2, 4, 8)
QUALITIES = (95, 75)
SIDE = 2  # patches of a token
PROCESSORS = {
    "Qwen2.5-VL": Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 12845056}),
    "Qwen3-VL": Qwen2VLImageProcessorPil(
        patch_size=16,
        size={"shortest_edge": 65536, "longest_edge": 16777216},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ),
}
TOWERS = {"Qwen2.5-VL": QWEN2_5, "Qwen3-VL": QWEN3}
TIMED = ("form, 1280x720", "terminal, 1280x720")


def processed(family: str, image: Image.Image) -> tuple[dict[str, Tensor], Tensor]:
    """The processor's output, and its patches on the grid of tokens, [R, C, P]."""
    inputs = dict(PROCESSORS[family](image, return_tensors="pt"))
    _, height, width = inputs["image_grid_thw"][0].tolist()
    tokens = inputs["pixel_values"].view(height // SIDE, width // SIDE, -1)
    return inputs, tokens


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def measured(family: str, image: Image.Image, seed: int) -> dict[str, Any]:
    """Threshold 0 on one picture, and its control."""
    inputs, patches = processed(family, image)
    stays = unpredicted(patches)
    kept = int(stays.sum())
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(stays.numel(), dtype=torch.bool)
    # The first patch has nothing to be predicted from.
    drawn[torch.randperm(stays.numel() - 1, generator=generator)[: kept - 1] + 1] = True
    drawn[0] = True
    drawn = drawn.view_as(stays)
    guessed = rebuild(patches[drawn], drawn)
    lost = (guessed[~drawn] == patches[~drawn]).float()
    return {
        "tokens": stays.numel(),
        "kept": kept / stays.numel(),
        "flops": tower_flops(TOWERS[family], inputs["image_grid_thw"], stays.flatten())
        / tower_flops(TOWERS[family], inputs["image_grid_thw"]),
        "exact": same_bits(rebuild(patches[stays], stays), patches),
        "random_exact": same_bits(guessed, patches),
        # Of what was left out at random, values that come out right, and patches.
        "random_values": float(lost.mean()) if len(lost) else None,
        "random_patches": float(lost.amin(dim=1).mean()) if len(lost) else None,
    }


def at_threshold(image: Image.Image, levels: int) -> dict[str, float]:
    """Share kept on Qwen3-VL's grid, and the greatest and the mean error in levels of grey."""
    _, patches = processed("Qwen3-VL", image)
    # A thousandth of a level more, for what the processor's arithmetic rounds.
    stays = unpredicted(patches, (levels + 1e-3) * LEVEL if levels else 0.0)
    error = (rebuild(patches[stays], stays) - patches).abs() / LEVEL
    return {
        "kept": float(stays.float().mean()),
        "most": float(error.max()),
        "mean": float(error.mean()),
    }


def small(family: str) -> Any:
    """The family's vision model at its width with two layers, before a tiny decoder."""
    torch.manual_seed(0)
    text: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 100,
        "head_dim": 16,
    }
    vision = TWO_LAYERS[family].to_dict()
    if family == "Qwen3-VL":
        return Qwen3VLForConditionalGeneration._from_config(
            Qwen3VLConfig(text_config=text, vision_config=vision), attn_implementation="sdpa"
        ).eval()
    return Qwen2_5_VLForConditionalGeneration._from_config(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision), attn_implementation="sdpa"
    ).eval()


TWO_LAYERS = {
    "Qwen2.5-VL": type(QWEN2_5)(
        **{**QWEN2_5.to_dict(), "depth": 2, "fullatt_block_indexes": [1], "out_hidden_size": 64}
    ),
    "Qwen3-VL": type(QWEN3)(
        **{**QWEN3.to_dict(), "depth": 2, "deepstack_visual_indexes": [], "out_hidden_size": 64}
    ),
}


def times(rounds: int) -> Iterator[dict[str, Any]]:
    """CPU time of a tower of two layers, with PixelPrune over without."""
    for family in PROCESSORS:
        model = small(family)
        run = foveate.Run(model, foveate.PixelPrune())
        for name in TIMED:
            inputs, patches = processed(family, SCREENS[name](0))
            contenders = {
                "with": partial(seconds, model, inputs, run),
                "without": partial(seconds, model, inputs, nullcontext()),
            }
            found = timed(f"{family}, {name}", contenders, rounds=rounds)
            grid, stays = inputs["image_grid_thw"], unpredicted(patches).flatten()
            config = TWO_LAYERS[family]
            yield {
                "family": family,
                "picture": name,
                "kept": float(stays.float().mean()),
                "flops": tower_flops(config, grid, stays) / tower_flops(config, grid),
                "ratio": ratio_of_medians(found["with"], found["without"]).to_dict(),
            }


def seconds(model: Any, inputs: dict[str, Tensor], context: Any) -> float:
    """CPU seconds of the image's features, what is decided and put back included."""
    with context, torch.no_grad():
        begun = time.process_time()
        model.base_model.get_image_features(**inputs)
        return time.process_time() - begun


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over pictures of a kind, and the range of what was kept."""
    kept = [row["kept"] for row in rows]
    lost = [row for row in rows if row["random_values"] is not None]
    return {
        "pictures": len(rows),
        "tokens": rows[0]["tokens"],
        "kept": fmean(kept),
        "least": min(kept),
        "most": max(kept),
        "flops": fmean(row["flops"] for row in rows),
        "exact": sum(row["exact"] for row in rows),
        "random_exact": sum(row["random_exact"] for row in rows),
        "random_values": fmean(row["random_values"] for row in lost) if lost else None,
        "random_patches": fmean(row["random_patches"] for row in lost) if lost else None,
    }


def share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pixelprune", description=__doc__)
    parser.add_argument("--pictures", type=int, default=5, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="of timing; 0 for none")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    drawn = {
        name: [draw(seed) for seed in range(given.pictures)]
        for name, draw in {**SCREENS, **PAGES, **CONTROLS}.items()
    }
    for quality in QUALITIES:
        for name in ("form, 1280x720", "A4 page, text of 24 px"):
            drawn[f"{name}, JPEG {quality}"] = [as_jpeg(image, quality) for image in drawn[name]]
    rows = [
        {
            "family": family,
            "picture": name,
            **summed([measured(family, image, seed) for seed, image in enumerate(images)]),
        }
        for name, images in drawn.items()
        for family in PROCESSORS
    ]
    coarse = [
        {
            "picture": name,
            "levels": levels,
            "kept": fmean(one["kept"] for one in found),
            "most": max(one["most"] for one in found),
            "mean": fmean(one["mean"] for one in found),
        }
        for name, images in drawn.items()
        for levels in LEVELS
        for found in [[at_threshold(image, levels) for image in images]]
    ]
    timings = list(times(given.rounds)) if given.rounds else []
    write(rows, coarse, timings, given.pictures, given.rounds)
    return 0


def write(
    rows: list[dict[str, Any]],
    coarse: list[dict[str, Any]],
    timings: list[dict[str, Any]],
    pictures: int,
    rounds: int,
) -> None:
    table = [
        "| picture | model | tokens | kept | range | tower FLOPs | rebuilt bit by bit | "
        "at random: rebuilt | of what it left out, patches right | values right |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(
            f"| {r['picture']} | {r['family']} | {r['tokens']:,} | {share(r['kept'])} | "
            f"{100 * r['least']:.1f}-{100 * r['most']:.1f} | {r['flops']:.3f} | "
            f"{r['exact']} of {r['pictures']} | {r['random_exact']} of {r['pictures']} | "
            f"{share(r['random_patches'])} | {share(r['random_values'])} |"
            for r in rows
        ),
        "",
        "## Above threshold 0",
        "",
        "Thresholds in levels of grey (one is 2/255 of Qwen3-VL's normalised pixels). In a cell: "
        "tokens kept, and the greatest error of a rebuilt pixel, in levels. Predictions are from "
        "the pixels as they are, so that errors of rebuilt ones add up.",
        "",
        "| picture | " + " | ".join(f"{levels}" for levels in LEVELS) + " |",
        "|---|" + "---:|" * len(LEVELS),
        *(
            f"| {name} | "
            + " | ".join(
                f"{share(one['kept'])}, {one['most']:.0f}"
                for one in coarse
                if one["picture"] == name
            )
            + " |"
            for name in dict.fromkeys(one["picture"] for one in coarse)
        ),
        "",
        "## Time of the tower",
        "",
        f"Towers of the families' width with two layers and random weights, fp32, one thread, "
        f"{rounds} interleaved rounds: CPU time of the image's features with PixelPrune over "
        "without, prediction included, and the same as FLOPs.",
        "",
        "| model | picture | kept | FLOPs | CPU time |",
        "|---|---|---:|---:|---:|",
        *(
            f"| {one['family']} | {one['picture']} | {share(one['kept'])} | {one['flops']:.3f} | "
            f"{ratio_cell(one['ratio'])} |"
            for one in timings
        ),
    ]
    write_results(
        "pixelprune",
        "PixelPrune on screens and pages",
        f"{pictures} drawn pictures of each kind (benchmarks/screens.py), through the processors "
        "of Qwen2.5-VL and Qwen3-VL at their published limits, which bring both sides to multiples "
        "of 28 and 32 px. Threshold 0. Kept: share of visual tokens; the range is over pictures. "
        "Tower FLOPs: with over without, in the vision model of the 7B and the 8B, patch embedding "
        "and mergers on everything. Rebuilt: pictures whose normalised pixels come back to the "
        "last bit from what was kept. At random: as many patches, drawn at random, the others "
        "rebuilt by the same rule.",
        table,
        {
            "rows": rows,
            "thresholds": coarse,
            "times": timings,
            "manifest": manifest(seed=0, pictures=pictures),
        },
    )


if __name__ == "__main__":
    raise SystemExit(main())
