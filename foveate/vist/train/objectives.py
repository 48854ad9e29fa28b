"""What Vist can be trained for, in one place, and what each objective is computed from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from foveate.errors import ConfigError
from foveate.vist.train.distillation import pair_error, tail_divergence
from foveate.vist.train.latent_reading import LatentReader, reading_error
from foveate.vist.train.pve import PveHead, choose_mask, info_nce, unmasked_mean

__all__ = [
    "OBJECTIVES",
    "LatentReader",
    "PveHead",
    "check_weights",
    "choose_mask",
    "info_nce",
    "next_token_loss",
    "pair_error",
    "reading_error",
    "tail_divergence",
    "unmasked_mean",
]

# What each is computed from: "text" is a pass over the raw tail, "teacher" one over the raw whole.
OBJECTIVES: Mapping[str, frozenset[str]] = {
    "next_token": frozenset({"text"}),
    "pve": frozenset(),
    "read": frozenset({"targets"}),
    "distil": frozenset({"targets", "prefix", "teacher"}),
    "tail_kl": frozenset({"text", "teacher"}),
}


def next_token_loss(token_nll: Tensor) -> Tensor:
    """L_NTP = -1/T sum_t log p(x_t | memory, x_<t), over the raw tail only.

    Source: Xing et al. 2025, equation of the next-token prediction; rendered tokens are not scored.

    Args:
        token_nll: [B, T] nats.

    Returns:
        [B], the mean of each row.
    """
    return token_nll.float().mean(dim=1)


def check_weights(weights: Mapping[str, float], owner: str) -> None:
    """Refuse unknown objectives, weights that are not positive, and none at all.

    Raises:
        ConfigError: any of these; `owner` says where.
    """
    unknown = sorted(set(weights) - set(OBJECTIVES))
    if unknown:
        raise ConfigError(
            f"{owner} names unknown objectives {', '.join(unknown)}; use {', '.join(OBJECTIVES)}."
        )
    bad = {name: weight for name, weight in weights.items() if not weight > 0}
    if bad or not weights:
        raise ConfigError(
            f"{owner} got weights {dict(weights)}; give at least one objective, each with a weight "
            "above 0."
        )
