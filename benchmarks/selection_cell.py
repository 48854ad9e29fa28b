"""One row of benchmarks.selection_scale: a method on images of several sizes, in its own process.

    python benchmarks/selection_cell.py METHOD N [N ...]

prints a line of JSON for each N: CPU seconds of each run, the peak of memory above the states, and
which tokens went on. It uses no more of foveate than methods and VisualTokens, so that the path
before it may hold another version (PYTHONPATH). Linux, for the peak.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import resource
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import foveate
from foveate.carve.tower_method import TowerMerging, TowerMethod
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

WIDTH, LAYERS, HEADS, NUM_TEXT = 3584, 28, 28, 40
TOWER_WIDTH, TOWER_LAYERS, KEY_WIDTH = 1280, 32, 80
KEEP_RATIO = 0.25
# What comes with a need, beside what has its name.
GIVEN_FOR = {
    "attention_ahead": {"attention"},
    "keys": {"text_keys"},
    "normed": {"text_normed"},
    "text": {"text_mask"},
    "text_attention": {"text_mask"},
}
REPEATS, ENOUGH_SECONDS = 5, 6.0


def states(num_tokens: int, seed: int = 0) -> Tensor:
    """[1, N, D] bfloat16: low rank, noise, rows of different size. Made in one float32 pass."""
    generator = torch.Generator().manual_seed(seed)
    rank = max(8, num_tokens // 24)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(num_tokens, rank) @ normal(rank, WIDTH) / rank**0.5
    x += 0.35 * normal(num_tokens, WIDTH)
    return (x * (0.35 * normal(num_tokens, 1)).exp()).bfloat16()[None]


def visual_tokens(num_tokens: int) -> VisualTokens:
    """Everything that any method may look at."""
    generator = torch.Generator().manual_seed(1)

    def attention(*shape: int) -> Tensor:
        return (2 * torch.randn(*shape, generator=generator)).softmax(dim=-1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    rows = max(r for r in range(1, int(num_tokens**0.5) + 1) if num_tokens % r == 0)
    x, text = states(num_tokens), normal(NUM_TEXT, WIDTH).bfloat16()
    mask = torch.ones(1, NUM_TEXT, dtype=torch.bool)
    everything: dict[str, Any] = {
        "hidden": x,
        "attention": attention(1, HEADS, num_tokens),
        "text": text,
        "text_mask": mask,
        "text_attention": attention(1, NUM_TEXT, num_tokens),
        "keys": normal(num_tokens, 512).bfloat16(),
        "text_keys": normal(NUM_TEXT, 512).bfloat16(),
        "normed": x,
        "text_normed": text,
        "entering": VisualTokens(hidden=x, text=text, text_mask=mask),
        "foresight": attention(1, num_tokens),
        "layer_update": x,
        "vision_attention": attention(1, num_tokens),
        "vision_attention_early": attention(1, num_tokens),
        "vision_received": attention(1, num_tokens),
        "vision_received_early": attention(1, num_tokens),
        "vision_keys": normal(num_tokens, KEY_WIDTH),
        "vision_features": normal(num_tokens, TOWER_WIDTH),
        "grids": ((rows, num_tokens // rows),),
        "serials": (0,),
    }
    known = {field.name for field in fields(VisualTokens)}  # of the version that is measured
    return VisualTokens(**{name: everything[name] for name in everything if name in known})


def seen_by(visual: VisualTokens, needs: frozenset[str]) -> VisualTokens:
    """As the engine gives it: what a step did not ask for is None."""
    wanted = {"hidden", *needs}
    for need, found in GIVEN_FOR.items():
        wanted |= found if need in needs else set()
    absent: dict[str, Any] = {
        field.name: None
        for field in fields(visual)
        if field.name not in wanted and isinstance(getattr(visual, field.name), Tensor)
    }
    return replace(visual, **absent)


class Clock:
    """CPU seconds of the blocks it stands around; what the measurement itself does is outside."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.process_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.process_time() - self._started


def run(method: foveate.Method, visual: VisualTokens) -> tuple[list[int], float]:
    """All steps of a method on an image, merging included: (tokens left at the end, seconds)."""
    clock = Clock()
    if isinstance(method, TowerMethod):
        return run_in_tower(method, visual, clock), clock.seconds
    num_tokens = visual.num_tokens
    left = torch.arange(num_tokens)
    layers = method.layers(LAYERS, 0)
    keep = method.budget.count(num_tokens)
    keeps = method.keeps(keep, num_tokens, layers, LAYERS)
    for step in method.steps(LAYERS, 0):
        seen = seen_by(visual, frozenset(step.needs))
        with clock:
            (keep,) = method.adapt(seen, keeps, step, LAYERS)
            if keep >= visual.num_tokens:
                continue
            plan = method.select(seen, keep)
            hidden = plan.apply(visual.hidden)
        left = left[plan.keep_idx[0]]
        counts = (*visual.counts, plan.num_kept)
        visual = replace(visual.tokens(plan.keep_idx), hidden=hidden, counts=counts)
    return left.tolist(), clock.seconds


def run_in_tower(method: TowerMethod, visual: VisualTokens, clock: Clock) -> list[int]:
    """The matching of every layer of a tower that starts with N tokens, and the plan behind it."""
    num_tokens = visual.num_tokens
    keep = method.budget.count(num_tokens)
    owners = torch.arange(num_tokens)
    if isinstance(method, TowerMerging):
        assert visual.vision_keys is not None
        assert visual.vision_attention is not None
        keys = visual.vision_keys
        importance = visual.vision_attention
        left = torch.arange(num_tokens)
        for count in method.merges(num_tokens, keep, TOWER_LAYERS):
            with clock:
                matched = method.match(keys, importance, count)
            src, dst = (places[0] for places in matched)
            owners[left[src]] = left[dst]
            stays = torch.ones(len(left), dtype=torch.bool)
            stays[src] = False
            left, keys, importance = left[stays], keys[:, stays], importance[:, stays]
        for _ in range(TOWER_LAYERS.bit_length()):  # what an owner's owner owns
            owners = owners[owners]
    else:
        owners = owners * keep // num_tokens * num_tokens // keep
    visual = replace(visual, owners=owners[None])
    with clock:
        plan = method.plan(visual, keep)
        plan.apply(visual.hidden)
    return plan.keep_idx[0].tolist()  # type: ignore[no-any-return]


def peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def cell(method: foveate.Method, num_tokens: int) -> dict[str, Any]:
    """One size: what was measured, or why not."""
    visual = visual_tokens(num_tokens)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what making the states left over is not free to take
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before, held = peak_bytes(), 0
    seconds: list[float] = []
    kept: list[int] = []
    while len(seconds) < REPEATS and sum(seconds) < ENOUGH_SECONDS:
        try:
            kept, took = run(method, visual)
        except MethodError as error:
            return {"failed": str(error)}
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
                raise
            return {"failed": "out of memory"}
        if not seconds:
            held = max(0, peak_bytes() - before)
        seconds.append(took)
    return {"seconds": seconds, "bytes": held, "kept": kept}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method")
    parser.add_argument("sizes", type=int, nargs="+")
    parser.add_argument("--memory", type=float, default=12.0, help="GB that the process may map")
    parser.add_argument("--limit", type=int, default=300, help="CPU seconds, then SIGXCPU ends it")
    arguments = parser.parse_args()
    for kind, limit in (
        (resource.RLIMIT_AS, int(1e9 * arguments.memory)),
        (resource.RLIMIT_CPU, arguments.limit),
    ):
        resource.setrlimit(kind, (limit, limit + 1))
    torch.set_num_threads(1)
    method = foveate.method(arguments.method, keep_ratio=KEEP_RATIO)
    with torch.no_grad():
        run(method, visual_tokens(64))  # libraries load
        for num_tokens in arguments.sizes:
            print(json.dumps(cell(method, num_tokens)), flush=True)


if __name__ == "__main__":
    main()
