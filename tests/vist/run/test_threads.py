"""Threads that ask one attached Vist each read their own prompt beside the memory."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from tests.vist import tiny_vist
from tests.vist.fixation.test_look import known
from tests.vist.tiny_vist import KINDS, ids, memory

GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def ask(llm: Any, run: Any, seed: int) -> tuple[Any, Any]:
    answer = llm.generate(ids(6 + seed % 7, seed)[None], num_beams=1 + seed % 2, **GREEDY)
    return answer.tolist(), run.report


@pytest.mark.parametrize("form", KINDS)
def test_every_thread_reads_its_own_prompt(form: str) -> None:
    llm = tiny_vist.model()
    vist = tiny_vist.vist(llm, form)
    seeds = [seed % 20 for seed in range(160)]
    with vist.attach(memory(11, 40, 1), memory_at=2) as run:
        alone = {seed: ask(llm, run, seed) for seed in set(seeds)}
    with vist.attach(memory(11, 40, 1), memory_at=2) as run, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: ask(llm, run, seed), seeds))
    for seed, found in zip(seeds, together, strict=True):
        assert found == alone[seed]
    assert len({str(tokens) for tokens, _ in alone.values()}) > 10


def test_every_thread_looks_for_itself() -> None:
    llm = tiny_vist.model()
    vist, mem = tiny_vist.vist(llm, "lora"), known(11, 40, 1)
    seeds = [seed % 24 for seed in range(96)]
    with vist.attach(mem, memory_at=2, fixate=0.3) as run:
        alone = {seed: ask(llm, run, seed) for seed in set(seeds)}
    with vist.attach(mem, memory_at=2, fixate=0.3) as run, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: ask(llm, run, seed), seeds))
    for seed, found in zip(seeds, together, strict=True):
        assert found == alone[seed]
    assert len({str(report.looks) for _, report in alone.values()}) > 10


def test_a_copy_of_an_attached_model_reads_no_memory() -> None:
    llm = tiny_vist.model()
    prompt = ids(9, 3)[None]
    with torch.no_grad():
        plain = llm(prompt).logits
        with tiny_vist.vist(llm).attach(memory(11, 40, 1)):
            twin = copy.deepcopy(llm)
            assert not torch.equal(llm(prompt).logits, plain)
            assert torch.equal(twin(prompt).logits, plain)
