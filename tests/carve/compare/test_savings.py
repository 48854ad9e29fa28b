"""Savings and rows, worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from foveate.carve.compare.comparison import CompareSettings
from foveate.carve.compare.rows import comparison_of
from foveate.carve.compare.savings import Savings
from foveate.core.budget import Budget
from foveate.core.decoder_shape import DecoderShape
from foveate.core.report import ImageReport, Report
from foveate.errors import InputError, MethodError
from foveate.measure.quality import paired_difference
from foveate.tasks.question import Question

SHAPE = DecoderShape(
    num_layers=4, hidden_size=4, intermediate_size=6, num_heads=2, num_kv_heads=1, head_dim=2
)
CONFIG = {
    "num_hidden_layers": 4, "hidden_size": 4, "intermediate_size": 6, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 2,
}  # fmt: skip


def report(*kept: int, layers: tuple[float, ...] = (), fired: bool = True) -> Report:
    images = tuple(
        ImageReport(sample=i, image=0, kind="image", before=16, kept=k, merged=0, dropped=16 - k)
        for i, k in enumerate(kept)
    )
    return Report(
        method="m", fired=fired, images=images, prune_layer=1, num_layers=4, kv_bytes=30,
        kv_bytes_uncompressed=100, select_seconds=0.1, tokens_per_layer=layers,
    )  # fmt: skip


def savings(*reports: Report, prompts: int, text: int) -> Savings:
    return Savings.of_reports(reports, prompts=prompts, text=text, num_layers=4)


def test_layers_are_derived_from_the_prune_layer() -> None:
    saved = savings(report(8, 4), report(6), prompts=3, text=15)
    assert saved.layers == (48, 18, 18, 18)
    assert saved.kept_tokens == 6
    assert saved.kept_share == 18 / 48
    assert saved.average_tokens == (16 + 6 + 6 + 6) / 4
    assert saved.kv_ratio == 0.3
    assert savings(report(16, fired=False), prompts=1, text=5).layers == (16, 16, 16, 16)


def test_layers_are_the_reports_own_where_it_has_them() -> None:
    saved = savings(report(8, 4, layers=(16, 12, 12, 6)), prompts=2, text=10)
    assert saved.layers == (32, 24, 24, 12)
    assert saved.average_tokens == (16 + 12 + 12 + 6) / 4
    # Several steps: from the first short layer on, which is layer 1.
    assert saved.kept_tokens == (12 + 12 + 6) / 3
    assert saved.kept_share == pytest.approx((12 + 12 + 6) / 3 / 16)
    assert saved.last_tokens == 6


def test_flops_by_hand() -> None:
    """Prompts of 5 text and 16 visual tokens, of which 6 are left after the first layer."""
    saved = savings(report(8, 4), report(6), prompts=3, text=15)

    def layer(n: int) -> int:
        # q and o 4x4, k and v 4x2, scores and values n x n x 4, three 4x6 matrices
        return n * (2 * 16 + 2 * 8) + 2 * n * n * 4 + n * 3 * 24

    assert saved.flops_ratio(SHAPE) == pytest.approx(
        (layer(21) + 3 * layer(11)) / (4 * layer(21)), rel=1e-12
    )


def test_parts_add_up() -> None:
    one, two = savings(report(8, 4), prompts=2, text=10), savings(report(6), prompts=1, text=5)
    both = savings(report(8, 4), report(6), prompts=3, text=15)
    assert Savings.total([one.to_dict(), two.to_dict()]) == both
    with pytest.raises(InputError, match="no part of the run"):
        Savings.total([])


def question(number: int, image: str, answer: str) -> Question:
    return Question(
        image=Image.new("RGB", (2, 2)), question="?", answers=(answer,), kind="k/a",
        image_id=image, id=str(number),
    )  # fmt: skip


QUESTIONS = [question(i, f"image-{i // 2}", "yes") for i in range(6)]
RIGHT = {
    "full": "111111", "tokencarve 50%": "111100", "fastv 50%": "110000", "random 50%": "100000",
    "uniform 50%": "010101", "blind": "000000",
}  # fmt: skip


def rows(**changes: Any) -> dict[str, Any]:
    saved = savings(report(8, 4), prompts=2, text=10).to_dict()
    parts = {
        key: [
            {
                "answers": ["yes" if bit == "1" else "no" for bit in bits[at : at + 3]],
                "savings": None if key == "blind" else saved,
            }
            for at in (0, 3)
        ]
        for key, bits in RIGHT.items()
    }
    settings = CompareSettings(
        methods=("tokencarve", "fastv"), budgets=(Budget(keep_ratio=0.5),), rounds=0, **changes
    )
    result = comparison_of(parts, {}, QUESTIONS, settings, CONFIG, {})
    return {row.method: row for row in result.rows}


def test_rows_by_hand() -> None:
    found = rows(against="fastv")
    values = {name: row.accuracy.value for name, row in found.items()}
    assert values == pytest.approx(
        {"full": 1, "tokencarve": 4 / 6, "fastv": 2 / 6, "random": 1 / 6, "uniform": 0.5,
         "blind": 0}
    )  # fmt: skip
    gaps = {name: row.difference.value for name, row in found.items() if row.difference}
    assert gaps == pytest.approx(
        {"tokencarve": -2 / 6, "fastv": -4 / 6, "random": -5 / 6, "uniform": -0.5, "blind": -1}
    )
    to_fastv = {name: row.against.value for name, row in found.items() if row.against}
    assert to_fastv == pytest.approx({"tokencarve": 2 / 6, "random": -1 / 6, "uniform": 1 / 6})
    assert found["tokencarve"].by_kind == {"k/a": pytest.approx(4 / 6)}
    assert all(row.against is None for row in rows().values())


def test_the_paired_interval_by_enumeration() -> None:
    """Three images with differences 0, 2, 0 of two questions each: all 27 draws are known.

    A draw with m times the middle image has the mean m / 3; P(m = 0) = 8/27 and P(m = 3) = 1/27,
    both above 2.5 %, so the interval is [0, 1].
    """
    gap = paired_difference(
        [True, True, True, True, False, False], [True, True, False, False, False, False],
        ["a", "a", "b", "b", "c", "c"], resamples=20_000,
    )  # fmt: skip
    assert gap.value == pytest.approx(1 / 3)
    assert (gap.low, gap.high) == (0, 1)
    found = rows(against="fastv")["tokencarve"].against
    assert (found.value, found.low, found.high) == pytest.approx((1 / 3, 0, 1))


def test_pairing_ignores_what_both_share() -> None:
    """Twenty images; both arms agree on all but one, so the interval is that of one in twenty."""
    images = [str(i) for i in range(20)]
    reference = [i % 2 == 0 for i in range(20)]
    ours = [True, True, *reference[2:]]
    gap = paired_difference(ours, reference, images, resamples=20_000)
    assert gap.value == pytest.approx(0.05)
    # The number of times that image is drawn is binomial(20, 1/20): quantiles 0 and 3.
    assert (gap.low, gap.high) == pytest.approx((0, 0.15))


def test_the_reference_joins_the_methods() -> None:
    settings = CompareSettings(against="divprune( prune_layer = 1 )")
    names = [arm.name for arm in settings.arms()]
    assert names == ["full", "tokencarve", "divprune(prune_layer=1)", "random", "uniform", "blind"]
    with pytest.raises(InputError, match="against='full' has no budget"):
        CompareSettings(against="full")
    with pytest.raises(MethodError, match="unknown method 'nothing'"):
        CompareSettings(against="nothing")


def test_described_methods_are_arms_of_their_own() -> None:
    budgets = (Budget(keep_ratio=0.5), Budget(keep_tokens=8))
    settings = CompareSettings(
        methods=("tokencarve", "tokencarve(attention_weight = 0.3)", "noop", "random"),
        budgets=budgets, seed=3,
    )  # fmt: skip
    arms = {arm.key: arm.method for arm in settings.arms()}
    assert list(arms) == [
        "full", "tokencarve 50%", "tokencarve 8 tokens",
        "tokencarve(attention_weight=0.3) 50%", "tokencarve(attention_weight=0.3) 8 tokens",
        "random 50%", "random 8 tokens", "uniform 50%", "uniform 8 tokens", "blind",
    ]  # fmt: skip
    assert arms["random 50%"].seed == 3  # type: ignore[union-attr]
