"""Serves the page on loopback; the browser is told to load nothing from anywhere else."""

from __future__ import annotations

import ipaddress
from collections.abc import MutableMapping
from importlib.resources import files
from typing import Any

import gradio as gr

from foveate.app.limits import Limits

__all__ = ["is_loopback", "launch"]

# Gradio writes scripts and styles into its page, hence 'unsafe-inline'; it compiles none, but
# 'unsafe-eval' is what its HTML component's templates take.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'"
)
HEADERS = ((b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"))
LOCAL_NAMES = ("127.0.0.1", "localhost")
MOST_WAITING = 8


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def launch(page: Any, limits: Limits, *, host: str, port: int) -> str:
    """Start the server in threads of its own and return the page's address; `page.close()` ends it.

    Args:
        page: what `build_page` made.
        limits: of uploads.
        host: address to bind to.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    layers = [Middleware(_Headers)]
    if host in LOCAL_NAMES:
        # Another site cannot reach the page by giving its own name this machine's address.
        layers.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL_NAMES)))
    page.queue(max_size=MOST_WAITING)
    folder = files("foveate.app")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    _, address, _ = page.launch(
        server_name=host,
        server_port=port or None,
        share=False,
        inbrowser=False,
        show_error=True,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=limits.file_bytes,
        ssr_mode=False,
        footer_links=[],
        app_kwargs={"middleware": layers},
        theme=_theme(),
        css=folder.joinpath("page.css").read_text(encoding="utf-8"),
        head=f"<script>window.foveateMostBytes = {limits.file_bytes};\n{script}</script>",
    )
    return str(address)


def _theme() -> Any:
    """System fonts only: nothing to fetch."""
    return gr.themes.Base(
        primary_hue="blue",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


class _Headers:
    """ASGI middleware that adds HEADERS to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)
