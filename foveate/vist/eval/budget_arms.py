"""Arms that read a given share of the far tokens, once the question is known: "bm25@0.1"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from foveate.errors import InputError
from foveate.vist.eval.arms import FORM_ARMS, Subjects
from foveate.vist.eval.context import FarContext, Subject
from foveate.vist.eval.looked_up import Lookup

__all__ = [
    "BUDGET_ARMS",
    "at_hand",
    "budget_names",
    "budget_view",
    "check_budgets",
    "reader_of",
    "split_name",
]

BUDGET_ARMS = {
    "truncated": "its last tokens, raw",
    "segments": "whole segments of it drawn at random, raw",
    "bm25": "whole segments chosen by BM25 with the question, raw: the rival without pictures",
    "bm25-twice": "bm25 in half of the budget, all of it twice: the rival reads as fixate does",
    "bm25-read": "bm25 where only pictures of the text are at hand: the words as they were read",
    "fixate": "what the question points at as raw text, twice where the budget has room; latents "
    "where it points at nothing",
    "fixate-shuffled": "the same of another document",
    "once": "as fixate, each place read once",
    "apart": "as fixate, with what is read at its own positions, gaps in between",
    "pictures": "as fixate, where only pictures of the text are at hand: tokens as they were read",
}


READ = "bm25-read"


def budget_names(arms: Sequence[str], shares: Sequence[float]) -> list[str]:
    """Each arm at each share, ascending: "bm25@0.1"."""
    return [f"{arm}@{share:.3g}" for arm in arms for share in sorted(set(shares))]


def split_name(name: str) -> tuple[str, float]:
    """ "bm25@0.1" -> ("bm25", 0.1); 0 for an arm without a budget."""
    arm, _, share = name.partition("@")
    return arm, float(share or 0)


def check_budgets(shares: Sequence[float]) -> None:
    """Raise InputError unless budgets are shares."""
    if any(not 0 < share <= 1 for share in shares):
        raise InputError(
            f"budgets {', '.join(f'{share:g}' for share in shares)} are not all shares of the far "
            "tokens; give numbers above 0 and up to 1."
        )


def reader_of(name: str, subjects: Subjects) -> Subject | None:
    """Who reads in an arm, with its budget or without; None where there is no such model."""
    arm, share = split_name(name)
    family = arm.split("-")[0]
    looking: Any = {
        "fixate": subjects.looking,
        "once": subjects.looking_once,
        "apart": subjects.looking_apart,
        "pictures": subjects.looking_at_pictures,
    }
    if family in FORM_ARMS:
        make = subjects.forms.get(family)
        return make(share or 1.0) if make is not None else None
    if family in looking:
        make = looking[family]
        return make(share or 1.0) if make is not None else None
    if arm == READ and subjects.looking_at_pictures is None:
        return None
    if family == "cepe":
        return subjects.cepe
    return subjects.vist if family == "vist" else subjects.raw


def at_hand(name: str, far: FarContext, subjects: Subjects) -> FarContext:
    """The far context that an arm has: for some, only what was read off its pictures."""
    if split_name(name)[0] != READ:
        return far
    assert subjects.looking_at_pictures is not None
    reader: Any = subjects.looking_at_pictures(1.0)
    read: FarContext = reader.as_read(far)
    return read


def budget_view(
    name: str, far: FarContext, question: str, generator: np.random.Generator
) -> FarContext | None:
    """What an arm with a budget is handed of a far context.

    Args:
        name: with its budget; an unknown arm reads it all and knows the question.
        far: the whole; of another document for a shuffled arm.
        question: what is asked.
        generator: of the random segments.
    """
    arm, share = split_name(name)
    budget = round(share * len(far.ids))
    if arm == "truncated":
        return far.last(budget)
    if arm == "segments":
        return Lookup(far).by_chance(budget, generator)
    if arm == "bm25-twice":
        found = Lookup(far).by_words(question, budget // 2)
        return found.keep([*range(len(found.ids))] * 2) if found is not None else None
    if arm in ("bm25", READ):
        return Lookup(far).by_words(question, budget)
    return replace(far, question=question)
