"""A symmetric matrix over tokens that is read by rows and blocks, so that it need not exist.

Greedy selection of K of N tokens reads K rows of its kernel, and N x N numbers are gigabytes where
N is 16,384. What a kernel is made of are the tokens' states, and a row of it is one product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from foveate.core.rows import gather_rows

# A product of that many rows at a time is as fast as one of all, and small beside the states.
ROWS = 512


class Pairs(ABC):
    """G symmetric matrices over N tokens each."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(G, N)."""

    @property
    @abstractmethod
    def device(self) -> torch.device: ...

    @abstractmethod
    def diagonal(self) -> Tensor:
        """[G, N]"""

    @abstractmethod
    def rows(self, index: Tensor) -> Tensor:
        """The rows of the tokens `index` [G, R] int64, to be written on. [G, R, N]"""

    @abstractmethod
    def block(self, index: Tensor) -> Tensor:
        """The pairs among the tokens `index` [G, P] int64, to be written on. [G, P, P]"""

    @abstractmethod
    def image(self, number: int) -> Pairs:
        """The matrix of one image (G = 1)."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """All pairs, for small N. [G, N, N]"""


class Dense(Pairs):
    """A matrix that exists.

    Args:
        values: [G, N, N], symmetric.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def device(self) -> torch.device:
        return self.values.device

    def diagonal(self) -> Tensor:
        return self.values.diagonal(dim1=-2, dim2=-1)

    def rows(self, index: Tensor) -> Tensor:
        return gather_rows(self.values, index)

    def block(self, index: Tensor) -> Tensor:
        wide = index.unsqueeze(1).expand(-1, index.shape[1], -1)
        return self.rows(index).gather(2, wide)

    def image(self, number: int) -> Pairs:
        return Dense(self.values[number : number + 1])

    def matrix(self) -> Tensor:
        return self.values


class Gram(Pairs):
    """The products of all tokens with each other, x x^T.

    Args:
        x: [G, N, D].
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.x.shape[0]), int(self.x.shape[1])

    @property
    def device(self) -> torch.device:
        return self.x.device

    def diagonal(self) -> Tensor:
        return torch.linalg.vector_norm(self.x, dim=-1).square()

    def rows(self, index: Tensor) -> Tensor:
        return gather_rows(self.x, index) @ self.x.transpose(-1, -2)

    def block(self, index: Tensor) -> Tensor:
        members = gather_rows(self.x, index)
        return members @ members.transpose(-1, -2)

    def matrix(self) -> Tensor:
        return self_products(self.x)

    def image(self, number: int) -> Pairs:
        return Gram(self.x[number : number + 1])


class Weighted(Pairs):
    """diag(w) K diag(w).

    Args:
        pairs: K.
        weight: w [G, N], of the dtype of K.
    """

    def __init__(self, pairs: Pairs, weight: Tensor) -> None:
        self.pairs = pairs
        self.weight = weight

    @property
    def shape(self) -> tuple[int, int]:
        return self.pairs.shape

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def diagonal(self) -> Tensor:
        return self.pairs.diagonal() * self.weight.square()

    def rows(self, index: Tensor) -> Tensor:
        at_rows = self.weight.gather(1, index).unsqueeze(-1)
        return self.pairs.rows(index).mul_(at_rows).mul_(self.weight.unsqueeze(1))

    def block(self, index: Tensor) -> Tensor:
        weight = self.weight.gather(1, index)
        return self.pairs.block(index).mul_(weight.unsqueeze(-1)).mul_(weight.unsqueeze(1))

    def matrix(self) -> Tensor:
        weight = self.weight
        return self.pairs.matrix().mul_(weight.unsqueeze(-1)).mul_(weight.unsqueeze(1))

    def image(self, number: int) -> Pairs:
        return Weighted(self.pairs.image(number), self.weight[number : number + 1])


def self_products(x: Tensor, out: Tensor | None = None) -> Tensor:
    """All products x x^T of `x` [..., N, D], each pair once, into `out` if given. [..., N, N]"""
    n = x.shape[-2]
    if out is None:
        out = x.new_empty(*x.shape[:-1], n)
    height = max(128, min(ROWS, n // 6))
    for i in range(0, n, height):
        j = min(n, i + height)
        out[..., i:j, i:] = x[..., i:j, :] @ x[..., i:, :].transpose(-1, -2)
        out[..., j:, i:j] = out[..., i:j, j:].transpose(-1, -2)
    return out
