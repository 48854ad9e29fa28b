"""What AngelSlim answers and keeps, in an environment of its own.

Runs where AngelSlim's pin of transformers lies, so it imports torch, transformers and PyYAML alone.
Called by benchmarks.rival.accuracy, which wrote the prompts and reads what this writes.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from benchmarks.rival.angelslim import AngelSlim
from benchmarks.rival.prompts_file import load_prompts

# Strategy -> what of its configuration is changed: a cut where foveate cuts by default, and of the
# tower the layer whose features the embedded model takes.
ARMS: dict[str, dict[str, int]] = {
    "fastv": {"cut": 2},
    "dart": {"cut": 2},
    "divprune": {},
    "visionzip": {"tower_layer": -1},
}
# Name of a way to answer -> whether with a cache, and whether positions count on.
WAYS = {"cached": (True, False), "recomputed": (False, False), "positions mended": (True, True)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rival.answers", description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="AngelSlim's clone")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--drop", type=float, required=True, help="share of the visual tokens")
    parser.add_argument("--tokens", type=int, default=8, help="of an answer, at most")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rival = AngelSlim(given.source)
    model = LlavaForConditionalGeneration.from_pretrained(
        given.model, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    ask = partial(answers, model, load_prompts(given.prompts), given.tokens)
    found: dict[str, Any] = {"full": {"cached": ask(nullcontext, True)}}
    for strategy, changed in ARMS.items():
        found[strategy] = {}
        for way, (use_cache, counts_on) in WAYS.items():
            if counts_on and "cut" in changed:
                continue  # what goes between layers is not taken off
            attached = partial(
                rival.attached, model, strategy, drop=given.drop, counts_on=counts_on, **changed
            )
            found[strategy][way] = ask(attached, use_cache, rival.kept)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    given.out.write_text(json.dumps({"answers": found, "versions": versions}))
    return 0


def answers(
    model: Any,
    prompts: list[dict[str, Tensor]],
    tokens: int,
    attached: Callable[[], AbstractContextManager[Any]],
    use_cache: bool,
    kept: list[Tensor] | None = None,
) -> dict[str, Any]:
    """Token ids of each answer, and for each prompt the places of what its first pass kept."""
    said, places = [], []
    with redirect_stdout(io.StringIO()), attached(), torch.no_grad():
        for prompt in prompts:
            if kept is not None:
                kept.clear()
            whole = model.generate(
                **prompt, do_sample=False, max_new_tokens=tokens, use_cache=use_cache
            )
            said.append(whole[0, prompt["input_ids"].shape[1] :].tolist())
            if kept is not None:
                places.append(kept[0].flatten().nonzero()[:, 0].tolist())
    return {"ids": said, "kept": places}


if __name__ == "__main__":
    raise SystemExit(main())
