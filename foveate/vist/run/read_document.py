"""A document becomes a memory: drawn, encoded and resampled in parts of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch

from foveate.errors import InputError
from foveate.models.token_offsets import token_of_char, tokenise
from foveate.text_image.render import Renderer, Strips
from foveate.vist.fixation.segments import segment_starts
from foveate.vist.latents.memory import Memory
from foveate.vist.parts import VistParts

PAGES_AT_A_TIME = 32
CHARS_AT_A_TIME = 32768
WHOLE_CHARS = 1 << 18  # up to here (some 60,000 tokens) a text is drawn and tokenised in one piece


@torch.no_grad()
def read_document(
    text: str | Iterable[str],
    encoder: Any,
    parts: VistParts,
    tokenizer: Any,
    *,
    num_latents: int | None = None,
    encoder_id: str = "",
    parts_id: str = "",
) -> Memory:
    """Draw, encode and resample a document.

    A text of more than 262,144 characters is tokenised in parts of some dozen strips, and a token
    that lies across their border counts twice; shorter ones are counted exactly.

    Args:
        text: the document, or its pieces in order.
        encoder: see docs/vist.md for the interface.
        parts: trained parts.
        tokenizer: of the language model, a fast one.
        num_latents: per strip; None is the trained number.
        encoder_id, parts_id: written into the memory.

    Raises:
        InputError: the text is empty, or fills more strips than config.max_pages; or the tokenizer
            gives no offsets.
    """
    device = next(parts.parameters()).device
    latents, positions, num_tokens, num_pages = [], [], 0, 0
    tokens, segments = [], []
    pieces = [text] if isinstance(text, str) else text
    renderer = Renderer(encoder.style)
    if isinstance(text, str) and len(text) > WHOLE_CHARS:
        # Drawing is cheap, encoding is not: find out before.
        for strips in renderer.stream(pieces):
            _check_pages(strips.first_page + len(strips), parts.config.max_pages)
    for strips, drawn in _drawn(renderer, pieces):
        num_pages += len(strips)
        _check_pages(num_pages, parts.config.max_pages)
        ids, offsets = tokenise(tokenizer, drawn)
        tokens.append(torch.from_numpy(ids))
        segments.append(torch.from_numpy(segment_starts(drawn, offsets)) + num_tokens)
        glances = parts.glances(strips, offsets, num_latents) if parts.is_pointed else None
        where = (
            glances.positions
            if glances is not None
            else torch.from_numpy(
                parts.positions(
                    token_of_char(offsets, len(drawn)), strips.char_page, strips.char_patch,
                    strips.patch_mask, num_latents,
                )
            )
        )  # fmt: skip
        for first in range(0, len(strips), PAGES_AT_A_TIME):
            part = slice(first, first + PAGES_AT_A_TIME)
            pixels = torch.from_numpy(strips.pixels[part]).to(device)
            mask = torch.from_numpy(strips.patch_mask[part]).to(device)
            look = glances[part].to(device) if glances is not None else None
            found, keep, _ = parts(encoder(pixels, mask), mask, num_latents, look)
            latents.append(found[keep])
            positions.append(where[part].to(device)[keep] + num_tokens)
        num_tokens += len(offsets)
    if not num_tokens:
        raise InputError("the text is empty; there is nothing to remember.")
    return Memory(
        latents=torch.cat(latents),
        positions=torch.cat(positions),
        num_tokens=num_tokens,
        num_pages=num_pages,
        encoder=encoder_id,
        parts=parts_id,
        tokens=torch.cat(tokens).to(device),
        segments=torch.cat(segments).to(device),
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


def _check_pages(num_pages: int, max_pages: int) -> None:
    if num_pages > max_pages:
        raise InputError(
            f"the text fills more than max_pages={max_pages} strips; shorten it, read it in parts "
            "(memory.concat joins them), or raise VistConfig.max_pages."
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
