"""Where a question points by the index: entries of segments' pictures against the question's."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.errors import InputError
from foveate.text_image.strips import Strips
from foveate.vist.latents.index_head import IndexHead
from foveate.vist.latents.memory import Memory

__all__ = ["index_scores", "patches_of_segments"]


def index_scores(memory: Memory, head: IndexHead, question: Tensor) -> Tensor:
    """How likely a question means each segment, going by its picture: [S] float32, sum 1.

    The softmax over the document's segments that InfoNCE trained, cosines over the temperature; a
    segment whose picture shows nothing gets 0.

    Args:
        memory: with an index, which `Vist.read` makes where the Vist has an IndexHead.
        head: the one that made the index.
        question: [T, embedding_width], the language model's input embeddings of the question's own
            tokens: no special ones, no padding.

    Raises:
        InputError: the memory has no index, or one of another width; an empty question.
    """
    if memory.index is None:
        raise InputError(
            "the memory has no index; read the document with a Vist that has one "
            "(vist.parts.index), or look by words alone."
        )
    if memory.index.shape[1] != head.config.width:
        raise InputError(
            f"the memory's index has width {memory.index.shape[1]} and this head makes "
            f"{head.config.width}; read the document again."
        )
    if question.ndim != 2 or not len(question):
        raise InputError(
            f"index_scores got a question {tuple(question.shape)}; give the embeddings [T, D] of "
            "at least one token."
        )
    with torch.no_grad():
        own = torch.zeros(len(question), dtype=torch.int64, device=question.device)
        asked = head.of_words(question, own, 1)
        entries = memory.index.float()
        logits = entries @ asked[0].to(entries.device) / head.config.temperature
        blank = (entries == 0).all(dim=1)
        return logits.masked_fill(blank, float("-inf")).softmax(dim=0).nan_to_num(0.0)


def patches_of_segments(
    strips: Strips, offsets: NDArray[np.integer], starts: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The patches that show each segment, a patch on a border counted for both sides.

    Args:
        strips: of a text.
        offsets: int [T, 2], characters of its tokens.
        starts: int [S], first token of each segment, from 0.

    Returns:
        patch int64 [N], page * patches + patch, and segment int64 [N], ascending: a segment that
        shows nothing (line ends) has none.
    """
    chars = np.append(offsets[starts, 0], len(strips.char_page)).astype(np.int64)
    if len(chars) > 1:
        chars[0] = 0
    segment = np.repeat(np.arange(len(starts)), np.diff(chars))
    patches = strips.style.patches
    cell = strips.char_page.astype(np.int64) * patches + strips.char_patch
    shown = strips.patch_mask.reshape(-1)[cell]
    pair = np.unique(segment[shown] * (len(strips) * patches) + cell[shown])
    return pair % (len(strips) * patches), pair // (len(strips) * patches)
