"""Where held-out documents are cut: far context, raw window, the tokens that are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveate.errors import InputError, check_least
from foveate.tasks.documents import Document
from foveate.vist.eval.context import EncodedText, FarContext, Subject


@dataclass(frozen=True, kw_only=True)
class PerplexitySettings:
    """Where a document is cut.

    Args:
        contexts: far tokens, one table each; every length scores the same target tokens.
        window: raw tokens between the far context and the target. The protocol `near` has none,
            `far` 256.
        score: target tokens.
        windows: most targets a document.
        limit: most targets a domain; None is all.
        arms: from ARMS; () is all.
        own_head: the head of every row, in every arm, is the token before its far context, as in
            training; False is the subjects' own head.
        batch_size: rows at a time.
        seed: of the choice of documents, the shuffle, the random tokens and the bootstrap.
        resamples: bootstrap draws.
    """

    contexts: tuple[int, ...] = (512,)
    window: int = 0
    score: int = 96
    windows: int = 4
    limit: int | None = None
    arms: tuple[str, ...] = ()
    own_head: bool = True
    batch_size: int = 4
    seed: int = 0
    resamples: int = 2000

    def __post_init__(self) -> None:
        check_least(InputError, self, window=0, score=1, windows=1, batch_size=1, resamples=1)
        if not self.contexts or min(self.contexts) < 1:
            raise InputError(f"contexts={self.contexts}; give far lengths of at least 1 token.")
        if self.limit is not None and self.limit < 2:
            raise InputError(f"limit={self.limit} leaves nothing to shuffle with; use 2 or more.")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Tokens of a document that are scored, with what stands before them."""

    document: Document
    before: EncodedText  # a head token, the longest far context, the window
    ids: tuple[int, ...]

    def far(self, context: int, window: int) -> FarContext:
        """The `context` tokens before the window."""
        stop = len(self.before) - window
        return FarContext(source=self.before.cut(stop - context, stop))

    def head(self, context: int, window: int) -> tuple[int, ...]:
        """The token before that far context."""
        return (self.before.ids[len(self.before) - window - context - 1],)

    def window(self, size: int) -> tuple[int, ...]:
        """The last `size` tokens before the target."""
        return self.before.ids[len(self.before) - size :]


def choose_targets(
    documents: Sequence[Document], subject: Subject, settings: PerplexitySettings
) -> list[Target]:
    """Targets at even distances in each document, documents in a seeded order, domain by domain.

    Raises:
        InputError: no document is long enough.
    """
    need = 1 + max(settings.contexts) + settings.window
    targets, longest = [], 0
    generator = np.random.default_rng(settings.seed)
    for domain in dict.fromkeys(document.domain for document in documents):
        own = [document for document in documents if document.domain == domain]
        found: list[Target] = []
        for i in generator.permutation(len(own)).tolist():
            if settings.limit is not None and len(found) >= settings.limit:
                break
            text = subject.encode(own[i].text)
            longest = max(longest, len(text))
            found += _targets_of(own[i], text, need, settings)
        targets += found[: settings.limit]
    if not targets:
        raise InputError(
            f"no document has the {need + settings.score} tokens that a target with its context "
            f"needs (the longest has {longest}); shorten --context or give longer documents."
        )
    return targets


def _targets_of(
    document: Document, text: EncodedText, need: int, settings: PerplexitySettings
) -> list[Target]:
    room = len(text) - need - settings.score
    if room < 0:
        return []
    count = min(settings.windows, 1 + room // settings.score)
    # The first target has just enough before it, the last one ends the document.
    places = np.linspace(need, need + room, count).astype(int).tolist() if count > 1 else [need]
    return [
        Target(
            document=document,
            before=text.cut(at - need, at),
            ids=text.ids[at : at + settings.score],
        )
        for at in places
    ]
