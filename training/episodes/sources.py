"""Labelled texts out of packages: WordNet, the descriptions of Debian's packages, FOLDOC.

None of them is, or is made from, a set that foveate's evaluation asks.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import InputError
from training.corpus import members

__all__ = ["Labelled", "labelled_texts"]

LEAST = 12  # texts of a label
_LEXICAL = """
    adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute
    noun.body noun.cognition noun.communication noun.event noun.feeling noun.food noun.group
    noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession
    noun.process noun.quantity noun.relation noun.shape noun.state noun.substance noun.time
    verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption
    verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession
    verb.social verb.stative verb.weather adj.ppl
"""
LEXICAL = tuple(_LEXICAL.split())  # the order of WordNet's lexicographer files
FACETS = ("role", "use", "works-with", "interface", "implemented-in", "game", "field", "made-of")


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """One way to sort texts.

    Args:
        name: of it.
        texts: label as words -> its texts, at least LEAST of each, at least two labels.
    """

    name: str
    texts: Mapping[str, tuple[str, ...]]


def labelled_texts(packages: list[Path], seed: int = 0) -> list[Labelled]:
    """Every way to sort the texts of some packages, in a fixed order.

    Args:
        packages: `wordnet-base` and `dict-foldoc` as .deb files, and apt's list of packages as
            plain text; others are left alone.
        seed: of which words of WordNet are told with their definitions.

    Raises:
        InputError: a file cannot be read, or none holds labelled texts.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in packages:
        if path.suffix == ".deb":
            for name, content in members(path):
                _sort(name, content.decode("utf-8", "ignore"), found, random.Random(seed))
        else:
            _debian(path.read_text(encoding="utf-8", errors="ignore"), found)
    made = []
    for name in sorted(found):
        texts = {
            label: tuple(dict.fromkeys(own))
            for label, own in sorted(found[name].items())
            if len(set(own)) >= LEAST
        }
        if len(texts) >= 2:
            made.append(Labelled(name=name, texts=texts))
    if not made:
        raise InputError(
            "no labelled texts were found; give wordnet-base_*.deb, dict-foldoc_*.deb (apt-get "
            "download) or a list of packages of apt."
        )
    return made


_Found = dict[str, dict[str, list[str]]]


def _sort(name: str, text: str, found: _Found, lot: random.Random) -> None:
    match = re.search(r"wordnet/data\.(noun|verb)$", name)
    if match:
        _wordnet(match[1], text, found, lot)
    elif name.endswith("foldoc.dict"):
        _foldoc(text, found)


def _wordnet(kind: str, text: str, found: _Found, lot: random.Random) -> None:
    """By lexicographer file; nouns also by what they are a kind of, level by level."""
    glosses: dict[str, tuple[str, str]] = {}
    parents: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("  ") or " | " not in line:
            continue
        data, gloss = line.split(" | ", 1)
        fields = data.split()
        label = LEXICAL[int(fields[1])].partition(".")[2]
        word = fields[4].replace("_", " ")
        meaning = re.split(r'; "', gloss.strip())[0].strip()
        glosses[fields[0]] = (word, meaning)
        parents[fields[0]] = [
            fields[i + 1] for i, mark in enumerate(fields[:-1]) if mark in ("@", "@i")
        ]
        if label == "Tops":
            continue
        if 15 < len(meaning) < 160:
            found[f"{kind} meanings"][label].append(meaning)
            if lot.random() < 0.5:
                found[f"{kind} words with meanings"][label].append(f"{word}, {meaning}")
        found[f"{kind} words"][label].append(word)
        for example in re.findall(r'"([^"]+)"', gloss):
            if 15 < len(example) < 120:
                found[f"{kind} examples"][label].append(example)
    if kind == "noun":
        for name, label, sense in _kinds(glosses, parents):
            word, meaning = glosses[sense]
            if 15 < len(meaning) < 160:
                found[f"kinds of {name}"][label].append(
                    meaning if lot.random() < 0.7 else f"{word}, {meaning}"
                )


def _kinds(
    glosses: Mapping[str, tuple[str, str]], parents: Mapping[str, list[str]]
) -> Iterator[tuple[str, str, str]]:
    """(a word, one of its kinds, a sense below that) for every word with several large kinds."""
    children: dict[str, list[str]] = defaultdict(list)
    for sense, above in parents.items():
        for parent in above:
            children[parent].append(sense)

    def below(sense: str, seen: set[str]) -> Iterator[str]:
        for child in children[sense]:
            if child not in seen:
                seen.add(child)
                yield child
                yield from below(child, seen)

    for parent in sorted(glosses):
        large = {}
        for kind in children[parent]:
            members_of = list(below(kind, set()))
            if LEAST <= len(members_of) <= 3000:
                large[glosses[kind][0]] = members_of
        if len(large) >= 3:
            for label, senses in large.items():
                for sense in senses:
                    yield f"{glosses[parent][0]} {parent}", label, sense


def _debian(text: str, found: _Found) -> None:
    """Short descriptions by section, and by each facet of which a package has one tag."""
    for entry in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Z][\w-]*): ((?:.*)(?:\n .*)*)", entry, re.MULTILINE))
        told = fields.get("Description", "").strip()
        if not 20 < len(told) < 110:
            continue
        found["packages by section"][fields.get("Section", "").split("/")[-1]].append(told)
        for facet in FACETS:
            tags = set(re.findall(rf"{facet}::([a-z-]+)", fields.get("Tag", "")))
            if len(tags) == 1:
                found[f"packages by {facet}"][tags.pop().replace("-", " ")].append(told)


def _foldoc(text: str, found: _Found) -> None:
    """First sentences by topic."""
    for topic, entry in re.findall(r"\n\n   <([a-z]+)[a-z, ]*> ((?:[^\n]+\n)+)", text):
        plain = re.sub(r"[{}]", "", " ".join(entry.split()))
        first = re.split(r"(?<=[.]) ", plain)[0].strip()
        if 30 < len(first) < 180:
            found["terms of computing"][topic].append(first)
