"""Windows of head, context and tail, cut from documents: shuffled, sharded, and resumed exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.errors import InputError
from foveate.vist.train.data import DocumentSource

__all__ = ["Position", "Window", "WindowConfig", "WindowStream"]

Tokenise = Callable[[str], tuple[NDArray[np.int64], NDArray[np.int64]]]

# Between documents that are joined to fill a window.
SEPARATOR = "\n\n"
# Tokenised documents that streams of one process share while they walk through them together.
KEPT_DOCUMENTS = 4


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Shape and order of the windows.

    Args:
        context: C tokens that are rendered.
        tail: T raw tokens after them.
        join: fill a window with several short documents; otherwise they are left out.
        per_document: most windows of one document, drawn by lot; 0 is all of them.
        shuffle: windows that are put in random order together.
        split: how streams share the data: "documents" (each reads its own) or "windows" (each reads
            all and takes its share, for data of fewer documents than streams).
        seed: of all lots.
    """

    context: int
    tail: int
    join: bool = True
    per_document: int = 0
    shuffle: int = 256
    split: str = "documents"
    seed: int = 0

    @property
    def length(self) -> int:
        """Tokens of a window: one of the head, the context, the tail."""
        return 1 + self.context + self.tail


@dataclass(frozen=True, eq=False, kw_only=True)
class Window:
    """One training example before rendering.

    Attributes:
        ids: int64 [1 + C + T]: the head (attention sink), the context, the tail.
        text: of the context.
        offsets: int64 [C, 2], characters of each context token in `text`.
        key: tells windows apart by what they hold.
    """

    ids: NDArray[np.int64]
    text: str
    offsets: NDArray[np.int64]
    key: str


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a window comes from.

    Args:
        epoch: passes over the data before it.
        document: the first document of its group.
        window: its number within the group.
        ordinal: its number within the epoch (of the stream's documents).
    """

    epoch: int = 0
    document: int = 0
    window: int = 0
    ordinal: int = 0


class WindowStream:
    """One of several endless streams that share the data without overlap.

    Documents follow each other; each is cut into windows, side by side. `shuffle` windows at a time
    are put in random order. The order depends on the configuration and the number of streams, not
    on how many processes run them.

    Args:
        source: documents.
        tokenise: text -> (ids [T], character offsets [T, 2]), int64.
        config: see there.
        stream, num_streams: which one this is.
        tokenised: where streams of one process that all read the same documents share their tokens.

    Raises:
        InputError: (on reading) no document of this stream fills a window.
    """

    def __init__(
        self,
        source: DocumentSource,
        tokenise: Tokenise,
        config: WindowConfig,
        *,
        stream: int = 0,
        num_streams: int = 1,
        tokenised: dict[int, Any] | None = None,
    ) -> None:
        self.source, self.tokenise, self.config = source, tokenise, config
        self.stream, self.num_streams = stream, num_streams
        self._tokenised = tokenised if tokenised is not None else {}
        self._start = Position(document=self._first)
        self._block = 0
        self._taken = 0
        self._windows: Iterator[tuple[Position, Window]] | None = None
        self._held: list[Window] = []

    @property
    def _by_documents(self) -> bool:
        return self.config.split == "documents"

    @property
    def _first(self) -> int:
        return self.stream if self._by_documents else 0

    def state(self) -> dict[str, int]:
        """The exact position, JSON-ready."""
        return {**asdict(self._start), "block": self._block, "taken": self._taken}

    def load_state(self, state: dict[str, int]) -> None:
        """Continue where `state` was taken."""
        fields = dict(state)
        self._block, self._taken = fields.pop("block"), fields.pop("taken")
        self._start = Position(**fields)
        self._windows, self._held = None, []

    def __iter__(self) -> WindowStream:
        return self

    def __next__(self) -> Window:
        if self._windows is None:
            self._windows = self._read(self._start)
            self._fill()
        if self._taken == len(self._held):
            self._block += 1
            self._taken = 0
            self._fill()
        self._taken += 1
        return self._held[self._taken - 1]

    def _fill(self) -> None:
        assert self._windows is not None
        found: list[Window] = []
        for _ in range(max(1, self.config.shuffle)):
            position, window = next(self._windows)
            if not found:
                self._start = position
            found.append(window)
        order = np.random.default_rng((self.config.seed, self.stream, self._block))
        self._held = [found[i] for i in order.permutation(len(found))]

    def _read(self, start: Position) -> Iterator[tuple[Position, Window]]:
        """Windows from `start` on, epoch after epoch."""
        here = start
        step = self.num_streams if self._by_documents else 1
        while True:
            ordinal, skip = here.ordinal, here.window
            for begin, group in self._read_groups(here.document, step, here.epoch):
                for number in range(skip, len(group.starts)):
                    own = self._by_documents or ordinal % self.num_streams == self.stream
                    place = Position(
                        epoch=here.epoch, document=begin, window=number, ordinal=ordinal
                    )
                    ordinal += 1
                    if own:
                        yield place, group.window(number, self.config)
                skip = 0
            if ordinal <= (0 if self._by_documents else self.stream):
                raise InputError(
                    f"no document of stream {self.stream} of {self.num_streams} fills a window of "
                    f"{self.config.length} tokens (1 + context + tail); shorten data.context or "
                    "data.tail, give more text, or set data.split='windows' where there are fewer "
                    "documents than sequences in a batch."
                )
            here = Position(epoch=here.epoch + 1, document=self._first)

    def _read_groups(self, first: int, step: int, epoch: int) -> Iterator[tuple[int, _Group]]:
        """(first document, its group): documents joined until they fill a window."""
        separator = self.tokenise(SEPARATOR)
        texts: list[str] = []
        ids: list[NDArray[np.int64]] = []
        spans: list[NDArray[np.int64]] = []
        begin = length = count = 0
        for place, document in self.source.read(first, step):
            if not texts:
                begin = place
            for text, (found, offsets) in (
                *([(SEPARATOR, separator)] if texts else []),
                (document, self._tokens_of(place, document)),
            ):
                texts.append(text)
                ids.append(found)
                spans.append(offsets + length)
                length += len(text)
                count += len(found)
            if count < self.config.length and self.config.join:
                continue
            starts = np.arange(0, count - self.config.length + 1, self.config.length)
            if 0 < self.config.per_document < len(starts):
                lot = np.random.default_rng((self.config.seed, begin, epoch))
                starts = np.sort(lot.permutation(starts)[: self.config.per_document])
            parts = np.concatenate(ids), np.concatenate(spans)
            yield begin, _Group("".join(texts), *parts, starts)
            texts, ids, spans = [], [], []
            length = count = 0

    def _tokens_of(self, place: int, document: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of a document; streams that all read it share the work."""
        if self._by_documents:
            return self.tokenise(document)
        if place not in self._tokenised:
            self._tokenised[place] = self.tokenise(document)
            while len(self._tokenised) > KEPT_DOCUMENTS:
                self._tokenised.pop(next(iter(self._tokenised)))
        return self._tokenised[place]


@dataclass(frozen=True, eq=False)
class _Group:
    """Joined documents, their tokens, and where windows start."""

    text: str
    tokens: NDArray[np.int64]
    spans: NDArray[np.int64]
    starts: NDArray[np.int64]

    def window(self, number: int, config: WindowConfig) -> Window:
        at = int(self.starts[number])
        ids = self.tokens[at : at + config.length].copy()
        inner = self.spans[at + 1 : at + 1 + config.context]
        low, high = int(inner[:, 0].min()), int(inner[:, 1].max())
        shown = self.text[low:high]
        digest = hashlib.sha256(ids.tobytes() + shown.encode("utf-8", "surrogatepass"))
        return Window(ids=ids, text=shown, offsets=inner - low, key=digest.hexdigest()[:32])
