"""Without a cache the prompt's decisions are applied again, whoever said where its images are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import foveate
from tests.vist import tiny_vist
from tests.vist.tiny_vist import assert_close, ids

NEW = 4


@pytest.mark.parametrize("prune_layer", [0, 2])
@pytest.mark.parametrize("early_cache", ["compact", "full"])
def test_an_explicit_mask_holds_for_the_tokens_generated(
    early_cache: Any, prune_layer: int
) -> None:
    llm = tiny_vist.model()
    prompt = ids(30, 1)[None]
    is_visual = torch.zeros_like(prompt, dtype=torch.bool)
    is_visual[:, 3:23] = True
    method = foveate.DivPrune(keep_tokens=5, prune_layer=prune_layer, early_cache=early_cache)
    how = {
        "attention_mask": torch.ones_like(prompt),
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with foveate.attach(llm, method, visual_mask=is_visual) as run:
        cached = llm.generate(prompt, **how)
        recomputed = llm.generate(prompt, use_cache=False, **how)
    assert len(run.reports) == 2
    assert torch.equal(cached.sequences, recomputed.sequences)
    assert_close(torch.stack(recomputed.logits), torch.stack(cached.logits))


def test_another_batch_is_another_prompt() -> None:
    llm = tiny_vist.model()
    prompt = ids(30, 1)[None]
    is_visual = torch.zeros_like(prompt, dtype=torch.bool)
    is_visual[:, 3:23] = True
    longer = torch.cat([prompt, ids(1, 2)[None]], dim=1)
    mask = torch.cat([is_visual, is_visual[:, :1]], dim=1)
    method = foveate.DivPrune(keep_tokens=5, prune_layer=2)
    with foveate.attach(llm, method, visual_mask=is_visual) as run, torch.no_grad():
        llm(prompt, use_cache=False)
        run.visual_mask = mask
        llm(longer.repeat(2, 1), use_cache=False)
    assert len(run.reports) == 2
    assert [entry.span.sample for entry in run.plans] == [0, 1]
