"""The guard before the page, as plain ASGI: hosts, origins, uploads."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foveate.app.guard import Guard, is_private
from foveate.app.uploads import Uploads
from foveate.errors import InputError


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    made = Uploads(most_bytes=10_000)
    yield made
    made.close()


def answer(
    uploads: Uploads,
    bound: str,
    *headers: tuple[str, str],
    path: str = "/",
    method: str = "GET",
    kind: str = "http",
) -> int:
    """Status of a request; 200 is the page behind the guard."""
    sent: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "headers": [(key.encode(), value.encode()) for key, value in headers],
    }
    # Nothing here waits, and a browser's tests may have a loop at work in this thread.
    with pytest.raises(StopIteration):
        Guard(page, host=bound, uploads=uploads)(scope, None, send).send(None)
    if sent[0]["type"] == "websocket.close":
        return 403
    names = [name for name, _ in sent[0]["headers"]]
    assert b"content-security-policy" in names
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("bound", "host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200), ("127.0.0.1", "localhost", 200),
        ("127.0.0.1", "[::1]:80", 200), ("127.0.0.1", "example.org", 400),
        ("127.0.0.1", "localhost.example.org", 400), ("127.0.0.1", "127.0.0.2", 400),
        ("127.0.0.1", "", 400), ("127.0.0.1", "[::1", 400), ("127.0.0.1", "a@127.0.0.1", 400),
        ("127.0.0.1", "127.0.0.1/x", 400), ("127.0.0.1", "127.0.0.1:x", 400),
        ("::1", "[::1]:7860", 200), ("::1", "example.org:7860", 400),
        ("192.168.0.7", "192.168.0.7:7860", 200), ("192.168.0.7", "evil.example", 400),
        ("192.168.0.7", "192.168.0.8", 400), ("192.168.0.7", "LOCALHOST:1", 200),
        ("0.0.0.0", "10.0.0.3:7860", 200), ("0.0.0.0", "evil.example", 400),
        ("::", "[2001:db8::1]:7860", 200), ("::", "evil.example", 400),
    ],
)  # fmt: skip
def test_hosts(uploads: Uploads, bound: str, host: str, expected: int) -> None:
    assert answer(uploads, bound, ("host", host)) == expected
    assert answer(uploads, bound, ("host", host), kind="websocket") in (expected, 403)


def test_no_host_and_two_hosts(uploads: Uploads) -> None:
    assert answer(uploads, "127.0.0.1") == 400
    two = (("host", "localhost"), ("host", "example.org"))
    assert answer(uploads, "127.0.0.1", *two) == 400


@pytest.mark.parametrize("bound", ["127.0.0.1", "::1", "192.168.0.7", "0.0.0.0"])
@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:7860", 200), ("https://localhost:7860", 200),
        ("http://localhost:7861", 403), ("http://localhost", 403), ("null", 403),
        ("https://example.org", 403), ("http://localhost:7860.example.org", 403),
        ("file://localhost:7860", 403), ("http://[", 403), ("http://localhost:7860/x", 403),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_origins(uploads: Uploads, bound: str, origin: str, expected: int, method: str) -> None:
    headers = (("host", "localhost:7860"), ("origin", origin), ("content-length", "0"))
    assert answer(uploads, bound, *headers, method=method) == expected


def test_uploads_say_their_size_and_fit(uploads: Uploads) -> None:
    def upload(*length: str) -> int:
        headers = [("host", "localhost"), *(("content-length", text) for text in length)]
        return answer(uploads, "127.0.0.1", *headers, path="/gradio_api/upload", method="POST")

    assert upload("9000") == 200
    assert upload("10001") == 413
    assert upload() == 411
    assert upload("-5") == 411
    assert upload("1", "2") == 411
    assert upload("9" * 5000) == 411
    (uploads.folder / "held").write_bytes(b"x" * 5000)
    assert upload("9000") == 413
    assert upload("4000") == 200
    (uploads.folder / "empty").touch()  # takes room on a disk, too
    assert upload("4000") == 413


def test_uploads_on_their_way_count(uploads: Uploads) -> None:
    """Eight at once do not each find the room of one."""
    statuses: list[int] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        if len(statuses) < 3:
            one_more()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    guard = Guard(page, host="127.0.0.1", uploads=uploads)

    def one_more() -> None:
        scope = {
            "type": "http", "method": "POST", "path": "/gradio_api/upload",
            "headers": [(b"host", b"localhost"), (b"content-length", b"4000")],
        }  # fmt: skip
        with pytest.raises(StopIteration):
            guard(scope, None, send).send(None)

    one_more()  # each begins the next before it ends
    assert sorted(statuses) == [200, 200, 413]
    statuses.clear()
    statuses += [0, 0, 0]
    one_more()
    assert statuses[-1] == 200


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", 200), ("/config", 200), ("/assets/index.js", 200), ("/gradio_api/info", 200),
        ("/gradio_api/queue/join", 200), ("/gradio_api/call/run/abc", 200),
        ("/gradio_api/process_recording", 404), ("/gradio_api/component_server", 404),
        ("/gradio_api/deep_link", 404), ("/gradio_api/proxy=http://example.org", 404),
        ("/gradio_api/file=http://example.org/x", 404), ("/gradio_api/file=/etc/passwd", 404),
        ("/gradio_api/stream/a/b/c/playlist.m3u8", 404), ("/file=/etc/passwd", 404),
        ("/proxy=http://example.org", 404), ("//gradio_api/process_recording", 404),
        ("/x/gradio_api/process_recording", 404),
    ],
)  # fmt: skip
def test_only_the_pages_own_routes(uploads: Uploads, path: str, expected: int) -> None:
    assert answer(uploads, "127.0.0.1", ("host", "localhost"), path=path) == expected


def test_an_upload_can_be_fetched_again(uploads: Uploads) -> None:
    own = uploads.folder / "a.png"
    own.write_bytes(b"x")
    host = ("host", "localhost")
    assert answer(uploads, "127.0.0.1", host, path=f"/gradio_api/file={own}") == 200


def test_bodies_have_a_limit(uploads: Uploads) -> None:
    def post(*headers: tuple[str, str]) -> int:
        asked = [("host", "localhost"), *headers]
        return answer(uploads, "127.0.0.1", *asked, path="/gradio_api/queue/join", method="POST")

    assert post(("content-length", "3999999")) == 200
    assert post(("content-length", "80000000")) == 413
    assert post() == 411
    assert post(("content-length", "5"), ("transfer-encoding", "chunked")) == 411


def test_only_uploads_are_opened(uploads: Uploads, tmp_path: Path) -> None:
    own = uploads.folder / "a" / "b.png"
    own.parent.mkdir()
    own.write_bytes(b"x")
    assert uploads.own(own) == own
    assert uploads.own(str(uploads.folder / "a" / ".." / "a" / "b.png")) == own
    outside = tmp_path / "c.png"
    outside.write_bytes(b"x")
    link, loop, pipe = (uploads.folder / name for name in ("link", "loop", "pipe"))
    link.symlink_to(outside)
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    sideways = Path(f"{uploads.folder}-other")
    for wrong in (outside, link, loop, pipe, own.parent, uploads.folder / "no", sideways, "a\0b",
                  uploads.folder / ".." / "x", "http://127.0.0.1/a.png", ""):  # fmt: skip
        with pytest.raises(InputError, match="that is no upload of this page; drop the file again"):
            uploads.own(wrong)


def test_the_folder_is_private_and_goes(uploads: Uploads) -> None:
    assert stat.S_IMODE(uploads.folder.stat().st_mode) == 0o700
    assert os.environ["GRADIO_TEMP_DIR"] == str(uploads.folder)
    (uploads.folder / "a").write_bytes(b"12345")
    assert uploads.used() == 4096
    uploads.close()
    uploads.close()
    assert not uploads.folder.exists()
    assert "GRADIO_TEMP_DIR" not in os.environ


@pytest.mark.parametrize(
    ("host", "private"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", False),
     ("0.0.0.0", False), ("192.168.0.7", False), ("example.org", False)],
)  # fmt: skip
def test_addresses_that_need_no_warning(host: str, private: bool) -> None:
    assert is_private(host) is private
