"""What an image is where features do not say: runs of placeholders, alone and in a batch alike."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

import foveate
from tests import tiny_kinds as kinds
from tests import tiny_vlm as tiny
from tests.carve.oracle.masked import masked_logits
from tests.carve.oracle.test_pruned_equals_masked import assert_close, plans_of

METHOD = foveate.TokenCarve(keep_ratio=0.4)
COUNTS = (1, 2, 0)


def flat(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model's extractor give one tensor [tokens, D], as some do."""
    real = model.base_model.get_image_features

    @functools.wraps(real)
    def joined(pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        output = real(pixel_values, **kwargs)
        return BaseModelOutputWithPooling(pooler_output=torch.cat(list(output.pooler_output)))

    monkeypatch.setitem(model.base_model.__dict__, "get_image_features", joined)


def spans(run: foveate.Run, sample: int) -> list[Any]:
    found = [entry for entry in run.plans if entry.span.sample == sample]
    return [(entry.span.num_tokens, entry.plan.keep_idx.tolist()) for entry in found]


@pytest.mark.parametrize("early", [False, True], ids=["computed", "given"])
def test_images_are_runs_alone_and_in_a_batch(early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.build("paligemma")
    inputs = tiny.prompts(model, "paligemma", COUNTS)
    row = tiny.row_of(inputs, model, "paligemma", 1, COUNTS)
    flat(model, monkeypatch)
    if early:
        for one in (inputs, row):
            pixels = one.pop("pixel_values")
            one["mm_encoder_outputs"] = {"image": model.base_model.get_image_features(pixels)}
    with foveate.attach(model, METHOD) as run, torch.no_grad():
        model(**kinds.given(inputs))
        together = spans(run, 1)
        model(**kinds.given(row))
        assert spans(run, 0) == together
    assert len(together) == 2, "two images, not one of all their tokens"


def test_an_image_with_a_grid_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flat features of one image that the model was given a grid for."""
    model = tiny.build("qwen2_vl")
    inputs = tiny.prompts(model, "qwen2_vl", (1,))
    real = model.base_model.get_image_features

    @functools.wraps(real)
    def joined(*args: Any, **kwargs: Any) -> Any:
        output = real(*args, **kwargs)
        output.pooler_output = torch.cat(list(output.pooler_output))
        return output

    with foveate.attach(model, METHOD) as run, torch.no_grad():
        model(**inputs)
        grid = run.plans[0].span.grid
    monkeypatch.setitem(model.base_model.__dict__, "get_image_features", joined)
    with foveate.attach(model, METHOD) as run:
        model.base_model.get_image_features(
            pixel_values=inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"]
        )
        recorder = run._setting.recorder  # type: ignore[union-attr]
        found = recorder.units("image", int((inputs["input_ids"] == tiny.IMAGE_ID).sum()))
    assert found is not None
    assert grid is not None
    assert [unit.grid for unit in found[0]] == [grid]


@pytest.mark.parametrize("video", [False, True], ids=["image", "video"])
def test_two_modalities_with_one_placeholder(video: bool) -> None:
    """Each image is one image: what is merged is merged once."""
    attribute = "video_token_id" if video else "image_token_id"
    model = tiny.build("qwen2_vl")
    shared = getattr(model.config, attribute)
    model.config.image_token_id = model.config.video_token_id = shared
    counts = (1, 1) if video else COUNTS
    inputs = tiny.prompts(model, "qwen2_vl", counts, video=video)
    length = inputs["input_ids"].shape[1]
    with foveate.Run(model, METHOD) as run, torch.no_grad():
        if video:  # what an earlier call showed does not count
            model(**tiny.prompts(model, "qwen2_vl", (0, 0)))
        logits = model(**inputs).logits[:, -1]
    assert {entry.span.kind for entry in run.plans} == {"video" if video else "image"}
    slow = masked_logits(model, inputs, plans_of(run), run.prune_layer, length)[:, -1]
    assert_close(logits, slow)
    columns = torch.cat([entry.span.tokens + 1000 * entry.span.sample for entry in run.plans])
    assert len(columns.unique()) == len(columns), "a token belongs to one image"
    assert len(columns) == int((inputs["input_ids"] == getattr(model.config, attribute)).sum())
