"""Loss of a visual dictionary: a token met in a text must point at its own picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from foveate.errors import ConfigError
from foveate.vist.latents.dictionary import TokenPictures
from foveate.vist.latents.glance_resampler import GlanceResampler

__all__ = ["NamingConfig", "naming_error"]


@dataclass(frozen=True, kw_only=True)
class NamingConfig:
    """What a token is told apart from.

    Args:
        negatives: random tokens of the vocabulary, beside all tokens of the batch.
        hard: of each token, its nearest look-alikes in the dictionary as it was last made.
        refresh: steps between two makings of the dictionary.

    Raises:
        ConfigError: a value is impossible.
    """

    negatives: int = 1024
    hard: int = 4
    refresh: int = 50

    def __post_init__(self) -> None:
        for name, least in (("negatives", 0), ("hard", 0), ("refresh", 1)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"NamingConfig got {name}={getattr(self, name)}; use {least} or more."
                )


def naming_error(
    resampler: GlanceResampler,
    queries: Tensor,
    wanted: Tensor,
    pictures: TokenPictures,
    config: NamingConfig,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cross-entropy (InfoNCE) of tokens in context against pictures, mean over tokens.

    Source: van den Oord et al. 2018, with the softmax over candidates of one dictionary.

    Args:
        resampler: makes the candidates' keys from their pictures; gradients flow to both sides.
        queries: [M, key_width], names of tokens met in a text.
        wanted: int64 [M], rows of `pictures`; -1 (no picture) is left out.
        pictures: of the vocabulary.
        config: see there.
        generator: of the random candidates.
    """
    assert resampler.sharpness is not None
    held = wanted >= 0
    queries, wanted = queries[held], wanted[held]
    candidates = [wanted]
    if config.negatives:
        lot = torch.randint(len(pictures), (config.negatives,), generator=generator)
        candidates.append(lot.to(wanted.device))
    if config.hard and resampler.dictionary is not None and len(wanted):
        with torch.no_grad():
            likeness = queries @ resampler.dictionary.keys.T
            count = min(config.hard, likeness.shape[1])
            candidates.append(likeness.topk(count, dim=-1).indices.flatten())
    rows = torch.cat(candidates).unique()  # type: ignore[no-untyped-call]
    keys = resampler.names(
        pictures.under[rows].float(), pictures.start[rows], pictures.extent[rows]
    )
    logits = queries @ keys.T * resampler.sharpness.exp()
    return F.cross_entropy(logits, torch.searchsorted(rows, wanted))
