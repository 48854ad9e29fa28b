"""Training strips for the text encoder: crops of a corpus and exact strings, drawn by number."""

from __future__ import annotations

import bisect
import itertools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from foveate.errors import InputError
from foveate.jsonl_file import read_rows
from foveate.models.token_offsets import Tokens
from foveate.text_image.render import Renderer
from foveate.text_image.strip_style import StripStyle
from foveate.vist.encoder.labels import character_targets, token_targets
from training.text_encoder.exact_strings import exact_strings

__all__ = ["Document", "ReaderBatch", "ReaderData", "read_documents", "typeset"]

# A strip of 3584 px at 10 px holds some 700 characters, 1200 if they are narrow.
_CROP = 1200
_BEFORE = 100  # characters to start tokenising at, so that words are cut as in the whole document


@dataclass(frozen=True)
class Document:
    """A text and the domain it counts for."""

    text: str
    domain: str


@dataclass(frozen=True)
class ReaderBatch:
    """Strips and what stands in them.

    Attributes:
        pixels: uint8 [P, H, W].
        patch_mask: bool [P, L].
        characters: int64 [P, L, S], classes.
        tokens: int64 [P, L, 2], last and second-last token ending in a patch; -1 = none.
        texts: the text of every strip.
    """

    pixels: torch.Tensor
    patch_mask: torch.Tensor
    characters: torch.Tensor
    tokens: torch.Tensor
    texts: tuple[str, ...]


def read_documents(files: Sequence[Path]) -> list[Document]:
    """Read JSONL files ({"text": ..., "domain": ...} a line) and plain text files (one document).

    Raises:
        InputError: if a file is missing, a line lacks its text, or there is no text at all.
    """
    documents = []
    for file in files:
        if not file.is_file():
            raise InputError(f"{file} is no file; give JSONL or plain text files.")
        if file.suffix != ".jsonl":
            documents.append(Document(file.read_text(encoding="utf-8"), file.stem))
            continue
        for row in read_rows(file, fix='write {"text": "...", "domain": "..."}.'):
            documents.append(Document(row.text("text"), str(row.fields.get("domain", file.stem))))
    documents = [document for document in documents if document.text]
    if not documents:
        raise InputError("the files hold no text; give at least one document.")
    return documents


def typeset(text: str) -> str:
    """Return a text with a printer's quotes, dashes and ellipses in place of a typewriter's."""
    text = re.sub(r"(?<![^\s([])\"", "\N{LEFT DOUBLE QUOTATION MARK}", text)
    text = text.replace('"', "\N{RIGHT DOUBLE QUOTATION MARK}")
    text = re.sub(r"(?<![^\s([])'", "\N{LEFT SINGLE QUOTATION MARK}", text)
    text = text.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}")
    text = re.sub(r" ?---? ?", "\N{EM DASH}", text).replace(" - ", " \N{EN DASH} ")
    text = re.sub(r"(?<=\d)-(?=\d)", "\N{EN DASH}", text)
    return text.replace("...", "\N{HORIZONTAL ELLIPSIS}")


class ReaderData:
    """Draw training batches by number: the same number gives the same batch.

    Args:
        documents: the corpus; a crop starts at any of its characters with the same chance.
        tokenise: a text to its tokens.
        seed: of everything drawn.
        exact_share: share of strips with random exact strings.
        typeset_share: share of strips of the corpus with typographic quotes and dashes.
        short_share: share of strips that are cut short, so that patches after the text are blank.
        tab_share: share of strips of the corpus indented by tabs instead of four spaces.
        style: how to render; one line per strip.
    """

    def __init__(
        self,
        documents: Sequence[Document],
        tokenise: Callable[[str], Tokens],
        *,
        seed: int = 0,
        slots: int = 7,
        exact_share: float = 0.15,
        typeset_share: float = 0.15,
        short_share: float = 0.08,
        tab_share: float = 0.0,
        style: StripStyle | None = None,
    ) -> None:
        self.texts = [document.text for document in documents]
        self.ends = list(itertools.accumulate(len(text) for text in self.texts))
        self.tokenise, self.seed, self.slots = tokenise, seed, slots
        self.exact_share, self.short_share = exact_share, short_share
        self.typeset_share, self.tab_share = typeset_share, tab_share
        self.renderer = Renderer(style or StripStyle())

    def batch(self, number: int, size: int) -> ReaderBatch:
        """Return batch `number` of `size` strips."""
        rows = [self._draw(random.Random(f"{self.seed}/{number}/{i}")) for i in range(size)]
        return stack(rows)

    def _draw(self, rng: random.Random) -> ReaderBatch:
        if rng.random() < self.exact_share:
            text, begin = exact_strings(rng, _CROP), 0
        else:
            place = rng.randrange(self.ends[-1])
            which = bisect.bisect_right(self.ends, place)
            whole = self.texts[which]
            start = place - self.ends[which] + len(whole)
            begin = min(_BEFORE, start)
            before, text = whole[start - begin : start], whole[start : start + _CROP]
            if rng.random() < self.typeset_share:
                before, text = typeset(before), typeset(text)
            if self.tab_share and rng.random() < self.tab_share:
                text = text.replace(" " * 4, "\t")
            text, begin = before + text, len(before)
        if rng.random() < self.short_share:
            text = text[: begin + rng.randint(1, 700)]
        return self.first_strip(text, begin)

    def first_strip(self, text: str, begin: int = 0) -> ReaderBatch:
        """Return the strip that text[begin:] starts with; tokens that start before are left out."""
        strips = self.renderer.render(text[begin:])
        stop = strips.char_range(0)[1]
        ids, offsets = self.tokenise(text)
        places = offsets - begin
        inside = (places[:, 0] >= 0) & (places[:, 0] < places[:, 1]) & (places[:, 1] <= stop)
        tokens = token_targets(strips, ids[inside].tolist(), places[inside].tolist())
        characters = character_targets(strips, text[begin:], self.slots)
        return ReaderBatch(
            pixels=torch.from_numpy(np.array(strips.pixels[:1])),
            patch_mask=torch.from_numpy(np.array(strips.patch_mask[:1])),
            characters=torch.from_numpy(characters[:1]),
            tokens=torch.from_numpy(tokens[:1]),
            texts=(text[begin : begin + stop],),
        )


def stack(rows: Sequence[ReaderBatch]) -> ReaderBatch:
    """Join batches into one."""
    return ReaderBatch(
        pixels=torch.cat([row.pixels for row in rows]),
        patch_mask=torch.cat([row.patch_mask for row in rows]),
        characters=torch.cat([row.characters for row in rows]),
        tokens=torch.cat([row.tokens for row in rows]),
        texts=tuple(text for row in rows for text in row.texts),
    )
