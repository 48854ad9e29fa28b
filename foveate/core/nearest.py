"""The nearest of a changing set of tokens, from lists of neighbours made once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_CHUNK = 1024  # rows of the similarity matrix at a time: it is never held whole


class Neighbours:
    """Each token's most similar others, best first.

    Where a set holds a fair share of all tokens, the nearest member of it is almost always in a
    short list; only for the others the whole row is worked out again.

    Args:
        features: [N, D].
        count: neighbours in a list.
    """

    def __init__(self, features: Tensor, count: int = 64) -> None:
        self._x = normalize(features.float(), dim=-1)
        count = min(count, len(features))
        found = [(part @ self._x.T).topk(count, dim=1) for part in torch.split(self._x, _CHUNK)]
        self._likeness = torch.cat([part.values for part in found])  # [N, M]
        self._index = torch.cat([part.indices for part in found])

    def likeness(self, tokens: Tensor, among: Tensor) -> Tensor:
        """Largest cosine of each of `tokens` [I] with one of `among` [J], J > 0. [I]"""
        is_member = torch.zeros(len(self._x), dtype=torch.bool, device=self._x.device)
        is_member[among] = True
        hits = is_member[self._index[tokens]]  # [I, M]
        best = self._likeness[tokens].gather(1, hits.long().argmax(dim=1, keepdim=True))[:, 0]
        missed = (~hits.any(dim=1)).nonzero()[:, 0]
        if len(missed):
            rows = self._x[tokens[missed]] @ self._x[among].T
            best[missed] = rows.amax(dim=1)
        return best
