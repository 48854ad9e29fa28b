"""A language model's visual dictionary: tokens spelled, drawn, encoded, and kept on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from foveate.models.smollm2 import default_cache
from foveate.text_image.render import Renderer
from foveate.vist.latents.dictionary import Dictionary, TokenPictures, picture_vocabulary
from foveate.vist.latents.glance_resampler import GlanceResampler
from foveate.vist.parts import weights_hash

logger = logging.getLogger(__name__)

LONGEST = 40  # characters; longer tokens (runs of spaces, rules) are not worth a picture


def spellings(tokenizer: Any, vocabulary: int) -> list[str | None]:
    """Text of each token id; None for special tokens, parts of characters and very long ones.

    A tokenizer may drop a leading space at the start of a text, so each token is decoded behind
    another one.

    Args:
        tokenizer: of the LLM.
        vocabulary: rows of its embedding table; ids beyond the tokenizer's own have no text.
    """
    before = tokenizer("a", add_special_tokens=False)["input_ids"][0]
    settings = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    start = len(tokenizer.decode([before], **settings))
    special = set(tokenizer.all_special_ids)
    known = min(vocabulary, len(tokenizer))
    texts = tokenizer.batch_decode([[before, i] for i in range(known)], **settings)
    found: list[str | None] = []
    for i, text in enumerate(texts):
        spelling = text[start:]
        is_whole = "\ufffd" not in spelling and 0 < len(spelling) <= LONGEST
        found.append(spelling if is_whole and i not in special else None)
    return found + [None] * (vocabulary - known)


def pictures_of(
    resampler: GlanceResampler, encoder: Any, tokenizer: Any, vocabulary: int
) -> TokenPictures:
    """Draw and encode every token; half a minute for 50,000 tokens on one core."""
    device = next(resampler.parameters()).device
    return picture_vocabulary(
        spellings(tokenizer, vocabulary),
        encoder,
        resampler.under_of,
        Renderer(encoder.style),
        device,
    )


def learn_vocabulary(
    resampler: GlanceResampler,
    encoder: Any,
    tokenizer: Any,
    embeddings: torch.Tensor,
    *,
    cache_dir: str | Path | None = None,
) -> None:
    """Give the resampler its dictionary: from the disk if these models made one before.

    Args:
        resampler: with key_width.
        encoder: frozen, see docs/vist.md.
        tokenizer: of the LLM.
        embeddings: [vocabulary, D], the LLM's input embeddings.
        cache_dir: where keys are kept; None is foveate's cache folder.
    """
    file = _file(resampler, encoder, tokenizer, len(embeddings), cache_dir)
    try:
        held = load_file(file)
        resampler.dictionary = Dictionary(
            keys=held["keys"].to(embeddings.device, torch.float32),
            token_ids=held["token_ids"].to(embeddings.device),
            embeddings=embeddings.detach(),
        )
        return
    except (OSError, SafetensorError, KeyError) as error:
        logger.info("drawing the vocabulary once (%s)", error)
    resampler.learn_vocabulary(
        pictures_of(resampler, encoder, tokenizer, len(embeddings)), embeddings
    )
    made = resampler.dictionary
    assert made is not None
    file.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and renamed: another process never sees half a file.
    handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    save_file(
        {"keys": made.keys.cpu().contiguous(), "token_ids": made.token_ids.cpu().contiguous()}, name
    )
    os.replace(name, file)


def _file(
    resampler: GlanceResampler,
    encoder: Any,
    tokenizer: Any,
    vocabulary: int,
    cache_dir: str | Path | None,
) -> Path:
    digest = hashlib.sha256()
    for part in (
        weights_hash(resampler),
        weights_hash(encoder),
        str(encoder.style.to_dict()),
        str(sorted(tokenizer.get_vocab().items())),
        str(vocabulary),
    ):
        digest.update(part.encode())
    folder = Path(cache_dir) if cache_dir is not None else default_cache()
    return folder / f"dictionary-{digest.hexdigest()[:24]}.safetensors"
