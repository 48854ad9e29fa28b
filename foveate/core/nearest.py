"""The nearest of a changing set of tokens, from lists of neighbours made once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

_CHUNK = 1024  # rows of the similarity matrix at a time: it is never held whole
_FIRST = 8  # neighbours looked at of every token, the rest of its list where none is a member


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
        likeness = torch.cat([part.values for part in found])  # [N, M]
        index = torch.cat([part.indices for part in found])
        sizes = [min(_FIRST, count), count - min(_FIRST, count)]
        self._parts = [
            (near.contiguous(), values.contiguous())
            for near, values in zip(
                torch.split(index, sizes, dim=1), torch.split(likeness, sizes, dim=1), strict=True
            )
        ]

    def likeness(self, tokens: Tensor, among: Tensor) -> Tensor:
        """Largest cosine of each of `tokens` [I] with one of `among` [J], J > 0. [I]"""
        is_member = torch.zeros(len(self._x), dtype=torch.bool, device=self._x.device)
        is_member[among] = True
        best = self._x.new_empty(len(tokens))
        left = torch.arange(len(tokens), device=tokens.device)  # places in `tokens`
        for index, likeness in self._parts:
            asked = tokens[left]
            hits = is_member[index[asked]]  # [L, M']
            if not hits.shape[1]:
                continue
            first = hits.to(torch.uint8).argmax(dim=1)
            best[left] = likeness[asked, first]
            left = left[~hits.any(dim=1)]
        if len(left):
            rows = self._x[tokens[left]] @ self._x[among].T
            best[left] = rows.amax(dim=1)
        return best
