"""How many inputs are tried, and from which seed."""

from __future__ import annotations

import pytest

FEW = 400  # about two minutes in `make test`


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--inputs", type=int, default=FEW, help="over all commands together")
    parser.addoption("--fuzz-seed", type=int, default=0, help="the same one draws the same inputs")


@pytest.fixture(scope="session")
def num_inputs(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--inputs", FEW))


@pytest.fixture(scope="session")
def fuzz_seed(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--fuzz-seed", 0))
