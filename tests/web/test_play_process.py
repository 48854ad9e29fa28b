"""`foveate play` as a process: its folder goes with it, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="Gradio is not installed; make test-web installs it")

PATIENCE = 180.0


@pytest.mark.parametrize(("end", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_uploads_go_with_the_process(tmp_path: Path, end: signal.Signals, code: int) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    with out.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "foveate", "play", "--port", "0", "--host", "127.9.9.9"],
            stdout=file, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    try:
        give_up = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://\S+", out.read_text())):
            assert process.poll() is None, out.read_text()
            assert time.monotonic() < give_up, out.read_text()
            time.sleep(0.2)
        assert found[0].startswith("http://127.9.9.9:")
        assert "there is no password" in out.read_text().replace("\n", " ")
        folders = list(tmp_path.glob("foveate-play-*"))
        assert len(folders) == 1
        (folders[0] / "upload.png").write_bytes(b"x")
        process.send_signal(end)
        assert process.wait(30) == code
        assert not list(tmp_path.glob("foveate-play-*"))
    finally:
        process.kill()
