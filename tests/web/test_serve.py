"""The server without a browser: what requests by hand can and cannot do."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.app.limits import Limits
from foveate.app.uploads import Uploads

gradio: Any = pytest.importorskip(
    "gradio", reason="Gradio is not installed; make test-web installs it"
)
httpx: Any = pytest.importorskip("httpx")

NO_UPLOAD = "that is no upload of this page; drop the file again."


@pytest.fixture
def folder() -> Any:
    made = Uploads(most_bytes=1_000_000)
    before = os.environ.get("GRADIO_TEMP_DIR")
    yield made
    made.close()
    if before is not None:
        os.environ["GRADIO_TEMP_DIR"] = before


def empty_page() -> Any:
    with gradio.Blocks(analytics_enabled=False) as page:
        gradio.Markdown("nothing")
    return page


def test_a_port_that_is_taken(folder: Uploads) -> None:
    from foveate.app.serve import launch

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            launch(empty_page(), Limits(), folder, host="127.0.0.1", port=port)


def test_ipv6_loopback(folder: Uploads) -> None:
    from foveate.app.serve import launch

    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    served = launch(empty_page(), Limits(), folder, host="::1", port=0)
    try:
        assert served.address.startswith("http://[::1]:")
        assert httpx.get(served.address).status_code == 200
        assert httpx.get(served.address, headers={"Host": "example.org"}).status_code == 400
    finally:
        served.close()


def call(address: str, name: str, data: list[Any], **headers: str) -> str:
    """The stream of events that a call of a function of the page gives."""
    begun = httpx.post(
        f"{address}gradio_api/call/{name}", json={"data": data}, headers=headers, timeout=60
    )
    if begun.status_code != 200:
        return f"{begun.status_code} {begun.text}"
    event = begun.json()["event_id"]
    return str(httpx.get(f"{address}gradio_api/call/{name}/{event}", timeout=120).text)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "secret.png"
    Image.new("RGB", (50, 40), "red").save(path)
    return path


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}], ids=["bare", "meta"])
@pytest.mark.parametrize("name", ["checked", "run"])
@pytest.mark.parametrize("target", ["present", "missing", "pipe", "link", "web"])
def test_a_request_opens_no_file_but_uploads(
    address: str, uploads: Uploads, picture: Path, name: str, target: str, meta: dict[str, Any]
) -> None:
    """All refusals are one: nobody learns which files exist, a pipe holds up nobody."""
    pipe = picture.with_name("pipe")
    os.mkfifo(pipe)
    link = uploads.folder / f"link-{name}-{len(meta)}.png"
    link.symlink_to(picture)
    paths = {
        "present": picture,
        "missing": picture.with_name("no.png"),
        "pipe": pipe,
        "link": link,
        "web": "http://127.0.0.1:9/a.png",
    }
    file = {"path": str(paths[target]), **meta}
    rest = [] if name == "checked" else ["what?", "tokencarve", 50, 4]
    said = call(address, name, [file, *rest])
    link.unlink()
    assert "<svg" not in said
    assert NO_UPLOAD in said or "event: error" in said
    assert str(picture.parent) not in said


def test_an_upload_is_opened(address: str, picture: Path) -> None:
    sent = httpx.post(
        f"{address}gradio_api/upload", files={"files": ("a.png", picture.read_bytes())}
    )
    (path,) = sent.json()
    said = call(address, "checked", [{"path": path, "meta": {"_type": "gradio.FileData"}}])
    assert NO_UPLOAD not in said
    assert "event: complete" in said


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://127.0.0.1:1"])
def test_a_foreign_site_is_refused(address: str, picture: Path, origin: str) -> None:
    headers = {"Origin": origin}
    sent = httpx.post(
        f"{address}gradio_api/upload",
        files={"files": ("a.png", picture.read_bytes())},
        headers=headers,
    )
    assert sent.status_code == 403
    assert "access-control-allow-origin" not in sent.headers
    asked = httpx.options(
        f"{address}gradio_api/upload",
        headers={**headers, "Access-Control-Request-Method": "POST"},
    )
    assert asked.status_code == 403
    assert "access-control-allow-origin" not in asked.headers


def test_its_own_origin_is_welcome(address: str) -> None:
    assert httpx.get(address, headers={"Origin": address.rstrip("/")}).status_code == 200


def test_uploads_end_where_the_folder_is_full(address: str, uploads: Uploads) -> None:
    filler = uploads.folder / "filler"
    filler.write_bytes(b"x" * (uploads.most_bytes - 1000))
    try:
        sent = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.png", b"y" * 2000)})
        assert sent.status_code == 413
        assert "uploads would exceed 5,000,000 bytes" in sent.json()["detail"]
    finally:
        filler.unlink()
