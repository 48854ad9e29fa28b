"""Shared by all tests: no network, one thread per worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

# Several workers share few cores; thread pools that spin against each other are far slower.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that opens a connection beyond this machine fails."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host not in ("127.0.0.1", "::1", "localhost", ""):
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture
def own_methods() -> Iterator[None]:
    """Methods that the test defines, and packages that it finds, are forgotten after it."""
    from foveate.carve import registry

    before = dict(registry.METHODS)
    registry._load_packages.cache_clear()
    yield
    registry._load_packages.cache_clear()
    registry.METHODS.clear()
    registry.METHODS.update(before)
