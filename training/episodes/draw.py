"""Draw episodes: far text that must be learnt from, near text with answers in it.

    python -m training.episodes.draw packages/* --count 20000 --out episodes.jsonl

Most are demonstrations of one way to sort texts, with more of them in the near text, whose labels
are the answers. In some the labels are renamed or dealt out anew, so that the far demonstrations
are the only source of what they mean. The others tell facts far away and ask for them near.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.episodes.sources import Labelled, labelled_texts

__all__ = ["Episode", "Episodes", "read_episodes"]

# How an example is written: names of its text and of its label.
NAMES = (
    ("Text", "Label"), ("Input", "Output"), ("Definition", "Class"), ("Sentence", "Category"),
    ("Item", "Type"), ("Entry", "Group"), ("Phrase", "Answer"), ("Description", "Section"),
    ("Message", "Tag"), ("Statement", "Kind"), ("Note", "Field"), ("Line", "About"), ("Q", "A"),
    ("Case", "Result"), ("Snippet", "Domain"), ("Query", "Belongs to"), ("Request", "Meant"),
    ("Question", "Asks for"), ("Headline", "Topic"), ("Comment", "Tone"),
)  # fmt: skip
_WORDS = """
    red blue green north south seven eleven apple river stone silver table music winter summer
    alpha beta gamma delta tiger eagle bread paper glass circle square copper orange violet lemon
"""
WORDS = tuple(_WORDS.split())
SIZES = (2, 3, 4, 5, 6, 8, 10, 14, 18)  # labels of an episode
FAR, NEAR = 18, (4, 5)  # demonstrations
RENAMED, DEALT, TOLD = 0.2, 0.1, 0.15  # shares of episodes


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One of them.

    Args:
        far: text that becomes a memory.
        near: raw text behind it.
        answers: (first character, stop) of each answer in `near`, ascending, with the blank before.
        kind: what it asks.
    """

    far: str
    near: str
    answers: tuple[tuple[int, int], ...]
    kind: str


def read_episodes(path: Path) -> list[Episode]:
    """Read what `main` wrote."""
    made = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        row["answers"] = tuple((int(a), int(b)) for a, b in row["answers"])
        made.append(Episode(**row))
    return made


class Episodes:
    """Episodes without end, the same for the same seed.

    Args:
        sets: ways to sort texts.
        seed: of every draw.
    """

    def __init__(self, sets: Sequence[Labelled], seed: int = 0) -> None:
        self.sets, self.seed = sets, seed

    def __iter__(self) -> Iterator[Episode]:
        # Large sets come more often, but not as much more often as they are larger.
        weights = [sum(map(len, one.texts.values())) ** 0.5 for one in self.sets]
        for number in itertools.count():
            lot = random.Random(f"{self.seed}/{number}")
            if lot.random() < TOLD:
                yield _told(lot, lot.choices(self.sets, weights)[0])
            else:
                yield _sorted(lot, lot.choices(self.sets, weights)[0])


def _sorted(lot: random.Random, source: Labelled) -> Episode:
    """Demonstrations of a way to sort texts."""
    labels = lot.sample(sorted(source.texts), min(len(source.texts), lot.choice(SIZES)))
    shown, kind = {label: label for label in labels}, "labels"
    drawn = lot.random()
    if drawn < RENAMED and len(labels) <= len(WORDS):
        shown, kind = dict(zip(labels, lot.sample(WORDS, len(labels)), strict=True)), "renamed"
    elif drawn < RENAMED + DEALT:
        # Each label names another one's texts.
        kind = "dealt"
        shown = dict(zip(labels, [*labels[1:], labels[0]], strict=True))
    far: list[str] = []
    while len(far) < FAR:
        far += lot.sample(labels, min(len(labels), FAR - len(far)))
    lot.shuffle(far)
    near = [lot.choice(far) for _ in range(lot.choice(NEAR))]
    names = lot.choice(NAMES)
    texts = {label: list(source.texts[label]) for label in labels}
    for own in texts.values():
        lot.shuffle(own)

    def example(label: str) -> tuple[str, str]:
        own = texts[label]
        return f"{names[0]}: {own.pop() if len(own) > 1 else own[0]}\n{names[1]}:", shown[label]

    return _episode([example(n) for n in far], [example(n) for n in near], kind)


def _told(lot: random.Random, source: Labelled) -> Episode:
    """Facts about names made up for the episode, some of which are asked for."""
    things = [_name(lot) for _ in range(lot.randint(8, FAR))]
    what = lot.choice(("code", "number", "colour", "owner", "place", "password", "size", "badge"))
    form = lot.choice((
        "The {what} of {name} is{value}.", "{name} has the {what}{value}.", "{name}:{value}",
        "{name} ({what}){value};", "What is the {what} of {name}? It is{value}.",
    ))  # fmt: skip
    sort = lot.choice(("word", "number", "name", "hex", "both"))
    rows = []
    texts = [text for own in source.texts.values() for text in own[:8]]
    between = lot.random() < 0.5  # facts stand among other sentences
    for name in things:
        before, after = form.format(what=what, name=name, value="\0").split("\0")
        rows.append((before, _value(lot, sort), after))
    far = ""
    for before, value, after in rows:
        far += f"{before} {value}{after}\n"
        if between and lot.random() < 0.6:
            far += f"{lot.choice(texts)}\n"
    near, answers = "", []
    for before, value, after in lot.sample(rows, min(len(rows), 6)):
        near += before
        answers.append((len(near), len(near) + 1 + len(value)))
        near += f" {value}{after}\n"
    return Episode(far=f"{far}\n", near=near, answers=tuple(answers), kind="facts")


def _value(lot: random.Random, sort: str) -> str:
    if sort == "name":
        return _name(lot)
    if sort == "number":
        return str(lot.randint(100, 99999))
    if sort == "hex":
        return f"{lot.getrandbits(24):06x}"
    return lot.choice(WORDS) + (f" {lot.randint(2, 99)}" if sort == "both" else "")


def _name(lot: random.Random) -> str:
    parts = [lot.choice("bdfgklmnprstvz") + lot.choice("aeiou") for _ in range(lot.randint(2, 3))]
    return "".join(parts).capitalize() + lot.choice(("", "n", "s", "l"))


def _episode(far: Sequence[tuple[str, str]], near: Sequence[tuple[str, str]], kind: str) -> Episode:
    text, answers = "", []
    for asked, label in near:
        text += asked
        answers.append((len(text), len(text) + 1 + len(label)))
        text += f" {label}\n\n"
    return Episode(
        far="".join(f"{asked} {label}\n\n" for asked, label in far),
        near=text,
        answers=tuple(answers),
        kind=kind,
    )


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and write episodes."""
    parser = argparse.ArgumentParser(prog="python -m training.episodes.draw", description=__doc__)
    parser.add_argument("packages", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    sets = labelled_texts(options.packages, options.seed)
    with options.out.open("w", encoding="utf-8") as file:
        for episode in itertools.islice(Episodes(sets, options.seed), options.count):
            file.write(json.dumps(asdict(episode), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
