"""What is measured, in order of value: each section builds its model, measures, and lets it go."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.clock import Clock
from benchmarks.gpu.contest import PLAIN, Contender, Contest
from benchmarks.gpu.models import (
    Shapes,
    build_llava,
    build_qwen,
    dtype_on,
    llava_prompts,
    qwen_prompt,
)
from benchmarks.gpu.official import exact_is_a_full_svd
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.selection_alone import measure_information, measure_selection
from foveate import TokenCarve
from foveate.carve.spec import parse_method
from foveate.core.budget import parse_budget

METHODS = ("tokencarve", "tokencarve(information_score=subspace)", "foveacarve", "fastv",
           "divprune", "visionzip", "random")  # fmt: skip
GENERATING = (PLAIN, "tokencarve", "foveacarve", "fastv", "visionzip")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all sections share."""

    rows: Rows
    clock: Clock
    shapes: Shapes
    new_tokens: int
    rounds: int

    @property
    def device(self) -> torch.device:
        return self.clock.device


def ceilings(setting: Setting) -> None:
    """What the device itself can do: a large product, a large copy."""
    clock, tiny = setting.clock, setting.shapes.tiny
    side, num_bytes = (256, 2**20) if tiny else (8192, 2**30)
    square = torch.randn(side, side, device=setting.device, dtype=dtype_on(setting.device))
    product = clock.device_ms(lambda: square @ square, rounds=5)["device_ms"]["value"]
    source = torch.zeros(num_bytes, device=setting.device, dtype=torch.int8)
    copy = clock.device_ms(source.clone, rounds=5)["device_ms"]["value"]
    setting.rows.add(
        {
            "what": "ceilings",
            "product_tflops": 2 * side**3 / product / 1e9,
            "copy_tb_s": 2 * num_bytes / copy / 1e9,
        }
    )


def llava_batch_8(setting: Setting) -> None:
    _llava(setting, batch=2 if setting.shapes.tiny else 8)


def llava_batch_1(setting: Setting) -> None:
    _llava(setting, batch=1)


def _llava(setting: Setting, *, batch: int) -> None:
    shapes = setting.shapes
    model = build_llava(shapes, setting.device)
    inputs = llava_prompts(shapes, setting.device, batch=batch)
    for keep in sorted(shapes.llava_keeps, key=lambda keep: keep != shapes.llava_keeps[1]):
        where = {"model": "LLaVA-1.5-7B", "batch": batch, "keep": str(keep)}
        generating = GENERATING if keep == shapes.llava_keeps[1] else ()
        _contest(setting, where, model, inputs).run(
            _carved(str(keep)),
            rounds=setting.rounds,
            generating=generating,
            new_tokens=setting.new_tokens,
        )
    keep = str(shapes.llava_keeps[1])
    where = {"model": "LLaVA-1.5-7B", "batch": batch, "keep": keep}
    _contest(setting, where, model, inputs).launches(
        {name: contender for name, contender in _carved(keep).items() if name in GENERATING}
    )


def paper(setting: Setting) -> None:
    """The paper's 1.23x: its eager baseline and score, and what they are beside sdpa."""
    shapes = setting.shapes
    model = build_llava(shapes, setting.device)
    inputs = llava_prompts(shapes, setting.device, batch=1)
    keep = shapes.llava_keeps[1]
    where = {"model": "LLaVA-1.5-7B, the paper's", "batch": 1, "keep": str(keep)}
    exact = TokenCarve(keep_tokens=keep, information_score="exact")
    ours = TokenCarve(keep_tokens=keep)
    contenders = {
        "plain, eager": Contender(attention="eager"),
        "tokencarve by a whole SVD, eager": Contender(
            method=exact, attention="eager", around=exact_is_a_full_svd
        ),
        "tokencarve, eager": Contender(method=ours, attention="eager"),
        "plain, sdpa": Contender(),
        "tokencarve, sdpa": Contender(method=ours),
    }
    _contest(setting, where, model, inputs).run(
        contenders,
        rounds=setting.rounds,
        generating=tuple(contenders),
        new_tokens=setting.new_tokens,
    )


def qwen_4k(setting: Setting) -> None:
    _qwen(setting, "4k")


def qwen_1k(setting: Setting) -> None:
    _qwen(setting, "1k")


def _qwen(setting: Setting, size: str) -> None:
    side = setting.shapes.qwen_sides[size]
    model = build_qwen(setting.shapes, setting.device)
    inputs = qwen_prompt(setting.shapes, setting.device, side=side)
    where: dict[str, Any] = {"model": "Qwen2.5-VL-7B", "batch": 1}
    where["visual"] = side * side
    for attention, keep in (("flash", "25%"), ("flash", "10%"), ("sdpa", "25%")):
        is_first = (attention, keep) == ("flash", "25%")
        _contest(setting, {**where, "keep": keep}, model, inputs).run(
            _carved(keep, attention),
            rounds=setting.rounds,
            generating=GENERATING if is_first else (),
            new_tokens=setting.new_tokens,
        )


def selection(setting: Setting) -> None:
    measure_selection(setting.rows, setting.clock, tiny=setting.shapes.tiny)


def information(setting: Setting) -> None:
    measure_information(setting.rows, setting.clock, tiny=setting.shapes.tiny)


SECTIONS: dict[str, Callable[[Setting], None]] = {
    "ceilings": ceilings,
    "llava-8": llava_batch_8,
    "qwen-4k": qwen_4k,
    "paper": paper,
    "llava-1": llava_batch_1,
    "qwen-1k": qwen_1k,
    "selection": selection,
    "information": information,
}


def run_section(name: str, setting: Setting) -> None:
    """One section, if there is time to build its model; memory is given back after it."""
    if not setting.rows.has_time(name, seconds=10):
        return
    with setting.rows.noting(name):
        SECTIONS[name](setting)
    gc.collect()
    if setting.clock.is_cuda:
        torch.cuda.empty_cache()


def _carved(keep: str, attention: str = "sdpa") -> dict[str, Contender]:
    budget = parse_budget(keep)
    carved = {
        name: Contender(method=parse_method(name, budget), attention=attention) for name in METHODS
    }
    return {PLAIN: Contender(attention=attention), **carved}


def _contest(setting: Setting, where: dict[str, Any], model: Any, inputs: Any) -> Contest:
    return Contest(setting.rows, setting.clock, where, model, inputs)
