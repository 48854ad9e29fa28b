"""A model that reads a far context as a memory of any form, for evaluations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from foveate.vist.eval.context import FarContext, Subject
from foveate.vist.eval.fixation_subject import FixationSubject
from foveate.vist.eval.subjects import VistSubject
from foveate.vist.fixation.choose import WEIGHTS
from foveate.vist.fusion.kv_prefix import EmbeddingPrefix
from foveate.vist.latents.memory import Memory
from foveate.vist.run.vist import Vist

__all__ = ["LOOK", "FormSubject", "form_facts", "form_readers"]

LOOK = "+look"
# Of demonstrations all that fit are looked at, not only those about as good as the best: each one
# teaches. A quarter of the entries says which labels there are.
FLOOR, SKIM = 0.0, 0.25


class FormSubject(VistSubject):
    """Reads a far context in one form.

    Args:
        vist: a Vist.
        form: of its memories, see Vist.recast.
        head: see VistSubject.
        skimmer: has read the same far contexts before; None reads them anew.
        settings: of Vist.recast: share, carving.
    """

    def __init__(
        self,
        vist: Vist,
        form: str,
        head: str | None = None,
        *,
        skimmer: VistSubject | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(vist, head)
        if skimmer is not None:
            self.head_ids = skimmer.head_ids
        self.form, self.skimmer, self.settings = form, skimmer, settings

    def memory(self, far: FarContext) -> Memory:
        """The far context, read once."""

        def read() -> Memory:
            base = self.skimmer.memory(far) if self.skimmer else self.vist.read(far.text)
            if self.form == "latents":
                return base
            return self.vist.recast(base, self.form, head_ids=self.head_ids, **self.settings)

        return self._memories.get(far.text, read)


def form_readers(skimmer: VistSubject) -> dict[str, Callable[[float], Subject]]:
    """The field `forms` of `Subjects`; empty where latents do not run through the LLM as text."""
    vist = skimmer.vist
    fusion = getattr(vist.parts, "fusion", None)
    if not isinstance(getattr(fusion, "prefix", None), EmbeddingPrefix):
        return {}
    forms = ["states", *(["carved"] if vist.config.carved is not None else [])]
    made: dict[str, Callable[[float], Subject]] = {"latents" + LOOK: partial(_looking, skimmer)}
    for form in forms:
        made[form] = plain = partial(_plain, skimmer, form)
        made[form + LOOK] = partial(_looking_at_more, plain)
    return made


def form_facts(vist: Vist) -> dict[str, Any]:
    """What a manifest says about how other forms than latents are read."""
    carved = vist.config.carved
    return {
        "cut": carved.layer if carved is not None else None,
        "floor": FLOOR,
        "skim": SKIM,
        "states": WEIGHTS["index-states"],
    }


def _plain(skimmer: VistSubject, form: str, share: float) -> FormSubject:
    return FormSubject(skimmer.vist, form, skimmer=skimmer, share=share)


def _looking(skimmer: VistSubject, share: float) -> Subject:
    return FixationSubject(skimmer, share, floor=FLOOR, skim=SKIM)


def _looking_at_more(plain: Callable[[float], FormSubject], share: float) -> Subject:
    """Entries that nobody looks at are the ends of units, a few."""
    return _looking(plain(SKIM * share), share)
