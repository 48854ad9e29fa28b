"""The tally adds what reports say, and does not let a silent no-op pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import foveate
from foveate.core.report import ImageReport, Report
from foveate.errors import NotFiredError
from foveate.jobs.tally import Asked, Tally

METHOD = foveate.TokenCarve(keep_tokens=10)
NO_TOKENS = "no visual tokens in the prompt, left bitwise alone"


def image(sample: int, kept: int, *, before: int = 40, index: int = 0) -> ImageReport:
    gone = before - kept
    return ImageReport(
        sample=sample, image=index, kind="image", before=before, kept=kept, merged=gone // 2,
        dropped=gone - gone // 2,
    )  # fmt: skip


def report(images: Sequence[ImageReport], *, reason: str = "") -> Report:
    return Report(
        method=str(METHOD), fired=not reason, reason=reason, images=tuple(images), kv_bytes=30,
        kv_bytes_uncompressed=100, select_seconds=0.5, tokens_per_layer=(40.0, 40.0, 10.0, 10.0),
    )  # fmt: skip


def asked(*num_images: int) -> list[Asked]:
    return [Asked(label=f"task/{i}", num_images=n) for i, n in enumerate(num_images)]


def test_sums() -> None:
    tally = Tally(method=METHOD)
    tally.add(asked(1, 2), [report([image(0, 10), image(1, 10), image(1, 10, index=1)])])
    tally.add(asked(0), [report([], reason=NO_TOKENS)])
    assert (tally.requests, tally.with_images, tally.images) == (3, 2, 3)
    assert (tally.before, tally.kept, tally.merged, tally.dropped) == (120, 30, 45, 45)
    assert tally.kept_share == 0.25
    assert tally.kv_ratio == 0.3
    assert tally.metrics()["visual_tokens_after"] == 10
    assert tally.metrics()["visual_tokens_mean_over_layers"] == 25
    assert str(tally) == (
        "tokencarve(keep=10 tokens): 3 requests, 2 with images, 3 images in all\n"
        "visual tokens: 120 -> 30 (25.0 %), 40.0 -> 10.0 an image; 45 merged, 45 dropped\n"
        "mean over the decoder layers: 25.0 an image\n"
        "compressed prefills: 1\n"
        "KV cache after the prefill: 30.0 % of the full one\n"
        "selection: 0.50 s"
    )


def test_without_images_there_was_nothing_to_compress() -> None:
    tally = Tally(method=METHOD)
    tally.add(asked(0, 0), [report([], reason=NO_TOKENS)])
    assert str(tally).endswith("0 images in all; nothing was there to compress")
    assert tally.kept_share is None


def test_what_was_kept_whole_within_the_budget_passes_and_is_said() -> None:
    tally = Tally(method=foveate.TokenCarve(keep_ratio=1.0))
    tally.add(asked(1), [report([image(0, 40)], reason="the budget keeps every visual token")])
    assert "left alone: 1 (the budget keeps every visual token)" in str(tally)
    assert "compressed prefills: 0" in str(tally)


def test_a_prompt_whose_images_were_not_seen_is_an_error() -> None:
    message = (
        r"task/1 has 1 image, but tokencarve\(keep=10 tokens\) saw no visual token of it "
        r"\(no prefill was seen\).*method=noop"
    )
    with pytest.raises(NotFiredError, match=message):
        Tally(method=METHOD).add(asked(0, 1), [report([image(0, 10)])])


def test_the_reason_is_named() -> None:
    with pytest.raises(
        NotFiredError, match=r"task/0 has 2 images, but .*\(no visual tokens in the"
    ):
        Tally(method=METHOD).add(asked(2), [report([], reason=NO_TOKENS)])


def test_a_method_that_kept_everything_is_an_error() -> None:
    message = r"task/0: .* kept all 40 visual tokens of image 1 although its budget is 10"
    with pytest.raises(NotFiredError, match=message):
        Tally(method=METHOD).add(asked(2), [report([image(0, 10), image(0, 40, index=1)])])


def test_no_report_at_all_is_an_error() -> None:
    with pytest.raises(NotFiredError, match="no prefill was seen"):
        Tally(method=METHOD).add(asked(1), [])
