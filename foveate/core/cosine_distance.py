"""Cosine distance of tokens, by rows, by blocks, or to the nearest neighbour."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import threshold

from foveate.core.pairs import ROWS, Gram, self_products
from foveate.core.similarity import inverse_length

SAME = 1e-6  # float32 cannot tell a cosine distance below it from 0


class CosineDistance(Gram):
    """1 - cos of all tokens in float32; copies of a token are at a distance of exactly 0.

    Args:
        x: [G, N, D].
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__(x.float())
        self.inverse = inverse_length(self.x)  # [G, N]

    def diagonal(self) -> Tensor:
        return torch.zeros_like(self.inverse)

    def rows(self, index: Tensor) -> Tensor:
        return _distance(super().rows(index), self.inverse.gather(1, index), self.inverse)

    def block(self, index: Tensor) -> Tensor:
        inverse = self.inverse.gather(1, index)
        return _distance(super().block(index), inverse, inverse)

    def image(self, number: int) -> CosineDistance:
        return CosineDistance(self.x[number : number + 1])

    def matrix(self) -> Tensor:
        return _distance(self_products(self.x), self.inverse, self.inverse)

    def nearest(self) -> Tensor:
        """The distance of every token to its nearest neighbour; each pair is looked at once. [G, N]

        inf where there is no other token.
        """
        n = self.x.shape[1]
        found = torch.full_like(self.inverse, torch.inf)
        for i in range(0, n, ROWS):
            j = min(n, i + ROWS)
            products = self.x[:, i:j] @ self.x[:, i:].transpose(1, 2)
            apart = _distance(products, self.inverse[:, i:j], self.inverse[:, i:])
            apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
            found[:, i:j] = torch.minimum(found[:, i:j], apart.amin(dim=2))
            found[:, i:] = torch.minimum(found[:, i:], apart.amin(dim=1))
        return found


def _distance(products: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    products.mul_(of_rows.unsqueeze(-1)).mul_(of_columns.unsqueeze(-2))
    return threshold(products.neg_().add_(1), SAME, 0.0, inplace=True)
