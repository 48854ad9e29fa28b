"""Budgets over frames, decisions frame by frame, and what every frame is shown."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import foveate
from foveate.core.by_frame import by_frame, frame_images, frames_left
from foveate.core.frame_budgets import frame_budgets
from foveate.core.frames import Frames, spread
from foveate.core.plan import KeepPlan, keep_only
from foveate.core.rank import top_k
from foveate.core.visual import TOKENS_SECOND, TOKENS_THIRD, VisualTokens
from foveate.errors import MethodError

lengths_and_keep = st.lists(st.integers(0, 9), min_size=1, max_size=12).flatmap(
    lambda lengths: st.tuples(st.just(lengths), st.integers(0, sum(lengths)))
)


@given(lengths_and_keep)
def test_a_budget_is_spread_exactly_and_evenly(drawn: tuple[list[int], int]) -> None:
    lengths, keep = drawn
    given_ = spread(keep, lengths)
    assert sum(given_) == keep
    assert all(0 <= count <= length for count, length in zip(given_, lengths, strict=True))
    open_ = [count for count, length in zip(given_, lengths, strict=True) if count < length]
    if open_:  # a frame that could hold more has no less than any other, but for one
        assert max(given_) - min(open_) <= 1


def test_too_much_for_the_frames() -> None:
    with pytest.raises(ValueError, match="keep=9 exceeds the 8 tokens of all frames"):
        spread(9, (4, 4))


def test_what_does_not_divide_is_spaced_in_time() -> None:
    assert spread(3, [4] * 9) == (0, 1, 0, 0, 1, 0, 0, 1, 0)


def videos(frames: Frames, num_videos: int = 2, seed: int = 0) -> VisualTokens:
    """Every field filled in."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(frames.lengths)

    def made(*shape: int) -> Tensor:
        return torch.rand(num_videos, *shape, generator=generator)

    hidden = made(n, 6)
    wide = {"hidden", "attention_output", "keys", "normed", "layer_update"} | {
        "vision_keys",
        "vision_features",
    }
    fields: dict[str, Any] = {
        name: made(n, 6) if name in wide else made(n) for name in TOKENS_SECOND - {"owners"}
    }
    fields |= {"attention": made(4, n), "text_attention": made(5, n)}
    mask = torch.ones(num_videos, 5, dtype=torch.bool)
    text = {name: made(5, 6) for name in ("text", "text_keys", "text_normed")}
    fields |= {"hidden": hidden, "text_mask": mask, **text}
    entering = VisualTokens(hidden=made(n, 6), text=made(5, 6), text_mask=mask, frames=frames)
    return VisualTokens(
        **fields,
        grids=(None,) * num_videos,
        frames=frames,
        serials=tuple(range(7, 7 + num_videos)),
        starts=(3,) * num_videos,
        entering=entering,
    )


def test_every_field_of_visual_tokens_is_known() -> None:
    """A new field of single tokens would otherwise be handed to every frame whole."""
    of_text = {"text", "text_mask", "text_keys", "text_normed"}
    tensors = {f.name for f in dataclasses.fields(VisualTokens) if "Tensor" in str(f.type)}
    tensors -= {"entering"}
    assert tensors == TOKENS_SECOND | TOKENS_THIRD | of_text


def test_frames_are_shown_as_images() -> None:
    frames = Frames((4, 4, 5), (2, 2))
    visual = videos(frames)
    shown = frame_images(visual, [0, 1])
    assert shown.num_images == 4
    assert shown.frames is None
    assert shown.grids == ((2, 2),) * 4
    for video in range(2):
        for frame in range(2):
            image, part = 2 * video + frame, slice(4 * frame, 4 * frame + 4)
            for name in TOKENS_SECOND - {"owners"}:
                assert torch.equal(
                    getattr(shown, name)[image], getattr(visual, name)[video, part]
                ), name
            for name in TOKENS_THIRD:
                assert torch.equal(
                    getattr(shown, name)[image], getattr(visual, name)[video][:, part]
                ), name
            assert torch.equal(shown.text[image], visual.text[video])  # type: ignore[index]
            assert shown.entering is not None
            assert visual.entering is not None
            assert torch.equal(shown.entering.hidden[image], visual.entering.hidden[video, part])
    assert len(set(shown.serials)) == 4
    assert frame_images(visual, [2]).grids == (None, None)  # with a token that ends the video


def by_first_channel(visual: VisualTokens, keep: int) -> KeepPlan:
    score = visual.hidden[..., 0]
    return keep_only(top_k(score, keep), visual.num_tokens, {"first": score})


@pytest.mark.parametrize("keep", [1, 2, 5, 12, 16])
def test_each_frame_is_decided_on_alone(keep: int) -> None:
    frames = Frames((4, 4, 4, 5))
    visual = videos(frames)
    plan = by_frame(by_first_channel, visual, keep)
    plan.check(keep)
    for video in range(2):
        expected = []
        for start, length, share in zip(
            frames.starts, frames.lengths, spread(keep, frames.lengths), strict=True
        ):
            score = visual.hidden[video, start : start + length, 0]
            expected += sorted((start + score.topk(share).indices).tolist())
        assert plan.keep_idx[video].tolist() == expected
    if keep == 12:
        assert torch.equal(plan.scores["first"], visual.hidden[..., 0])
    if keep == 1:  # three frames have no score
        assert plan.scores == {}


NOT_BY_FRAME = ("stack", "text-share", "noop", "dtd", "evs", "vidcom2")
NAMES = [
    name
    for name, cls in foveate.METHODS.items()
    if cls.where != "vision_tower" and name not in NOT_BY_FRAME
]


@pytest.mark.parametrize("keep", [3, 13, 24, 35])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_on_frames(name: str, keep: int) -> None:
    """Its plan of a video is its plans of the frames, each as an image of its own."""
    frames = Frames((12, 12, 12), (3, 4))
    visual = videos(frames)
    method = foveate.method(name, keep_tokens=keep, frames="each")
    plan = method.select(visual, keep)
    plan.check(keep if method.exact_budget else plan.num_kept)
    for frame, share in enumerate(spread(keep, frames.lengths)):
        if share == 12:
            continue
        start = frames.starts[frame]
        alone = method.select(frame_images(visual, [frame]), share)
        for video in range(2):
            inside = plan.image(video).status()[0, start : start + 12]
            assert torch.equal(inside, alone.image(video).status()[0]), (video, frame)
    x = torch.randn(2, 36, 5)
    rows = plan.apply(x)
    assert rows.shape == (2, plan.num_kept, 5)


def test_merged_rows_of_frames_are_those_of_images() -> None:
    frames = Frames((12, 12, 12), (3, 4))
    visual = videos(frames)
    x = torch.randn(2, 36, 5)
    method = foveate.AveragePooling(keep_tokens=6, frames="each")
    rows = method.select(visual, 6).apply(x)
    parts = [
        method.select(frame_images(visual, [i]), 2).apply(x[:, 12 * i : 12 * i + 12])
        for i in range(3)
    ]
    torch.testing.assert_close(rows, torch.cat(parts, dim=1))


def test_random_draws_anew_in_every_frame() -> None:
    plan = foveate.RandomTokens(keep_tokens=30, frames="each").select(videos(Frames((20,) * 6)), 30)
    places = (plan.keep_idx[0] % 20).view(6, 5)
    assert len({tuple(row.tolist()) for row in places}) > 1


def test_a_share_of_the_text_is_taken_of_every_frame() -> None:
    visual = videos(Frames((12, 12, 12)))
    inner = foveate.DivPrune(keep_tokens=12, frames="each")
    method = foveate.TextShare(inner=inner, share=0.5, relevance="similarity")
    plan = method.select(visual, 12)
    plan.check(12)
    assert (plan.keep_idx[0] // 12).bincount().tolist() == [4, 4, 4]
    assert plan.scores["relevance"].shape == (2, 36)


def test_frames_that_nobody_knows() -> None:
    visual = dataclasses.replace(videos(Frames((4, 4))), frames=Frames())
    with pytest.raises(MethodError, match="where they begin is not known"):
        by_frame(by_first_channel, visual, 3)
    with pytest.raises(MethodError, match="evs compares whole frames, and where those of this"):
        foveate.Evs(keep_tokens=6).select(visual, 6)


def test_what_is_left_of_frames() -> None:
    assert frames_left(Frames((4, 4, 4), (2, 2)), 2) == Frames((1, 0, 1))
    assert frames_left(None, 2) is None
    assert frames_left(Frames(), 2) == Frames()
    assert videos(Frames((4, 4))).tokens(torch.tensor([[0, 1, 5]] * 2)).frames == Frames()


@given(st.integers(1, 40), st.integers(0, 1000))
def test_frame_budgets_add_up(keep: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(5, 8, 6, generator=generator)
    rounded = frame_budgets(video, keep / 40)
    counts = rounded.summing_to(keep).counts
    assert int(counts.sum()) == keep
    assert 0 <= int(counts.min()) <= int(counts.max()) <= 8
    if keep >= 5:
        assert int(counts.min()) >= 1
    if int(rounded.counts.sum()) == keep:
        assert torch.equal(counts, rounded.counts)
    assert len(rounded.summing_to(keep).kept()) == keep
