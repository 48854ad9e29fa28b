"""A question that reads ahead, in every mode of a run: what it costs, and what it leaves alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

import foveate
from foveate.carve.engine import readers
from foveate.carve.engine.run import Run
from foveate.errors import UnsupportedModelError
from tests import tiny_vlm as tiny
from tests.carve.oracle.test_pruned_equals_masked import GREEDY, assert_close

RAGGED = (1, 2, 0)
METHOD = foveate.FoveaCarve(keep_ratio=0.5)
SPOKEN = {**GREEDY, "suppress_tokens": [tiny.IMAGE_ID, tiny.VIDEO_ID]}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny.build("llava")


@pytest.fixture(scope="module")
def inputs(model: Any) -> dict[str, Any]:
    return tiny.prompts(model, "llava", RAGGED)


def kept(run: Run) -> list[list[int]]:
    return [p.plan.keep_idx[0].tolist() for p in run.plans if p.plan]


def test_what_is_spent_is_the_budget(model: Any, inputs: dict[str, Any]) -> None:
    """One cut before layer 2 keeps 18 of 36 from there on: 2 * 36 + 3 * 18 token-layers."""
    with torch.no_grad(), foveate.attach(model, METHOD) as run:
        model(**inputs)
    report = run.report
    assert report is not None
    counts = {len(row) for row in kept(run)}
    assert report.ahead_tokens > 10
    assert report.num_unread == 0
    spent = sum(report.tokens_per_layer) + report.ahead_tokens
    assert 2 * 36 + 3 * 18 - 3 <= spent <= 2 * 36 + 3 * 18
    assert report.average_tokens == pytest.approx(spent / 5)
    assert f"{report.ahead_tokens:.0f} token-layers an image, out of its budget" in str(report)
    blind = foveate.FoveaCarve(keep_ratio=0.5, foresight=False)
    with torch.no_grad(), foveate.attach(model, blind) as run:
        model(**inputs)
    assert {len(row) for row in kept(run)} != counts
    assert run.report is not None
    assert run.report.ahead_tokens == 0
    assert "read ahead" not in str(run.report)


def test_what_is_not_worth_it_is_said(model: Any, inputs: dict[str, Any]) -> None:
    """Then the choice is that of foresight=False, with all of the budget."""
    few = {"keep_tokens": 4, "prune_layer": 0}
    found = []
    for foresight in (True, False):
        method = foveate.FoveaCarve(**few, foresight=foresight)
        with torch.no_grad(), foveate.attach(model, method) as run:
            model(**inputs)
        found.append(kept(run))
        assert run.report is not None
        assert run.report.num_unread == (3 if foresight else 0)
        assert ("left out for 3 images" in str(run.report)) == foresight
    assert found[0] == found[1]


def test_what_would_leave_an_image_no_token_is_not_worth_it() -> None:
    """A token of each image in five layers is all there is, and costs less than twice a look."""
    twin = tiny.build("mistral3")
    method = foveate.FoveaCarve(keep_tokens=1, prune_layer=0, look_depth=0.0)
    with torch.no_grad(), foveate.attach(twin, method) as run:
        twin(**tiny.prompts(twin, "mistral3", (20,)))
    assert run.report is not None
    assert run.report.num_unread == 20
    assert run.report.tokens_per_layer == (1.0,) * 5


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_share_for_the_text_around_it(model: Any, inputs: dict[str, Any], share: float) -> None:
    """It pays as before; without a share the choice is as before, too."""
    method = foveate.TextShare(inner=METHOD, share=share, relevance="similarity")
    found = []
    for each in (METHOD, method):
        with torch.no_grad(), foveate.attach(model, each) as run:
            model(**inputs)
        assert run.report is not None
        found.append((kept(run), run.report.tokens_per_layer, run.report.ahead_tokens))
    assert found[0][1:] == found[1][1:]
    assert (found[0][0] == found[1][0]) == (not share)


def test_each_prompt_decides_for_itself(
    model: Any, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images pay for one text: their prompt reads ahead, and the other does not."""
    monkeypatch.setattr(readers, "WORTH", 0.17)
    with torch.no_grad(), foveate.attach(model, METHOD) as run:
        model(**inputs)
    assert run.report is not None
    assert run.report.num_unread == 1
    together = kept(run)
    monkeypatch.setattr(readers, "WORTH", 0.5)
    with torch.no_grad(), foveate.attach(model, METHOD) as run:
        model(**inputs)
    assert len(together[0]) > len(kept(run)[0])
    assert together[1:] == kept(run)[1:]


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "gemma3"])
def test_a_prompt_that_is_fed_again(name: str) -> None:
    """Without a cache it decides once, and says what it says with one."""
    twin = tiny.build(name)
    given = tiny.prompts(twin, name, RAGGED)
    with foveate.attach(twin, METHOD):
        cached = twin.generate(**given, **SPOKEN)
        again = twin.generate(**given, **SPOKEN, use_cache=False)
    for a, b in zip(cached.logits, again.logits, strict=True):
        said = slice(0, tiny.IMAGE_ID)
        assert_close(a[:, said], b[:, said], 2e-5)


def test_beams_share_it(model: Any, inputs: dict[str, Any]) -> None:
    with foveate.attach(model, METHOD) as run:
        model.generate(**inputs, **SPOKEN)
        alone, report = kept(run), run.report
        model.generate(**inputs, **SPOKEN, num_beams=3)
    assert kept(run) == alone
    assert run.report is not None
    assert report is not None
    assert run.report.ahead_tokens == report.ahead_tokens


def test_outputs_of_the_pass_itself(model: Any, inputs: dict[str, Any]) -> None:
    """Hidden states that the caller asks for are the pass's own, not those of reading ahead."""
    with torch.no_grad(), foveate.attach(model, METHOD):
        out = model(**inputs, output_hidden_states=True)
        plain = model(**inputs)
    assert len(out.hidden_states) == 6
    assert_close(out.logits, plain.logits)
    assert len({hidden.shape[1] for hidden in out.hidden_states[1:]}) == 2
    assert all(len(hidden) == len(RAGGED) for hidden in out.hidden_states)


def test_the_cache_holds_nothing_of_it(model: Any, inputs: dict[str, Any]) -> None:
    with torch.no_grad(), foveate.attach(model, METHOD) as run:
        out = model(**inputs)
    assert run.report is not None
    lengths = {layer.keys.shape[-2] for layer in out.past_key_values.layers}
    assert lengths == {run.report.length_after}


def test_behind_another_method(model: Any, inputs: dict[str, Any]) -> None:
    """What was dropped before is not looked at; nothing of it is needed."""
    stack = foveate.Stack(
        stages=(
            foveate.DivPrune(keep_ratio=0.8, prune_layer=0),
            foveate.FoveaCarve(keep_ratio=0.4, prune_layer=2, depths=(0.4, 0.8)),
        )
    )
    with torch.no_grad(), foveate.attach(model, stack) as run:
        model(**inputs)
    assert run.report is not None
    assert run.report.ahead_tokens > 0
    first, second = (run.decisions[layer] for layer in (0, 2))
    assert sum(g.plan.num_images for g in first) == sum(g.plan.num_images for g in second) == 3


def test_threads_do_not_mix(model: Any, inputs: dict[str, Any]) -> None:
    alone = {}
    with foveate.attach(model, METHOD) as run:
        for seed in range(3):
            given = tiny.prompts(model, "llava", (1, 1), seed=seed)
            with torch.no_grad():
                model(**given)
            alone[seed] = kept(run)
        found: dict[int, list[Any]] = {0: [], 1: [], 2: []}

        def work(seed: int) -> None:
            given = tiny.prompts(model, "llava", (1, 1), seed=seed)
            for _ in range(5):
                with torch.no_grad():
                    model(**given)
                found[seed].append(kept(run))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {seed: [rows] * 5 for seed, rows in alone.items()}


def test_off_is_bitwise(model: Any, inputs: dict[str, Any]) -> None:
    with torch.no_grad():
        plain = model(**inputs).logits
        with foveate.attach(model, foveate.FoveaCarve(keep_ratio=1.0)) as run:
            assert torch.equal(model(**inputs).logits, plain)
        assert run.report is not None
        assert not run.report.fired
        assert torch.equal(model(**inputs).logits, plain)


def test_where_prompts_alone_can_be_shortened(model: Any) -> None:
    one_step = foveate.FoveaCarve(keep_ratio=0.5, depths=(0.0,))
    with pytest.raises(UnsupportedModelError, match=r"use foveacarve\(where=encoder\), which"):
        Run(model, one_step, cut="before_llm")
    with pytest.raises(UnsupportedModelError, match=r"foveacarve\(where=encoder\)"):
        Run(model, METHOD, cut="before_llm")
    Run(model, foveate.FoveaCarve(keep_ratio=0.5, where="encoder"), cut="before_llm")
