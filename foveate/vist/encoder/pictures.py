"""Text that exists only as pictures: where the characters are is read too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate.text_image.strips import Strips
from foveate.vist.encoder.labels import BLANK, symbols_of

__all__ = ["place_characters"]


@torch.no_grad()
def place_characters(
    encoder: Any,
    features: Sequence[Tensor],
    pixels: npt.NDArray[np.uint8],
    patch_mask: npt.NDArray[np.bool_],
) -> tuple[Strips, str]:
    """The map of characters that a renderer would have given, and the text, as read.

    Every slot that is not blank holds a character. Blanks between words count by their slots, so
    that a run of them may come out longer or shorter by one.

    Args:
        encoder: reads characters, see foveate.vist.encoder.characters.
        features: of runs of pages, [P, L, Din] in all.
        pixels: uint8 [P, H, W].
        patch_mask: bool [P, L], True = holds text.
    """
    found = torch.cat([encoder.slot_logits(part).argmax(dim=-1) for part in features])
    best: npt.NDArray[np.int64] = found.numpy(force=True) * patch_mask[..., None]  # [P, L, S]
    page, patch, slot = np.nonzero(best != BLANK)
    style, slots = encoder.style, best.shape[2]
    left = patch * style.patch + slot * style.patch // slots
    right = patch * style.patch + (slot + 1) * style.patch // slots
    strips = Strips(
        pixels=pixels,
        patch_mask=patch_mask,
        char_page=page.astype(np.int32),
        char_left=left.astype(np.int32),
        char_right=right.astype(np.int32),
        char_top=np.zeros(len(page), dtype=np.int32),
        missing=Counter(),
        style=style,
    )
    return strips, symbols_of(best[page, patch, slot])
