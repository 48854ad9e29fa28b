"""Every served family as a tiny random model: probabilities equal those of transformers.

Random models have no preference for being right: a token in another place, or another token,
changes every probability. Prompts are cut into chunks of 32 tokens, so images are too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import foveate
from tests.vllm.engine.server import Answer, serving

CHUNKED = ["--max-num-batched-tokens", "32", "--max-num-seqs", "8"]
NEAR = 2e-4
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


def picture(height: int, width: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


A, B, C = picture(224, 168, 0), picture(112, 280, 1), picture(224, 224, 2)
CASES: list[tuple[list[Image.Image], str]] = [
    ([A], "w1 w2 w3"),
    ([B, C], "w4 w5"),
    ([], "w7 w8"),
    ([C, A, B], "w9 w9 w1"),
    ([C, A], "w9 w2"),  # begins as the one before: a cached prefix that ends behind an image
]


def assert_same(found: Answer, expected: Answer) -> None:
    assert found.prompt_tokens == expected.prompt_tokens
    assert found.text == expected.text
    gap = max(abs(a - b) for a, b in zip(found.logprobs, expected.logprobs, strict=False))
    assert gap < NEAR, f"log probabilities differ by up to {gap}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    from tests.vllm.engine.tiny_models import save_tiny

    return lambda family: save_tiny(family, tmp_path_factory.mktemp(family))


def check(folder: Path, reference: Any, options: list[str], cases: Any, log: Path) -> None:
    expected = [reference.ask(*case) for case in cases]
    command = ["-m", "foveate", "serve", str(folder), "--keep", "25%", *options, *CHUNKED]
    with serving(command, log) as server:
        for _ in range(2):  # the second time from vLLM's caches
            for case, answer in zip(cases, expected, strict=True):
                assert_same(server.ask(*case), answer)
        assert server.counters()["images"] == 2 * sum(len(images) for images, _ in cases)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "llava_next", "llava_onevision"])
def test_family(family: str, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from tests.vllm.engine.reference import Reference

    folder = tiny(family)
    positions = "original" if family in QWEN else "renumbered"
    method = foveate.TokenCarve(keep_ratio=0.25, where="encoder", positions=positions)
    # Of several images transformers cuts none into tiles in OneVision, vLLM all.
    cases = [c for c in CASES if len(c[0]) < 2] if family == "llava_onevision" else CASES
    check(folder, Reference(folder, method), [], cases, tmp_path / "log.txt")


def test_qwen3_vl_and_its_deepstack_features(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from tests.vllm.engine.reference_qwen3 import Qwen3Reference

    folder = tiny("qwen3_vl")
    reference = Qwen3Reference(folder, foveate.DivPrune(keep_ratio=0.25))
    check(folder, reference, ["--method", "divprune"], CASES, tmp_path / "log.txt")


def test_the_blind_step_of_foveacarve(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from tests.vllm.engine.reference import Reference

    folder = tiny("qwen2_5_vl")
    reference = Reference(folder, foveate.FoveaCarve(keep_ratio=0.25, where="encoder"))
    check(folder, reference, ["--method", "foveacarve"], CASES, tmp_path / "log.txt")


def test_a_budget_above_an_image_is_an_error_of_its_request(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    command = ["-m", "foveate", "serve", str(tiny("qwen2_vl")), "--keep", "20", *CHUNKED]
    with serving(command, tmp_path / "log.txt") as server:
        before = server.ask([A], "w1")
        with pytest.raises(AssertionError, match=r"400: .*keep_tokens=20 exceeds the 16 visual"):
            server.ask([picture(112, 112, 3)], "w1")
        assert server.ask([A], "w1").text == before.text


def test_two_devices_that_share_the_heads(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """Attention is averaged over both, and keys are gathered from both."""
    from tests.vllm.engine.reference import Reference

    folder = tiny("qwen2_5_vl")
    reference = Reference(folder, foveate.VisionZip(keep_ratio=0.25))
    options = ["--method", "visionzip", "--tensor-parallel-size", "2"]
    check(folder, reference, options, CASES, tmp_path / "log.txt")
