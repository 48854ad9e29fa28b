"""Text that exists only as pictures: where the characters are is read too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.text_image.strips import Strips
from foveate.vist.encoder.labels import BLANK, OTHER, character_classes, symbols_of

__all__ = ["PlacedText", "place_characters"]

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# Probabilities of a slot's best class. The embedded encoder gives at most 2 % of the signs of text
# in its alphabet less than SURE (accented ones 12 %, Greek 48 %), noise, specks, and strips that
# are inverted or upside down 60 to 100 %.
SURE, GUESS = 0.9, 0.5
MOST_UNSURE = 0.5  # share of a page's signs; above it nothing on the page is text that can be read
SPACE = int(character_classes(" ")[0])


class PlacedText(NamedTuple):
    """What pictures show, as read.

    Attributes:
        strips: with the map of characters that a renderer would have given.
        text: C characters.
        unread: bool [C], signs that nobody can make out; `UNREADABLE` in the text.
    """

    strips: Strips
    text: str
    unread: BoolArray


@torch.no_grad()
def place_characters(
    encoder: Any,
    features: Sequence[Tensor],
    pixels: npt.NDArray[np.uint8],
    patch_mask: BoolArray,
) -> PlacedText:
    """The map of characters that a renderer would have given, and the text, as read.

    Every slot that is not blank holds a character. Blanks between words count by their slots, so
    that a run of them may come out longer or shorter by one; behind a page's last sign the first
    one counts, and those that the encoder is sure of, for there may be no text any more. A sign
    that is no better than a guess cannot be read, nor can any sign of a page where most are unsure:
    it shows something else than text.

    Args:
        encoder: reads characters, see foveate.vist.encoder.characters.
        features: of runs of pages, [P, L, Din] in all.
        pixels: uint8 [P, H, W].
        patch_mask: bool [P, L], True = holds text.

    Raises:
        InputError: the pictures show no character that can be read.
    """
    found = [encoder.slot_logits(part).float().softmax(dim=-1).max(dim=-1) for part in features]
    odds: npt.NDArray[np.float32] = torch.cat([f.values for f in found]).numpy(force=True)
    best: IntArray = torch.cat([f.indices for f in found]).numpy(force=True)
    best = best * patch_mask[..., None]  # [P, L, S]
    guessed = np.zeros_like(best, dtype=bool)
    for i, (classes, chance) in enumerate(zip(best, odds, strict=True)):
        is_sign = (classes != BLANK) & (classes != SPACE)
        behind = _behind(classes, is_sign)
        classes[behind & (chance < SURE)] = BLANK
        unsure = (is_sign & (chance < SURE)).sum()
        is_text = unsure <= MOST_UNSURE * is_sign.sum()
        guessed[i] = is_sign & (chance < GUESS) if is_text else is_sign
    best[guessed] = OTHER
    num_signs = int(((best != BLANK) & (best != SPACE)).sum())
    if num_signs == int((best == OTHER).sum()):
        seen = f"{num_signs} signs that the encoder cannot make out" if num_signs else "no sign"
        raise InputError(
            f"the {len(pixels)} pictures show no character that can be read ({seen}); give strips "
            "of dark text on white, drawn in the encoder's style (Renderer(encoder.style))."
        )
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
    place = page, patch, slot
    return PlacedText(strips, symbols_of(best[place]), guessed[place])


def _behind(classes: IntArray, is_sign: BoolArray) -> BoolArray:
    """Slots [L, S] behind a page's last sign and the blank after that; all without a sign."""
    behind = np.ones(classes.size, dtype=bool)
    signs = np.flatnonzero(is_sign)
    if len(signs):
        blanks = np.flatnonzero(classes.ravel()[signs[-1] + 1 :] == SPACE)
        behind[: signs[-1] + 1 + (int(blanks[0]) + 1 if len(blanks) else 0)] = False
    return behind.reshape(classes.shape)
