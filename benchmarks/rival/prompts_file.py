"""Prompts in a safetensors file: what a process of another environment is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


def save_prompts(prompts: Sequence[dict[str, Tensor]], file: Path) -> None:
    """Write the inputs of each prompt."""
    save_file(
        {
            f"{number}.{name}": value.clone().contiguous()
            for number, prompt in enumerate(prompts)
            for name, value in prompt.items()
        },
        file,
    )


def load_prompts(file: Path) -> list[dict[str, Tensor]]:
    """What `save_prompts` wrote, in its order."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(file).items():
        number, _, name = key.partition(".")
        found.setdefault(int(number), {})[name] = value
    return [found[number] for number in range(len(found))]
