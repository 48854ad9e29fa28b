"""Right or wrong, and how sure: exact match, and bootstrap intervals that resample whole images."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

ARTICLES = frozenset({"a", "an", "the"})
Z95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def normalise(text: str) -> str:
    """Lower case, one space between words, no articles, no punctuation around words.

    As in SQuAD's scorer, except that punctuation inside a word stays ("3.5" is not "35"), a minus
    before a digit stays, and a text that is only an article stays (option "A").
    """
    words = [_bare(word) for word in text.casefold().split()]
    words = [word for word in words if word]
    return " ".join([word for word in words if word not in ARTICLES] or words)


def exact_match(prediction: str, answers: Sequence[str]) -> bool:
    """Whether the normalised prediction equals one of the normalised answers."""
    predicted = normalise(prediction)
    return any(predicted == normalise(answer) for answer in answers)


def accuracy(
    correct: Sequence[bool], images: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Share of right answers, with a percentile bootstrap over images.

    Questions about one image are not independent, so images are drawn, each with all its questions.
    When every answer is right (or wrong) the bootstrap sees no spread; then the interval is
    Wilson's for as many trials as there are images.

    Args:
        correct: one entry per question.
        images: the image each question is about.
        resamples: bootstrap draws.
        seed: of the draws.

    Raises:
        ValueError: no questions, or lengths differ.
    """
    hits, counts = _per_image(np.asarray(correct, dtype=np.float64), images)
    value = float(hits.sum() / counts.sum())
    if value in (0.0, 1.0):
        return _wilson(value, len(counts))
    low, high = middle_95(resampled_ratios(hits, counts, resamples=resamples, seed=seed))
    return Interval(value=value, low=low, high=high)


def paired_difference(
    correct: Sequence[bool],
    reference: Sequence[bool],
    images: Sequence[str],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Accuracy minus the reference's on the same questions, with a paired bootstrap over images.

    When both agree on every question the bootstrap sees no spread; the interval then is the Wilson
    bound for no disagreement in as many trials as there are images.

    Raises:
        ValueError: no questions, or lengths differ.
    """
    if len(correct) != len(reference):
        raise ValueError(f"{len(correct)} answers but {len(reference)} reference answers.")
    gaps = np.asarray(correct, dtype=np.float64) - np.asarray(reference, dtype=np.float64)
    sums, counts = _per_image(gaps, images)
    if not gaps.any():
        bound = _wilson(0.0, len(counts)).high
        return Interval(value=0.0, low=-bound, high=bound)
    low, high = middle_95(resampled_ratios(sums, counts, resamples=resamples, seed=seed))
    return Interval(value=float(sums.sum() / counts.sum()), low=low, high=high)


def clustered_mean(
    values: Sequence[float], clusters: Sequence[str], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of values, with a percentile bootstrap over clusters (documents), each drawn whole.

    With a single cluster there is no spread to see; the interval then is the whole line.

    Raises:
        ValueError: no values, or lengths differ.
    """
    sums, counts = _per_image(np.asarray(values, dtype=np.float64), clusters)
    value = float(sums.sum() / counts.sum())
    if len(counts) == 1:
        return Interval(value=value, low=-math.inf, high=math.inf)
    low, high = middle_95(resampled_ratios(sums, counts, resamples=resamples, seed=seed))
    return Interval(value=value, low=low, high=high)


def macro_mean(
    groups: Sequence[tuple[Sequence[float], Sequence[str]]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of the groups' means, each group weighing the same; clusters are drawn in each group.

    Args:
        groups: (values, clusters) of each, see `clustered_mean`.

    Raises:
        ValueError: no group, or an empty one.
    """
    if not groups:
        raise ValueError("no groups; give at least one.")
    value, draws = 0.0, np.zeros(resamples)
    for number, (values, clusters) in enumerate(groups):
        sums, counts = _per_image(np.asarray(values, dtype=np.float64), clusters)
        value += float(sums.sum() / counts.sum())
        draws += resampled_ratios(sums, counts, resamples=resamples, seed=seed + number)
    low, high = middle_95(draws / len(groups))
    return Interval(value=value / len(groups), low=low, high=high)


def macro_ratio(
    parts: Sequence[tuple[Sequence[float], Sequence[float], Sequence[str]]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Mean of the groups' means over the mean of other means, such as a share of a gain.

    Both sides are drawn together, cluster by cluster within each group.

    Args:
        parts: (values above, values below, clusters) of each group.

    Returns:
        None where the side below cannot be told from 0, which a ratio would hide.

    Raises:
        ValueError: no group, or an empty one.
    """
    below = macro_mean([(b, c) for _, b, c in parts], resamples=resamples, seed=seed)
    if below.low <= 0 <= below.high:
        return None
    value, above_draws, below_draws = 0.0, np.zeros(resamples), np.zeros(resamples)
    for number, (above, under, clusters) in enumerate(parts):
        tops, counts = _per_image(np.asarray(above, dtype=np.float64), clusters)
        bottoms, _ = _per_image(np.asarray(under, dtype=np.float64), clusters)
        value += float(tops.sum() / counts.sum())
        own = {"resamples": resamples, "seed": seed + number}
        above_draws += resampled_ratios(tops, counts, **own)
        below_draws += resampled_ratios(bottoms, counts, **own)
    below_draws[below_draws == 0] = np.finfo(np.float64).tiny
    low, high = middle_95(above_draws / below_draws)
    return Interval(value=value / len(parts) / below.value, low=low, high=high)


def drawn_units(count: int, *, resamples: int = 2000, seed: int = 0) -> npt.NDArray[np.int64]:
    """The draws of a bootstrap, [resamples, count]: as many units as there are, put back each."""
    return np.random.default_rng(seed).integers(0, count, size=(resamples, count))


def resampled_ratios(
    sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Sum over count of whole units drawn anew, [resamples]; 0 where nothing was counted in them.

    Args:
        sums: of each unit's values, [units].
        counts: of each unit's values, [units].
    """
    draws = drawn_units(len(sums), resamples=resamples, seed=seed)
    return sums[draws].sum(axis=1) / np.maximum(counts[draws].sum(axis=1), 1)


def middle_95(drawn: npt.NDArray[np.float64]) -> tuple[float, float]:
    """2.5 and 97.5 percentile of what was drawn, [resamples]."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _bare(word: str) -> str:
    stripped = word.strip(string.punctuation)
    start = word.find(stripped) if stripped else 0
    is_negative = start > 0 and word[start - 1] == "-" and stripped[:1].isdigit()
    return f"-{stripped}" if is_negative else stripped


def _per_image(
    values: npt.NDArray[np.float64], images: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(sum of values, number of questions) of each image, both [images]."""
    if len(values) == 0 or len(values) != len(images):
        raise ValueError(
            f"{len(values)} answers and {len(images)} image names; give one name per answer, and "
            "at least one answer."
        )
    _, index = np.unique(np.asarray(images), return_inverse=True)
    counts = np.bincount(index).astype(np.float64)
    return np.bincount(index, weights=values).astype(np.float64), counts


def _wilson(share: float, trials: int) -> Interval:
    """Wilson's score interval of a share."""
    middle = (share + Z95**2 / (2 * trials)) / (1 + Z95**2 / trials)
    spread = math.sqrt(share * (1 - share) / trials + Z95**2 / (4 * trials**2))
    half = Z95 * spread / (1 + Z95**2 / trials)
    # Rounding may put an end a hair inside the share itself.
    low, high = min(middle - half, share), max(middle + half, share)
    return Interval(value=share, low=max(0.0, low), high=min(1.0, high))
