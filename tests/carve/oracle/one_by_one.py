"""The greedy selections as they are defined: one round over all tokens for every token kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

import foveate
from foveate.core.relevance import min_max, text_relevance
from foveate.core.visual import VisualTokens

TIE = 1e-6
NOTHING = 1e-6
SAME = 1e-6


def first_of_highest(score: Tensor, relative: float = 0.0, absolute: float = 0.0) -> int:
    return int((score >= score.max() * (1 - relative) - absolute).nonzero()[0])


def log_det(kernel: Tensor, k: int, floor: float = 1e-9, tie: float = TIE) -> list[int]:
    """The item with most left of its diagonal, again and again; `kernel` [N, N] float64."""
    diagonal = kernel.diagonal()
    least = floor * diagonal.max()
    rest, left, chosen = kernel.clone(), diagonal.clone(), list[int]()
    for _ in range(k):
        # Where nothing is left the largest diagonal decides.
        score = torch.where(left > least, left, floor * diagonal)
        score[chosen] = -torch.inf
        best = first_of_highest(score, relative=tie)
        chosen.append(best)
        if left[best] > least:
            rest = rest - torch.outer(rest[best], rest[best]) / rest[best, best]
            left = rest.diagonal().clone()
    return chosen


def farthest(distance: Tensor, k: int, tie: float = 0.0) -> list[int]:
    """The point farthest from its nearest chosen one, again and again; `distance` [N, N]."""
    n = len(distance)
    others = distance.masked_fill(torch.eye(n, dtype=torch.bool), torch.inf)
    chosen = [first_of_highest(others.amin(dim=-1), absolute=tie)]
    while len(chosen) < k:
        nearest = distance[:, chosen].amin(dim=-1)
        nearest[chosen] = -torch.inf
        chosen.append(first_of_highest(nearest, absolute=tie))
    return chosen


def coverage(
    weights: Tensor,
    k: int,
    tie: float = TIE,
    nothing: float = NOTHING,
    weight: Tensor | None = None,
) -> list[int]:
    """The column that adds most to the sum of row maxima, again and again; `weights` [R, N].

    With `weight` [N] that of the largest weight times what it adds.
    """
    weight = torch.ones(weights.shape[1]) if weight is None else weight
    covered, chosen = torch.zeros(len(weights), 1), list[int]()
    least = nothing * weights.sum(dim=0)
    for _ in range(k):
        gain = (weights - covered).clamp_min(0).sum(dim=0)
        gain = torch.where(gain > least, gain * weight, 0)
        gain[chosen] = -torch.inf
        best = first_of_highest(gain, relative=tie)
        chosen.append(best)
        covered = torch.maximum(covered, weights[:, best : best + 1])
    return chosen


def blocks(likeness: Tensor, taken: list[int], k: int) -> list[int]:
    """Choosers in turn take a share of what is least like them of what is left.

    `likeness` [P, N].
    """
    chosen = list(taken)
    for turn, row in enumerate(likeness):
        share = (k - len(taken)) // len(likeness) + (turn < (k - len(taken)) % len(likeness))
        for _ in range(share):
            chosen.append(int(row.index_fill(0, torch.tensor(chosen), torch.inf).argmin()))
    return chosen


# --- methods, one image each ---


def cosines(a: Tensor, b: Tensor) -> Tensor:
    return normalize(a, dim=-1) @ normalize(b, dim=-1).T


def cosine_distance(visual: VisualTokens, same: float = SAME) -> Tensor:
    distance = 1 - cosines(visual.hidden[0], visual.hidden[0])
    return torch.where(distance > same, distance, 0)


def divprune(method: foveate.DivPrune, visual: VisualTokens, keep: int) -> list[int]:
    return farthest(cosine_distance(visual), keep, tie=SAME)


def cdpruner_kernel(method: foveate.CdPruner, visual: VisualTokens) -> Tensor:
    relevance = min_max(text_relevance(visual, method.relevance))[0].double()
    x = visual.hidden[0].double()
    return relevance[:, None] * cosines(x, x) * relevance


def cdpruner(method: foveate.CdPruner, visual: VisualTokens, keep: int) -> list[int]:
    return log_det(cdpruner_kernel(method, visual), keep)


def foveacarve_kernel(method: foveate.FoveaCarve, visual: VisualTokens) -> Tensor:
    x = visual.hidden[0].double()
    c = x - x.mean(dim=0)
    gram = c @ c.T
    square = gram.diagonal()
    scale = square.mean().clamp_min(torch.finfo(torch.float64).tiny)
    apart = (square[:, None] + square - 2 * gram).clamp_min(0) / scale
    kernel = (-apart / 2).exp()
    if visual.foresight is not None:
        weight = method.weight(visual)[0].double()
        kernel = weight[:, None] * kernel * weight
    return kernel


def foveacarve(method: foveate.FoveaCarve, visual: VisualTokens, keep: int) -> list[int]:
    if visual.foresight is None and visual.attention is not None:  # a later step
        read = visual.attention[0].mean(dim=0)
        return read.sort(descending=True, stable=True).indices[:keep].tolist()
    return log_det(foveacarve_kernel(method, visual), keep)


def mmtok_weights(method: foveate.MmTok, visual: VisualTokens) -> Tensor:
    assert visual.text is not None
    assert visual.text_mask is not None
    hidden, mask = visual.hidden[0], visual.text_mask[0]
    of_text = cosines(visual.text[0].double(), hidden.double()) / method.text_temperature
    of_text = of_text.softmax(dim=-1) * mask[:, None] / mask.sum().clamp_min(1)
    assert visual.vision_features is not None
    features = visual.vision_features[0].float()
    of_image = (cosines(features, features) / method.vision_temperature).softmax(dim=-1)
    return torch.cat([of_text.float(), method.alpha * of_image / len(hidden)])


def mmtok(method: foveate.MmTok, visual: VisualTokens, keep: int) -> list[int]:
    # Its own weights: tokens of two dimensions lie so close on a circle that float32 cosines,
    # rounded one way or another, decide between them.
    found = method.covers(visual, 0).T
    torch.testing.assert_close(found, mmtok_weights(method, visual), rtol=2e-5, atol=1e-9)
    return coverage(found, keep)


def dart(method: foveate.Dart, visual: VisualTokens, keep: int) -> list[int]:
    assert visual.text_mask is not None
    assert visual.keys is not None
    assert visual.text_keys is not None
    real = visual.text_mask[0]
    assert visual.normed is not None
    assert visual.text_normed is not None
    image, text = visual.normed[0].float(), visual.text_normed[0][real].float()

    def largest(keys: Tensor, count: int) -> list[int]:
        size = keys.norm(p=1, dim=-1)
        return size.sort(descending=True, stable=True).indices[:count].tolist()

    pivots = largest(visual.keys[0], min(method.visual_pivots, keep))
    longest = largest(visual.text_keys[0][real], method.text_pivots)
    start = visual.starts[0] if visual.starts else 0
    features = {start + i: image[i] for i in pivots}
    features |= {start + visual.num_tokens + i: text[i] for i in longest}
    in_turn = torch.stack([features[place] for place in set(list(features))])  # noqa: C414
    return blocks(cosines(in_turn, image), pivots, keep)


PLAIN: dict[str, Callable[..., list[int]]] = {
    "cdpruner": cdpruner,
    "dart": dart,
    "divprune": divprune,
    "foveacarve": foveacarve,
    "mmtok": mmtok,
}
