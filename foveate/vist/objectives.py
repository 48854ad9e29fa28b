"""What Vist can be trained for, in one place: names, and the settings of each objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from foveate.errors import ConfigError
from foveate.vist.distillation import DistillationConfig, pair_error, tail_divergence
from foveate.vist.latent_reading import LatentReader, ReadingConfig, reading_error
from foveate.vist.pve import PveConfig, PveHead, choose_mask, info_nce, unmasked_mean
from foveate.vist.targets import TargetConfig

__all__ = [
    "OBJECTIVES",
    "LatentReader",
    "ObjectiveConfig",
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


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """Settings of all objectives; which ones act, and how strongly, is a stage's business.

    Args:
        targets: tokens that latents stand for; read and distil follow it, and so do positions.
        pve, read, distil: see there.
    """

    targets: TargetConfig = field(default_factory=TargetConfig)
    pve: PveConfig = field(default_factory=PveConfig)
    read: ReadingConfig = field(default_factory=ReadingConfig)
    distil: DistillationConfig = field(default_factory=DistillationConfig)


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
