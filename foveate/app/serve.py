"""Serves the page; the browser is told to load nothing from anywhere else."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import gradio as gr

from foveate.app.guard import Guard
from foveate.app.limits import Limits
from foveate.app.uploads import Uploads

__all__ = ["Served", "launch"]

MOST_WAITING = 8
LOCAL_NAME = "localhost"
PATIENCE = 60.0  # seconds until a server that does not start has failed


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running page.

    Args:
        address: where it is, with a slash at the end.
    """

    address: str
    page: Any
    server: Any
    thread: threading.Thread

    def wait(self) -> None:
        """Until the server ends; an interrupt or a signal raises here."""
        while self.thread.is_alive():
            self.thread.join(0.5)

    def close(self) -> None:
        """Stop the server. Harmless if it has stopped."""
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(10)
        self.page.close(verbose=False)


def launch(page: Any, limits: Limits, uploads: Uploads, *, host: str, port: int) -> Served:
    """Start the server in a thread of its own.

    Gradio's own `launch` puts its cross-site layer outside of everything else, so the page is
    mounted here, and the guard stands before it.

    Args:
        page: what `build_page` made.
        limits: of uploads.
        uploads: the folder they go to.
        host: address to bind to; "localhost" is 127.0.0.1.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    import uvicorn
    from fastapi import FastAPI

    bound = "127.0.0.1" if host == LOCAL_NAME else host.strip("[]")
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    listener = socket.create_server((bound, port), family=family)
    port = int(listener.getsockname()[1])
    page.queue(max_size=MOST_WAITING)
    folder = files("foveate.app")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    app: Any = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=bound,
        server_port=port,
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=limits.file_bytes,
        ssr_mode=False,
        theme=_theme(),
        css=folder.joinpath("page.css").read_text(encoding="utf-8"),
        head=f"<script>window.foveateMostBytes = {limits.file_bytes};\n{script}</script>",
    )
    guarded = Guard(app, host=bound, uploads=uploads)
    # The command handles signals; a thread cannot.
    server = uvicorn.Server(uvicorn.Config(guarded, log_level="warning", timeout_keep_alive=5))
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="foveate play", daemon=True
    )
    thread.start()
    give_up = time.monotonic() + PATIENCE
    while not server.started and thread.is_alive() and time.monotonic() < give_up:
        time.sleep(0.01)
    if not server.started:
        listener.close()
        raise OSError("the server did not start")
    shown = f"[{bound}]" if ":" in bound else bound
    return Served(address=f"http://{shown}:{port}/", page=page, server=server, thread=thread)


def _theme() -> Any:
    """System fonts only: nothing to fetch."""
    return gr.themes.Base(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )
