"""Questions that share no words with the place that answers them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

from foveate.tasks.passages import PlacedDocument, PlacedQuestion
from foveate.tasks.wordnet import WordNet, stem
from foveate.vist.fixation.lexical import words

__all__ = ["LEAST_WORDS", "masked", "of_meanings", "other_words"]

LEAST_WORDS = 2  # that tell something, in a question worth asking
_WORD = re.compile(r"[^\W_]+")


def masked(question: str, places: Iterable[str]) -> str | None:
    """A question without the words (or words of their root) that its places hold.

    Returns:
        None where fewer than LEAST_WORDS telling words are left.
    """
    held = _roots(places)
    left = _WORD.sub(lambda m: "" if stem(m.group()) in held else m.group(), question)
    return _worth_asking(left)


def other_words(question: str, places: Iterable[str], wordnet: WordNet) -> str | None:
    """A question whose shared words are replaced by others of the same meaning, or left out.

    Returns:
        None where no word could be replaced, or too few telling ones are left.
    """
    held = _roots(places)
    count = 0

    def instead(match: re.Match[str]) -> str:
        nonlocal count
        word = match.group()
        if stem(word) not in held:
            return word
        others = [w for w in wordnet.other_words(word) if not _roots([w]) & held]
        count += bool(others)
        return others[0] if others else ""

    left = _WORD.sub(instead, question)
    return _worth_asking(left) if count else None


def of_meanings(
    wordnet: WordNet, *, num_documents: int, size: int, seed: int = 0
) -> list[PlacedDocument]:
    """Documents of sentences that use a word; the question is what the word means.

    Args:
        wordnet: synsets to draw from.
        num_documents: made.
        size: sentences of a document.
        seed: of the draw.
    """
    synsets = [s for s in wordnet.synsets.values() if s.examples and len(s.gloss) > 20]
    random.Random(seed).shuffle(synsets)
    documents, at = [], 0
    for number in range(num_documents):
        text = ""
        questions: list[PlacedQuestion] = []
        while len(questions) < size and at < len(synsets):
            synset = synsets[at]
            at += 1
            sentence = synset.examples[0]
            sentence = sentence[0].upper() + sentence[1:] + ("" if sentence[-1] in ".!?" else ".")
            # Glosses quote their word at times; a question must not.
            question = masked(f"What means: {synset.gloss}?", [sentence])
            if question is None or len(sentence) < 20:
                continue
            text += "\n" if text else ""
            questions.append(
                PlacedQuestion(
                    question=question,
                    spans=((len(text), len(text) + len(sentence)),),
                    cluster=synset.key,
                    id=f"{number}-{synset.key}",
                )
            )
            text += sentence
        documents.append(PlacedDocument(text=text, questions=tuple(questions)))
    return [document for document in documents if document.questions]


def _roots(texts: Iterable[str]) -> set[str]:
    """Roots of the telling words of texts."""
    return {stem(word) for text in texts for word in words(text)}


def _worth_asking(text: str) -> str | None:
    text = re.sub(r"\s+", " ", text).strip()
    telling = [w for w in words(text) if len(w) > 2]
    return text if len(telling) >= LEAST_WORDS else None
