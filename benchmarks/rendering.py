"""Rendering text as strips: against Pillow, and as a share of the language model's prefill.

A page of English becomes strips of 14 x 3584 pixels at 10 px; a random decoder of SmolLM2-135M's
shape reads as many tokens as the text has, at four characters a token. Every figure is a ratio
inside one process; rounds are interleaved. `python -m benchmarks.rendering` writes
docs/results/rendering.json and rendering.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from benchmarks.random_decoder import random_llama
from benchmarks.results import write_results
from benchmarks.timed import ratio_cell, timed
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians
from foveate.text_image.font_file import shipped_font
from foveate.text_image.render import Renderer

TOKENS, CHARS_PER_TOKEN = 512, 4
SHAPE = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
# A render is far shorter than the others and is repeated within a round.
REPEATS = 40
LIMIT_PILLOW, LIMIT_PREFILL = 10.0, 0.02


def english() -> str:
    """The beginning of the project's licence: long words, capitals, digits, newlines."""
    licence = Path(__file__).resolve().parents[1] / "LICENSE"
    text = " ".join(licence.read_text().split())
    return text[: TOKENS * CHARS_PER_TOKEN]


def pillow_strips(lines: list[str], baseline: int) -> list[np.ndarray]:
    """The same lines drawn by Pillow, which is told where they break."""
    font = ImageFont.truetype(str(shipped_font()), 10, layout_engine=ImageFont.Layout.BASIC)
    strips = []
    for line in lines:
        image = Image.new("L", (3584, 14), 255)
        ImageDraw.Draw(image).text((0, baseline), line, font=font, fill=0, anchor="ls")
        strips.append(np.asarray(image))
    return strips


def both_seconds(work: Callable[[], object], cpu: list[float], repeats: int = 1) -> float:
    """Wall seconds of one call; its CPU seconds are appended to `cpu`."""
    wall, process = time.perf_counter(), time.process_time()
    for _ in range(repeats):
        work()
    cpu.append((time.process_time() - process) / repeats)
    return (time.perf_counter() - wall) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    text = english()
    renderer = Renderer()
    strips = renderer.render(text)
    lines = [text[slice(*strips.char_range(page))] for page in range(len(strips))]
    font = ImageFont.truetype(str(shipped_font()), 10)
    baseline = font.getmetrics()[0]
    same = float((np.stack(pillow_strips(lines, baseline)) == strips.pixels).mean())
    model = random_llama(SHAPE, seed=0)
    ids = torch.randint(0, SHAPE["vocab_size"], (1, TOKENS), generator=torch.Generator())

    def prefill() -> None:
        with torch.no_grad():
            model(input_ids=ids, logits_to_keep=1)

    contenders: dict[str, tuple[Callable[[], object], int]] = {
        "render": (partial(renderer.render, text), REPEATS),
        "first render": (lambda: Renderer().render(text), 1),
        "Pillow": (partial(pillow_strips, lines, baseline), 1),
        "prefill": (prefill, 1),
    }
    cpu: dict[str, list[float]] = {name: [] for name in contenders}
    wall = timed(
        "rendering",
        {
            name: partial(both_seconds, work, cpu[name], repeats)
            for name, (work, repeats) in contenders.items()
        },
        rounds=arguments.rounds,
    )
    cpu = {name: seconds[1:] for name, seconds in cpu.items()}
    rows = []
    for name in ("render", "first render"):
        for clock, seconds in (("wall", wall), ("CPU", cpu)):
            faster = ratio_of_medians(seconds["Pillow"], seconds[name])
            share = ratio_of_medians(seconds[name], seconds["prefill"])
            rows.append(
                {
                    "what": name,
                    "clock": clock,
                    "times_faster_than_pillow": faster.to_dict(),
                    "share_of_prefill": share.to_dict(),
                }
            )
    rate = TOKENS / float(np.median(cpu["render"]))
    table = [
        "| | clock | times faster than Pillow (95 %) | share of prefill (95 %) |",
        "|---|---|---|---|",
        *(
            f"| {r['what']} | {r['clock']} | "
            f"{ratio_cell(r['times_faster_than_pillow'], '.0f')} | "
            f"{ratio_cell(r['share_of_prefill'], '.3%')} |"
            for r in rows
        ),
        "",
        f"Pixels equal to Pillow's: {100 * same:.3f} %. About {round(rate, -4):,.0f} tokens per "
        "CPU second with a warm atlas on this machine.",
    ]
    write_results(
        "rendering",
        "Rendering text as strips",
        f"{len(text):,} characters of English, {len(strips)} strips of 14 x 3584 at 10 px, maps "
        f"and masks included. Pillow draws the same lines with basic layout, told where they "
        f"break. Prefill: {TOKENS} tokens through a random decoder of SmolLM2-135M's shape, fp32, "
        "sdpa. The first render also opens the font and draws the glyphs. CPU is the process's "
        f"own time. Asked for: at least {LIMIT_PILLOW:g} times Pillow, under "
        f"{100 * LIMIT_PREFILL:g} % of prefill.",
        table,
        {
            "rows": rows,
            "pixels_equal_to_pillow": same,
            "tokens_per_cpu_second": rate,
            "manifest": manifest(seed=0, rounds=arguments.rounds, shape=SHAPE),
        },
    )


if __name__ == "__main__":
    main()
