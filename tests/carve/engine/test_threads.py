"""Any number of threads call one attached model: every answer is the one it gives alone."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import foveate
from tests import tiny_vlm as tiny

THREADS = 8
GREEDY = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
# pixelprune takes no budget, and other towers: tests/carve/tower/test_drop.py.
METHODS = [n for n in foveate.METHODS if n not in ("noop", "stack", "text-share", "pixelprune")]


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    """Let threads take turns in the middle of a forward pass."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def requests(model: Any, family: str) -> list[dict[str, Any]]:
    """Prompts of different lengths, numbers of images and questions."""
    shapes = [(1,), (2,), (1, 2, 0), (0,), (1, 1)]
    return [
        {**tiny.prompts(model, family, shape, seed=seed), **settings}
        for seed, (shape, settings) in enumerate(
            (shape, settings)
            for shape in shapes
            for settings in ({}, {"num_beams": 2}, {"use_cache": False})
        )
    ]


def answer(run: foveate.Run, model: Any, request: dict[str, Any]) -> tuple[Any, ...]:
    """What came of a request: tokens, what was kept, and the report without its seconds."""
    tokens = model.generate(**request, **GREEDY).tolist()
    kept = [entry.plan.keep_idx.tolist() if entry.plan else None for entry in run.plans]
    assert run.report is not None
    report = run.report.to_dict()
    report.pop("select_seconds")
    return tokens, kept, report


def at_once(calls: list[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def check(family: str, method: foveate.Method, count: int) -> None:
    model = tiny.build(family)
    asked = requests(model, family)
    with foveate.attach(model, method) as run:
        alone = [answer(run, model, request) for request in asked]
    order = [i % len(asked) for i in range(count)]
    random.Random(5).shuffle(order)
    with foveate.attach(model, method) as run:
        together = at_once([lambda i=i: answer(run, model, asked[i]) for i in order])
        assert len(run.reports) == count
    for i, found in zip(order, together, strict=True):
        assert found == alone[i]
    assert len({str(kept) for _, kept, _ in alone}) > 3, "requests that are all alike show nothing"


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str) -> None:
    check("llava", foveate.method(name, keep_ratio=0.4), count=30)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "smolvlm"])
def test_families_that_remember_more(family: str) -> None:
    check(family, foveate.TokenCarve(keep_ratio=0.4), count=30)


def test_eight_hundred_requests() -> None:
    check("llava", foveate.SparseVlm(keep_ratio=0.4), count=THREADS * 100)


def test_two_attached_models_at_once() -> None:
    models = {family: tiny.build(family) for family in ("llava", "paligemma")}
    methods = {
        "llava": foveate.TokenCarve(keep_ratio=0.4),
        "paligemma": foveate.FastV(keep_ratio=0.3),
    }
    asked = {family: requests(model, family) for family, model in models.items()}
    runs = {family: foveate.attach(models[family], methods[family]) for family in models}
    jobs = [(family, i) for family in models for i in range(len(asked[family]))] * 4
    alone = {job: answer(runs[job[0]], models[job[0]], asked[job[0]][job[1]]) for job in jobs}
    random.Random(5).shuffle(jobs)
    together = at_once([lambda f=f, i=i: answer(runs[f], models[f], asked[f][i]) for f, i in jobs])
    for run in runs.values():
        run.detach()
    for job, found in zip(jobs, together, strict=True):
        assert found == alone[job]


def test_a_refusal_in_one_thread_leaves_the_others_alone() -> None:
    model = tiny.build("llava")
    asked = requests(model, "llava")[0]
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4)) as run:
        alone = answer(run, model, asked)

        def refused() -> str:
            try:
                model.generate(inputs_embeds=torch.randn(1, 9, 48), **GREEDY)
            except foveate.FoveateError as error:
                return str(error)
            return "answered"

        found = at_once([(lambda: answer(run, model, asked)), refused] * 20)
    assert all("visual_mask=" in error for error in found[1::2])
    assert all(good == alone for good in found[::2])


def test_the_kernel_table_is_the_library_s_own_again() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = tiny.build("llava")
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4)):
        at_once([lambda: model.generate(**requests(model, "llava")[0], **GREEDY)] * 20)
        assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)


def test_a_thread_without_prompts_sees_the_last_report() -> None:
    model = tiny.build("llava")
    with foveate.attach(model, foveate.TokenCarve(keep_ratio=0.4)) as run:
        (report,) = at_once(
            [lambda: (model.generate(**requests(model, "llava")[0], **GREEDY), run.report)[1]]
        )
        assert run.plans == []
    assert run.report is report


def test_a_mask_that_the_owner_assigns_holds_in_a_thread_that_streams() -> None:
    """One thread says where images are and lets another one generate; a third has its own word."""
    model = tiny.build("llava")
    is_visual = torch.zeros(1, 20, dtype=torch.bool)
    is_visual[0, 2:12] = True
    nothing = torch.zeros_like(is_visual)
    prompt = {"inputs_embeds": torch.randn(1, 20, 48), "attention_mask": torch.ones(1, 20).long()}

    def rows(mask: torch.Tensor | None = None) -> int:
        if mask is not None:
            run.visual_mask = mask
        with torch.no_grad():
            return int(model(**prompt).logits.shape[1])

    def elsewhere(*args: torch.Tensor) -> int:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(rows, *args).result()

    with foveate.attach(
        model, foveate.TokenCarve(keep_ratio=0.5), visual_mask=is_visual.clone()
    ) as run:
        assert elsewhere() == 15
        assert rows(nothing) == 20
        assert elsewhere() == 20
        assert elsewhere(is_visual) == 15
        assert rows() == 20, "a thread that is not the owner speaks for itself alone"
