"""Videos of Qwen2-VL and Qwen2.5-VL: cut as wholes, and every frame stays in its time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import foveate
from tests.vllm.engine.server import ENVIRONMENT
from tests.vllm.engine.tiny_models import save_tiny

PROMPT = "user: <|vision_start|> <|video_pad|> <|vision_end|> w1 w2 assistant:"
FRAMES = np.random.default_rng(5).integers(0, 255, (6, 112, 168, 3), dtype=np.uint8)
METADATA = {
    "total_num_frames": 6,
    "fps": 2.0,
    "duration": 3.0,
    "video_backend": "opencv",
    "frames_indices": list(range(6)),
    "do_sample_frames": False,
}
NUM_ANSWER = 6
NUM_FULL, NUM_KEPT = 72, 18  # three frames of 4 x 6 tokens


@pytest.fixture(autouse=True)
def _engine_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def ask(
    folder: Path, entry: Mapping[str, Any] | None, **options: Any
) -> tuple[list[int], list[float], int]:
    """Tokens of the answer, their log probabilities, tokens of the prompt; from an engine."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=str(folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_batched_tokens=32,
        max_num_seqs=4,
        limit_mm_per_prompt={"image": 1, "video": 1},
        additional_config={} if entry is None else {"foveate": entry},
        **options,
    )
    try:
        (made,) = llm.generate(
            [{"prompt": PROMPT, "multi_modal_data": {"video": [(FRAMES, METADATA)]}}],
            SamplingParams(temperature=0, max_tokens=NUM_ANSWER, logprobs=0),
            use_tqdm=False,
        )
    finally:
        llm.llm_engine.engine_core.shutdown()
    (answer,) = made.outputs
    ids = list(answer.token_ids)
    logprobs = [step[token].logprob for step, token in zip(answer.logprobs, ids, strict=True)]
    return ids, logprobs, len(made.prompt_token_ids)


TOKENCARVE = foveate.TokenCarve(keep_ratio=0.25, where="encoder")
# Method, the plugin's entry, other options, and tokens that are kept of the video.
ASKED = [
    (TOKENCARVE, {"keep_ratio": 0.25}, {}, NUM_KEPT),
    (foveate.Evs(keep_ratio=0.5), {"method": "evs", "keep_ratio": 0.5}, {}, 36),
    (foveate.Evs(keep_ratio=0.5), {"keep_ratio": 0.25}, {"video_pruning_rate": 0.5}, 36),
    (
        foveate.DivPrune(keep_ratio=0.25, frames="each"),
        {"method": "divprune(frames=each)", "keep_ratio": 0.25},
        {},
        NUM_KEPT,
    ),
]


@pytest.mark.parametrize(("method", "entry", "options", "kept"), ASKED)
def test_qwen2_vl_answers_as_in_transformers(
    tmp_path: Path,
    method: foveate.Method,
    entry: Mapping[str, Any],
    options: dict[str, Any],
    kept: int,
) -> None:
    from foveate.models.load import load_vlm

    folder = save_tiny("qwen2_vl", tmp_path)
    vlm = load_vlm(folder, device="cpu", dtype="float32")
    inputs = vlm.processor(
        text=[PROMPT],
        videos=[FRAMES],
        return_tensors="pt",
        videos_kwargs={"do_sample_frames": False},
    )
    with foveate.Run(vlm.model, method), torch.no_grad():
        made = vlm.model.generate(
            **inputs,
            max_new_tokens=NUM_ANSWER,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    length = inputs["input_ids"].shape[1]
    expected = made.sequences[0, length:]
    scores = torch.stack(made.logits)[:, 0].log_softmax(dim=-1)
    ids, logprobs, prompt_tokens = ask(folder, entry, **options)
    assert ids == expected.tolist()
    torch.testing.assert_close(
        torch.tensor(logprobs), scores.gather(1, expected[:, None])[:, 0], atol=2e-4, rtol=0
    )
    assert prompt_tokens == length - NUM_FULL + kept


def test_qwen2_5_vl_keeps_vllm_s_times(tmp_path: Path) -> None:
    """Seconds between frames space them out; transformers 5.19 places the text behind otherwise.

    So the full video through the plugin is held to the engine without it.
    """
    folder = save_tiny("qwen2_5_vl", tmp_path)
    ids, logprobs, prompt_tokens = ask(folder, None)
    through = ask(folder, {"method": "noop", "keep_ratio": 1.0})
    assert through[0] == ids
    assert through[1] == pytest.approx(logprobs, abs=2e-4)
    assert through[2] == prompt_tokens
    carved = ask(folder, {"keep_ratio": 0.25})
    assert carved[2] == prompt_tokens - NUM_FULL + NUM_KEPT
    assert carved[1] != pytest.approx(logprobs, abs=2e-4)
