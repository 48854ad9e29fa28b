"""A tiny model of any family on any device, carved: what it kept and what it said."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import foveate
from foveate.core.information import INFORMATION_SCORES
from foveate.errors import FoveateError
from tests import tiny_kinds as kinds
from tests import tiny_vlm as tiny

FAMILIES = (*tiny.FAMILIES, *kinds.KINDS)
SLICE = ("llava", "qwen2_5_vl")  # what runs without --device
CLOSE = 1e-4  # of the largest logit
# A random model may say a placeholder, which the next step would take for an image.
SPOKEN = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [*range(88, tiny.VOCAB)]}


def methods() -> dict[str, foveate.Method]:
    """Every registered method at 40 %, and the settings that take other ways through the pass."""
    half = {"keep_ratio": 0.4}
    plain = {
        name: foveate.method(name, **half)
        for name in foveate.METHODS
        if name not in ("noop", "stack", "text-share") and not foveate.METHODS[name].counts_itself
    }
    scores = {
        f"tokencarve {score}": foveate.TokenCarve(**half, information_score=score)
        for score in INFORMATION_SCORES
    }
    return {
        **plain,
        **scores,
        "fastv renumbered": foveate.FastV(**half, positions="renumbered"),
        "tokencarve full cache": foveate.TokenCarve(**half, early_cache="full"),
        "tokencarve sizes": foveate.TokenCarve(**half, sizes="log"),
        "fastv debiased": foveate.FastV(**half, attention_scores="debiased"),
        "text share": foveate.TextShare(inner=foveate.DivPrune(**half), relevance="similarity"),
        "two steps": foveate.Stack(
            stages=(foveate.DivPrune(keep_ratio=0.7), foveate.TokenCarve(**half))
        ),
    }


@dataclass(frozen=True)
class Carved:
    """One short generation: the kept tokens of each image, logits [B, steps, V] on the CPU."""

    kept: tuple[tuple[int, ...], ...]
    logits: Tensor


@functools.cache
def model_of(family: str, device: str, dtype: torch.dtype = torch.float32) -> Any:
    return kinds.build(family).to(device, dtype)


def moved(value: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """The inputs of a call on a device; what is not whole numbers in a precision."""
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else value.dtype)
    if isinstance(value, Mapping):
        return type(value)(**{key: moved(item, device, dtype) for key, item in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(moved(item, device, dtype) for item in value)
    return value


def inputs_of(family: str, num_images: Sequence[int]) -> dict[str, Any]:
    return tiny.prompts(model_of(family, "cpu"), family, num_images)


def carve(model: Any, inputs: dict[str, Any], method: foveate.Method) -> Carved | str:
    """What was kept and said; where foveate refuses, its sentence."""
    try:
        with torch.no_grad(), foveate.attach(model, method) as run:
            out = model.generate(
                **kinds.given(inputs), **SPOKEN, return_dict_in_generate=True, output_logits=True
            )
    except FoveateError as error:
        return str(error)
    kept = tuple(
        () if found.plan is None else tuple(found.plan.keep_idx[0].tolist()) for found in run.plans
    )
    said = torch.stack(out.logits, dim=1)[..., : SPOKEN["suppress_tokens"][0]]
    return Carved(kept, said.float().cpu())


def distance(a: Carved, b: Carved) -> float:
    """Of logits, as a share of the largest."""
    return float((a.logits - b.logits).abs().max() / b.logits.abs().max())


def shared(a: Carved, b: Carved) -> list[float]:
    """For each image the share of b's kept tokens that a kept too."""
    return [
        len(set(one) & set(other)) / max(1, len(other))
        for one, other in zip(a.kept, b.kept, strict=True)
    ]


def is_a_tie(model: Any, inputs: dict[str, Any], method: foveate.Method, want: Carved) -> bool:
    """Whether rounding alone turns the choice: noise of 1e-6 on the images does so, on the CPU."""
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)

        def shaken(value: Any) -> Any:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value * (1 + 1e-6 * torch.randn(value.shape, generator=generator))  # noqa: B023
            if isinstance(value, Mapping):
                return type(value)(**{key: shaken(item) for key, item in value.items()})
            return value

        found = carve(model, shaken(inputs), method)
        if isinstance(found, Carved) and found.kept != want.kept:
            return True
    return False
