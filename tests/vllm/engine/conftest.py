"""Real vLLM on loopback: these tests run in the environment of `make test-vllm` only."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

MISSING = "vLLM is not installed here; run `make test-vllm`"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("vllm") is None:
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
