"""Questions for the retrieval evaluation: as people ask, reworded, of meanings, of keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from foveate.models.token_offsets import tokenise
from foveate.tasks.key_value import make_items
from foveate.tasks.passages import Passage, PlacedDocument, PlacedQuestion, place_passages
from foveate.tasks.wordnet import WordNet
from foveate.vist.eval.paraphrase import masked, of_meanings, other_words
from foveate.vist.eval.segment_scores import SegmentedText

__all__ = ["KINDS", "retrieval_sets"]

KINDS = {
    "asked": "reading questions as people asked them; most share words with their answer",
    "masked": "the same without every word whose root stands in a segment that holds the answer",
    "synonyms": "the same with those words replaced by others of the same meaning (WordNet, the "
    "half of its meanings that training did not see) and left out where it knows none",
    "meanings": "what a word means (WordNet's gloss, that half) -> the sentence that uses the word",
    "key-value": "who holds which value, named once in made-up prose",
}
SENTENCES = 100  # of a document of meanings


def retrieval_sets(
    passages: Sequence[Passage],
    tokenizer: Any,
    *,
    wordnet: WordNet | None = None,
    num_passages: int = 25,
    num_meanings: int = 3,
    num_pairs: int = 3,
    length: int = 512,
    seed: int = 0,
) -> dict[str, list[PlacedDocument]]:
    """Documents by kind (KINDS) that has a question; what needs WordNet only where it is given.

    Args:
        passages: with their questions; () leaves out the kinds made of them.
        tokenizer: of the language model, cuts segments.
        wordnet: of the half that training did not see.
        num_passages: of a document.
        num_meanings: documents of meanings.
        num_pairs: key-value items of each kind of value and depth; 0 is none.
        length: of their documents, in tokens.
        seed: of all draws.
    """
    sets: dict[str, list[PlacedDocument]] = {}
    if passages:
        placed = place_passages(passages, num_passages, seed=seed)
        sets["asked"] = placed
        sets["masked"] = [_reworded(d, tokenizer, masked) for d in placed]
        if wordnet is not None:
            known = wordnet
            sets["synonyms"] = [
                _reworded(d, tokenizer, lambda q, held: other_words(q, held, known)) for d in placed
            ]
    if wordnet is not None:
        sets["meanings"] = of_meanings(
            wordnet, num_documents=num_meanings, size=SENTENCES, seed=seed
        )
    if num_pairs:
        sets["key-value"] = _pairs(num_pairs, length, tokenizer, seed)
    return {kind: found for kind, found in sets.items() if any(d.questions for d in found)}


def _reworded(
    document: PlacedDocument,
    tokenizer: Any,
    change: Callable[[str, list[str]], str | None],
) -> PlacedDocument:
    """Questions changed in view of the segments that answer them; those worth asking."""
    text = SegmentedText.of(document.text, tokenizer)
    segments = text.texts
    kept = []
    for question in document.questions:
        changed = change(question.question, [segments[i] for i in text.holding(question.spans)])
        if changed is not None:
            kept.append(replace(question, question=changed))
    return replace(document, questions=tuple(kept))


def _pairs(count: int, length: int, tokenizer: Any, seed: int) -> list[PlacedDocument]:
    items = make_items(
        count, length=length, num_tokens=lambda text: len(tokenise(tokenizer, text).ids), seed=seed
    )
    documents = []
    for item in items:
        start = item.context.index(item.answer)
        question = PlacedQuestion(
            question=item.prompt.strip(),
            spans=((start, start + len(item.answer)),),
            cluster=item.id,
            id=item.id,
            answers=(item.answer,),
        )
        documents.append(PlacedDocument(text=item.context, questions=(question,)))
    return documents
