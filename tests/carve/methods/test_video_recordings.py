"""EVS, DTD and VidCom2 keep what their authors' code kept, on recorded inputs and by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import foveate
from foveate.core.frame_budgets import frame_budgets
from foveate.core.frame_change import (
    differential_pixel_dropping,
    differential_token_dropping,
    efficient_video_sampling,
    pixel_difference,
)
from foveate.core.frames import Frames
from foveate.core.visual import VisualTokens
from tests.carve.methods.recordings import Recording, compare, recordings


def places(mask: Tensor) -> Tensor:
    """[T, n] bool -> [1, K]"""
    return mask.flatten().nonzero().T


def dtd(recording: Recording) -> None:
    settings = recording.settings
    if not settings["absolute"]:
        pytest.skip("thresholds relative to the video are not offered")
    frames = (settings["T"], settings["h"], settings["w"])
    threshold = settings["threshold"]
    if settings["method"] == "pixel":
        pixels = recording["in.pixels"]
        mask = differential_pixel_dropping(pixels, frames, threshold)
        last = pixel_difference(pixels, frames)[-1]
        compare("last frame", last, recording["out.difference_last_frame"])
    else:
        mask = differential_token_dropping(
            recording["in.video"].view(frames[0], frames[1] * frames[2], -1), threshold
        )
    compare("kept", places(mask), recording["out.keep_idx"])
    compare("dropped", 1 - mask[1:].float().mean(dim=1), recording["out.dropped_share"])


def vidcom2(recording: Recording) -> None:
    per_frame = recording.settings["tokens_per_frame"]
    video = recording["in.video"]
    budgets = frame_budgets(
        video.view(-1, per_frame, video.shape[-1]), recording.settings["base_scale"]
    )
    compare("video score", budgets.video_score, recording["out.video_score"])
    compare("frame score", budgets.frame_score, recording["out.frame_score"])
    compare("scales", budgets.scales, recording["out.scales"], relative=1e-4)
    compare("counts", budgets.counts, recording["out.counts"])
    compare("kept", budgets.kept()[None], recording["out.keep_idx"])


METHODS: dict[str, Callable[[Recording], None]] = {"dtd": dtd, "vidcom2": vidcom2}
CASES = recordings(METHODS)
every_case = pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])


@every_case
def test_recording(path: Path) -> None:
    recording = Recording.load(path)
    METHODS[recording.method](recording)


@every_case
def test_other_inputs_give_other_answers(path: Path) -> None:
    recording = Recording.load(path).of_other_inputs()
    if not recording.settings.get("absolute", True):
        pytest.skip("thresholds relative to the video are not offered")
    with pytest.raises(AssertionError):
        METHODS[recording.method](recording)


def shown(video: Tensor, per_frame: int) -> VisualTokens:
    """Videos [G, N, D] as methods see them."""
    frames = Frames.equal(video.shape[1] // per_frame, video.shape[1])
    return VisualTokens(hidden=video, frames=frames)


@every_case
def test_the_method_keeps_what_its_authors_keep(path: Path) -> None:
    """VidCom2 to within rounding: its authors' counts of frames add up to about the budget."""
    recording = Recording.load(path)
    settings, video = recording.settings, recording.tensors.get("in.video")
    if video is None or not settings.get("absolute", True):
        pytest.skip("the method reads features, by an absolute threshold")
    video = video.flatten(0, -2)
    expected = recording["out.keep_idx"][0]
    if recording.method == "dtd":
        visual = shown(video[None], settings["h"] * settings["w"])
        method = foveate.Dtd(threshold=settings["threshold"])
        (step,) = method.steps(4, 0)
        (keep,) = method.adapt(visual, (visual.num_tokens,), step, 4)
        assert method.select(visual, keep).keep_idx[0].tolist() == expected.tolist()
        return
    per_frame = settings["tokens_per_frame"]
    visual, counts = shown(video[None], per_frame), recording["out.counts"]
    keep = int(counts.sum())
    kept = foveate.VidCom2(keep_tokens=keep).select(visual, keep).keep_idx[0]
    own = (kept // per_frame).bincount(minlength=len(counts))
    assert int((own - counts).abs().max()) <= 1
    same = own == counts
    assert int(same.sum()) >= len(counts) - 2
    for frame in same.nonzero()[:, 0].tolist():
        assert inside(kept, frame, per_frame) == inside(expected, frame, per_frame)


def inside(kept: Tensor, frame: int, per_frame: int) -> list[int]:
    """Places that lie in one frame."""
    return kept[kept // per_frame == frame].tolist()


@pytest.mark.parametrize("keep", [9, 10, 20, 44])
def test_evs_as_a_method(keep: int) -> None:
    """It keeps what the plain function does, of several videos at once, whatever ends them."""
    generator = torch.Generator().manual_seed(keep)
    videos = torch.randn(3, 46, 8, generator=generator)
    visual = shown(videos, 9)  # a token behind five frames
    assert visual.frames == Frames((9, 9, 9, 9, 10))
    kept = foveate.Evs(keep_tokens=keep + 1).select(visual, keep + 1).keep_idx
    for video, places in zip(videos, kept, strict=True):
        expected = efficient_video_sampling(video[:45].view(5, 9, 8), (keep + 0.5) / 45)
        assert places.tolist() == [*expected.tolist(), 45]


def test_evs_keeps_the_first_frame_and_what_changes() -> None:
    """Three frames of two tokens; only the second place of the last frame turns."""
    still, turned = [1.0, 0.0], [0.0, 1.0]
    video = torch.tensor([[still, still], [still, still], [still, turned]])
    assert efficient_video_sampling(video, 0.5).tolist() == [0, 1, 5]
    assert efficient_video_sampling(video, 0.1).tolist() == [0, 1]  # never less than a frame
    assert efficient_video_sampling(video, 1.0).tolist() == list(range(6))


def test_dtd_does_not_notice_drift() -> None:
    """Turned by 20 degrees a frame: each frame is like the one before, not like the first."""
    angle = torch.arange(5) * torch.pi / 9
    video = torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None]
    assert differential_token_dropping(video, 0.9).flatten().tolist() == [True] + 4 * [False]
    assert differential_token_dropping(video, 0.99).all()


def test_a_frame_unlike_the_others_is_given_more() -> None:
    generator = torch.Generator().manual_seed(0)
    frame = torch.randn(16, 8, generator=generator)
    video = frame.repeat(6, 1, 1)
    video[3] = torch.randn(16, 8, generator=generator)
    counts = frame_budgets(video, 0.25).counts
    assert int(counts.argmax()) == 3
    assert int(counts.sum()) == len(frame_budgets(video, 0.25).kept())
