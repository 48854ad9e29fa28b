"""Where a question points by the index: entries of segments against the question's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from foveate.errors import InputError
from foveate.text_image.strips import Strips
from foveate.vist.latents.index_head import IndexHead
from foveate.vist.latents.memory import Memory

__all__ = [
    "above_middle",
    "entries_of_words",
    "index_scores",
    "patches_of_segments",
    "state_scores",
]

TEMPERATURE = 0.1  # of cosines of standardised states; makes them nats about as large as BM25's


def index_scores(memory: Memory, head: IndexHead, question: Tensor) -> Tensor:
    """What speaks for each segment's being meant by a question: [S] float32, at least 0, in nats.

    Cosines over the temperature are the log-likelihoods that InfoNCE trained, up to a constant;
    what a segment has above the document's middle one is left of them. One whose picture shows
    nothing gets 0.

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
        return above_middle(logits, (entries == 0).all(dim=1))


def state_scores(entries: Tensor, asked: Tensor) -> Tensor:
    """What speaks for each segment's being meant by a question, as `index_scores`: [S] float32.

    Every direction counts by how much the document's segments differ in it: a few of a state's
    numbers are large whatever the text says.

    Args:
        entries: [S, hidden_size], see `foveate.vist.forms.state_index`; zeros say nothing.
        asked: [hidden_size], the question's.

    Raises:
        InputError: the two are of different widths.
    """
    if entries.shape[1] != len(asked):
        raise InputError(
            f"the memory's index has width {entries.shape[1]} and this model's states have "
            f"{len(asked)}; read the document again."
        )
    entries, asked = entries.float(), asked.float().to(entries.device)
    blank = (entries == 0).all(dim=1)
    told = entries[~blank]
    if len(told) < 2:  # nothing to tell apart
        return entries.new_zeros(len(entries))
    centre, spread = told.mean(dim=0), told.std(dim=0).clamp_min(1e-6)
    rows = F.normalize((entries - centre) / spread, dim=1)
    cosines = rows @ F.normalize((asked - centre) / spread, dim=0)
    return above_middle(cosines / TEMPERATURE, blank)


def above_middle(logits: Tensor, blank: Tensor | None = None) -> Tensor:
    """What each of [..., S] has above the median of those that are not blank, at least 0.

    Args:
        logits: [..., S].
        blank: bool [S], True = says nothing and gets 0.
    """
    if blank is not None and bool(blank.all()):
        return torch.zeros_like(logits)
    told = logits if blank is None else logits[..., ~blank]
    above = (logits - told.quantile(0.5, dim=-1, keepdim=True)).clamp_min(0)
    return above if blank is None else above.masked_fill(blank, 0.0)


def entries_of_words(
    head: IndexHead,
    embed: Callable[[Tensor], Tensor],
    ids: NDArray[np.integer],
    starts: NDArray[np.integer],
    device: torch.device,
) -> Tensor:
    """Entries [S, E] of a text's segments by their own tokens.

    Args:
        head: of the index.
        embed: input embeddings of token ids.
        ids: int [T].
        starts: int [S], first token of each segment, from 0.
        device: of the entries.
    """
    own = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(ids))))
    kinds, take = np.unique(ids, return_inverse=True)
    table = embed(torch.from_numpy(kinds).to(device)).float()
    segment, rows = (torch.from_numpy(each).to(device) for each in (own, take.reshape(-1)))
    return head.of_words(table, segment, len(starts), rows)


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
