"""Images of http addresses: within limits, and from no address but the one that was looked at.

The servers are on loopback, which a job never reads from; here `is_allowed` permits that one
address and, as everywhere, nothing else. What a job itself allows is tested on addresses alone.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.jobs.http_images import HttpImages, HttpLimits, is_public

LOOPBACK = ipaddress.ip_address("127.0.0.1")
Serve = Callable[[str, Any], str]


def png(colour: str = "red") -> bytes:
    file = BytesIO()
    Image.new("RGB", (5, 4), colour).save(file, "PNG")
    return file.getvalue()


def fetcher(**limits: Any) -> HttpImages:
    limits = {"seconds": 5.0, **limits}
    return HttpImages(limits=HttpLimits(**limits), is_allowed=lambda found: found == LOOPBACK)


@pytest.fixture
def server() -> Iterator[Any]:
    """`answers` of paths: (status, headers, body), or a function of the handler."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
            answer = made.answers[self.path]  # type: ignore[attr-defined]
            if callable(answer):
                answer(self)
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    made.answers, made.asked = {}, []
    made.url = f"http://127.0.0.1:{made.server_port}"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def test_the_bytes_come(server: Any) -> None:
    server.answers["/a%20b.png?x=1"] = (200, {}, png())
    assert fetcher().fetch(f"{server.url}/a%20b.png?x=1") == png()
    ((_, headers),) = server.asked
    assert headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_redirects_are_followed_and_counted(server: Any) -> None:
    for i in range(9):
        server.answers[f"/{i}"] = (302, {"Location": f"/{i + 1}"}, b"")
    server.answers["/9"] = (200, {}, png())
    assert fetcher().fetch(f"{server.url}/6") == png()
    with pytest.raises(InputError, match="is redirected more than 3 times; give the last"):
        fetcher().fetch(f"{server.url}/5")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("http://169.254.169.254/latest", r"leads to 169\.254\.169\.254"),
        ("http://10.0.0.7/", r"leads to 10\.0\.0\.7"),
        ("http://[::1]/", "leads to ::1"),
        ("file:///etc/passwd", "is no address|leads to 'file'; only http"),
        ("ftp://127.0.0.1/", "leads to 'ftp'; only http"),
        ("http://me:secret@127.0.0.1/", "has a name or a password in it"),
        ("", "is redirected to nowhere"),
    ],
)
def test_redirects_to_where_nothing_is_fetched(server: Any, place: str, words: str) -> None:
    server.answers["/"] = (302, {"Location": place}, b"")
    with pytest.raises(InputError, match=words):
        fetcher().fetch(server.url + "/")


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{}/", "http://localhost:{}/", "http://2130706433:{}/", "http://0x7f.1:{}/",
     "http://[::ffff:127.0.0.1]:{}/"],
)  # fmt: skip
def test_a_job_reads_nothing_from_this_machine(server: Any, url: str) -> None:
    """However loopback is written; nobody even connects."""
    server.answers["/"] = (200, {}, png())
    with pytest.raises(InputError, match=r"no address of the public internet|cannot be fetched"):
        HttpImages(limits=HttpLimits(seconds=2, tries=1)).fetch(url.format(server.server_port))
    assert not server.asked


def test_a_name_that_changes_its_address_gains_nothing(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is first asked for, loopback from then on."""
    server.answers["/in"] = (200, {}, png())
    said = []

    def resolve(host: str, port: int, **more: Any) -> Any:
        address = "93.184.215.14" if host == "rebound.example" and not said else "127.0.0.1"
        said.append((host, address))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    connected = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, place: connected.append(place))
    monkeypatch.setattr(
        socket.socket, "getpeername", lambda self: ("127.0.0.1", server.server_port)
    )
    with pytest.raises(InputError, match=r"leads to 127\.0\.0\.1 \(rebound\.example\)"):
        HttpImages().fetch(f"http://rebound.example:{server.server_port}/in")
    assert connected == [("93.184.215.14", server.server_port)]  # never looked up a second time
    assert len(said) == 1
    assert not server.asked


def test_one_private_address_of_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80))
             for address in ("93.184.215.14", "192.168.1.1")]  # fmt: skip
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: found)
    with pytest.raises(InputError, match=r"leads to 192\.168\.1\.1"):
        HttpImages().fetch("http://both.example/")


def endless(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(10_000):
        handler.wfile.write(bytes(1 << 12))


def cut_off(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(bytes(10))


def drip(handler: Any) -> None:
    """A byte now and then, each in time for a timeout of single reads."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.1)


def slow_head(handler: Any) -> None:
    for letter in b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"x" * 100:
        handler.wfile.write(bytes([letter]))
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, {}, b""), "is answered with 404 Not Found; check the address"),
        ((503, {}, b""), r"cannot be fetched \(the server answers 503"),
        ((200, {}, bytes(2001)), "has 2,001 bytes, above the limit of 2,000"),
        (endless, "has more than .* bytes, above the limit of 2,000"),
        (cut_off, r"cannot be fetched \(the connection ended after 10 of 1,000 bytes"),
        ((200, {"Content-Encoding": "gzip"}, b"x"), r"comes packed \('gzip'\)"),
    ],
)
def test_what_a_server_may_not(server: Any, answer: Any, words: str) -> None:
    server.answers["/"] = answer
    with pytest.raises(InputError, match=words):
        fetcher(max_bytes=2000, tries=2).fetch(f"{server.url}/")
    assert len(server.asked) == (2 if "cannot be fetched" in words else 1)


@pytest.mark.parametrize("answer", [drip, slow_head])
def test_slow_bytes_end_in_time(server: Any, answer: Any) -> None:
    server.answers["/"] = answer
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"did not come within 1 s"):
        fetcher(seconds=1.0).fetch(f"{server.url}/")
    assert time.monotonic() - begun < 5


def test_a_busy_server_is_asked_again(server: Any) -> None:
    def busy_once(handler: Any) -> None:
        server.answers["/"] = (200, {}, png())
        handler.send_response(503)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.answers["/"] = busy_once
    assert fetcher().fetch(f"{server.url}/") == png()


def test_proxies_of_the_environment_are_not_used(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/"] = (200, {}, png())
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetcher().fetch(f"{server.url}/") == png()


@pytest.mark.parametrize(
    ("address", "is_fine"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),  # 93.184.215.14 behind NAT64
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("192.0.2.1", False),
        ("224.0.0.1", False),
        ("233.252.1.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),  # 6to4 of 127.0.0.1
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("fc00::1", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
    ],
)
def test_public_addresses(address: str, is_fine: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is is_fine
