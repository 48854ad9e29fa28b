"""Who may talk to the page: this machine's own pages, and uploads while there is room."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import MutableMapping
from typing import Any

from foveate.app.uploads import Uploads
from foveate.errors import InputError

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
HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?")
API, UPLOAD, FILE = "/gradio_api/", "upload", "file="
# What the page itself asks for. The rest of Gradio's interface records video, fetches addresses,
# proxies and keeps states, and none of that is this page's.
ROUTES = re.compile(
    r"(?:upload|upload_progress|queue/(?:join|data|status)|call/.*|run/.*|heartbeat/.*|info|"
    r"startup-events|reset|cancel|app_id|theme\.css)/?"
)
MOST_BODY = 4_000_000  # bytes of a request that is no upload: a text of the largest size, escaped

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
    - Only the routes that the page uses are passed on, and of files only its own uploads.
    - Requests say their size; uploads end where the folder is full.

    Args:
        app: what is guarded.
        host: the server was bound to.
        uploads: the folder of the page.
    """

    def __init__(self, app: Any, *, host: str, uploads: Uploads) -> None:
        self.app = app
        self.host = host
        self.uploads = uploads
        self._coming = 0  # bytes of uploads that are on their way

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

        # Gradio would write the address of its page from these.
        kept = [pair for pair in scope["headers"] if not pair[0].startswith(b"x-forwarded-")]
        size = _size(scope) if _is_upload(scope) else 0
        self._coming += size
        try:
            await self.app({**scope, "headers": kept}, receive, with_headers)
        finally:
            self._coming -= size

    def _check(self, scope: Message) -> tuple[int, str]:
        """(status, reason) of a refusal; the reason is "" where there is none."""
        hosts, origins = _values(scope, b"host"), _values(scope, b"origin")
        if len(hosts) != 1 or not self._answers_to(hosts[0]):
            return 400, "this page does not answer to that host name; open the address it printed."
        if any(not _is_same(origin, hosts[0]) for origin in origins):
            return 403, "another site may not use this page."
        if not self._is_known(scope["path"]):
            return 404, "this page has no such part."
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            return self._check_size(scope)
        return 200, ""

    def _is_known(self, path: str) -> bool:
        if not path.startswith(API):
            # No file= and proxy= without the prefix, and no other way to write it.
            return "=" not in path and "//" not in path and API.strip("/") not in path
        route = path[len(API) :]
        if not route.startswith(FILE):
            return ROUTES.fullmatch(route) is not None
        try:
            self.uploads.own(route[len(FILE) :])
        except InputError:
            return False
        return True

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

    def _check_size(self, scope: Message) -> tuple[int, str]:
        size = _size(scope)
        if size < 0 or _values(scope, b"transfer-encoding"):
            return 411, "a request has to say its size (Content-Length)."
        if not _is_upload(scope):
            if size > MOST_BODY:
                return 413, f"a request of {size:,} bytes is above the limit of {MOST_BODY:,}."
            return 200, ""
        if self.uploads.used() + self._coming + size > self.uploads.most_bytes:
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


def _is_upload(scope: Message) -> bool:
    return scope["type"] == "http" and scope["path"].rstrip("/") == API + UPLOAD


def _size(scope: Message) -> int:
    """What a request says its body has, in bytes; -1 if it does not say."""
    sizes = _values(scope, b"content-length")
    return int(sizes[0]) if len(sizes) == 1 and re.fullmatch("[0-9]{1,15}", sizes[0]) else -1


def _name(host: str) -> str:
    """The name of a Host header without its port and, for IPv6, its brackets; "" if it is none."""
    found = HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(origin: str, host: str) -> bool:
    """Whether an Origin is the page that the Host names; "null" never is."""
    scheme, _, rest = origin.lower().partition("://")
    return scheme in ("http", "https") and rest == host.lower()
