"""Layers that are called with the same objects get what each would have been given by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

import foveate
from foveate.carve.engine.forward_pass import ForwardPass
from tests import tiny_kinds  # noqa: F401 - makes its families known
from tests.tiny_vlm import VOCAB, build, prompts

# One kind of layer; sliding layers between others; layers with a state between others.
FAMILIES = ("llava", "gemma3", "lfm2_vl")


def logits(model: Any, given: dict[str, Any], early_cache: str) -> list[Tensor]:
    """Of a prefill and three decoded tokens."""
    cache = DynamicCache(config=model.config.get_text_config())
    mask = given["attention_mask"]
    method = foveate.FastV(keep_tokens=4, early_cache=early_cache, prune_layer=2)
    generator = torch.Generator().manual_seed(0)
    with foveate.Run(model, method), torch.no_grad():
        found = [model(**given, past_key_values=cache).logits]
        for _ in range(3):
            mask = nn.functional.pad(mask, (0, 1), value=1)
            ids = torch.randint(3, VOCAB - 20, (len(mask), 1), generator=generator)
            out = model(input_ids=ids, attention_mask=mask, past_key_values=cache)
            found.append(out.logits)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("images", [[1], [2, 1, 1, 0]], ids=["one", "ragged"])
@pytest.mark.parametrize("early_cache", ["compact", "full"])
def test_as_each_by_itself(
    family: str, images: list[int], early_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(family)
    given = prompts(model, family, images)
    agreed: list[int] = []
    agree = ForwardPass._agree

    def counted(self: ForwardPass, index: int, *args: Any) -> Any:
        agreed.append(index)
        return agree(self, index, *args)

    monkeypatch.setattr(ForwardPass, "_agree", counted)
    found, num_agreed = logits(model, given, early_cache), len(agreed)
    agreed.clear()
    monkeypatch.setattr(ForwardPass, "_key", lambda *_: None)
    expected = logits(model, given, early_cache)
    assert num_agreed < len(agreed), "no layer was called as one before it"
    for own, wanted in zip(found, expected, strict=True):
        assert torch.equal(own, wanted)
