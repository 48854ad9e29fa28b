"""The server without a browser."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from foveate.app.limits import Limits

gradio: Any = pytest.importorskip(
    "gradio", reason="Gradio is not installed; make test-web installs it"
)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True),
     ("0.0.0.0", False), ("192.168.0.7", False), ("example.org", False)],
)  # fmt: skip
def test_loopback(host: str, expected: bool) -> None:
    from foveate.app.serve import is_loopback

    assert is_loopback(host) is expected


def test_a_port_that_is_taken() -> None:
    from foveate.app.serve import launch

    with gradio.Blocks(analytics_enabled=False) as page, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="port"):
            launch(page, Limits(), host="127.0.0.1", port=other.getsockname()[1])
