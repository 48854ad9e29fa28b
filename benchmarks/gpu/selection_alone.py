"""Every method's selection by itself, on states like an image's, timed by events."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import foveate
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.models import dtype_on
from benchmarks.gpu.rows import Rows
from foveate.carve.tower_method import TowerMethod
from foveate.core.information import INFORMATION_SCORES
from foveate.core.precision import full_precision
from foveate.core.visual import VisualTokens

# images, visual tokens, width, kept of each
SHAPES = (
    (1, 576, 4096, 128),
    (8, 576, 4096, 128),
    (1, 1024, 3584, 256),
    (1, 4096, 3584, 1024),
    (1, 16384, 3584, 4096),
)
TINY = ((2, 144, 64, 32),)
TEXT = 40


def measure_selection(rows: Rows, clock: Clock, *, tiny: bool) -> None:
    """Add a row a method and shape, small shapes first; `select` only, nothing around it."""
    for images, tokens, width, keep in TINY if tiny else SHAPES:
        visual = tokens_like(clock.device, images, tokens, width)
        where = {
            "what": "selection", "images": images, "tokens": tokens, "width": width, "keep": keep,
        }  # fmt: skip
        for name, method_class in foveate.METHODS.items():
            label = f"selection of {keep} of {images} x {tokens}: {name}"
            is_elsewhere = issubclass(method_class, TowerMethod) or name in (
                "noop",
                "stack",
                "text-share",
            )
            if is_elsewhere or not rows.has_time(label, seconds=10):
                continue
            method = foveate.method(name, keep_tokens=keep)
            with rows.noting(label), torch.no_grad(), full_precision(clock.device):
                found = clock.device_ms(partial(method.select, visual, keep), rounds=5)
                rows.add({**where, "method": name, **found})


def measure_information(rows: Rows, clock: Clock, *, tiny: bool) -> None:
    """Add a row an information score and shape: what TokenCarve spends most on."""
    for images, tokens, width, _ in TINY if tiny else SHAPES[:4]:
        hidden = states_like(clock.device, images, tokens, width)
        where = {"what": "information", "images": images, "tokens": tokens, "width": width}
        for name, score in INFORMATION_SCORES.items():
            label = f"information score {name} of {images} x {tokens}"
            if not rows.has_time(label, seconds=15):
                continue
            with rows.noting(label), torch.no_grad(), full_precision(clock.device):
                rows.add(
                    {**where, "score": name, **clock.device_ms(partial(score, hidden), rounds=3)}
                )


def states_like(device: torch.device, images: int, tokens: int, width: int) -> Tensor:
    """[images, tokens, width]: low rank, noise and uneven norms, as an image's states have."""
    generator = torch.Generator(device=device).manual_seed(0)
    rank = max(8, tokens // 24)
    normal = partial(torch.randn, generator=generator, device=device)
    low = normal(images, tokens, rank) @ normal(images, rank, width) / rank**0.5
    noisy = low + 0.35 * normal(images, tokens, width)
    return (noisy * (0.35 * normal(images, tokens, 1)).exp()).to(dtype_on(device))


def tokens_like(device: torch.device, images: int, tokens: int, width: int) -> VisualTokens:
    """All that a method may look at."""
    generator = torch.Generator(device=device).manual_seed(1)
    uniform = partial(torch.rand, generator=generator, device=device)
    side = round(tokens**0.5)
    hidden, text = (states_like(device, images, n, width) for n in (tokens, TEXT))
    mask = torch.ones(images, TEXT, dtype=torch.bool, device=device)
    return VisualTokens(
        hidden=hidden,
        keys=uniform(images, tokens, 512),
        text_keys=uniform(images, TEXT, 512),
        normed=hidden,
        text_normed=text,
        layer_update=hidden,
        entering=VisualTokens(hidden=hidden, text=text, text_mask=mask),
        attention=uniform(images, 28, tokens),
        attention_output=hidden,
        text=text,
        text_mask=mask,
        text_attention=uniform(images, TEXT, tokens),
        vision_attention=uniform(images, tokens),
        vision_attention_early=uniform(images, tokens),
        vision_received=uniform(images, tokens),
        vision_received_early=uniform(images, tokens),
        vision_keys=uniform(images, tokens, 64),
        vision_features=uniform(images, tokens, 1024),
        grids=((side, side),) * images,
        serials=tuple(range(images)),
    )
