"""Every image-text-to-text type of the installed transformers, carved on a tiny twin or refused.

A twin is a random model of the type with every size small. `python -m benchmarks.zoo` writes
docs/results/zoo.json and zoo.md, and foveate/assets/zoo.json, which `foveate models` prints.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch

from benchmarks.results import write_results
from foveate.assets import zoo_path
from foveate.carve.check.known import zoo_types
from foveate.carve.check.result import Checked
from foveate.carve.check.zoo import check_type
from foveate.measure.manifest import manifest

WHAT = (
    "A tiny random twin of every type is held to a slow path written against plain transformers: "
    "tokens that are dropped are hidden by the mask in a full-length pass, or, where layers keep a "
    "state, the layers run uncached on the shorter sequence. Five greedy tokens must have the same "
    "logits to 2e-5 of their scale, one prompt and a ragged batch, and the slow path must differ "
    "from the untouched model. Keeping everything and prompts without images are bitwise the plain "
    "model. Before the language model means that the prompt itself is shortened and the twin's own "
    "decoder, called without a cache on the embeddings that are left, has the same logits. Where "
    "it says features, pixels could not be made for the type's tower (or the tower needs timm), "
    "and features were given in their place."
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", nargs="*", help="only these, and write nothing")
    chosen = parser.parse_args(arguments).types
    torch.set_num_threads(1)
    found = []
    for kind in chosen or zoo_types():
        found.append(check_type(kind))
        print(f"{kind:<24} {found[-1].summary}", flush=True)
    if chosen:
        return
    rows = [checked.to_dict() for checked in found]
    data = {"counts": counts(found), "rows": rows, "manifest": manifest(seed=7)}
    write_results("zoo", "The zoo", WHAT, table(found), data)
    text = json.dumps({"rows": rows}, indent=1) + "\n"
    zoo_path().write_text(text, encoding="utf-8")


def counts(found: Sequence[Checked]) -> dict[str, int]:
    """How many types can what."""
    return {
        "types": len(found),
        "in_llm": sum(one.in_llm for one in found),
        "before_llm_only": sum(bool(one.before_llm) and not one.in_llm for one in found),
        "video": sum(bool(one.video) for one in found),
        "batches": sum(one.batches for one in found),
        "refused": sum(not one.in_llm and not one.before_llm for one in found),
    }


def table(found: Sequence[Checked]) -> list[str]:
    """A Markdown table, what works first."""
    number = counts(found)
    lines = [
        f"{number['in_llm']} of {number['types']} types are carved in the language model, "
        f"{number['video']} of them with video; {number['before_llm_only']} before it only; "
        f"{number['refused']} are refused.",
        "",
        "| type | name | in the LLM | before it | batches | video | kernels | slow path | notes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda one: (not one.in_llm, not one.before_llm)):
        notes = [one.refusal] if one.refusal else []
        if one.given_features:
            notes.append("features")
        notes += [f"{name}: {why}" for name, why in one.findings.items() if why and one.in_llm]
        cells = [
            f"`{one.model_type}`",
            one.title,
            *(_mark(value) for value in (one.in_llm, one.before_llm, one.batches, one.video)),
            ", ".join(one.kernels),
            one.oracle,
            "; ".join(notes).replace("|", "\\|"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mark(value: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[value]


if __name__ == "__main__":
    main()
