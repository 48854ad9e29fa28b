"""Videos in every family that takes them: which tokens stay, by plain arithmetic on what the
decoder was given; alone, in batches, and beside images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import foveate
from foveate.carve.check.known import known_results
from foveate.carve.check.prompts import Prompts
from foveate.carve.engine.run import Run
from foveate.core.frame_budgets import frame_budgets
from foveate.core.frames import spread
from foveate.errors import MethodError, UnsupportedModelError
from foveate.models.anatomy import anatomy_of
from foveate.models.hook import hook_before
from foveate.models.twin import build_twin, typical_config
from tests import tiny_vlm as tiny

KINDS = [kind for kind, found in known_results().items() if found.video]
FAMILIES = [name for name, family in tiny.FAMILIES.items() if family.videos]
GREEDY = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}
GREEDY |= {"return_dict_in_generate": True}


@pytest.fixture(scope="module")
def made() -> dict[str, Prompts]:
    return {}


@pytest.fixture
def prompts(request: pytest.FixtureRequest, made: dict[str, Prompts]) -> Prompts:
    kind = request.param
    if kind not in made:
        made[kind] = Prompts(
            anatomy_of(build_twin(typical_config(kind)), with_explicit_mask=False), "video"
        )
    return made[kind]


every_kind = pytest.mark.parametrize("prompts", KINDS, indirect=True)


def seen(prompts: Prompts, inputs: dict[str, Any], method: foveate.Method) -> tuple[Run, Tensor]:
    """A run of one prefill, and what the first decoder layer is given without it."""
    states: list[Tensor] = []

    def before(module: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        states.append(hidden.detach().clone())

    handle = hook_before(prompts.anatomy.layers[0], before)
    with torch.no_grad():
        prompts.model(**inputs)
        handle.remove()
        with Run(prompts.model, method) as run:
            prompts.model(**inputs)
    return run, states[0]


def plain_change(video: Tensor, lengths: tuple[int, ...]) -> list[float]:
    """1 - cos of each token [N, D] and the one at its place a frame before, place by place."""
    found, n = [], lengths[0]
    for place in range(len(video)):
        if place < n or place >= n * len(lengths):
            found.append(float("inf"))
        else:
            likeness = cosine_similarity(video[place].float(), video[place - n].float(), dim=0)
            found.append(1 - float(likeness))
    return found


@every_kind
@pytest.mark.parametrize("name", ["evs", "dtd", "vidcom2"])
def test_what_stays(prompts: Prompts, name: str) -> None:
    family = prompts.anatomy.family
    layer = max(1, family.first_layer(prompts.anatomy.config)) if family.cut == "in_llm" else 0
    settings: dict[str, Any] = {"threshold": 0.0} if name == "dtd" else {"keep_ratio": 0.7}
    method = foveate.method(name, prune_layer=layer, **settings)
    run, states = seen(prompts, prompts.batch((1, 2)), method)
    assert len(run.plans) == 3
    for entry in run.plans:
        span = entry.span
        assert span.kind == "video"
        assert span.frames is not None
        lengths, n = span.frames.lengths, span.num_tokens
        assert len(lengths) > 1
        assert sum(lengths) == n
        if span.frames.grid is not None:
            assert span.frames.grid[0] * span.frames.grid[1] == lengths[0]
        video = states[span.sample, span.tokens]
        rest = lengths[-1] - lengths[0]
        keep = method.count(n, span.frames)
        if name == "vidcom2":
            whole = video[: n - rest].view(len(lengths), lengths[0], -1)
            budgets = frame_budgets(whole, (keep - rest) / (n - rest)).summing_to(keep - rest)
            expected = [*budgets.kept().tolist(), *range(n - rest, n)]
        else:
            change = plain_change(video, lengths)
            order = sorted(range(n), key=lambda place: (-change[place], place))
            count = keep if name == "evs" else sum(value >= 1 for value in change)
            expected = sorted(order[:count])
        kept = entry.plan.keep_idx[0].tolist() if entry.plan is not None else list(range(n))
        assert kept == expected


def test_what_counts_itself_waits_for_no_layer() -> None:
    """Where a prompt can be shortened as a whole only, no method may cut later."""
    model = build_twin(typical_config("qwen4_exp"))
    with pytest.raises(UnsupportedModelError, match="dtd drops some at layer 1"):
        Run(model, foveate.Dtd(prune_layer=1))


@every_kind
def test_frames_share_a_budget(prompts: Prompts) -> None:
    method = foveate.DivPrune(keep_ratio=0.5, frames="each")
    with Run(prompts.model, method) as run, torch.no_grad():
        prompts.model(**prompts.batch((1, 2)))
    assert run.report is not None
    for entry, image in zip(run.plans, run.report.images, strict=True):
        frames = entry.span.frames
        assert frames is not None
        assert image.frames == len(frames.lengths)
        assert entry.num_kept == run.method.count(entry.span.num_tokens)
        assert entry.plan is not None
        bounds = torch.tensor(frames.starts[1:], dtype=torch.long)
        frame_of = torch.bucketize(entry.plan.keep_idx[0], bounds, right=True)
        counts = frame_of.bincount(minlength=len(frames.lengths)).tolist()
        assert tuple(counts) == spread(entry.num_kept, frames.lengths)


METHODS = [
    foveate.Evs(keep_ratio=0.6),
    foveate.Dtd(threshold=0.1, keep_ratio=0.9),
    foveate.VidCom2(keep_ratio=0.5),
    foveate.PyramidDrop(keep_ratio=0.5, stages=2, frames="each"),
    foveate.SparseVlm(keep_ratio=0.5, frames="each"),
    foveate.VisionZip(keep_ratio=0.5, frames="each"),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_rows(family: str, method: foveate.Method) -> None:
    model = tiny.build(family)
    inputs = tiny.prompts(model, family, (1, 1), video=True)
    with foveate.attach(model, method) as run:
        batch = model.generate(**inputs, **GREEDY)
        plans = {entry.span.sample: entry for entry in run.plans}
        for sample in (0, 1):
            alone = row(inputs, family, sample)
            single = model.generate(**alone, **GREEDY)
            (entry,) = run.plans
            assert entry.plan is not None
            assert plans[sample].plan is not None
            assert entry.plan.to_dict() == plans[sample].plan.to_dict()  # type: ignore[union-attr]
            both = (torch.stack(out.logits) for out in (single, batch))
            one, many = (logits[:, -1 if i == 0 else sample] for i, logits in enumerate(both))
            torch.testing.assert_close(one, many, atol=1e-4, rtol=1e-4)


def row(inputs: dict[str, Any], family: str, sample: int) -> dict[str, Any]:
    """One row of a batch that shows a video in each."""
    is_own = inputs["attention_mask"][sample].bool()
    out = {
        name: values[sample : sample + 1, is_own]
        for name, values in inputs.items()
        if values.ndim == 2 and values.shape == inputs["input_ids"].shape
    }
    pixels = inputs["pixel_values_videos"]
    if family == "llava_onevision":
        return {**out, "pixel_values_videos": pixels[sample : sample + 1]}
    grids = inputs["video_grid_thw"]
    parts = pixels.split(grids.prod(dim=-1).tolist())
    return {
        **out,
        "pixel_values_videos": parts[sample],
        "video_grid_thw": grids[sample : sample + 1],
    }


@pytest.mark.parametrize("method", METHODS[:4], ids=lambda method: method.name)
def test_an_image_beside_a_video(method: foveate.Method) -> None:
    """In one prompt and in one batch; a still image is one frame."""
    model = tiny.build("qwen2_vl")
    image = tiny.prompts(model, "qwen2_vl", (1,))
    video = tiny.prompts(model, "qwen2_vl", (1,), video=True)
    tokens = ("input_ids", "attention_mask", "mm_token_type_ids")
    both = {name: torch.cat([image[name], video[name]], dim=1) for name in tokens}
    pixels = {
        name: values
        for source in (image, video)
        for name, values in source.items()
        if name not in tokens
    }
    width = max(image["input_ids"].shape[1], video["input_ids"].shape[1])
    pad = torch.nn.functional.pad
    batch = {
        name: torch.cat([pad(s[name], (width - s[name].shape[1], 0)) for s in (image, video)])
        for name in tokens
    }
    kept: list[list[Any]] = []
    with foveate.attach(model, method) as run, torch.no_grad():
        for inputs in ({**both, **pixels}, {**batch, **pixels}):
            model(**inputs)
            assert run.report is not None
            assert [entry.span.kind for entry in run.plans] == ["image", "video"]
            assert [entry.frames for entry in run.report.images] == [0, 3]
            kept.append([e.plan.keep_idx.tolist() if e.plan else None for e in run.plans])
            if method.name in ("evs", "dtd"):
                assert kept[-1][0] is None
                assert "keeps a still image whole" in str(run.report)
    if method.name in ("evs", "vidcom2"):  # others look at the text of the prompt
        assert kept[0] == kept[1]


def test_a_still_image_is_said_to_stay_whole() -> None:
    model = tiny.build("llava")
    inputs = tiny.prompts(model, "llava", (1,))
    with torch.no_grad():
        plain = model(**inputs).logits
        with foveate.attach(model, foveate.Evs(keep_ratio=0.25)) as run:
            assert torch.equal(model(**inputs).logits, plain)
    assert run.report is not None
    assert not run.report.fired
    assert run.report.reason == (
        "evs keeps a still image whole (36 tokens, where the budget has 9): it has no frame before "
        "it; left bitwise alone"
    )


def test_a_budget_below_the_first_frame_is_said() -> None:
    model = tiny.build("qwen2_vl")
    with foveate.attach(model, foveate.Evs(keep_tokens=5)) as run, torch.no_grad():
        model(**tiny.prompts(model, "qwen2_vl", (1,), video=True))
    assert run.report is not None
    assert (run.report.before, run.report.kept) == (27, 9)
    assert "in 1 video of 3 frames" in str(run.report)
    assert run.report.remarks == (
        "evs keeps a video's first frame whole (9 tokens, where the budget has 5): it has no frame "
        "before it",
    )


def test_a_still_image_in_vidcom2_keeps_what_is_least_like_its_mean() -> None:
    model = tiny.build("llava")
    with foveate.attach(model, foveate.VidCom2(keep_ratio=0.5)) as run, torch.no_grad():
        model(**tiny.prompts(model, "llava", (1,)))
    assert run.report is not None
    assert run.report.kept == 18


REFUSED = [
    (lambda: foveate.Evs(keep_ratio=0.5, frames="each"), "frames='each' would show it one at a"),
    (
        lambda: foveate.TextShare(inner=foveate.VidCom2(keep_ratio=0.5)),
        "vidcom2 compares whole frames.*take text-share off it",
    ),
    (lambda: foveate.Dtd(threshold=1.5), r"threshold=1.5 is outside \[-1, 1\]"),
    (lambda: foveate.ToMe(keep_ratio=0.5, frames="each"), "every frame is a picture of its own"),
    (
        lambda: foveate.Stack(
            stages=(foveate.DivPrune(keep_ratio=0.5), foveate.Evs(keep_ratio=0.3, prune_layer=2))
        ),
        "evs compares whole frames and must come first in the stack",
    ),
]


@pytest.mark.parametrize(("make", "text"), REFUSED)
def test_what_cannot_be(make: Any, text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make()


def test_each_behind_a_step_that_chose_over_the_whole_video() -> None:
    model = tiny.build("qwen2_vl")
    inputs = tiny.prompts(model, "qwen2_vl", (1,), video=True)
    last = foveate.FastV(keep_ratio=0.3, prune_layer=3, frames="each")
    for frames in ("joint", "each"):
        first = foveate.DivPrune(keep_ratio=0.6, prune_layer=1, frames=frames)
        with foveate.attach(model, foveate.Stack(stages=(first, last))) as run, torch.no_grad():
            if frames == "joint":
                with pytest.raises(MethodError, match="frames='each' to every step"):
                    model(**inputs)
                continue
            model(**inputs)
        (entry,) = run.plans
        assert entry.plan is not None
        assert (entry.plan.keep_idx[0] // 9).bincount().tolist() == [3, 2, 3]


def test_features_that_were_made_before() -> None:
    model = tiny.build("qwen2_vl")
    inputs = tiny.prompts(model, "qwen2_vl", (1,), video=True)
    with torch.no_grad():
        features = model.base_model.get_video_features(
            inputs.pop("pixel_values_videos"), inputs["video_grid_thw"]
        )
        inputs["mm_encoder_outputs"] = {"video": features}
        with foveate.attach(model, foveate.DivPrune(keep_ratio=0.5)) as run:
            model(**inputs)
        assert run.report is not None
        assert [image.kept for image in run.report.images] == [14]
        with (
            foveate.attach(model, foveate.Evs(keep_ratio=0.5)),
            pytest.raises(MethodError, match="pass pixel_values_videos"),
        ):
            model(**inputs)
