"""Reading loss of latents: each says which token it stands for, and which ones it packs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveate.errors import ConfigError
from foveate.vist.train.reading_loss import token_loss, token_table

__all__ = ["LatentReader", "ReadingConfig", "reading_error"]


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """What latents are asked.

    Args:
        mse_weight: of the squared distance to the token's input embedding, in units of the
            embeddings' variance, beside the cross-entropy.
        packed_weight: of the packed tokens against the own one.
        sharpness: factor on the cosines of the cross-entropy.
        negatives: random tokens each sample is told apart from, beside its own ones; 0 is the whole
            vocabulary.

    Raises:
        ConfigError: a value is impossible.
    """

    mse_weight: float = 1.0
    packed_weight: float = 0.25
    sharpness: float = 20.0
    negatives: int = 0

    def __post_init__(self) -> None:
        for name in ("mse_weight", "packed_weight", "negatives"):
            if getattr(self, name) < 0:
                raise ConfigError(f"ReadingConfig got {name}={getattr(self, name)}; use 0 or more.")
        if self.sharpness <= 0:
            raise ConfigError(f"ReadingConfig got sharpness={self.sharpness}; use more than 0.")


class LatentReader(nn.Module):
    """Linear maps from a latent to token embeddings; only training needs them.

    Args:
        width: D of the latents.
        hidden_size: of the LLM's embeddings.
        packed: Q tokens that a latent carries beside its own.
        own: also predict the own token. Not needed where the fusion projects latents to input
            embeddings anyway: then those are read.
        rms: root mean square of the embeddings, the size that predictions start at.
    """

    def __init__(
        self, width: int, hidden_size: int, packed: int, *, own: bool, rms: float = 1.0
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.own = nn.Linear(width, hidden_size) if own else None
        self.packed = nn.ModuleList(nn.Linear(width, hidden_size) for _ in range(packed))
        for head in (*self.packed, *([self.own] if self.own is not None else [])):
            nn.init.normal_(head.weight, std=rms * width**-0.5)
            nn.init.zeros_(head.bias)

    def forward(self, latents: Tensor, projected: Tensor | None) -> Tensor:
        """Predicted embeddings [M, 1 + Q, hidden_size] for latents [M, D].

        Args:
            projected: [M, hidden_size], the fusion's input embeddings of the latents, if it has
                such.
        """
        x = self.norm(latents)
        own = self.own(x) if self.own is not None else projected
        if own is None:
            raise ConfigError(
                "a LatentReader without its own map got no projected latents; make it with "
                "own=True for a fusion that does not project latents to input embeddings."
            )
        return torch.stack([own, *(head(x) for head in self.packed)], dim=1)


def reading_error(
    predicted: Tensor,
    targets: Tensor,
    embeddings: Tensor,
    config: ReadingConfig,
    generator: torch.Generator | None = None,
    table: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over the vocabulary by the tied embedding, plus mse_weight * MSE / variance.

    The cross-entropy is `foveate.vist.train.reading_loss.token_loss`, the encoder's own.

    Args:
        predicted: float [M, 1 + Q, hidden_size], of one sample.
        targets: int64 [M, 1 + Q], tokens: the own one and those packed; -1 = none.
        embeddings: [V, hidden_size], of the LLM.
        config: weights.
        generator: draws the negatives, on the CPU.
        table: `token_table(embeddings)`, to spare computing it.

    Returns:
        a scalar.
    """
    table = token_table(embeddings.float()) if table is None else table
    vocabulary = len(embeddings)
    if config.negatives:
        others = torch.randint(vocabulary, (config.negatives,), generator=generator)
    else:
        others = torch.arange(vocabulary)
    others = others.to(targets.device)
    variance = embeddings[:4096].float().var(dim=0).mean()
    total = predicted.new_zeros((), dtype=torch.float32)
    weights = 0.0
    for column in range(targets.shape[1]):
        weight = config.packed_weight if column else 1.0
        held = targets[:, column] >= 0
        if not weight or not bool(held.any()):
            continue
        wanted, found = targets[held, column], predicted[held, column].float()
        error = token_loss(found, wanted, table, others, sharpness=config.sharpness)
        if config.mse_weight:
            distance = (found - embeddings[wanted].float()).square().mean() / variance
            error = error + config.mse_weight * distance
        total = total + weight * error
        weights += weight
    return total / max(weights, 1e-12)
