"""Tells vLLM that images lose tokens, which it otherwise believes of videos alone."""

from __future__ import annotations

from typing import Any

from vllm.config.multimodal import MultiModalConfig

__all__ = ["ImagePruningConfig", "announce_pruning"]


class ImagePruningConfig(MultiModalConfig):  # type: ignore[misc]
    """vLLM's configuration of modalities in an engine whose images are carved.

    vLLM asks it whether positions are to be worked out again when features have come, and whether
    the encoder may run as a recorded graph. The rate that it bases the answer on is of videos, and
    setting that would cut videos a second time.
    """

    def is_multimodal_pruning_enabled(self) -> bool:
        return True


def announce_pruning(config: Any) -> None:
    """Turn this engine's configuration into an ImagePruningConfig, wherever it is held."""
    if not isinstance(config, ImagePruningConfig):
        config.__class__ = ImagePruningConfig
