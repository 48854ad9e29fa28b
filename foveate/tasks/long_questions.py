"""Questions about short passages, and long documents made of the right one and others."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from foveate.errors import InputError
from foveate.jsonl_file import read_rows
from foveate.tasks.wording import content_words

__all__ = [
    "ArticleHalf",
    "PassageDocument",
    "PassageQuestion",
    "load_passage_questions",
    "make_documents",
    "reworded",
]

ArticleHalf = Literal["odd", "even", "all"]
_FIX = (
    'write lines such as {"title": "Warsaw", "passage": "Warsaw is ...", "question": "what is?", '
    '"answers": ["a city"]}.'
)


@dataclass(frozen=True, kw_only=True)
class PassageQuestion:
    """One question.

    Args:
        id: unique within the file.
        article: title of the article that its passage is from.
        passage: the text that holds the answer.
        question: as asked.
        answers: accepted ones.
    """

    id: str
    article: str
    passage: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PassageDocument:
    """A long text and what is asked about it.

    Args:
        passages: in order.
        questions: each about one of them.
    """

    passages: tuple[str, ...]
    questions: tuple[PassageQuestion, ...]

    @property
    def text(self) -> str:
        """One passage a paragraph."""
        return "\n\n".join(self.passages)


def load_passage_questions(path: str | Path) -> list[PassageQuestion]:
    """Read a JSONL file with `title`, `passage`, `question` and `answers`.

    Raises:
        InputError: a bad line, two questions of one id, or none at all.
    """
    file = Path(path)
    found: dict[str, PassageQuestion] = {}
    for row in read_rows(file, fix=_FIX):
        name = str(row.fields.get("id", row.number))
        if name in found:
            raise row.refused(f"the id {name!r} was there before")
        found[name] = PassageQuestion(
            id=name,
            article=row.text("title", can_be_blank=False),
            passage=" ".join(row.text("passage", can_be_blank=False).split()),
            question=" ".join(row.text("question", can_be_blank=False).split()),
            answers=row.texts("answers"),
        )
    if not found:
        raise InputError(f"{str(file)!r} holds no questions; {_FIX}")
    return list(found.values())


def reworded(questions: Sequence[PassageQuestion], path: str | Path) -> list[PassageQuestion]:
    """The questions in other words, which their passages do not hold; others are left out.

    Args:
        questions: in their own words.
        path: JSONL with `id` and `question`.

    Raises:
        InputError: a bad line, an id that no question has, or wording that shares a content word
            (`foveate.tasks.wording.content_words`) with its passage.
    """
    known = {question.id: question for question in questions}
    made = []
    for row in read_rows(Path(path), fix='write {"id": "...", "question": "..."}.'):
        name = row.text("id", can_be_blank=False)
        if name not in known:
            raise row.refused(f"no question has the id {name!r}")
        other = replace(known[name], question=row.text("question", can_be_blank=False))
        shared = content_words(other.question) & content_words(other.passage)
        if shared:
            raise row.refused(f"{', '.join(sorted(shared))} stand in the passage too")
        made.append(other)
    return made


def make_documents(
    questions: Sequence[PassageQuestion],
    *,
    tokens: int,
    num_tokens: Callable[[str], int],
    limit: int,
    half: ArticleHalf = "odd",
    fillers: Sequence[PassageQuestion] = (),
    seed: int = 0,
) -> list[PassageDocument]:
    """Documents of about `tokens` tokens, with questions about the articles of one half.

    A document takes a passage of every article before a second one of any, those with something to
    ask first; so up to as many passages as there are articles, a question's distractors are of
    other articles. Their order is drawn. It asks one question about each of its passages, and no
    passage is asked about twice before all were once. A higher limit adds documents.

    Args:
        questions: what is asked.
        tokens: longest text; a passage that does not fit is left for another document.
        num_tokens: counts the tokens of a text.
        limit: questions in all; the last document may exceed it, and there may be fewer.
        half: which articles are asked about, numbered from 0 in the order of `fillers`.
        fillers: whose passages fill the documents; () is `questions`.
        seed: of all draws.

    Raises:
        InputError: an unknown half, an argument below 1, nothing to ask, or nothing that fits.
    """
    if half not in get_args(ArticleHalf):
        raise InputError(f"unknown half {half!r} of the articles; use odd, even or all.")
    if tokens < 1 or limit < 1:
        raise InputError(f"tokens={tokens}, limit={limit}; use 1 or more.")
    generator = random.Random(f"documents {seed} {tokens}")
    pools: dict[str, list[str]] = {}
    for question in fillers or questions:
        pool = pools.setdefault(question.article, [])
        if question.passage not in pool:
            pool.append(question.passage)
    first, step = {"odd": (1, 2), "even": (0, 2), "all": (0, 1)}[half]
    asked = set(list(pools)[first::step])
    lengths = {p: num_tokens(f"{p}\n\n") for pool in pools.values() for p in pool}
    about: dict[str, list[PassageQuestion]] = {}
    for question in questions:
        if question.article in asked and lengths[question.passage] <= tokens:
            about.setdefault(question.passage, []).append(question)
    if not about:
        raise InputError(
            f"no passage of the {half} articles that is asked about fits {tokens} tokens; raise "
            "the length, or take all articles."
        )
    for pool in pools.values():
        generator.shuffle(pool)
    used: Counter[str] = Counter()
    documents: list[PassageDocument] = []
    left = limit
    for turn in range(max(map(len, about.values()))):
        waiting = {p: own[turn] for p, own in about.items() if len(own) > turn}
        while waiting and left > 0:
            taken = _passages(pools, lengths, waiting, used, tokens, generator)
            used.update(taken)
            now = tuple(waiting.pop(passage) for passage in taken if passage in waiting)
            documents.append(PassageDocument(passages=tuple(taken), questions=now))
            left -= len(now)
    return documents


def _passages(
    pools: Mapping[str, Sequence[str]],
    lengths: Mapping[str, int],
    waiting: Mapping[str, PassageQuestion],
    used: Counter[str],
    tokens: int,
    generator: random.Random,
) -> list[str]:
    """Passages of one document, in a drawn order."""
    room, taken = tokens, []
    own = {name: list(pool) for name, pool in pools.items()}
    while any(own.values()):
        names = [name for name in own if own[name]]
        generator.shuffle(names)
        # What can be asked about comes first, then what was in the fewest documents.
        ranks = {p: (p not in waiting, used[p]) for name in names for p in own[name]}
        for name in sorted(names, key=lambda name: min(ranks[p] for p in own[name])):
            own[name] = [p for p in own[name] if lengths[p] <= room]
            if own[name]:
                best = min(own[name], key=ranks.__getitem__)
                own[name].remove(best)
                taken.append(best)
                room -= lengths[best]
    generator.shuffle(taken)
    return taken
