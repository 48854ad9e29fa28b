"""Text classification in context: labelled examples, balanced demonstrations, prompts."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.errors import InputError
from foveate.jsonl_file import read_rows

__all__ = ["Demonstration", "IclSet", "Template", "load_icl", "load_icl_sets", "shuffle_labels"]


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """One example.

    Args:
        text: what is classified.
        label: as the data names it.
    """

    text: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Template:
    """How an example is written: `{question}: text`, a line, `{answer}: label`."""

    question: str
    answer: str

    def shown(self, text: str, label: str) -> str:
        """A demonstration."""
        return f"{self.asked(text)} {label}"

    def asked(self, text: str) -> str:
        """The same without its label; the label is to follow after one space."""
        return f"{self.question}: {' '.join(text.split())}\n{self.answer}:"


TEMPLATES = {
    "sst2": Template(question="Review", answer="Sentiment"),
    "mr": Template(question="Review", answer="Sentiment"),
    "sst5": Template(question="Review", answer="Rating"),
    "agnews": Template(question="News", answer="Topic"),
    "nlu_scenario": Template(question="Command", answer="Scenario"),
    "nlu_intent": Template(question="Command", answer="Intent"),
    "trec_coarse": Template(question="Question", answer="Asks for"),
    "trec_fine": Template(question="Question", answer="Asks for"),
    "dbpedia": Template(question="Description", answer="Kind"),
    "banking77": Template(question="Customer", answer="Request"),
    "clinc150": Template(question="User", answer="Intent"),
}
OTHER = Template(question="Text", answer="Label")
# Short names in the data that a language model would not read as words.
_WORDS = {
    "ABBR": "abbreviation", "ENTY": "entity", "DESC": "description", "HUM": "human",
    "LOC": "location", "NUM": "number", "abb": "abbreviation", "exp": "expansion",
    "def": "definition", "desc": "description", "cremat": "creation", "dismed": "disease",
    "instru": "instrument", "lang": "language", "techmeth": "technique", "termeq": "term",
    "veh": "vehicle", "gr": "group", "ind": "individual", "dist": "distance", "ord": "order",
    "perc": "percentage", "temp": "temperature", "volsize": "size",
}  # fmt: skip


def label_words(label: str) -> str:
    """A label as words: "NUM:dist" -> "number distance", "WrittenWork" -> "written work"."""
    if ":" in label:
        return " ".join(_WORDS.get(part, part) for part in label.split(":"))
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label).lower() if _is_camel(label) else label


def _is_camel(label: str) -> bool:
    return bool(re.fullmatch(r"(?:[A-Z][a-z]+)+", label))


@dataclass(frozen=True, kw_only=True)
class IclSet:
    """One data set.

    Args:
        name: of its folder.
        labels: all of them, as the data names them.
        train: demonstrations are drawn from here.
        test: questions are drawn from here.
    """

    name: str
    labels: tuple[str, ...]
    train: tuple[Demonstration, ...]
    test: tuple[Demonstration, ...]

    @property
    def template(self) -> Template:
        return TEMPLATES.get(self.name, OTHER)

    @property
    def options(self) -> tuple[str, ...]:
        """Labels as words, in the order of `labels`."""
        return tuple(label_words(label) for label in self.labels)

    def shown(self, demonstration: Demonstration) -> str:
        """A demonstration as text."""
        return self.template.shown(demonstration.text, label_words(demonstration.label))

    def demonstrations(self, count: int, seed: int) -> list[Demonstration]:
        """`count` examples of `train`, label-balanced: no label twice before each was there once.

        Raises:
            InputError: too few examples.
        """
        generator = random.Random(f"{self.name} demonstrations {seed}")
        pools: dict[str, list[Demonstration]] = {label: [] for label in self.labels}
        for example in generator.sample(self.train, len(self.train)):
            pools[example.label].append(example)
        chosen: list[Demonstration] = []
        while len(chosen) < count:
            labels = [label for label in self.labels if pools[label]]
            if not labels:
                raise InputError(
                    f"{self.name} has {len(self.train)} training examples, fewer than the {count} "
                    "demonstrations asked for."
                )
            generator.shuffle(labels)
            chosen += [pools[label].pop() for label in labels[: count - len(chosen)]]
        generator.shuffle(chosen)
        return chosen

    def questions(self, count: int, seed: int) -> list[Demonstration]:
        """`count` examples of `test`, or all."""
        generator = random.Random(f"{self.name} questions {seed}")
        return generator.sample(self.test, min(count, len(self.test)))


def shuffle_labels(examples: Sequence[Demonstration]) -> list[Demonstration]:
    """The same texts with each other's labels, every one wrong where no label holds over half."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].label)
    labels = [examples[i].label for i in order]
    largest = max((labels.count(label) for label in set(labels)), default=0)
    moved = {i: labels[(place + largest) % len(order)] for place, i in enumerate(order)}
    return [Demonstration(text=example.text, label=moved[i]) for i, example in enumerate(examples)]


def load_icl(folder: str | Path) -> IclSet:
    """Read a folder with train.jsonl, test.jsonl (`text`, `label`) and labels.json (a list).

    Raises:
        InputError: a file is missing, or a line is not as it should be.
    """
    path = Path(folder)
    labels = _json(path / "labels.json")
    if not isinstance(labels, list) or len(set(map(str, labels))) < 2:
        raise InputError(f"{path / 'labels.json'} must be a list of 2 labels or more.")
    named = tuple(str(label) for label in labels)
    made = IclSet(
        name=path.name,
        labels=named,
        train=_examples(path / "train.jsonl", named),
        test=_examples(path / "test.jsonl", named),
    )
    if len(set(made.options)) < len(named):
        raise InputError(f"two labels of {path} read the same; rename one.")
    return made


def load_icl_sets(folder: str | Path, names: Sequence[str] = ()) -> list[IclSet]:
    """Read every data set below a folder, or those named; a single set's own folder works too.

    Raises:
        InputError: there is none, or one that was named is missing.
    """
    path = Path(folder)
    if (path / "labels.json").exists():
        return [load_icl(path)]
    found = sorted(file.parent.name for file in path.glob("*/labels.json"))
    missing = sorted(set(names) - set(found))
    if missing or not found:
        raise InputError(
            f"{str(path)!r} has no data set {', '.join(missing) or 'at all'}; it has "
            f"{', '.join(found) or 'no folder with labels.json, train.jsonl and test.jsonl'}."
        )
    return [load_icl(path / name) for name in names or found]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(file)!r} cannot be read: {error}.") from error


def _examples(file: Path, labels: Sequence[str]) -> tuple[Demonstration, ...]:
    examples, known = [], set(labels)
    for row in read_rows(file, fix='write {"text": "...", "label": "..."}.'):
        text, (label, *more) = row.text("text"), row.texts("label")
        if more or label not in known:
            raise InputError(f"{row.where}: label {row.fields['label']!r} is not in labels.json.")
        examples.append(Demonstration(text=text, label=label))
    if not examples:
        raise InputError(f"{str(file)!r} holds no examples.")
    return tuple(examples)
