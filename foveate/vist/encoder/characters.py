"""Characters of rendered text as a frozen encoder reads them, each at the place it was drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.text_image.strips import Strips
from foveate.vist.encoder.labels import BLANK, OTHER, symbols_of

__all__ = [
    "Characters",
    "check_reads",
    "join_characters",
    "read_characters",
    "reads_characters",
]

TOP = 8  # candidates that are kept of each character


@dataclass(frozen=True, eq=False, kw_only=True)
class Characters:
    """C characters as read.

    Attributes:
        classes: uint8 [C, K], the likeliest classes of each (foveate.vist.encoder.labels), best
            first; never `BLANK`, for something stands there.
        log_probs: float32 [C, K], theirs.
    """

    classes: npt.NDArray[np.uint8]
    log_probs: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def text(self) -> str:
        """One symbol for each; `UNREADABLE` for what is outside of the alphabet."""
        return symbols_of(self.classes[:, 0])

    def without(self, unread: npt.NDArray[np.bool_]) -> Characters:
        """The same, some [C] of them unknown."""
        classes = self.classes.copy()
        classes[unread, 0] = OTHER
        return replace(self, classes=classes)

    @property
    def unreadable(self) -> npt.NDArray[np.bool_]:
        """Characters that the encoder says it does not know, bool [C]."""
        unknown: npt.NDArray[np.bool_] = self.classes[:, 0] == OTHER
        return unknown


def reads_characters(encoder: Any) -> bool:
    """Whether an encoder's features say which characters they show."""
    return hasattr(encoder, "slot_logits")


def check_reads(encoder: Any) -> None:
    """Raise InputError unless an encoder's features say which characters they show."""
    if not reads_characters(encoder):
        raise InputError(
            f"{type(encoder).__name__} gives features and reads no characters (it has no "
            "slot_logits), so latents cannot be pointed at tokens it read; use the embedded "
            "TextEncoder, or a ResamplerConfig, whose latents are made of features."
        )


@torch.no_grad()
def read_characters(
    encoder: Any, features: Tensor, strips: Strips, first_page: int = 0
) -> Characters:
    """Read the characters of some pages of strips in the slots that hold their centres.

    Where a character stands is the renderer's knowledge, which character it is the encoder's alone.
    One without width (a combining mark) has no slot and is `OTHER`.

    Args:
        encoder: with `slot_logits`, see TextEncoder.
        features: [P, L, Din], of pages first_page to first_page + P - 1.
        strips: all pages.
        first_page: of the features.

    Raises:
        InputError: the encoder reads no characters.
    """
    check_reads(encoder)
    bounds = np.searchsorted(strips.char_page, [first_page, first_page + len(features)])
    chars = slice(int(bounds[0]), int(bounds[1]))
    logits: Tensor = encoder.slot_logits(features).float()  # [P, L, S, classes]
    slots = logits.shape[2]
    left, right = strips.char_left[chars], strips.char_right[chars]
    centre = (left + right) // 2
    slot = np.minimum(centre % strips.style.patch * slots // strips.style.patch, slots - 1)
    place = [
        torch.from_numpy(at.astype(np.int64)).to(logits.device)
        for at in (strips.char_page[chars] - first_page, strips.char_patch[chars], slot)
    ]
    found = logits[place[0], place[1], place[2]]  # [C, classes]
    found[:, BLANK] = -torch.inf
    best = found.log_softmax(dim=-1).topk(min(TOP, found.shape[1] - 1), dim=-1)
    classes = best.indices.to(torch.uint8).numpy(force=True)
    classes[left == right, 0] = OTHER
    return Characters(classes=classes, log_probs=best.values.numpy(force=True))


def join_characters(parts: list[Characters]) -> Characters:
    """Characters of several runs of pages, in order."""
    return Characters(
        classes=np.concatenate([part.classes for part in parts]),
        log_probs=np.concatenate([part.log_probs for part in parts]),
    )
