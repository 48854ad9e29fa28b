"""A language model that reads a far context as a memory of any form, for evaluations."""

from __future__ import annotations

from typing import Any

from foveate.vist.eval.context import FarContext
from foveate.vist.eval.subjects import VistSubject
from foveate.vist.latents.memory import Memory
from foveate.vist.run.vist import Vist

__all__ = ["FormSubject"]


class FormSubject(VistSubject):
    """Reads a far context in one form.

    Args:
        vist: a Vist.
        form: of its memories, see Vist.recast.
        head: see VistSubject.
        settings: of Vist.recast: share, carving.
    """

    def __init__(self, vist: Vist, form: str, head: str | None = None, **settings: Any) -> None:
        super().__init__(vist, head)
        self.form, self.settings = form, settings

    def memory(self, far: FarContext) -> Memory:
        """The far context, read once."""

        def read() -> Memory:
            if self.form == "latents":
                return self.vist.read(far.text)
            return self.vist.read(far.text, form=self.form, head_ids=self.head_ids, **self.settings)

        return self._memories.get(far.text, read)
