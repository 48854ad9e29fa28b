"""Budgets of requests and by age: as a server with that budget, whatever is in the caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import foveate
from foveate.vllm.budgets import Ages
from tests.vllm.engine.in_process import Engine, engine
from tests.vllm.engine.server import Answer, Server, data_url, serving
from tests.vllm.engine.test_families import CASES, CHUNKED, A, B, C, assert_same, picture
from tests.vllm.engine.tiny_models import save_tiny

IMAGE = "<|vision_start|> <|image_pad|> <|vision_end|>"
NUM_ANSWER = 4
NUM_WORDS = 16  # of a turn
BLOCK = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("qwen3_vl"))


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = ["-m", "foveate", "serve", str(folder), "--method", "divprune", "--keep", "50%"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with serving([*command, "--trust-request-mm-kwargs", *CHUNKED], log) as running:
        yield running


@pytest.fixture(scope="module")
def expect(folder: Path) -> Callable[..., Answer]:
    """The answer to images and a question in transformers, each image at its own share."""
    from tests.vllm.engine.reference_qwen3 import Qwen3Reference

    reference = Qwen3Reference(folder, foveate.DivPrune(keep_ratio=0.5))

    def ask(images: Sequence[Image.Image], question: str, shares: Sequence[float]) -> Answer:
        inputs = reference.inputs(images, question)
        return reference.answer(inputs, [foveate.DivPrune(keep_ratio=share) for share in shares])

    return ask


@pytest.fixture  # one engine at a time in a process
def running(folder: Path) -> Iterator[Engine]:
    with engine(folder, {"method": "divprune", "keep_ratio": 0.5}) as made:
        yield made


def test_requests_of_one_image_do_not_mix(running: Engine, expect: Callable[..., Answer]) -> None:
    """Two rounds: the second finds every image in the caches, at each of its budgets."""
    asked: list[tuple[Any, float]] = [(None, 0.5), ({"keep_ratio": 0.1}, 0.1)]
    asked += [({"keep_ratio": 0.25}, 0.25), ({"keep_ratio": 0.5}, 0.5), (None, 0.5)]
    lengths = set()
    for _ in range(2):
        for budget, share in asked:
            for images, question in CASES:
                found = running.ask(images, question, budget=budget)
                assert_same(found, expect(images, question, [share] * len(images)))
                lengths.add((len(images), found.prompt_tokens))
    assert len(lengths) > 8


def test_each_image_has_its_own(running: Engine, expect: Callable[..., Answer]) -> None:
    shares = [0.1, 0.5, 0.25]
    found = running.ask([C, A, B], "w9 w9 w1", budget={"keep_ratio": shares})
    assert_same(found, expect([C, A, B], "w9 w9 w1", shares))
    tokens = running.ask([C], "w1", budget={"keep_tokens": 16})
    assert_same(tokens, expect([C], "w1", [0.25]))  # of 64
    by_age = running.ask([A, B, C], "w2", budget={"ages": [0.5, 0.25, 0.1]})
    assert_same(by_age, expect([A, B, C], "w2", [0.1, 0.25, 0.5]))


def test_what_is_refused_leaves_the_server_alive(server: Server) -> None:
    before, counted = server.ask([A], "w1"), server.counters()
    for budget, text in (
        (
            {"keep_ratio": 0.9},
            r"400: .*the request asks for 90%, 43 of the 48 visual tokens of image 0, and this "
            r"server keeps at most 24 \(50%\); ask for less, or start the server with more\.",
        ),
        ({"keep_tokens": 30}, "400: .*the request asks for 30 tokens, 30 of the 48 visual tokens"),
        ({"keep_tokens": 100}, "400: .*keep_tokens=100 exceeds the 48 visual tokens of image 0"),
        ({"keep_ratio": [0.1, 0.1]}, "400: .*has 2 entries, and the request has 1 images"),
        ({"method": "random"}, "400: .*in a request has no setting 'method'"),
        ("10%", "400: .*in a request is no object"),
    ):
        with pytest.raises(AssertionError, match=text):
            server.ask([A], "w1", budget=budget)
    # The number is that of the request, also where the images before are in a cache.
    with pytest.raises(AssertionError, match="of the 49 visual tokens of image 1, and this server"):
        server.ask([A, picture(196, 196, 9)], "w1", budget={"keep_ratio": [0.5, 0.9]})
    assert server.counters() == counted
    assert server.ask([A], "w1") == before


def test_only_requests_that_are_accepted_count(server: Server) -> None:
    content = [
        {"type": "image_url", "image_url": {"url": data_url(A)}},
        {"type": "text", "text": "w1"},
    ]
    body = {"model": "served", "messages": [{"role": "user", "content": content}]}
    counted = server.counters()
    server.get("/tokenize", body)
    assert server.counters() == counted
    server.ask([A], "w1", budget={"keep_ratio": 0.25})
    after = server.counters()
    assert {name: after[name] - counted[name] for name in after} == {
        "images": 1,
        "visual_tokens": 48,
        "kept_tokens": 12,
    }


def test_a_growing_conversation_stays_in_the_prefix_cache(folder: Path) -> None:
    """Old images keep 10 %; whatever is before the images that age is not worked out again."""
    from tests.vllm.engine.reference_qwen3 import Qwen3Reference

    reference = Qwen3Reference(folder, foveate.DivPrune(keep_ratio=0.5))
    ages = Ages(shares=(1.0, 0.1))
    shots = [picture(224, 224, 20 + i) for i in range(7)]  # 64 tokens each

    def check(
        running: Engine, num: int, shares: Sequence[float], budget: Any = None
    ) -> tuple[int, int]:
        """As in transformers; tokens that came out of the cache, and of the prompt."""
        said: list[dict[str, Any]] = []
        for i in range(num):
            said.append({"type": "image_pil", "image_pil": shots[i]})
            said.append({"type": "text", "text": " ".join(f"w{i + j}" for j in range(NUM_WORDS))})
        found = running.chat([{"role": "user", "content": said}], NUM_ANSWER, budget)
        text = " ".join(f"{IMAGE} {part['text']}" for part in said[1::2])
        inputs = reference.vlm.processor(
            text=[f"user: {text} assistant:"],
            images=shots[:num],
            return_tensors="pt",
        )
        methods = [foveate.DivPrune(keep_ratio=share) for share in shares]
        assert_same(found, reference.answer(inputs, methods, max_tokens=NUM_ANSWER))
        return running.cached, found.prompt_tokens

    entry = {"method": "divprune", "ages": list(ages.shares)}
    old = 2 + 6 + NUM_WORDS  # of a turn whose image has aged: fences, kept tokens, words
    with engine(folder, entry, block_size=BLOCK, max_num_batched_tokens=512) as running:
        for num in range(1, 8):
            shares = [budget.keep_ratio or 0.0 for budget in ages.of(num)]
            cached, length = check(running, num, shares)
            assert length == 2 + (num - 1) * old + 2 + 64 + NUM_WORDS
            # All before the image that was new in the turn before, and nothing behind.
            same = 1 + max(0, num - 2) * old + 1
            assert cached == same // BLOCK * BLOCK
        # A client that names a budget of every image and keeps it loses nothing.
        fixed, lengths = [0.1, 1.0, 0.1, 0.25, 0.1], [0]
        for num in range(1, 6):
            cached, length = check(running, num, fixed[:num], {"keep_ratio": fixed[:num]})
            assert cached >= (lengths[-1] - 1) // BLOCK * BLOCK
            lengths.append(length)
