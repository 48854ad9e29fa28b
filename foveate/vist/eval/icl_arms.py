"""What each arm of in-context learning reads of the far demonstrations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foveate.errors import InputError
from foveate.tasks.icl import Demonstration, IclSet, shuffle_labels
from foveate.vist.eval.arms import ARMS, FORM_ARMS, Subjects
from foveate.vist.eval.budget_arms import BUDGET_ARMS, budget_names, reader_of, split_name
from foveate.vist.eval.context import FarContext, Subject
from foveate.vist.eval.form_subject import LOOK
from foveate.vist.eval.shots import SHOT_ARMS, Shots

__all__ = ["ICL_ARMS", "OTHER_SET", "FarShots", "far_demonstrations", "icl_arms"]

OTHER_SET = "vist-other"
# Arms with a budget run once for each share of the far tokens: "bm25@0.4".
WITH_BUDGET = {
    **SHOT_ARMS,
    **{name: BUDGET_ARMS[name] for name in ("fixate", "apart")},
    **FORM_ARMS,
}
_ALONE = ("none", "random", OTHER_SET)  # no arm of these with shuffled labels
_PLAIN = {
    **{name: said for name, said in ARMS.items() if not name.endswith("-shuffled")},
    **WITH_BUDGET,
    OTHER_SET: "latents of another set's demonstrations",
}
ICL_ARMS = {
    name: said
    for plain, meaning in _PLAIN.items()
    for name, said in {
        plain: meaning,
        f"{plain}-shuffled": "the same demonstrations with each other's labels",
    }.items()
    if not (name.endswith("-shuffled") and plain in _ALONE)
}


def icl_arms(
    arms: Sequence[str], subjects: Subjects, budgets: Sequence[float], num_sets: int
) -> tuple[str, ...]:
    """Arms in their order, those with a budget as "arm@share"; () is all there are models for.

    "none" always runs.

    Raises:
        InputError: an unknown arm, one without its model, or that of another set with one set.
    """
    if num_sets < 2 and OTHER_SET in arms:
        raise InputError(f"the arm {OTHER_SET} needs a second set; add one to --sets.")
    can_run = {
        name
        for name in ICL_ARMS
        if (reader_of(name, subjects) is not None)
        and (subjects.cepe is not None or not name.startswith("cepe"))
        and (num_sets > 1 or name != OTHER_SET)
        and (not name.startswith("nearest") or subjects.raw.states(["0"]) is not None)
    }
    missing = sorted((set(arms) & set(ICL_ARMS)) - can_run)
    if missing:
        raise InputError(f"these models cannot run the arms {', '.join(missing)}; leave them out.")
    names: list[str] = []
    for name in subjects.arms(arms or tuple(can_run), ICL_ARMS):
        is_bounded = name.split("-")[0] in WITH_BUDGET
        names += budget_names([name], budgets) if is_bounded else [name]
    return tuple(names)


def far_demonstrations(
    data: IclSet, examples: Sequence[Demonstration], subjects: Subjects
) -> FarContext:
    """Demonstrations, a blank line after each; drawn as they stand, line ends as signs.

    Without line ends even raw text teaches nothing.
    """
    shown = [data.shown(example) for example in examples]
    return FarContext(source=subjects.raw.encode("".join(f"{text}\n\n" for text in shown)))


@dataclass(frozen=True, kw_only=True)
class FarShots:
    """The far demonstrations of one set and seed.

    Args:
        data: the set.
        other: another one.
        examples: that are far.
        elsewhere: far ones of the other set.
        subjects: the models.
        seed: of random choices.
    """

    data: IclSet
    other: IclSet
    examples: Sequence[Demonstration]
    elsewhere: Sequence[Demonstration]
    subjects: Subjects
    seed: int

    def views(
        self, name: str, items: Sequence[Demonstration]
    ) -> tuple[Subject, list[FarContext | None]]:
        """Who reads in an arm, and what is far for each item."""
        arm, share = split_name(name)
        family, _, control = arm.partition("-")
        data, examples = self.data, self.examples
        if control == "shuffled":
            examples = shuffle_labels(examples)
        if arm == OTHER_SET:
            data, examples = self.other, self.elsewhere
        subject = reader_of(name, self.subjects)
        assert subject is not None
        if arm == "none":
            return subject, [None] * len(items)
        far = far_demonstrations(data, examples, self.subjects)
        questions = [self.data.template.asked(item.text) for item in items]
        if family in SHOT_ARMS:
            shots = Shots(
                far,
                [f"{data.shown(example)}\n\n" for example in examples],
                [data.template.asked(example.text) for example in examples],
                self.subjects.raw,
                self.seed,
            )
            return subject, shots.views(family, share, questions)
        if family in ("fixate", "apart") or family.endswith(LOOK):
            return subject, [replace(far, question=question) for question in questions]
        if family in ("truncated", "random"):
            count = self.subjects.vist.num_entries(far)
            generator = np.random.default_rng(self.seed)
            view = far.last(count) if family == "truncated" else far.sample(count, generator)
            return subject, [view] * len(items)
        return subject, [far] * len(items)
