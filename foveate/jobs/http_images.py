"""HttpImages: bytes of images at http(s) addresses, within limits, from the public internet only.

Lines of a job may come from elsewhere, and this machine may reach what their author cannot: other
machines of a private network, services on loopback, a cloud's metadata. So the address that a
connection goes to is checked, not the name: names are resolved here, once for each connection, and
the socket gets the address that was looked at, also after a redirect. A name that changes its
address between a check and a use (DNS rebinding) therefore gains nothing. Proxies of the
environment are not used, since the address connected to would be theirs.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from foveate.errors import InputError
from foveate.version import __version__

__all__ = ["HttpImages", "HttpLimits", "is_public"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REDIRECTS = (301, 302, 303, 307, 308)
PASSING = (429, 500, 502, 503, 504)  # may be otherwise a moment later
BLOCK = 1 << 16
NAMED = 200  # characters of an address in errors
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """What one image may cost.

    Args:
        max_bytes: of its file.
        seconds: from the first connection to the last byte, redirects and further tries included.
        redirects: that are followed.
        tries: at most, where a connection breaks or a server is busy.
    """

    max_bytes: int = 64 << 20
    seconds: float = 30.0
    redirects: int = 3
    tries: int = 3


class HttpImages:
    """Fetches images.

    Args:
        limits: of each.
        is_allowed: which addresses may be connected to.
    """

    def __init__(
        self,
        *,
        limits: HttpLimits | None = None,
        is_allowed: Callable[[Address], bool] | None = None,
    ) -> None:
        self.limits = limits or HttpLimits()
        self.is_allowed = is_allowed or is_public

    def fetch(self, url: str) -> bytes:
        """The bytes at an address.

        Raises:
            InputError: it cannot be used, leads to an address that is not public, or goes beyond a
                limit; or nobody answers with an image.
        """
        name = repr(url[:NAMED])
        end = time.monotonic() + self.limits.seconds
        for tries_left in reversed(range(self.limits.tries)):
            try:
                return self._follow(url, end)
            except (_PassingError, OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                pause = 0.2 * 2 ** (self.limits.tries - 1 - tries_left)
                if time.monotonic() + pause >= end:
                    raise InputError(
                        f"image {name} did not come within {self.limits.seconds:g} s ({reason}); "
                        "copy it here and give its path."
                    ) from error
                if not tries_left:
                    raise InputError(
                        f"image {name} cannot be fetched ({reason}); check the address, or copy "
                        "the image here and give its path."
                    ) from error
                time.sleep(pause)
            except _RefusedError as error:
                raise InputError(f"image {name} {error}") from error
        raise AssertionError("at least one try")

    def _follow(self, url: str, end: float) -> bytes:
        was_safe = False
        for _ in range(self.limits.redirects + 1):
            parts = _split(url)
            is_safe = parts.scheme == "https"
            if was_safe and not is_safe:
                raise _RefusedError("is redirected from https to http; copy it here.")
            was_safe = is_safe
            found = self._get(parts, end)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise _RefusedError(
            f"is redirected more than {self.limits.redirects} times; give the last address."
        )

    def _get(self, parts: SplitResult, end: float) -> bytes | str:
        """The body, or where else to look."""
        connection = _Connection(parts, end, self.is_allowed)
        with closing(connection), _cut_at(end, connection):
            path = quote(parts.path or "/", safe="%/:=&?~+!$,;'@()*[]")
            query = quote(parts.query, safe="%/:=&?~+!$,;'@()*[]")
            headers = {"Accept-Encoding": "identity", "User-Agent": f"foveate/{__version__}"}
            connection.request("GET", f"{path}?{query}" if query else path, headers=headers)
            response = connection.getresponse()
            if response.status in REDIRECTS:
                place = response.getheader("Location")
                if not place:
                    raise _RefusedError("is redirected to nowhere; check the address.")
                return place
            if response.status in PASSING:
                raise _PassingError(f"the server answers {response.status} {response.reason}")
            if response.status != 200:
                raise _RefusedError(
                    f"is answered with {response.status} {response.reason}; check the address."
                )
            body = self._body(response)
            connection.check_time()
            return body

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        limit = self.limits.max_bytes
        coding = response.getheader("Content-Encoding", "identity")
        if coding != "identity":
            raise _RefusedError(f"comes packed ({coding!r}), unasked; copy it here.")
        size = response.length  # None where the server does not say
        blocks, read = [], 0
        while size is None or size <= limit:
            block = response.read(BLOCK)
            read += len(block)
            if not block or read > limit:
                break
            blocks.append(block)
        if read > limit or (size is not None and size > limit):
            raise _RefusedError(
                f"has {'more than ' if size is None else ''}{size or read:,} bytes, above the "
                f"limit of {limit:,}; scale it down, or copy it here."
            )
        if size is not None and read < size:
            raise _PassingError(f"the connection ended after {read:,} of {size:,} bytes")
        return b"".join(blocks)


class _RefusedError(Exception):
    """What follows the image's name in a sentence."""


class _PassingError(Exception):
    """A reason to try again."""


class _Connection(http.client.HTTPConnection):
    """To an address that was looked at, and to no other."""

    def __init__(
        self, parts: SplitResult, end: float, is_allowed: Callable[[Address], bool]
    ) -> None:
        self.is_safe = parts.scheme == "https"
        host = str(parts.hostname)
        super().__init__(host, parts.port or (443 if self.is_safe else 80))
        self._end = end
        self._is_allowed = is_allowed
        self._was_cut = False
        self._open: socket.socket | None = None  # http.client forgets its own before the body

    def connect(self) -> None:
        self.sock = self._open = self._connected()
        self.check_time()
        if self.is_safe:
            context = ssl.create_default_context()
            safe = context.wrap_socket(
                self.sock, server_hostname=self.host, do_handshake_on_connect=False
            )
            self.sock = self._open = safe
            self.check_time()
            safe.do_handshake()

    def cut(self) -> None:
        """End whatever another thread is waiting for."""
        self._was_cut = True
        if self._open is not None:
            with suppress(OSError):
                # The plain method: that of ssl would let the rest be read undeciphered.
                socket.socket.shutdown(self._open, socket.SHUT_RDWR)

    def check_time(self) -> None:
        """Raise if it was cut: what was read may be a part."""
        if self._was_cut:
            raise _PassingError("the time is over")

    def _connected(self) -> socket.socket:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for *_, place in found:
            self._check(place)
        last: OSError = OSError("the name has no address")
        for family, kind, protocol, _, place in found:
            made = socket.socket(family, kind, protocol)
            try:
                made.settimeout(max(0.001, self._end - time.monotonic()))
                made.connect(place)  # the address itself: nothing is resolved again
                self._check(made.getpeername())
                return made
            except OSError as error:
                made.close()
                last = error
            except BaseException:
                made.close()
                raise
        raise last

    def _check(self, place: tuple[object, ...]) -> None:
        address = ipaddress.ip_address(str(place[0]).partition("%")[0])
        if not self._is_allowed(address):
            raise _RefusedError(
                f"leads to {address} ({self.host}), no address of the public internet; "
                "copy it here and give its path."
            )


@contextmanager
def _cut_at(end: float, connection: _Connection) -> Iterator[None]:
    """End a connection in time, however slowly single bytes come in."""
    timer = threading.Timer(max(0.001, end - time.monotonic()), connection.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _split(url: str) -> SplitResult:
    """The parts of an address. Raises _RefusedError where it is none to fetch."""
    try:
        parts = urlsplit(url)
        is_good = parts.hostname is not None and (parts.port is None or parts.port > 0)
        if is_good:
            str(parts.hostname).encode("idna")
    except (ValueError, UnicodeError):
        is_good = False
    if not is_good or any(letter <= " " or letter in "\\\x7f" for letter in url):
        raise _RefusedError("is no address that can be fetched; check it.")
    if parts.scheme not in ("http", "https"):
        raise _RefusedError(f"leads to {parts.scheme!r}; only http and https are fetched.")
    if parts.username is not None or parts.password is not None:
        raise _RefusedError("has a name or a password in it; give an address without.")
    return parts


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet.

    Not: private, shared, loopback, link-local (a cloud's metadata), multicast and reserved ones,
    nor IPv6 addresses that stand for such an IPv4 address.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in GLOBAL_UNICAST:
            return False
        if address.sixtofour is not None and not is_public(address.sixtofour):
            return False
    return address.is_global and not address.is_multicast
