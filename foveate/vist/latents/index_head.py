"""The index: CLS of a segment's picture, and the words of a question, as points of one space."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.errors import ConfigError
from foveate.vist.sizes import check_size

__all__ = ["AttentionPool", "IndexConfig", "IndexHead"]


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Sizes of an IndexHead.

    Args:
        input_width: of the encoder's features.
        embedding_width: of the language model's input embeddings.
        picture_inner: hidden width of the pictures' pool, where spelling becomes meaning.
        inner: of the words' pool.
        heads: of their attention; divides both.
        width: E of an entry.
        temperature: of the InfoNCE it was trained with, by which cosines become likelihoods.

    Raises:
        ConfigError: a value is impossible.
    """

    input_width: int
    embedding_width: int
    picture_inner: int = 768
    inner: int = 384
    heads: int = 8
    width: int = 256
    temperature: float = 0.05

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name != "temperature"}
        for name, value in sizes.items():
            check_size("IndexConfig", name, value)
        if not isinstance(self.temperature, (int, float)) or not 0 < self.temperature <= 1:
            raise ConfigError(
                f"IndexConfig got temperature={repr(self.temperature)[:40]}; use a number above 0 "
                "and at most 1."
            )
        for name in ("picture_inner", "inner"):
            if getattr(self, name) % self.heads:
                raise ConfigError(
                    f"IndexConfig got {name}={getattr(self, name)} for heads={self.heads}; use a "
                    "multiple."
                )

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)


class AttentionPool(nn.Module):
    """A group of rows of any number -> one vector of unit length.

    One learned query a head looks at a nonlinear map of each row. Rows are not ordered and do not
    see each other: what a row says must be in it.

    Args:
        input_width, inner, heads, width: see IndexConfig.
    """

    def __init__(self, input_width: int, inner: int, heads: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(input_width)
        self.up = nn.Linear(input_width, inner)
        self.query = nn.Linear(inner, heads)
        # No bias: a group's vector is a mean of its rows' vectors up to length.
        self.out = nn.Linear(inner, width, bias=False)

    def forward(
        self, rows: Tensor, group: Tensor, num_groups: int, take: Tensor | None = None
    ) -> Tensor:
        """Pool rows by group.

        Args:
            rows: [N, input_width] float; with `take`, [U, input_width].
            group: int64 [N], in [0, num_groups), in any order.
            num_groups: S.
            take: int64 [N]: member n is row take[n]. Rows that occur often are mapped once.

        Returns:
            [S, width] of unit length; zero for a group without rows.
        """
        hidden = F.gelu(self.up(self.norm(rows.to(self.up.weight.dtype))))  # [U, inner]
        logits = self.query(hidden).float()  # [U, H]
        if take is not None:
            hidden, logits = hidden[take], logits[take]
        index = group.unsqueeze(1).expand_as(logits)
        most = logits.new_full((num_groups, self.heads), float("-inf"))
        most = most.scatter_reduce(0, index, logits.detach(), "amax")
        weight = (logits - most[group]).exp()
        total = weight.new_zeros(num_groups, self.heads).index_add(0, group, weight)
        weight = (weight / total[group]).unsqueeze(2)  # [N, H, 1]
        # Sums in float32: a group may have hundreds of rows.
        shared = (hidden.float().view(len(hidden), self.heads, -1) * weight).flatten(1)
        pooled = shared.new_zeros(num_groups, shared.shape[1]).index_add(0, group, shared)
        pooled = pooled.to(self.out.weight.dtype)
        return F.normalize(self.out(pooled).float(), dim=-1)


class IndexHead(nn.Module):
    """Entries of segments from their pictures, and of questions from their words.

    Source: the CLS token of Xing et al. 2025, which their contrastive loss (PVE) draws to the mean
    embedding of the text. Ours is one for each segment instead of one for a strip, words are pooled
    by learned attention instead of evenly, and it is used after training too: to find segments.

    Args:
        config: sizes.
    """

    def __init__(self, config: IndexConfig) -> None:
        super().__init__()
        self.config = config
        self.pictures = AttentionPool(
            config.input_width, config.picture_inner, config.heads, config.width
        )
        self.words = AttentionPool(config.embedding_width, config.inner, config.heads, config.width)

    def of_pictures(self, features: Tensor, segment: Tensor, num_segments: int) -> Tensor:
        """Entries [S, E] of segments.

        Args:
            features: [N, input_width], of the patches that show text, any order.
            segment: int64 [N], whose each is.
            num_segments: S.
        """
        entries: Tensor = self.pictures(features, segment, num_segments)
        return entries

    def of_words(
        self, embeddings: Tensor, text: Tensor, num_texts: int, take: Tensor | None = None
    ) -> Tensor:
        """Entries [Q, E] of questions (or any texts).

        Args:
            embeddings: [T, embedding_width], input embeddings of all their tokens.
            text: int64 [T], whose each is.
            num_texts: Q.
            take: int64 [T], where embeddings are of different tokens only; see AttentionPool.
        """
        entries: Tensor = self.words(embeddings, text, num_texts, take)
        return entries
