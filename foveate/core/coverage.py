"""Weighted coverage: greedy choice of the tokens that stand for all others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_POOL = 32  # candidates whose gain is worked out together
_CHUNK = 1024  # rows of the similarity matrix at a time
_HELD = 4096  # tokens up to which it is held whole (64 MiB)


def weighted_coverage(features: Tensor, weight: Tensor, k: int) -> Tensor:
    """Choose `k` tokens, each with the largest weight_i * sum_j max(0, cos(x_i, x_j) - covered_j).

    covered_j is the largest cosine of j with a token chosen so far, at least 0. What a token adds
    can only shrink as others are chosen, so that a gain worked out earlier is a bound: only the
    candidates with the largest bounds are worked out again, which chooses the same tokens.

    Args:
        features: [G, N, D].
        weight: [G, N], not negative.
        k: 1 <= k <= N.

    Returns:
        [G, k] int64 in order of choice, ties to the lower index.
    """
    pairs = zip(features, weight, strict=True)
    return torch.stack([_of_one(normalize(x.float(), dim=-1), w.float(), k) for x, w in pairs])


def _of_one(x: Tensor, weight: Tensor, k: int) -> Tensor:
    """One set of unit rows x [N, D]. [k]"""
    n = len(x)
    covered = x.new_zeros(n)
    held = x @ x.T if n <= _HELD else None

    def rows(places: Tensor) -> Tensor:
        return x[places] @ x.T if held is None else held[places]

    every = torch.arange(n, device=x.device)
    reach = [rows(part).clamp_min(0).sum(dim=1) for part in torch.split(every, _CHUNK)]
    bounds = torch.cat(reach) * weight
    chosen = torch.empty(k, dtype=torch.long, device=x.device)
    is_fresh = torch.ones(n, dtype=torch.bool, device=x.device)
    for i in range(k):
        best = bounds.argmax()
        while not is_fresh[best]:
            pool = bounds.topk(min(_POOL, n)).indices
            # Of equal bounds topk takes any, and the lower index is the one that is due.
            pool[-1] = best
            pool = pool[~is_fresh[pool]]
            gain = (rows(pool) - covered).clamp_min(0).sum(dim=1)
            bounds[pool] = gain * weight[pool]
            is_fresh[pool] = True
            best = bounds.argmax()
        chosen[i] = best
        bounds[best] = -torch.inf
        covered = torch.maximum(covered, rows(best[None])[0])
        is_fresh.zero_()
        is_fresh[chosen[: i + 1]] = True  # these are never candidates again
    return chosen
