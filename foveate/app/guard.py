"""Who may talk to the page: this machine's own pages, and uploads while there is room."""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from foveate.app.uploads import Uploads

__all__ = ["Guard", "is_private"]

# Gradio writes scripts and styles into its page, hence 'unsafe-inline'; it compiles none, but
# 'unsafe-eval' is what its HTML component's templates take.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'; "
    "base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
UPLOAD = "/upload"  # the last part of the address that files are sent to

Message = MutableMapping[str, Any]


def is_private(host: str) -> bool:
    """Whether a server at `host` needs no warning: this machine reaches it, and nobody else."""
    return host in LOOPBACK_NAMES


class Guard:
    """Outermost ASGI layer: checks every request before Gradio sees it, and adds HEADERS.

    - Host has to be a loopback name or the address the server was bound to, so that another site
      cannot reach the page by giving its own name this machine's address (DNS rebinding).
    - Origin, where a browser sends one, has to be the page's own: a foreign site can neither read
      answers nor send files.
    - Uploads say their size, and end where the folder is full.

    Args:
        app: what is guarded.
        host: the server was bound to.
        uploads: the folder of the page.
    """

    def __init__(self, app: Any, *, host: str, uploads: Uploads) -> None:
        self.app = app
        self.host = host
        self.uploads = uploads

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        status, reason = self._check(scope)
        if reason:
            await _refuse(scope, send, status, reason)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers)

    def _check(self, scope: Message) -> tuple[int, str]:
        """(status, reason) of a refusal; the reason is "" where there is none."""
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        if len(hosts) != 1 or not self._answers_to(hosts[0]):
            return 400, "this page does not answer to that host name; open the address it printed."
        if any(not _is_same(origin, hosts[0]) for origin in origins):
            return 403, "another site may not use this page."
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        if is_post and scope["path"].rstrip("/").endswith(UPLOAD):
            return self._check_room(scope)
        return 200, ""

    def _answers_to(self, host: str) -> bool:
        name = _name(host)
        if name in LOOPBACK_NAMES or name == self.host.lower():
            return True
        try:
            bound = ipaddress.ip_address(self.host)
        except ValueError:
            return False
        if bound.is_unspecified:
            # Bound to every address: an address is no name that someone else could point here.
            return _is_address(name) or name == socket.gethostname().lower()
        return _is_address(name) and ipaddress.ip_address(name) == bound

    def _check_room(self, scope: Message) -> tuple[int, str]:
        sizes = _values(scope, b"content-length")
        if len(sizes) != 1 or not sizes[0].isdecimal():
            return 411, "an upload has to say its size (Content-Length)."
        if self.uploads.used() + int(sizes[0]) > self.uploads.most_bytes:
            return 413, (
                f"the page's uploads would exceed {self.uploads.most_bytes:,} bytes; wait until "
                "old ones are forgotten (an hour), or start the playground again."
            )
        return 200, ""


async def _refuse(scope: Message, send: Any, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:120]})
        return
    body = json.dumps({"detail": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of the request is not read
        *HEADERS,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _values(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


def _name(host: str) -> str:
    """The name of a Host header: without its port and, for IPv6, its brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(origin: str, host: str) -> bool:
    """Whether an Origin is the page that the Host names; "null" never is."""
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
