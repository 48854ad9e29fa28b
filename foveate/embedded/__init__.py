"""The embedded vision-language model: a tiny LLaVA that needs no download."""

from __future__ import annotations

from pathlib import Path

__all__ = ["vlm_path"]


def vlm_path() -> Path:
    """Return the folder of the shipped model.

    Load it with ``AutoModelForImageTextToText.from_pretrained(vlm_path())`` and
    ``AutoProcessor.from_pretrained(vlm_path())``; no network is needed.
    """
    return Path(__file__).parent / "vlm"
