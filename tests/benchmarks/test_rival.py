"""Beside the rival: what counts as added, the bare cut, and what is said where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate
from benchmarks.rival import __main__ as rival
from benchmarks.rival.angelslim import COMMIT
from benchmarks.rival.outside import InsideClock, bare_cut
from foveate.errors import InputError
from tests import tiny_vlm as tiny

ROOT = Path(__file__).resolve().parents[2]


def burn(seconds: float) -> None:
    """Take CPU time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.fixture
def model() -> Any:
    return tiny.build("llava")


@pytest.fixture
def inputs(model: Any) -> dict[str, Any]:
    found = tiny.prompts(model, "llava", (1,))
    return {**{k: v for k, v in found.items() if k != "attention_mask"}, "use_cache": True}


def test_time_between_modules_is_outside_and_in_them_is_not(
    model: Any, inputs: dict[str, Any]
) -> None:
    clock = InsideClock(model)
    layer = model.base_model.language_model.layers[0]
    clock.time(model, inputs)
    handle = layer.register_forward_pre_hook(lambda *_: burn(0.2))
    total, outside, _ = clock.time(model, inputs)
    assert 0.2 <= outside < total
    handle.remove()
    forward = layer.self_attn.q_proj.forward

    def slow(x: Any) -> Any:
        burn(0.2)
        return forward(x)

    layer.self_attn.q_proj.forward = slow
    total, outside, _ = clock.time(model, inputs)
    assert total >= 0.2
    assert outside < 0.15


@pytest.mark.parametrize("cut", [0, 1])
def test_the_bare_cut_is_the_cut_of_a_run(model: Any, inputs: dict[str, Any], cut: int) -> None:
    """Given what a run kept, it says what the run says."""
    with (
        torch.no_grad(),
        foveate.attach(model, foveate.DivPrune(keep_ratio=0.4, prune_layer=cut)) as run,
    ):
        want = model(**inputs, logits_to_keep=1).logits
    (found,) = run.plans
    assert found.plan is not None
    dropped = torch.ones(len(found.span.tokens), dtype=torch.bool)
    dropped[found.plan.keep_idx[0]] = False
    stays = torch.ones(inputs["input_ids"].shape[1], dtype=torch.bool)
    stays[found.span.tokens[dropped]] = False
    layers = model.base_model.language_model.layers
    with torch.no_grad(), bare_cut(layers, cut, stays.nonzero()[:, 0]):
        bare = model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(bare, want)
    with torch.no_grad():
        assert not torch.allclose(model(**inputs, logits_to_keep=1).logits, want)


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours adds 3 ms to a bare cut and theirs 6, whatever the passes took."""
    monkeypatch.setattr(rival, "CUTS", {"fastv": 1})
    outside = {
        "bare 1": [0.010, 0.020, 0.030],
        "ours fastv": [0.013, 0.023, 0.033],
        "theirs fastv": [0.016, 0.026, 0.036],
    }
    total = {"bare 1": [1.0] * 3, "ours fastv": [0.9] * 3, "theirs fastv": [1.0] * 3}
    (row,) = rival.rows_of(total, outside)
    assert row["ours_ms"] == pytest.approx(3)
    assert row["theirs_ms"] == pytest.approx(6)
    assert row["selection_ratio"]["value"] == pytest.approx(0.5)
    assert row["prefill_ratio"]["value"] == pytest.approx(0.9)


def test_cuts_of_other_sizes_are_not_compared(
    model: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def ours() -> Iterator[None]:
        with foveate.attach(model, foveate.FastV(keep_tokens=8)):
            yield

    with torch.no_grad():
        whole = inputs["input_ids"].shape[1]
        images = int((inputs["input_ids"] == tiny.IMAGE_ID).sum())
    monkeypatch.setattr(rival, "prompt", lambda: {**inputs, "logits_to_keep": 1})
    monkeypatch.setattr(rival, "KEPT_ROWS", whole - images + 8)
    total, outside = rival.measured(model, {"ours fastv": ours}, 2)
    assert len(total["ours fastv"]) == len(outside["ours fastv"]) == 2
    with pytest.raises(InputError, match=r"theirs fastv left .* rows instead of"):
        rival.measured(model, {"theirs fastv": nullcontext}, 1)


def test_without_the_rival_it_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rival.main(["--source", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "holds no AngelSlim with a token_compressor; get it by `git clone" in said
    assert COMMIT in said
    assert COMMIT in (ROOT / "Makefile").read_text()
