"""A vLLM server in a process of its own, and questions to it."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

EMBEDDED = Path(__file__).parents[3] / "foveate" / "assets" / "vlm"
START_SECONDS = 400
OPTIONS = ("--enforce-eager", "--dtype", "float32", "--max-model-len", "1024")
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Answer:
    """What the server says.

    Args:
        text: the answer.
        prompt_tokens: as the server counts them.
        logprobs: of the answer's tokens.
    """

    text: str
    prompt_tokens: int
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    log: Path

    def ask(
        self,
        images: Sequence[Image.Image],
        question: str,
        *,
        max_tokens: int = 8,
        budget: Any = None,
    ) -> Answer:
        """One chat request: images, then a question; greedy.

        Args:
            budget: of the request, if it has one.
        """
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_url(image)}} for image in images
        ]
        content.append({"type": "text", "text": question})
        body = {
            "model": "served",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "logprobs": True,
        }
        if budget is not None:
            body["mm_processor_kwargs"] = {"foveate": budget}
        said = json.loads(self.get("/v1/chat/completions", body))
        choice = said["choices"][0]
        return Answer(
            text=choice["message"]["content"].strip(),
            prompt_tokens=said["usage"]["prompt_tokens"],
            logprobs=tuple(token["logprob"] for token in choice["logprobs"]["content"]),
        )

    def get(self, path: str, body: Any = None) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                text: str = response.read().decode()
                return text
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from None

    def counters(self) -> dict[str, float]:
        """foveate's, as /metrics has them."""
        found = re.findall(r"^foveate_(\w+)_total(?:\{.*\})? (\S+)$", self.get("/metrics"), re.M)
        return {name: float(value) for name, value in found}


def data_url(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(command: Sequence[str], log: Path) -> Iterator[Server]:
    """A server while the block runs.

    Args:
        command: what follows the Python interpreter, without port and general options.
        log: file for its output.
    """
    port = free_port()
    arguments = [*command, *OPTIONS, "--port", str(port), "--served-model-name", "served"]
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ENVIRONMENT},
        )
    server = Server(port, log)
    try:
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"the server ended:\n{server.log.read_text()[-6000:]}")
        try:
            server.get("/health")
            return
        except (OSError, AssertionError):
            time.sleep(0.5)
    raise AssertionError(f"no server after {START_SECONDS} s:\n{server.log.read_text()[-6000:]}")
