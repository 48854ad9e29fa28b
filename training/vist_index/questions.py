"""Documents with questions about places in them, out of dictionaries, descriptions and prose.

    python -m training.vist_index.questions --wordnet DIR --dictd DIR --descriptions FILE \\
        --prose corpus.jsonl --held-out xquad.txt --out questions.jsonl

A line is {"text", "questions": [{"question", "start", "stop", "kind"}]}: characters start..stop-1
hold what the question asks for. Kinds: "term" (what a thing is called -> what it is; the term
itself is cut from the text in half of them), "next" (a sentence -> the sentence after it) and
"cloze" (a sentence turned into a question: some of its words, one of them replaced by what, who,
when or how many, and a third by other words of the same meaning from WordNet).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from foveate.tasks.wordnet import WordNet
from foveate.vist.fixation.lexical import STOP_WORDS

__all__ = ["Entry", "as_question", "main"]

Entry = tuple[str, str]  # a term and what it is; "" for prose

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z0-9])")
_GRAM = 12
_ASKS = ("What is {}?", "What is a {}?", "{}", "What does {} mean?", "Define {}.", "{}?",
         "What are {}?", "Explain {}.", "Where is {} described?")  # fmt: skip


def dictionary(file: Path) -> Iterator[Entry]:
    """Terms and texts of a dictd file: terms start their line, texts are indented."""
    text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
    for block in re.split(r"\n(?=\S)", text):
        head, _, body = block.partition("\n")
        term = re.split(r"[\\<(,;]", head)[0].strip()
        body = re.sub(r"\[[^\]]{0,60}\]|[{}]", "", body)
        body = re.sub(r"^\s*<[^>]*>|\s--[A-Z][\w. ]+\.|\(\d{4}-\d\d-\d\d\)", "", body)
        body = re.sub(r"\s+", " ", re.sub(r"(?m)^\s*\d+\. ", "", body)).strip()
        if 2 < len(term) < 40 and 40 < len(body) < 3000 and term[0].isalnum():
            yield term, body


def descriptions(file: Path) -> Iterator[Entry]:
    """Short and long descriptions of Debian's Translation-en, plain or lz4."""
    for block in file.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        found = re.search(r"Description-en: (.*)\n((?: .*\n?)+)", block)
        if found:
            body = re.sub(r"\s+", " ", found[2].replace("\n .\n", " ")).strip()
            if 60 < len(body) < 2500:
                yield found[1].strip(), body


def sentences(text: str) -> list[str]:
    return [s.strip() for s in _SENTENCE.split(text) if len(s.strip()) > 15]


def as_question(sentence: str, words: WordNet, lot: random.Random) -> str | None:
    """A sentence as a question about it; None where it says too little."""
    pieces = re.findall(r"[A-Za-z0-9][\w'.,%-]*[\w%]|[A-Za-z0-9]", sentence)
    content = [i for i, w in enumerate(pieces) if w.lower() not in STOP_WORDS and len(w) > 2]
    if len(content) < 4:
        return None
    asked = lot.choice(content)
    answer = pieces[asked]
    if answer[0].isdigit():
        ask = lot.choice(("When", "How many", "What", "In what year", "How much"))
    elif answer[0].isupper() and asked:
        ask = lot.choice(("Who", "What", "Where", "Which", "Who", "What"))
    else:
        ask = lot.choice(("What", "What", "Which", "How", "Why"))
    keep = lot.uniform(0.3, 0.9)
    reach = lot.choice((4, 6, 9, 20))  # a question is about a part of its sentence
    said = []
    for i, word in enumerate(pieces):
        if i == asked or abs(i - asked) > reach:
            continue
        is_content = i in content
        if lot.random() > (keep if is_content else 0.6):
            continue
        if is_content and lot.random() < 0.35 and (others := words.other_words(word)):
            word = lot.choice(others)
        said.append(word if word[0].isupper() and i else word.lower())
    if not any(w.lower() not in STOP_WORDS for w in said):
        return None
    turn = lot.choice((0, 0, len(said) // 2))
    return " ".join([ask, *said[turn:], *said[:turn]]) + "?"


class Builder:
    """One document at a time: text grows, questions know their places."""

    def __init__(self) -> None:
        self.text = ""
        self.questions: list[dict[str, Any]] = []

    def add(self, piece: str, joint: str) -> tuple[int, int]:
        self.text += joint if self.text else ""
        start = len(self.text)
        self.text += piece
        return start, len(self.text)

    def ask(self, question: str | None, place: tuple[int, int], kind: str) -> None:
        if question:
            self.questions.append(
                {"question": question, "start": place[0], "stop": place[1], "kind": kind}
            )


def document(entries: Sequence[Entry], words: WordNet, lot: random.Random) -> dict[str, Any]:
    """Entries one after the other, with questions about their sentences."""
    made = Builder()
    joint = lot.choice(("\n", "\n\n", " "))
    for term, body in entries:
        named = lot.random() < 0.5
        lines = sentences(body)[:6]
        if not lines:
            continue
        if term and named:
            sign = lot.choice((": ", " - ", ". ", " is "))
            lines[0] = term + sign + lines[0]
        first: tuple[int, int] | None = None
        for number, line in enumerate(lines):
            place = made.add(line, joint if number == 0 else " ")
            first = first or place
            made.ask(as_question(line, words, lot), place, "cloze")
            if number and lot.random() < 0.15:
                made.ask(lines[number - 1], place, "next")
        if term and first:
            made.ask(lot.choice(_ASKS).format(term), first, "term")
    return {"text": made.text, "questions": made.questions}


def glosses(words: WordNet) -> list[list[Entry]]:
    """Meanings group by group: neighbours are about alike things."""
    groups: dict[str, list[Entry]] = {}
    for synset in words.synsets.values():
        if 20 < len(synset.gloss) < 220:
            text = synset.gloss[0].upper() + synset.gloss[1:] + "."
            groups.setdefault(synset.group, []).append((synset.words[-1], text))
            for example in synset.examples:
                groups[synset.group].append((synset.words[0], example[0].upper() + example[1:]))
    return list(groups.values())


def prose(file: Path, barred: frozenset[int]) -> Iterator[list[Entry]]:
    """Documents of a corpus as runs of paragraphs without terms."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            paragraphs = json.loads(line)["text"].split("\n\n")
            kept = [
                re.sub(r"\s+", " ", p).strip()
                for p in paragraphs
                if 80 < len(p) < 3000 and sum(c.isalpha() or c == " " for c in p) > 0.85 * len(p)
            ]
            kept = [p for p in kept if not barred.intersection(_grams(p))]
            for at in range(0, len(kept), 8):
                yield [("", p) for p in kept[at : at + 8]]


def _grams(text: str) -> Iterator[int]:
    words = re.findall(r"\w+", text.lower())
    for at in range(len(words) - _GRAM + 1):
        yield hash(tuple(words[at : at + _GRAM]))


def _runs(entries: Iterable[Entry], barred: frozenset[int], size: int) -> list[list[Entry]]:
    kept = [e for e in entries if not barred.intersection(_grams(e[1]))]
    return [kept[at : at + size] for at in range(0, len(kept), size)]


def main(say: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, required=True)
    parser.add_argument("--dictd", type=Path, required=True)
    parser.add_argument("--descriptions", type=Path, required=True)
    parser.add_argument("--prose", type=Path, required=True)
    parser.add_argument("--held-out", nargs="*", type=Path, default=[])
    parser.add_argument("--each", type=int, default=400, help="documents of a source")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    lot = random.Random(options.seed)
    words = WordNet(options.wordnet, half=0)
    barred = frozenset(
        gram for file in options.held_out for gram in _grams(file.read_text(encoding="utf-8"))
    )
    sources: dict[str, list[list[Entry]]] = {"wordnet": []}
    for group in glosses(words):
        lot.shuffle(group)
        sources["wordnet"] += _runs(group, barred, 24)
    for name in ("foldoc", "jargon", "gcide", "devil"):
        file = options.dictd / f"{name}.dict.dz"
        sources[name] = _runs(dictionary(file), barred, 8)
    sources["descriptions"] = _runs(descriptions(options.descriptions), barred, 8)
    sources["prose"] = list(prose(options.prose, barred))
    rows = []
    for name, runs in sources.items():
        lot.shuffle(runs)
        most = options.each * (4 if name == "prose" else 1)
        made = [document(run, words, lot) for run in runs[:most]]
        made = [row for row in made if len(row["questions"]) >= 4]
        say(f"{name}: {len(made)} documents, {sum(len(r['questions']) for r in made)} questions")
        rows += made
    lot.shuffle(rows)
    with options.out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
