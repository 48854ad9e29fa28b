"""Requests a second in vLLM with images compressed to a quarter, against the same engine without.

Two engines with the same random weights stand side by side; rounds alternate between them, each
with new images, so that no cache helps. It runs in the environment of `make test-vllm`:
`.venv-vllm/bin/python -m benchmarks.vllm_throughput` writes docs/results/vllm-throughput.json and
vllm-throughput.md. With --together both engines compress, one of them encoding every image alone,
and the pages are vllm-together.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.results import write_results
from benchmarks.timed import ratio_cell, timed
from foveate.core.budget import Budget
from foveate.core.decoder_shape import DecoderShape
from foveate.measure.flops import prefill_cost
from foveate.measure.manifest import manifest
from foveate.measure.timing import ratio_of_medians, wall_seconds
from foveate.vllm.settings import KEY, to_settings

EMBEDDED = Path(__file__).resolve().parents[1] / "foveate" / "assets" / "vlm"
SIZE, PATCH, VISUAL = 336, 14, 576
ANSWER = 4  # tokens
QUESTION = "what color is the shape in the image? " * 4
DECODER = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 64,
    "max_position_embeddings": 2048,
}
# As a share of the decoder about what LLaVA-1.5's tower is of its 7 B decoder.
TOWER = {
    "model_type": "clip_vision_model",
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": SIZE,
    "patch_size": PATCH,
}


def write_model(folder: Path) -> None:
    """A configuration and a processor; vLLM draws the weights."""
    for path in EMBEDDED.glob("*token*.json"):
        shutil.copy(path, folder)
    config = json.loads((EMBEDDED / "config.json").read_text())
    config |= {"text_config": DECODER, "vision_config": TOWER, "image_seq_length": VISUAL}
    (folder / "config.json").write_text(json.dumps(config))
    images = json.loads((EMBEDDED / "preprocessor_config.json").read_text())
    images |= {"size": {"height": SIZE, "width": SIZE}, "do_resize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    processor = json.loads((EMBEDDED / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps(processor | {"patch_size": PATCH}))


def predicted(keep: int, num_text: int) -> dict[str, float]:
    """How many times more requests, by counting."""
    decoder = DecoderShape.of(DECODER)
    tower = DecoderShape(
        num_layers=12, hidden_size=384, intermediate_size=1536, num_heads=6, num_kv_heads=6,
        head_dim=64, gated=False,
    )  # fmt: skip
    of_tower = prefill_cost(tower, num_text=1, num_visual=VISUAL).flops
    flops = {
        n: prefill_cost(decoder, num_text=num_text + ANSWER, num_visual=n).flops
        for n in (VISUAL, keep)
    }
    return {
        "tokens": (num_text + ANSWER + VISUAL) / (num_text + ANSWER + keep),
        "flops": (of_tower + flops[VISUAL]) / (of_tower + flops[keep]),
        "tower_share": of_tower / (of_tower + flops[VISUAL]),
    }


class Engine:
    """An engine, its processes, and requests for it."""

    def __init__(self, folder: Path, settings: dict[str, Any], concurrency: int) -> None:
        import psutil
        from vllm import LLM

        before = set(psutil.Process().children(recursive=True))
        self.llm = LLM(
            model=str(folder),
            load_format="dummy",
            dtype="float32",
            enforce_eager=True,
            max_model_len=1024,
            max_num_seqs=concurrency,
            seed=0,
            kv_cache_memory_bytes=1 << 30,  # else it is a share of the machine, twice
            additional_config=settings,
        )
        self.processes = set(psutil.Process().children(recursive=True)) - before
        self.concurrency = concurrency
        self.prompt_tokens = 0
        self.cpu: list[float] = []

    def measure(self, images: Any) -> float:
        """Seconds for as many requests as run at once; their CPU time is noted."""
        prompts = [
            {
                "prompt": f"USER: <image> {QUESTION} ASSISTANT:",
                "multi_modal_data": {"image": next(images)},
            }
            for _ in range(self.concurrency)
        ]
        started = self._cpu_seconds()
        seconds = wall_seconds(partial(self._generate, prompts))
        self.cpu.append(self._cpu_seconds() - started)
        return seconds

    def _generate(self, prompts: Sequence[dict[str, Any]]) -> None:
        from vllm import SamplingParams

        settings = SamplingParams(
            max_tokens=ANSWER, ignore_eos=True, temperature=0, detokenize=False
        )
        made = self.llm.generate(prompts, settings, use_tqdm=False)
        (self.prompt_tokens,) = {len(output.prompt_token_ids) for output in made}

    def _cpu_seconds(self) -> float:
        times = [process.cpu_times() for process in self.processes]
        return sum(t.user + t.system for t in times)


def pictures(seed: int) -> Any:
    """Noise without end."""
    generator = np.random.default_rng(seed)
    while True:
        yield Image.fromarray(generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--keep-ratio", type=float, default=0.25)
    parser.add_argument(
        "--together", action="store_true", help="images together against each alone"
    )
    arguments = parser.parse_args()
    budget = Budget(keep_ratio=arguments.keep_ratio)
    on = to_settings("tokencarve", budget)
    settings: dict[str, dict[str, Any]] = {"off": {}, "on": on}
    if arguments.together:
        settings = {"alone": {KEY: {**on[KEY], "alone": True}}, "together": on}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder)
        engines = {n: Engine(folder, settings[n], arguments.concurrency) for n in settings}
        images = {n: pictures(seed) for seed, n in enumerate(settings)}
        seconds = timed(
            "rounds",
            {n: partial(engines[n].measure, images[n]) for n in settings},
            rounds=arguments.rounds,
        )
    if arguments.together:
        write_together(seconds, engines, budget, arguments)
    else:
        write_page(seconds, engines, budget, arguments)


def write_together(
    seconds: dict[str, list[float]],
    engines: dict[str, Engine],
    budget: Budget,
    arguments: argparse.Namespace,
) -> None:
    """The page of images encoded together against each alone."""
    wall = ratio_of_medians(seconds["alone"], seconds["together"])
    cpu = ratio_of_medians(engines["alone"].cpu[1:], engines["together"].cpu[1:])
    row = {"throughput_ratio": wall.to_dict(), "cpu_time_ratio": cpu.to_dict()}
    write_results(
        "vllm-together",
        "Throughput in vLLM with images encoded together against each alone",
        "vLLM on a CPU, float32, random weights: a LLaVA with 24 layers of width 1024 (0.37 B) "
        f"and 576 visual tokens, TokenCarve at {budget}; {arguments.concurrency} requests at once, "
        "each with one new image. Requests a second of two engines that differ in nothing but "
        "whether images of one size go through the tower and the selection together, alternating "
        "rounds.",
        [
            "| throughput, together / alone (95 %) | CPU time, alone / together (95 %) |",
            "|---|---|",
            f"| {ratio_cell(row['throughput_ratio'])} | {ratio_cell(row['cpu_time_ratio'])} |",
        ],
        {"rows": [row], "manifest": _manifest(arguments)},
        module="vllm_throughput --together",
    )


def write_page(
    seconds: dict[str, list[float]],
    engines: dict[str, Engine],
    budget: Budget,
    arguments: argparse.Namespace,
) -> None:
    """The page of compression on against off."""
    names = ("off", "on")
    keep = budget.count(VISUAL)
    long, short = (engines[n].prompt_tokens for n in names)
    assert long - short == VISUAL - keep, f"prompts of {long} and {short} tokens"
    counted = predicted(keep, num_text=long - VISUAL)
    wall = ratio_of_medians(seconds["off"], seconds["on"])
    cpu = ratio_of_medians(engines["off"].cpu[1:], engines["on"].cpu[1:])
    row = {
        "keep_tokens": keep,
        "prompt_tokens": {"off": long, "on": short},
        "throughput_ratio": wall.to_dict(),
        "cpu_time_ratio": cpu.to_dict(),
        "predicted_by_tokens": counted["tokens"],
        "predicted_by_flops": counted["flops"],
        "tower_share_of_flops": counted["tower_share"],
    }
    table = [
        "| keep of 576 | prompt tokens | throughput, on / off (95 %) | CPU time, off / on (95 %) | "
        "from token counts | from FLOPs with the tower |",
        "|---|---|---|---|---|---|",
        f"| {keep} | {long} -> {short} | {ratio_cell(row['throughput_ratio'])} | "
        f"{ratio_cell(row['cpu_time_ratio'])} | {counted['tokens']:.3f} | {counted['flops']:.3f} |",
    ]
    write_results(
        "vllm-throughput",
        "Throughput in vLLM with the plugin on against off",
        "vLLM on a CPU, float32, random weights: a LLaVA with 24 layers of width 1024 (0.37 B) "
        f"and 576 visual tokens, TokenCarve at {budget}; {arguments.concurrency} requests at once, "
        f"each with one new image, {long - VISUAL} text tokens and {ANSWER} tokens of answer. "
        "Requests a second of the two engines, alternating rounds. The vision tower, "
        f"{100 * counted['tower_share']:.0f} % of the FLOPs without compression, runs in full in "
        "both; the selection is part of the time. CPU time is that of all processes of an engine.",
        table,
        {
            "rows": [row],
            "manifest": _manifest(arguments),
        },
    )


def _manifest(arguments: argparse.Namespace) -> dict[str, Any]:
    made: dict[str, Any] = manifest(
        seed=0,
        rounds=arguments.rounds,
        concurrency=arguments.concurrency,
        vllm=_vllm_version(),
        decoder=DECODER,
        tower=TOWER,
    )
    return made


def _vllm_version() -> str:
    import vllm

    return str(vllm.__version__)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
