"""Counters of what was compressed, for the server's Prometheus /metrics.

They count what requests contain, in the process that reads them: an image that is asked about twice
counts twice, also where vLLM's caches save its second encoding.
"""

from __future__ import annotations

from prometheus_client import Counter

__all__ = ["IMAGES", "KEPT_TOKENS", "VISUAL_TOKENS", "count_image"]

IMAGES = Counter("foveate_images", "Images and videos in requests.")
VISUAL_TOKENS = Counter("foveate_visual_tokens", "Visual tokens of these before compression.")
KEPT_TOKENS = Counter("foveate_kept_tokens", "Visual tokens that went on to the language model.")


def count_image(num_tokens: int, num_kept: int) -> None:
    """One image or video of a request."""
    IMAGES.inc()
    VISUAL_TOKENS.inc(num_tokens)
    KEPT_TOKENS.inc(num_kept)
