"""PVE: the pictures of a document and its informative words are drawn to one point (InfoNCE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.errors import ConfigError

__all__ = ["MASKS", "PveConfig", "PveHead", "choose_mask", "info_nce", "unmasked_mean"]

MASKS = ("frequency", "random", "none")


@dataclass(frozen=True, kw_only=True)
class PveConfig:
    """Probability-informed visual enhancement, as the paper calls its contrastive loss.

    Args:
        temperature: tau of InfoNCE.
        symmetric: also text -> image; the paper writes image -> text only.
        mask: "frequency": frequent words are more likely masked; "random" and "none" are controls.
        mask_share: share of the text's tokens that is masked.
        mask_temperature: of the lot, see `choose_mask`.

    Raises:
        ConfigError: a value is impossible.
    """

    temperature: float = 0.07
    symmetric: bool = False
    mask: Literal["frequency", "random", "none"] = "frequency"
    mask_share: float = 0.5
    mask_temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.mask not in MASKS:
            raise ConfigError(f"PveConfig got mask={self.mask!r}; use one of {', '.join(MASKS)}.")
        if not 0.0 <= self.mask_share < 1.0:
            raise ConfigError(
                f"PveConfig got mask_share={self.mask_share}; use at least 0 and less than 1."
            )
        for name in ("temperature", "mask_temperature"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"PveConfig got {name}={getattr(self, name)}; use more than 0.")


class PveHead(nn.Module):
    """Maps mean CLS tokens to the width of the LLM's embeddings; only training needs it.

    The paper compares vectors of widths D and D' without saying how; a linear map is ours.

    Args:
        width: D of the latents.
        hidden_size: D' of the LLM.
    """

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, hidden_size, bias=False)

    def forward(self, cls: Tensor, page_counts: Tensor) -> Tensor:
        """CLS of all pages [sum(P), D], pages of each document [B] -> [B, D']."""
        row = torch.repeat_interleave(
            torch.arange(len(page_counts), device=cls.device), page_counts
        )
        total = cls.new_zeros(len(page_counts), cls.shape[1]).index_add(0, row, cls)
        return self.project(total / page_counts[:, None].to(cls.dtype))


def choose_mask(
    importance: Tensor, config: PveConfig, generator: torch.Generator | None = None
) -> Tensor:
    """Draw which tokens of a text are masked: exactly floor(mask_share * T) of them.

    Source: Xing et al. 2025: half of the tokens are masked, those of low importance s_w more
    likely. The paper gives no law. Ours is a draw without replacement, each time with probability
    proportional to exp(-s_w / mask_temperature), by Gumbel top-k (Kool et al. 2019): with the
    temperature 1 and s_w = log(|S| / (1 + count)) that is the token's frequency. A temperature near
    0 masks the most frequent ones, a high one is the random control.

    Args:
        importance: float [T].
        config: `mask`, `mask_share` and `mask_temperature` are read.
        generator: on the CPU; the draw is the same on every device.

    Returns:
        bool [T], True = masked.
    """
    count = int(config.mask_share * len(importance))
    masked = torch.zeros(len(importance), dtype=torch.bool)
    if config.mask == "none" or count == 0:
        return masked.to(importance.device)
    uniform = torch.rand(len(importance), generator=generator, dtype=torch.float64)
    keys = -torch.log(-torch.log(uniform.clamp(1e-300, 1 - 1e-16)))
    if config.mask == "frequency":
        keys = keys - importance.detach().cpu().double() / config.mask_temperature
    masked[keys.topk(count).indices] = True
    return masked.to(importance.device)


def unmasked_mean(embeddings: Tensor, masked: Tensor) -> Tensor:
    """Mean input embedding of the tokens that are not masked: [B, T, D'], [B, T] -> [B, D']."""
    keep = (~masked).unsqueeze(-1)
    return (embeddings * keep).sum(dim=1) / keep.sum(dim=1).clamp_min(1)


def info_nce(image: Tensor, text: Tensor, temperature: float, *, symmetric: bool = False) -> Tensor:
    """L_PVE = -1/B sum_i log( exp(cos(v_i, t_i) / tau) / sum_j exp(cos(v_i, t_j) / tau) ).

    Source: Xing et al. 2025: image -> text, negatives are the other documents of the batch.
    `symmetric` takes the mean with the same loss from text to image, as CLIP does.

    Args:
        image, text: float [B, D'].
        temperature: tau.

    Returns:
        a scalar in nats; log B is chance.
    """
    cosines = F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
    own = torch.arange(len(cosines), device=cosines.device)
    loss = F.cross_entropy(cosines / temperature, own)
    if symmetric:
        loss = (loss + F.cross_entropy(cosines.T / temperature, own)) / 2
    return loss
