"""Budgets of requests and by age: as a server with that budget, whatever is in the caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import foveate
from foveate.vllm.budgets import Ages
from tests.vllm.engine.server import ENVIRONMENT, Answer, Server, serving
from tests.vllm.engine.test_families import CASES, CHUNKED, NEAR, A, B, C, assert_same, picture
from tests.vllm.engine.tiny_models import save_tiny

IMAGE = "<|vision_start|> <|image_pad|> <|vision_end|>"
NUM_ANSWER = 4
BLOCK = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("qwen3_vl", tmp_path_factory.mktemp("qwen3_vl"))


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = ["-m", "foveate", "serve", str(folder), "--method", "divprune", "--keep", "50%"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with serving([*command, *CHUNKED], log) as running:
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


def test_requests_of_one_image_do_not_mix(server: Server, expect: Callable[..., Answer]) -> None:
    """Two rounds: the second finds every image in the caches, at each of its budgets."""
    asked: list[tuple[Any, float]] = [(None, 0.5), ({"keep_ratio": 0.1}, 0.1)]
    asked += [({"keep_ratio": 0.25}, 0.25), ({"keep_ratio": 0.5}, 0.5), (None, 0.5)]
    lengths = set()
    for _ in range(2):
        for budget, share in asked:
            for images, question in CASES:
                found = server.ask(images, question, budget=budget)
                assert_same(found, expect(images, question, [share] * len(images)))
                lengths.add((len(images), found.prompt_tokens))
    assert len(lengths) > 8


def test_each_image_has_its_own(server: Server, expect: Callable[..., Answer]) -> None:
    shares = [0.1, 0.5, 0.25]
    found = server.ask([C, A, B], "w9 w9 w1", budget={"keep_ratio": shares})
    assert_same(found, expect([C, A, B], "w9 w9 w1", shares))
    tokens = server.ask([C], "w1", budget={"keep_tokens": 16})
    assert_same(tokens, expect([C], "w1", [0.25]))  # of 64
    by_age = server.ask([A, B, C], "w2", budget={"ages": [0.5, 0.25, 0.1]})
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
        {"type": "image_url", "image_url": {"url": _url(A)}},
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


def _url(image: Image.Image) -> str:
    from tests.vllm.engine.server import data_url

    return data_url(image)


def test_a_growing_conversation_stays_in_the_prefix_cache(
    folder: Path, expect: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old images keep 10 %; whatever is before the images that age is not worked out again."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    from vllm import LLM, SamplingParams

    from tests.vllm.engine.reference_qwen3 import Qwen3Reference

    reference = Qwen3Reference(folder, foveate.DivPrune(keep_ratio=0.5))
    ages = Ages(shares=(1.0, 0.1))
    llm = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=4,
        block_size=BLOCK,
        limit_mm_per_prompt={"image": 8},
        additional_config={"foveate": {"method": "divprune", "ages": list(ages.shares)}},
    )
    shots = [picture(224, 224, 20 + i) for i in range(7)]  # 64 tokens each

    def turn(num: int, budget: Any = None) -> tuple[Any, str]:
        said = " ".join(f"{IMAGE} w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(num))
        prompt = f"user: {said} assistant:"
        request: dict[str, Any] = {"prompt": prompt, "multi_modal_data": {"image": shots[:num]}}
        if budget is not None:
            request["mm_processor_kwargs"] = {"foveate": budget}
        settings = SamplingParams(temperature=0, max_tokens=NUM_ANSWER, logprobs=0)
        (made,) = llm.generate([request], settings, use_tqdm=False)
        return made, prompt

    def check(num: int, shares: Sequence[float], budget: Any = None) -> tuple[int, int]:
        """As in transformers; tokens that came out of the cache, and of the prompt."""
        made, prompt = turn(num, budget)
        inputs = reference.vlm.processor(
            text=[prompt], images=shots[:num], return_tensors="pt", return_mm_token_type_ids=True
        )
        methods = [foveate.DivPrune(keep_ratio=share) for share in shares]
        expected = reference.answer(inputs, methods, max_tokens=NUM_ANSWER)
        answer = made.outputs[0]
        found = [
            step[token].logprob
            for step, token in zip(answer.logprobs, answer.token_ids, strict=True)
        ]
        assert len(made.prompt_token_ids) == expected.prompt_tokens
        assert found == pytest.approx(list(expected.logprobs), abs=NEAR)
        return made.num_cached_tokens, len(made.prompt_token_ids)

    try:
        old = 2 + 6 + 4  # of a turn whose image has aged: fences, kept tokens, words
        for num in range(1, 8):
            shares = [budget.keep_ratio or 0.0 for budget in ages.of(num)]
            cached, length = check(num, shares)
            assert length == 2 + (num - 1) * old + 2 + 64 + 4
            # All before the image that was new in the turn before.
            same = 1 + max(0, num - 2) * old + 1
            assert cached == same // BLOCK * BLOCK
        # A client that names a budget of every image and keeps it loses nothing.
        fixed = [0.1, 1.0, 0.1, 0.25, 0.1]
        lengths = []
        for num in range(1, 6):
            cached, length = check(num, fixed[:num], {"keep_ratio": fixed[:num]})
            lengths.append(length)
            if num > 2:
                assert cached == (lengths[-2] - 1) // BLOCK * BLOCK
    finally:
        llm.llm_engine.engine_core.shutdown()
