"""What there is to read in a strip: classes of characters, targets per patch, and accuracy.

A patch is cut into `slots` columns of equal width; a slot holds the character whose centre lies in
it. At 10 px a slot of 2 px never holds two characters that have a width, so slots, read from left
to right, are the text. Slots by place need no counting, unlike "the first, second, ... character
of the patch".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from foveate.errors import InputError
from foveate.text_image.strips import Strips

__all__ = [
    "ALPHABET",
    "BLANK",
    "NUM_CLASSES",
    "OTHER",
    "UNREADABLE",
    "character_classes",
    "character_targets",
    "edit_distance",
    "symbols_of",
    "text_of",
    "token_targets",
]

BLANK = 0
OTHER = 1
UNREADABLE = "\N{REPLACEMENT CHARACTER}"

# Order is part of the checkpoint format: append only.
ALPHABET = (
    "\n\t"
    + "".join(map(chr, range(0x20, 0x7F)))
    + "".join(chr(c) for c in range(0xA1, 0x100) if c != 0xAD)
    + "‘’‚“”„–—―…•†‡‹›€™−′″→←≤≥≠"
    + "ŒœŠšŽžŸĀāĂăĆćČčĒēĞğĪīıŁłŃńŌōŘřŚśŞşŪū"
)
NUM_CLASSES = 2 + len(ALPHABET)
_SYMBOLS = ("", UNREADABLE, *ALPHABET)

# Drawn with the same pixels, so no reader can tell them apart.
_SAME = {"\N{NO-BREAK SPACE}": " ", "\N{NON-BREAKING HYPHEN}": "-", "\N{SOFT HYPHEN}": "-"}

_CLASS_OF = np.full(0x110000, OTHER, dtype=np.uint8)
for _idx, _character in enumerate(ALPHABET):
    _CLASS_OF[ord(_character)] = 2 + _idx
for _character, _twin in _SAME.items():
    _CLASS_OF[ord(_character)] = _CLASS_OF[ord(_twin)]


def character_classes(text: str) -> npt.NDArray[np.uint8]:
    """Return the class of every character, uint8 [len(text)]; never `BLANK`."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return _CLASS_OF[codes]


def text_of(classes: npt.NDArray[np.integer]) -> str:
    """Return the text that classes spell: blanks left out, `OTHER` as `UNREADABLE`."""
    return "".join(_SYMBOLS[idx] for idx in classes.ravel().tolist())


def symbols_of(classes: npt.NDArray[np.integer]) -> str:
    """Return one character for each class [C], none of which is `BLANK`."""
    found = text_of(classes)
    assert len(found) == classes.size, "a blank slot has no symbol"
    return found


def character_targets(strips: Strips, text: str, slots: int = 7) -> npt.NDArray[np.int64]:
    """Return the class of the character in every slot of every patch.

    Args:
        strips: `text` as rendered.
        text: what was rendered.
        slots: columns per patch; must divide the width of a patch.

    Returns:
        int64 [P, L, slots]; `BLANK` where no character has its centre. Characters of width 0
        (combining marks) have no slot. Where two share a slot, the first is kept.

    Raises:
        InputError: if `text` is not what the strips show, or `slots` does not divide the patch.
    """
    pages, num_patches = strips.patch_mask.shape
    patch = strips.style.patch
    if len(text) != len(strips.char_page):
        raise InputError(
            f"text has {len(text)} characters but the strips show {len(strips.char_page)}; "
            "pass the text they were rendered from."
        )
    if patch % slots:
        raise InputError(
            f"slots={slots} does not divide a patch of {patch} px; choose a divisor of {patch}."
        )
    targets = np.full((pages, num_patches * slots), BLANK, dtype=np.int64)
    seen = np.flatnonzero(strips.char_right > strips.char_left)[::-1]  # the first is written last
    centre = (strips.char_left[seen] + strips.char_right[seen]) // 2
    slot = strips.char_patch[seen] * slots + centre % patch // (patch // slots)
    targets[strips.char_page[seen], slot] = character_classes(text)[seen]
    return targets.reshape(pages, num_patches, slots)


def token_targets(
    strips: Strips, token_ids: Sequence[int], offsets: Sequence[tuple[int, int]]
) -> npt.NDArray[np.int64]:
    """Return the last and the second-last token that end in every patch.

    A token ends where the centre of its last character lies.

    Args:
        strips: the rendered text.
        token_ids: tokens to place, T of them, in reading order.
        offsets: (start, stop) of every token in the text, characters.

    Returns:
        int64 [P, L, 2]: the last token and the one before it; -1 = none.

    Raises:
        InputError: if a token lies outside the text.
    """
    pages, num_patches = strips.patch_mask.shape
    targets = np.full((pages * num_patches, 2), -1, dtype=np.int64)
    ids = np.asarray(token_ids, dtype=np.int64)
    if not len(ids):
        return targets.reshape(pages, num_patches, 2)
    last = np.asarray(offsets, dtype=np.int64)[:, 1] - 1
    if last.max() >= len(strips.char_page):
        raise InputError(
            f"a token ends at character {last.max() + 1} of a text of {len(strips.char_page)}; "
            "pass the offsets of the rendered text."
        )
    place = strips.char_page[last].astype(np.int64) * num_patches + strips.char_patch[last]
    ends = np.append(place[1:] != place[:-1], True)  # the last token of its patch
    targets[place[ends], 0] = ids[ends]
    before = np.flatnonzero(ends[1:] & ~ends[:-1])
    targets[place[before], 1] = ids[before]
    return targets.reshape(pages, num_patches, 2)


def edit_distance(first: str, second: str) -> int:
    """Return the least number of insertions, deletions and substitutions between two texts.

    Bit-parallel over integers of len(first) bits (Myers 1999, in Hyyrö's form): the columns of
    the distance table are kept as the bits of their vertical differences.
    """
    if not first or not second:
        return len(first) + len(second)
    places: dict[str, int] = {}
    for idx, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << idx
    every, top = (1 << len(first)) - 1, len(first) - 1
    up, down, distance = every, 0, len(first)  # vertical differences +1 and -1
    for character in second:
        same = places.get(character, 0)
        diagonal = (((same & up) + up) ^ up) | same | down
        right = down | (every & ~(diagonal | up))  # horizontal +1
        left = up & diagonal  # horizontal -1
        distance += (right >> top & 1) - (left >> top & 1)
        right, left = (right << 1 | 1) & every, left << 1 & every
        up = left | (every & ~(diagonal | right))
        down = right & diagonal
    return distance
