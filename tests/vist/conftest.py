"""What several tests of Vist run on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.vist import tiny_vist
from tests.vist.tiny_vist import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def llm(request: pytest.FixtureRequest) -> Any:
    """A language model of each family."""
    return tiny_vist.model(request.param)


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_vist.model()


@pytest.fixture
def without_gradient() -> Iterator[None]:
    with torch.no_grad():
        yield
