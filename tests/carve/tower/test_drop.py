"""Patches left out before the tower: the others see what they would see were those masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen2_vl import modeling_qwen2_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl

import foveate
from foveate.core.patch_prediction import stand_ins, unpredicted
from foveate.errors import MethodError
from foveate.models.tower_tokens import out_of_windows
from tests import tiny_vlm as tiny

CODE: dict[str, Any] = {
    "qwen2_vl": modeling_qwen2_vl,
    "qwen2_5_vl": modeling_qwen2_5_vl,
    "qwen3_vl": modeling_qwen3_vl,
}
every_family = pytest.mark.parametrize("family", CODE)
GROUP = 4  # patches of a token


def flat_pictures(inputs: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """The prompts with pictures of a few flat colours instead of noise."""
    generator = torch.Generator().manual_seed(seed)
    patches = inputs["pixel_values"]
    colours = torch.randn(3, 1, GROUP * patches.shape[1], generator=generator)
    which = torch.randint(3, (len(patches) // GROUP,), generator=generator)
    which[torch.rand(len(which), generator=generator) < 0.6] = 0
    return {**inputs, "pixel_values": colours[which].reshape(patches.shape)}


def pictures(inputs: dict[str, Any]) -> list[Tensor]:
    """[R, C, P] each."""
    tokens = inputs["pixel_values"].view(-1, GROUP * inputs["pixel_values"].shape[1])
    grids = [(h // 2, w // 2) for _, h, w in inputs["image_grid_thw"].tolist()]
    parts = tokens.split([rows * columns for rows, columns in grids])
    return [part.view(*grid, -1) for part, grid in zip(parts, grids, strict=True)]


def features_of(model: Any, inputs: dict[str, Any]) -> Tensor:
    """[N, D] of all tokens of all images."""
    with torch.no_grad():
        found = model.base_model.get_image_features(
            inputs["pixel_values"], image_grid_thw=inputs["image_grid_thw"]
        ).pooler_output
    return torch.cat(list(found))


def masked_features(
    model: Any, family: str, inputs: dict[str, Any], stays: Tensor, patch: pytest.MonkeyPatch
) -> Tensor:
    """The same of whole images in whose tower no patch attends to one that goes."""
    if family == "qwen2_5_vl":
        windows = out_of_windows(model.base_model.visual, inputs["image_grid_thw"]).argsort()
        stays = stays[windows]
    patches = stays.repeat_interleave(GROUP)
    at = 0

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal at
        seen = patches[at : at + k.shape[2]]
        at = (at + k.shape[2]) % len(patches)
        logits = (q @ k.transpose(2, 3) * kwargs["scaling"]).masked_fill(~seen, -torch.inf)
        weights = logits.softmax(dim=-1).nan_to_num()  # a window of which nothing is left
        return (weights @ v).transpose(1, 2).contiguous(), weights

    with patch.context() as here:
        here.setattr(CODE[family], "eager_attention_forward", attend)
        return features_of(model, inputs)


@every_family
@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_the_others_run_as_if_those_were_masked(
    family: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = flat_pictures(tiny.prompts(tiny.build(family, "eager"), family, (1, 2)))
    stays = torch.cat([unpredicted(picture).flatten() for picture in pictures(inputs)])
    assert 0.2 < float(stays.float().mean()) < 0.9
    expected = masked_features(tiny.build(family, "eager"), family, inputs, stays, monkeypatch)
    model = tiny.build(family, kernel)
    plain = features_of(model, inputs)
    with foveate.attach(model, foveate.PixelPrune()):
        got = features_of(model, inputs)
    torch.testing.assert_close(got[stays], expected[stays], atol=2e-5, rtol=2e-5)
    assert (got[stays] - plain[stays]).abs().max() > 1e-3  # the control: masking matters


@every_family
def test_those_that_went_are_copies(family: str) -> None:
    model = tiny.build(family, "sdpa")
    inputs = flat_pictures(tiny.prompts(model, family, (1, 2)))
    with foveate.attach(model, foveate.PixelPrune()):
        got = features_of(model, inputs)
    start = 0
    for picture in pictures(inputs):
        owners = stand_ins(picture, unpredicted(picture))
        own = got[start : start + len(owners)]
        torch.testing.assert_close(own, own[owners])
        start += len(owners)


@every_family
def test_the_language_model_reads_what_stays(family: str) -> None:
    """In a batch, and alone; the report counts it."""
    model = tiny.build(family, "sdpa")
    inputs = flat_pictures(tiny.prompts(model, family, (1, 2)))
    with foveate.attach(model, foveate.PixelPrune()) as run, torch.no_grad():
        together = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        plans = run.plans
        for plan, picture in zip(plans, pictures(inputs), strict=True):
            places = unpredicted(picture).flatten().nonzero()[:, 0]
            assert plan.plan is not None
            assert plan.plan.keep_idx[0].tolist() == places.tolist()
            assert plan.plan.num_merged == 0
        kept = [int(unpredicted(picture).sum()) for picture in pictures(inputs)]
        assert [image.kept for image in run.report.images] == kept
        alone = model.generate(
            **tiny.row_of(inputs, model, family, 0, (1, 2)), max_new_tokens=3, do_sample=False
        )
    assert torch.equal(together[0, -3:], alone[0, -3:])


@every_family
def test_a_picture_of_noise_is_bitwise_untouched(family: str) -> None:
    model = tiny.build(family, "sdpa")
    inputs = tiny.prompts(model, family, (1, 2, 0))
    with torch.no_grad():
        plain = model(**inputs).logits
        with foveate.attach(model, foveate.PixelPrune()) as run:
            assert torch.equal(model(**inputs).logits, plain)
        assert run.report.fired is False
        assert torch.equal(model(**inputs).logits, plain)


@every_family
def test_frames_of_a_video_are_pictures_of_their_own(family: str) -> None:
    model = tiny.build(family, "sdpa")
    inputs = tiny.prompts(model, family, (1,), video=True)
    inputs["pixel_values_videos"] = torch.zeros_like(inputs["pixel_values_videos"])
    with foveate.attach(model, foveate.PixelPrune()) as run, torch.no_grad():
        model(**inputs)
    frames = int(inputs["video_grid_thw"][:, 0].sum())
    assert frames > 1
    assert sum(image.kept for image in run.report.images) == frames


@every_family
def test_an_image_and_a_video_of_as_many_tokens_are_told_apart(family: str) -> None:
    """Qwen3-VL's extractor of videos calls that of images."""
    model = tiny.build(family, "sdpa")
    still = tiny.prompts(model, family, (1,))
    frame = [93, *[tiny.VIDEO_ID] * 8, 94]
    body = [*frame, 5, *frame] if family == "qwen3_vl" else [93, *[tiny.VIDEO_ID] * 16, 94]
    ids = torch.cat([still["input_ids"], torch.tensor([[*body, 6, 7]])], dim=1)
    pixels = flat_pictures(still)["pixel_values"]
    assert len(pixels) == 64
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == tiny.IMAGE_ID).long() + 2 * (ids == tiny.VIDEO_ID).long(),
        "pixel_values": pixels,
        "image_grid_thw": still["image_grid_thw"],
        "pixel_values_videos": torch.zeros_like(pixels),
        "video_grid_thw": torch.tensor([[2, 4, 8]]),
    }
    (picture,) = pictures({**still, "pixel_values": pixels})
    with foveate.attach(model, foveate.PixelPrune()) as run, torch.no_grad():
        model(**inputs)
    kept = int(unpredicted(picture).sum())
    assert kept > 2
    assert run.report.images[0].kept == kept
    assert sum(image.kept for image in run.report.images[1:]) == 2  # one of each blank frame


def test_towers_that_take_whole_images_are_refused() -> None:
    with pytest.raises(MethodError, match="takes whole images; use it with Qwen2-VL"):
        foveate.attach(tiny.build("llava", "sdpa"), foveate.PixelPrune())


def test_a_budget_is_refused() -> None:
    with pytest.raises(MethodError, match="whatever the budget"):
        foveate.PixelPrune(keep_ratio=0.25)
    with pytest.raises(MethodError, match="threshold=-1"):
        foveate.PixelPrune(threshold=-1.0)
    assert foveate.PixelPrune(keep_ratio=1.0).threshold == 0.0
