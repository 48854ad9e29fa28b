"""Tests of a GPU against the CPU: `make test-gpu`, or anywhere with --device cpu, against itself.

Without --device the CPU plays the GPU's part in a slice of the cases, so that `make test` finds
what is broken before a GPU is at hand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

FILE = "test_gpu.jsonl"
BEGUN = time.monotonic()
# What says most comes first, as --seconds cuts what comes last.
ORDER = ("test_selection", "test_synchronisations", "test_against_cpu", "test_precision")
FACTS = pytest.StashKey[dict[str, Any]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default=None, help="cuda or cpu; every case is tried on it")
    parser.addoption("--out", type=Path, default=None, help=f"folder for {FILE}, a row a test")
    parser.addoption("--seconds", type=float, default=None, help="skip what begins later than that")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of a `family`: all of them, or a slice where no device is named."""
    if "family" in metafunc.fixturenames:
        from tests.gpu.carving import FAMILIES, SLICE

        in_full = metafunc.config.getoption("--device", None) is not None
        metafunc.parametrize("family", FAMILIES if in_full else SLICE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if all(item.path.parent == Path(__file__).parent for item in items):
        items.sort(key=lambda item: ORDER.index(item.path.stem))


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    name = pytestconfig.getoption("--device", None) or "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip(f"--device {name}, and torch {torch.__version__} finds no GPU here")
    return torch.device(name)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The device, for what means something on a GPU only."""
    if device.type != "cuda":
        pytest.skip("only a GPU can show it; run make test-gpu on one")
    return device


@pytest.fixture(autouse=True)
def _within_the_budget(pytestconfig: pytest.Config) -> None:
    seconds = pytestconfig.getoption("--seconds", None)
    if seconds is not None and time.monotonic() - BEGUN > seconds:
        pytest.skip(f"out of the {seconds:.0f} seconds of --seconds")


@pytest.fixture(autouse=True)
def _float32_is_float32() -> Iterator[None]:
    """TF32 off: products and convolutions of the GPU are as exact as the CPU's."""
    switches = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    yield
    for switch, precision in zip(switches, before, strict=True):
        switch.fp32_precision = precision


@pytest.fixture
def facts(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a test puts in here stands in its row of the file."""
    return request.node.stash.setdefault(FACTS, {})


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    folder = item.config.getoption("--out", None)
    is_last = report.when == "call" or report.outcome != "passed"
    if folder is not None and is_last and report.when != "teardown":
        row = {"test": item.nodeid, "outcome": report.outcome, "seconds": call.duration}
        if report.outcome != "passed":
            row["why"] = str(call.excinfo.value)[:600] if call.excinfo else ""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **item.stash.get(FACTS, {})}) + "\n")
    return report
