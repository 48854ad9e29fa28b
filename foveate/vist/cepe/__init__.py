"""CEPE, the rival: a small text encoder in place of renderer and vision encoder."""
