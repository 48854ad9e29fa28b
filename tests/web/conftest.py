"""The playground served in this process, and headless Chromium on it.

Whatever leaves loopback fails the test: requests of the page, and connections or name look-ups of
the server.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

LOCAL = ("127.0.0.1", "::1", "localhost")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VARIABLE = "CHROMIUM"
# A sandbox needs rights that containers lack; the others keep the browser itself off the network.
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
DESKTOP = {"width": 1280, "height": 900}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, default=None, help="folder for screenshots")


@pytest.fixture(scope="session")
def screenshots(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = pytestconfig.getoption("--screenshots", None)
    folder = folder if folder is not None else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return Path(folder)


@pytest.fixture(scope="session")
def _server_stays_local() -> Iterator[None]:
    """The server and its libraries reach loopback only, at their start too."""
    patch = pytest.MonkeyPatch()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def local_connect(self: socket.socket, address: Any) -> None:
        assert not isinstance(address, tuple) or address[0] in LOCAL, f"connects to {address}"
        connect(self, address)

    def local_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        assert name is None or name in (*LOCAL, ""), f"looks up {host}"
        return look_up(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", local_connect)
    patch.setattr(socket, "getaddrinfo", local_look_up)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def served(_server_stays_local: None) -> Iterator[Any]:
    """The playground with the embedded models, and the folder of its uploads."""
    from foveate.app.carve import Carver
    from foveate.app.examples import image_examples
    from foveate.app.limits import Limits
    from foveate.app.page import build_page
    from foveate.app.read import TextReader
    from foveate.app.serve import launch
    from foveate.app.uploads import Uploads
    from foveate.assets import vist_path
    from foveate.models.load import load_vlm
    from foveate.models.smollm2 import is_installed
    from foveate.vist.run.vist import Vist

    reader = None
    if is_installed():
        reader = TextReader(Vist.from_pretrained(vist_path()))
    limits = Limits(file_bytes=200_000, pixels=1_000_000, text_chars=20_000)
    uploads = Uploads(most_bytes=5_000_000)
    carver = Carver(load_vlm("embedded"))
    carver.warm_up(image_examples()[0].image)
    page = build_page(carver, reader, limits, uploads, no_reader="no Vist here.")
    started = launch(page, limits, uploads, host="127.0.0.1", port=0)
    yield started, uploads
    started.close()
    uploads.close()


@pytest.fixture(scope="session")
def address(served: Any) -> str:
    """Where it is served."""
    return str(served[0].address)


@pytest.fixture(scope="session")
def uploads(served: Any) -> Any:
    """The folder of its uploads."""
    return served[1]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on PATH, {VARIABLE} is not set")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh page on the playground; what it asked for, and what went wrong in it, is checked."""
    context = browser.new_context(viewport=DESKTOP)
    opened = context.new_page()
    asked: list[str] = []
    broken: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    opened.on("websocket", lambda made: asked.append(made.url))
    opened.on("pageerror", lambda error: broken.append(str(error)))
    opened.goto(address)
    opened.get_by_role("button", name="Answer").wait_for()
    yield opened
    context.close()
    assert asked
    away = [url for url in asked if urlsplit(url).hostname not in (*LOCAL, None)]
    assert not away, "requests that leave loopback"
    assert not broken, "errors of the page's scripts"
