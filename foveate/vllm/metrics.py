"""Counters of what was compressed, for the server's Prometheus /metrics.

They count what requests contain that the engine accepts, in the process that reads them: an image
that is asked about twice counts twice, also where vLLM's caches save its second encoding, and one
that is only tokenized does not.
"""

from __future__ import annotations

from prometheus_client import Counter

__all__ = ["COUNTS", "IMAGES", "KEPT_TOKENS", "VISUAL_TOKENS", "count_image"]

# Under which (tokens, kept tokens) of each item travel with a request to where it is accepted.
COUNTS = "foveate_counts"

IMAGES = Counter("foveate_images", "Images and videos in requests.")
VISUAL_TOKENS = Counter("foveate_visual_tokens", "Visual tokens of these before compression.")
KEPT_TOKENS = Counter("foveate_kept_tokens", "Visual tokens that went on to the language model.")


def count_image(num_tokens: int, num_kept: int) -> None:
    """One image or video of a request."""
    IMAGES.inc()
    VISUAL_TOKENS.inc(num_tokens)
    KEPT_TOKENS.inc(num_kept)
