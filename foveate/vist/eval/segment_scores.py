"""Ways to score a document's segments for a question: the index, and its rivals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer
from foveate.vist.fixation.choose import join_scores
from foveate.vist.fixation.index import above_middle, patches_of_segments
from foveate.vist.fixation.lexical import Bm25
from foveate.vist.fixation.segments import segment_starts
from foveate.vist.latents.index_head import IndexHead

__all__ = ["SCORERS", "Scorers", "SegmentedText", "standard"]

SCORERS = {
    "random": "segments in a random order",
    "bm25": "words in common (needs the text)",
    "embeddings": "mean input embeddings of segment and question, centred (the paper's text side, "
    "untrained; needs the text)",
    "states": "mean states of a middle layer of the language model, each segment and question run "
    "through it, standardised over the document's segments and questions (needs the text)",
    "index-words": "the head's words' side on both the question and the segment (needs the text)",
    "index": "CLS of the segment's picture against the question's words",
    "bm25+index-words": "bm25 and index-words as fixation joins them where it has the text",
    "bm25+index": "bm25 and index as fixation joins them where the text is read off the pictures "
    "(here of the text itself)",
}
JOINED = {"bm25+index-words": "index-words", "bm25+index": "index-pictures"}
ROWS_AT_A_TIME = 16
PAGES_AT_A_TIME = 16


@dataclass(frozen=True, kw_only=True)
class SegmentedText:
    """A document cut into segments.

    Args:
        text: of it.
        ids, offsets: of its tokens.
        starts: first token of each segment.
    """

    text: str
    ids: NDArray[np.int64] = field(repr=False)
    offsets: NDArray[np.int64] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, text: str, tokenizer: Any) -> SegmentedText:
        """Cut as `Vist.read` does."""
        ids, offsets = tokenise(tokenizer, text)
        return cls(text=text, ids=ids, offsets=offsets, starts=segment_starts(text, offsets))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def chars(self) -> list[tuple[int, int]]:
        """First character of each segment and the one after its last."""
        begins = [int(c) for c in self.offsets[self.starts, 0]]
        return list(zip(begins, [*begins[1:], len(self.text)], strict=True))

    @property
    def texts(self) -> list[str]:
        return [self.text[a:b] for a, b in self.chars]

    @property
    def rows(self) -> list[list[int]]:
        """Token ids of each segment."""
        stops = np.append(self.starts, len(self.ids))[1:]
        return [self.ids[a:b].tolist() for a, b in zip(self.starts, stops, strict=True)]

    def holding(self, spans: Sequence[tuple[int, int]]) -> list[int]:
        """Segments that hold a character of any of the spans."""
        return [
            i
            for i, (a, b) in enumerate(self.chars)
            if any(start < b and stop > a for start, stop in spans)
        ]


class Scorers:
    """Scores of documents' segments, by name.

    Args:
        model, tokenizer, encoder: of a Vist.
        heads: index heads by name; "" is the Vist's own, others are controls ("index-NAME").
        layer: of the mean states.
        seed: of the random order.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        encoder: Any,
        heads: Mapping[str, IndexHead],
        *,
        layer: int = 15,
        seed: int = 0,
    ) -> None:
        self.model, self.tokenizer, self.encoder = model, tokenizer, encoder
        self.heads = dict(heads)
        self.layer = layer
        self._states_of: dict[str, Tensor] = {}  # documents are asked in several kinds of words
        self._lot = np.random.default_rng(seed)
        self._table = model.get_input_embeddings().weight.detach().float()

    @property
    def names(self) -> tuple[str, ...]:
        """All scorers there are."""
        controls = [f"index-{name}" for name in self.heads if name]
        own = [n for n in SCORERS if "index" not in n or "" in self.heads]
        return (*own, *controls)

    @torch.no_grad()
    def scores(
        self, document: SegmentedText, questions: Sequence[str], names: Sequence[str]
    ) -> dict[str, NDArray[np.float64]]:
        """name -> [Q, S], higher is better."""
        asked = [tokenise(self.tokenizer, q).ids.tolist() for q in questions]
        made: dict[str, NDArray[np.float64]] = {}
        ways: dict[str, Callable[[], Any]] = {
            "random": lambda: self._lot.random((len(questions), len(document))),
            "bm25": lambda: self._bm25(document, questions),
            "embeddings": lambda: _alike(self._means(asked), self._means(document.rows)),
            "states": lambda: _alike(
                standard(self._states(asked)), standard(self._states_of_segments(document))
            ),
            "index-words": lambda: (
                self._words(self.heads[""], asked) @ self._words(self.heads[""], document.rows).T
            ),
        }
        entries = self._entries(document)
        for name, head in self.heads.items():
            own = f"index-{name}" if name else "index"
            ways[own] = partial(_alike, self._words(head, asked), entries[name])
        for name in names:
            if name in ways:
                made[name] = np.asarray(ways[name](), dtype=np.float64)
        for name, side in JOINED.items():
            if name in names:
                lexical, cosines = (
                    made[n] if n in made else np.asarray(ways[n](), dtype=np.float64)
                    for n in ("bm25", name.removeprefix("bm25+"))
                )
                told = above_middle(
                    torch.from_numpy(cosines) / self.heads[""].config.temperature
                ).numpy()
                made[name] = np.stack([
                    join_scores({"words": words, side: meant})
                    for words, meant in zip(lexical, told, strict=True)
                ])  # fmt: skip
        return {name: made[name] for name in names}

    def _bm25(self, document: SegmentedText, questions: Sequence[str]) -> NDArray[np.float64]:
        bm25 = Bm25(document.texts)
        return np.stack([bm25.scores(question) for question in questions])

    def _means(self, rows: Sequence[Sequence[int]]) -> Tensor:
        means = torch.stack([self._table[torch.tensor(row)].mean(dim=0) for row in rows])
        return means - self._table.mean(dim=0)

    def _words(self, head: IndexHead, rows: Sequence[Sequence[int]]) -> Tensor:
        ids = torch.tensor([i for row in rows for i in row])
        own = torch.repeat_interleave(
            torch.arange(len(rows)), torch.tensor([len(row) for row in rows])
        )
        return head.of_words(self._table[ids], own, len(rows))

    def _entries(self, document: SegmentedText) -> dict[str, Tensor]:
        """Entries of a document's segments by every head, from pictures."""
        if not self.heads:
            return {}
        strips = Renderer(self.encoder.style).render(document.text)
        patch, segment = patches_of_segments(strips, document.offsets, document.starts)
        pages = [
            self.encoder(
                torch.from_numpy(strips.pixels[i : i + PAGES_AT_A_TIME]),
                torch.from_numpy(strips.patch_mask[i : i + PAGES_AT_A_TIME]),
            )
            for i in range(0, len(strips), PAGES_AT_A_TIME)
        ]
        features = torch.cat(pages).flatten(0, 1)[torch.from_numpy(patch)]
        own = torch.from_numpy(segment)
        return {n: h.of_pictures(features, own, len(document)) for n, h in self.heads.items()}

    def _states_of_segments(self, document: SegmentedText) -> Tensor:
        if document.text not in self._states_of:
            self._states_of[document.text] = self._states(document.rows)
        return self._states_of[document.text]

    def _states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean states at the input of a layer, [R, hidden], each row run by itself."""
        found: list[Tensor] = [torch.empty(0)] * len(rows)
        begin = self.tokenizer.bos_token_id
        begin = self.model.config.bos_token_id if begin is None else begin
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for at in range(0, len(order), ROWS_AT_A_TIME):
            part = order[at : at + ROWS_AT_A_TIME]
            longest = max(len(rows[i]) for i in part)
            ids = torch.full((len(part), longest + 1), begin)
            mask = torch.zeros_like(ids)
            for place, i in enumerate(part):
                ids[place, 1 : len(rows[i]) + 1] = torch.tensor(rows[i])
                mask[place, : len(rows[i]) + 1] = 1
            with torch.autocast("cpu", torch.bfloat16):
                states = self._up_to_layer(ids, mask)
            mask[:, 0] = 0  # the first state is the attention sink's
            total = (states * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True)
            for place, i in enumerate(part):
                found[i] = total[place]
        return torch.stack(found)

    def _up_to_layer(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Inputs of layer `self.layer`, the layers above it left out."""
        base = self.model.get_decoder()
        layers = base.layers
        seen: list[Tensor] = []

        def stop(module: Any, args: Any, kwargs: Any) -> None:
            seen.append(args[0] if args else kwargs["hidden_states"])
            raise _ReachedError

        hook = layers[self.layer].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            base(input_ids=ids, attention_mask=mask, use_cache=False)
        except _ReachedError:
            return seen[0].float()
        finally:
            hook.remove()
        raise AssertionError("the layer did not run")


class _ReachedError(Exception):
    """The layer that was asked for has its input."""


def _alike(questions: Tensor, segments: Tensor) -> Tensor:
    """Cosines, [Q, S]."""
    return F.normalize(questions, dim=-1) @ F.normalize(segments, dim=-1).T


def standard(rows: Tensor) -> Tensor:
    """Each column with mean 0 and deviation 1 over the rows; one row alone is only centred."""
    spread = rows.std(dim=0, unbiased=False) if len(rows) > 1 else torch.ones(rows.shape[1])
    return (rows - rows.mean(dim=0)) / spread.clamp_min(1e-6)
