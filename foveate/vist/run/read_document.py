"""A document becomes a memory: drawn, encoded, read and resampled in parts of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.errors import InputError
from foveate.models.token_offsets import Tokens, token_of_char, tokenise
from foveate.text_image.render import Renderer, Strips
from foveate.vist.encoder.characters import (
    Characters,
    check_reads,
    join_characters,
    read_characters,
    reads_characters,
)
from foveate.vist.encoder.pictures import place_characters
from foveate.vist.encoder.token_reader import ReadTokens, TokenReader
from foveate.vist.fixation.index import entries_of_words, patches_of_segments
from foveate.vist.fixation.segments import segment_starts
from foveate.vist.latents.memory import UNREAD, Memory, concat
from foveate.vist.parts import VistParts
from foveate.vist.sizes import check_latents

PAGES_AT_A_TIME = 32
CHARS_AT_A_TIME = 32768
WHOLE_CHARS = 1 << 18  # up to here (some 60,000 tokens) a text is drawn and tokenised in one piece

TokensOf = Literal["source", "read"]


@dataclass(frozen=True, kw_only=True)
class DocumentParts:
    """What it takes to read a document.

    Args:
        encoder: see docs/vist.md for the interface.
        parts: trained parts.
        tokenizer: of the language model, a fast one.
        embed: its input embeddings of token ids.
        encoder_id, parts_id: written into the memory.
    """

    encoder: Any
    parts: VistParts
    tokenizer: Any
    embed: Callable[[Tensor], Tensor]
    encoder_id: str = ""
    parts_id: str = ""

    def __post_init__(self) -> None:
        if self.parts.is_pointed:
            check_reads(self.encoder)

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.parts.parameters()).device
        return device

    def encode(self, pixels: np.ndarray, patch_mask: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
        """Features [P, L, Din] and masks [P, L] of pages, some at a time."""
        for first in range(0, len(pixels), PAGES_AT_A_TIME):
            part = slice(first, first + PAGES_AT_A_TIME)
            mask = torch.from_numpy(patch_mask[part]).to(self.device)
            yield self.encoder(torch.from_numpy(pixels[part]).to(self.device), mask), mask


@torch.no_grad()
def read_document(
    text: str | Iterable[str],
    reader: DocumentParts,
    *,
    num_latents: int | None = None,
    tokens: TokensOf = "source",
) -> Memory:
    """Draw, encode, read and resample a document.

    A text of more than 262,144 characters is tokenised in parts of some dozen strips, and a token
    that lies across their border counts twice; shorter ones are counted exactly.

    Args:
        text: the document, or its pieces in order.
        reader: models.
        num_latents: per strip; None is the trained number.
        tokens: which the memory keeps for looking again: the source's, or those read from the
            pictures. Latents are always made of what was read.

    Raises:
        InputError: the text is empty, or fills more strips than config.max_pages; or the tokenizer
            gives no offsets, or the encoder reads no characters and they are asked for.
    """
    if tokens not in ("source", "read"):
        raise InputError(f"tokens={tokens!r} is unknown; use 'source' or 'read'.")
    if tokens == "read":
        check_reads(reader.encoder)
    check_latents(num_latents)
    pieces = _pieces([text] if isinstance(text, str) else text)
    renderer = Renderer(reader.encoder.style)
    most = reader.parts.config.max_pages
    if isinstance(text, str) and len(text) > WHOLE_CHARS:
        # Drawing is cheap, encoding is not: find out before.
        for strips in renderer.stream([text]):
            _check_pages(strips.first_page + len(strips), most)
    names = TokenReader(reader.tokenizer)
    memories = []
    for strips, drawn in _drawn(renderer, pieces):
        _check_pages(sum(memory.num_pages for memory in memories) + len(strips), most)
        pages = reader.encode(strips.pixels, strips.patch_mask)
        source = tokenise(reader.tokenizer, drawn)
        memories.append(_part(reader, names, strips, drawn, source, pages, num_latents, tokens))
    if not sum(memory.num_tokens for memory in memories):
        raise InputError("the text is empty; there is nothing to remember.")
    return concat(memories)


@torch.no_grad()
def read_pictures(
    pixels: np.ndarray,
    patch_mask: np.ndarray,
    reader: DocumentParts,
    *,
    num_latents: int | None = None,
) -> Memory:
    """Read a document of which there are only pictures.

    Args:
        pixels: uint8 [P, H, W], strips in the encoder's style, in reading order.
        patch_mask: bool [P, L], True = holds text.
        reader: models.
        num_latents: per strip; None is the trained number.

    Raises:
        InputError: the encoder reads no characters, or the pictures show none or are too many.
    """
    check_reads(reader.encoder)
    check_latents(num_latents)
    for name, value in (("pixels", pixels), ("patch_mask", patch_mask)):
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"read_pictures got {name} as a {type(value).__name__}; give a NumPy array."
            )
    if not len(pixels):
        raise InputError("read_pictures got no strips; give at least one.")
    _check_pages(len(pixels), reader.parts.config.max_pages)
    pages = list(reader.encode(pixels, patch_mask))
    strips, text, unread = place_characters(
        reader.encoder, [found for found, _ in pages], pixels, patch_mask
    )
    found = tokenise(reader.tokenizer, text)
    names = TokenReader(reader.tokenizer)
    memory = _part(reader, names, strips, text, found, iter(pages), num_latents, "read", unread)
    # Nobody knows what was drawn, so nobody can say what was misread.
    return replace(memory, misread=None)


def _part(
    reader: DocumentParts,
    names: TokenReader,
    strips: Strips,
    text: str,
    source: Tokens,
    pages: Iterable[tuple[Tensor, Tensor]],
    num_latents: int | None,
    tokens: TokensOf,
    unread: NDArray[np.bool_] | None = None,
) -> Memory:
    """The memory of some strips; `unread` are characters [C] that nobody can make out."""
    parts, device = reader.parts, reader.device
    characters: list[Characters] = []
    latents, masks, seen = [], [], []
    first = 0
    for features, mask in pages:
        if reads_characters(reader.encoder):
            characters.append(read_characters(reader.encoder, features, strips, first))
        if not parts.is_pointed:
            found, keep, _ = parts(features, mask, num_latents)
            latents.append(found)
            masks.append(keep)
        if parts.index is not None and tokens == "read":
            seen.append(features.flatten(0, 1))
        first += len(features)
    read: ReadTokens | None = None
    if characters:
        drawn = join_characters(characters)
        read = names.read(drawn if unread is None else drawn.without(unread), source.offsets)
    if parts.is_pointed:
        assert read is not None
        glances = parts.glances(strips, source.offsets, num_latents).to(device)
        readings = reader.embed(torch.from_numpy(read.ids).to(device)).float()
        found, keep = parts.fold(readings, glances)
        where = glances.positions
    else:
        found, keep = torch.cat(latents), torch.cat(masks)
        where = torch.from_numpy(
            parts.positions(
                token_of_char(source.offsets, len(text)), strips.char_page, strips.char_patch,
                strips.patch_mask, num_latents,
            )
        ).to(device)  # fmt: skip
    ids, shown = source.ids, text
    if tokens == "read":
        assert read is not None
        ids, shown = np.where(read.unreadable, UNREAD, read.ids), read.text
    starts = segment_starts(shown, source.offsets)
    index = None
    if parts.index is not None and len(starts) and tokens == "source":
        index = entries_of_words(parts.index, reader.embed, ids, starts, device)
    elif parts.index is not None and len(starts):
        patch, own = (
            torch.from_numpy(each).to(device)
            for each in patches_of_segments(strips, source.offsets, starts)
        )
        index = parts.index.of_pictures(torch.cat(seen)[patch], own, len(starts))
    return Memory(
        latents=found[keep],
        positions=where[keep],
        num_tokens=len(ids),
        num_pages=len(strips),
        encoder=reader.encoder_id,
        parts=reader.parts_id,
        tokens=torch.from_numpy(ids).to(device),
        segments=torch.from_numpy(starts).to(device),
        index=index,
        index_side="words" if tokens == "source" else "pictures",
        misread=None if read is None else int((read.ids != source.ids).sum()),
        unreadable=None if read is None else int(read.unreadable.sum()),
    )


def count_latents(text: str, encoder: Any, parts: VistParts, tokenizer: Any) -> int:
    """Latents that `read_document` would give for a text, by drawing it alone."""
    total = 0
    for strips, drawn in _drawn(Renderer(encoder.style), [text]):
        if parts.is_pointed:
            kept = parts.glances(strips, tokenise(tokenizer, drawn).offsets).mask
        else:
            kept = parts.resampler.latent_mask(torch.from_numpy(strips.patch_mask))
        total += int(kept.sum())
    return total


def _pieces(pieces: Iterable[str]) -> Iterator[str]:
    """The same, each known to be a text."""
    if not isinstance(pieces, Iterable):
        raise InputError(f"read got a {type(pieces).__name__}; give a text, or its pieces.")
    for piece in pieces:
        if not isinstance(piece, str):
            raise InputError(
                f"read got a {type(piece).__name__} in place of a text; give a text, or its pieces."
            )
        yield piece


def _check_pages(num_pages: int, max_pages: int) -> None:
    if num_pages > max_pages:
        raise InputError(
            f"the text fills more than the {max_pages:,} strips that this Vist reads (max_pages of "
            "its vist.json); shorten it, or read it in parts."
        )


def _drawn(renderer: Renderer, pieces: Iterable[str]) -> Iterator[tuple[Strips, str]]:
    """Strips with the characters they show."""
    rest = iter(pieces)
    waiting: list[str] = []
    size = 0
    for piece in rest:
        waiting.append(piece)
        size += len(piece)
        if size > WHOLE_CHARS:
            break
    else:
        text = "".join(waiting)
        if text:
            yield renderer.render(text), text
        return
    begun, waiting = waiting, []

    def remembered() -> Iterator[str]:
        for piece in chain(begun, rest):
            # In small cuts: what is waiting is copied with every part.
            for first in range(0, len(piece), CHARS_AT_A_TIME):
                waiting.append(piece[first : first + CHARS_AT_A_TIME])
                yield waiting[-1]

    for strips in renderer.stream(remembered()):
        text = "".join(waiting)
        count = len(strips.char_page)
        waiting[:] = [text[count:]]
        yield strips, text[:count]
