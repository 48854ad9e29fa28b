"""From the answers of all arms to the rows of a comparison: right or wrong, how sure, how dear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foveate.carve.compare.comparison import BLIND, FULL, Arm, CompareSettings, Comparison, Row
from foveate.carve.compare.prefill import PrefillRatio
from foveate.carve.compare.savings import Savings
from foveate.carve.spec import spec_name
from foveate.core.decoder_shape import DecoderShape
from foveate.measure.quality import Interval, accuracy, exact_match, paired_difference
from foveate.tasks.question import Question

__all__ = ["comparison_of"]


def comparison_of(
    parts: Mapping[str, Sequence[Mapping[str, Any]]],
    times: Mapping[str, PrefillRatio],
    questions: Sequence[Question],
    settings: CompareSettings,
    config: Any,
    facts: dict[str, Any],
) -> Comparison:
    """Score and count.

    Args:
        parts: arm's key -> its answers and savings, chunk by chunk in order of the questions.
        times: arm's key -> measured prefill.
        questions: that were asked.
        settings: with the arms.
        config: of the model, for its decoder's sizes.
        facts: the manifest.
    """
    said = {
        key: [answer for part in several for answer in part["answers"]]
        for key, several in parts.items()
    }
    correct = {
        key: [exact_match(a, q.answers) for a, q in zip(answers, questions, strict=True)]
        for key, answers in said.items()
    }
    images = [question.image_id for question in questions]
    draws: dict[str, int] = {"resamples": settings.resamples, "seed": settings.seed}

    def gap(arm: Arm, reference: str) -> Interval | None:
        if reference == arm.key or reference not in correct:
            return None
        return paired_difference(correct[arm.key], correct[reference], images, **draws)

    rows = []
    for arm in settings.arms():
        own = correct[arm.key]
        reference = f"{spec_name(settings.against)} {arm.budget}" if settings.against else ""
        rows.append(
            Row(
                method=arm.name,
                budget=arm.budget,
                accuracy=accuracy(own, images, **draws),
                difference=gap(arm, FULL),
                against=gap(arm, reference) if arm.method else None,
                prefill=times.get(arm.key),
                by_kind=_by_kind(own, questions),
                answers=tuple(said[arm.key]),
                correct=tuple(own),
                **_saved(arm, parts[arm.key], config),
            )
        )
    return Comparison(rows=tuple(rows), questions=tuple(questions), manifest=facts)


def _saved(arm: Arm, parts: Sequence[Mapping[str, Any]], config: Any) -> dict[str, Any]:
    """The fields of a Row that say what was saved, over all chunks."""
    if arm.name == BLIND:
        return {"kept_tokens": 0.0, "kept_share": 0.0}
    saved = Savings.total([part["savings"] for part in parts])
    return {
        "kept_tokens": saved.kept_tokens,
        "kept_share": saved.kept_share,
        "average_tokens": saved.average_tokens,
        "last_tokens": saved.last_tokens,
        "flops_ratio": saved.flops_ratio(DecoderShape.of(config)),
        "kv_ratio": saved.kv_ratio if arm.method else 1.0,
        "prune_layer": saved.prune_layer,
    }


def _by_kind(correct: Sequence[bool], questions: Sequence[Question]) -> dict[str, float]:
    kinds: dict[str, list[bool]] = {}
    for right, question in zip(correct, questions, strict=True):
        kinds.setdefault(question.kind, []).append(right)
    return {kind: sum(rights) / len(rights) for kind, rights in sorted(kinds.items())}
