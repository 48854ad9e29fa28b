"""The arms that every table of far context compares, and what each is handed to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foveate.errors import InputError
from foveate.vist.eval.context import FarContext, Subject
from foveate.vist.eval.decoder_subject import DecoderSubject

# arm -> what the language model reads of the far context
ARMS = {
    "none": "nothing",
    "raw": "all its raw tokens",
    "truncated": "its last raw tokens, as many as vist has entries (the raw window grown to them)",
    "random": "raw tokens drawn at random, at their own positions, as many as vist has entries",
    "vist": "its latents",
    "vist-shuffled": "latents of another document of the same length",
    "cepe": "what a text encoder in place of renderer and vision encoder made of it",
    "cepe-shuffled": "the same of another document of the same length",
}
FORM_ARMS = {
    "latents+look": "what the question points at as raw text, as much as fits, and latents",
    "carved": "all its tokens through the lower layers, the ends of its units above",
    "carved+look": "the same, what the question points at whole, of the rest the ends of units",
    "states": "the ends of its units, keys and values of one run over all of it",
    "states+look": "the same, what the question points at whole, of the rest the ends of units",
}
ALIASES = {"grown": "truncated"}


@dataclass(frozen=True, kw_only=True)
class Subjects:
    """The models that are compared; all share one language model.

    Args:
        raw: reads raw tokens.
        vist, cepe: read memories; cepe None where there is no such model.
        looking: a share of the far tokens -> who reads latents and, within that many entries, looks
            again where the question points; None where the model cannot.
        looking_once: the same, each place read once.
        looking_apart: the same, with what is read at its own positions, gaps in between.
        looking_at_pictures: as looking, from tokens as they were read off the pictures.
        forms: arm of FORM_ARMS -> a share of the far tokens -> who reads that many entries.
    """

    raw: Subject
    vist: Subject
    cepe: Subject | None = None
    looking: Callable[[float], Subject] | None = None
    looking_once: Callable[[float], Subject] | None = None
    looking_apart: Callable[[float], Subject] | None = None
    looking_at_pictures: Callable[[float], Subject] | None = None
    forms: Mapping[str, Callable[[float], Subject]] = field(default_factory=dict)

    def set_frame(self, head: str, tail: str) -> None:
        """Other texts before everything and after every prompt; for models of `DecoderSubject`."""
        for subject in (self.raw, self.vist, self.cepe):
            if isinstance(subject, DecoderSubject):
                subject.set_frame(head, tail)

    def of(self, arm: str) -> Subject:
        """Who runs an arm."""
        family = arm.split("-")[0]
        if family == "cepe" and self.cepe is None:
            raise InputError("the arm cepe needs a CEPE checkpoint; name one with --cepe PATH.")
        return {"vist": self.vist, "cepe": self.cepe or self.vist}.get(family, self.raw)

    def arms(self, names: Sequence[str] = (), known: Mapping[str, str] = ARMS) -> tuple[str, ...]:
        """Known arms in their order; () is all there are models for. "none" always runs.

        Raises:
            InputError: an unknown arm, or cepe without its model.
        """
        wanted = {ALIASES.get(name, name) for name in names}
        unknown = sorted(wanted - set(known))
        if unknown:
            raise InputError(f"unknown arms {', '.join(unknown)}; choose from {', '.join(known)}.")
        if not wanted:
            wanted = {n for n in known if self.cepe is not None or not n.startswith("cepe")}
        for name in wanted:
            self.of(name)
        return tuple(name for name in known if name in wanted or name == "none")


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """Who reads in an arm, and what far context that one is handed for each item."""

    name: str
    subject: Subject
    fars: tuple[FarContext | None, ...]

    def entries(self) -> list[int]:
        """Far entries that the LLM reads, one count an item."""
        return [self.subject.num_entries(far) if far is not None else 0 for far in self.fars]


def arm_runs(
    names: Sequence[str],
    subjects: Subjects,
    fars: Sequence[FarContext],
    clusters: Sequence[str],
    *,
    seed: int,
    groups: Sequence[str] | None = None,
    others: Mapping[str, Sequence[FarContext]] | None = None,
) -> list[ArmRun]:
    """What each arm reads for each item.

    Args:
        names: from `Subjects.arms`.
        fars: the items' far contexts.
        clusters: the document each item is from; a shuffled arm never reads its own document.
        seed: of the random tokens and the shuffle.
        groups: shuffled arms draw from their own group (a domain); None is one group.
        others: views of further arms, or instead of the ones made here, by arm.
    """
    made = []
    for name in names:
        views: list[FarContext | None]
        if others and name in others:
            views = list(others[name])
        else:
            views = _view(name, subjects, fars, clusters, groups, seed)
        made.append(ArmRun(name=name, subject=subjects.of(name), fars=tuple(views)))
    return made


def _view(
    name: str,
    subjects: Subjects,
    fars: Sequence[FarContext],
    clusters: Sequence[str],
    groups: Sequence[str] | None,
    seed: int,
) -> list[FarContext | None]:
    if name == "none":
        return [None] * len(fars)
    if name == "truncated":
        return [far.last(subjects.vist.num_entries(far)) for far in fars]
    if name == "random":
        generator = np.random.default_rng(seed)
        return [far.sample(subjects.vist.num_entries(far), generator) for far in fars]
    if name.endswith("-shuffled"):
        partner = derangement(clusters, seed=seed, groups=groups)
        return [_as_long(fars[j], far) for j, far in zip(partner, fars, strict=True)]
    return list(fars)


def _as_long(other: FarContext, own: FarContext) -> FarContext:
    """`other` cut to its last tokens where it is longer than `own`."""
    if len(other.ids) <= len(own.ids) or other.drawn is not None:
        return other
    return other.last(len(own.ids)) or other


# What a manifest says that changes how raw text is read.
_OF_RAW_TEXT = ("model", "dtype", "prompt", "head_tokens")


# Arms that read no memory.
_RAW = ("none", "raw", "passage", "truncated", "random", "segments", "bm25", "shots", "nearest")


def facts_of(arm: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that an arm's answers depend on: raw text is read alike with any trained parts."""
    name = arm.partition("@")[0]
    family = name.split("-")[0]
    if family in _RAW and name != "bm25-read":  # that one searches what the encoder read
        return {key: facts[key] for key in facts if key in _OF_RAW_TEXT}
    return {key: facts[key] for key in facts if key != "forms" or family in FORM_ARMS}


def shuffled_name(arm: str) -> str:
    """The arm's control: "vist" -> "vist-shuffled", "fixate@0.1" -> "fixate-shuffled@0.1"."""
    name, at, share = arm.partition("@")
    return f"{name}-shuffled{at}{share}"


def derangement(
    clusters: Sequence[str], *, seed: int, groups: Sequence[str] | None = None
) -> list[int]:
    """For each item, one of another cluster; a permutation wherever no cluster holds over half.

    Args:
        clusters: of the items.
        seed: of the order.
        groups: partners are found within a group.

    Raises:
        InputError: a group with a single cluster.
    """
    generator = np.random.default_rng(seed)
    partner = [0] * len(clusters)
    groups = groups if groups is not None else [""] * len(clusters)
    for group in dict.fromkeys(groups):
        items = [i for i, name in enumerate(groups) if name == group]
        names = list(dict.fromkeys(clusters[i] for i in items))
        if len(names) < 2:
            raise InputError(
                f"shuffled context{f' of {group!r}' if group else ''} needs at least 2 documents, "
                f"got {len(names)}; give more data or a higher --limit."
            )
        generator.shuffle(names)
        order = [i for name in names for i in items if clusters[i] == name]
        largest = max(sum(clusters[i] == name for i in items) for name in names)
        for place, item in enumerate(order):
            if 2 * largest <= len(order):
                partner[item] = order[(place + largest) % len(order)]
            else:
                far_off = [i for i in order if clusters[i] != clusters[item]]
                partner[item] = far_off[int(generator.integers(len(far_off)))]
    return partner
