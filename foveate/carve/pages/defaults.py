"""What suits a model where the user says nothing: all that is special about the embedded one."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.assets import EMBEDDED
from foveate.carve.method import Method
from foveate.carve.methods import TokenCarve
from foveate.carve.pages.exact import KINDS, ExactRules
from foveate.carve.pages.fact_sheet import FactSheetLayout
from foveate.carve.pages.layout import Layout
from foveate.carve.spec import method_class

__all__ = ["PageDefaults"]

KEEP_RATIO = 0.25


@dataclass(frozen=True, kw_only=True)
class PageDefaults:
    """Defaults for one model.

    Args:
        kinds: of exact strings that are kept as text.
        prune_layer: for methods that prune between decoder layers; None is each method's own.
        layout: what the model was trained on, tried before pages of plain text.
    """

    kinds: tuple[str, ...] = KINDS
    prune_layer: int | None = None
    layout: Layout | None = None

    @classmethod
    def of(cls, model: object) -> PageDefaults:
        """For the model of a name; any but "embedded" has the general ones.

        The embedded model fetches answers in layers 3 and 4 (see its card), was never shown text
        beside its pages, and reads fact sheets only.
        """
        if model == EMBEDDED:
            return cls(kinds=(), prune_layer=5, layout=FactSheetLayout())
        return cls()

    @property
    def method(self) -> Method:
        """TokenCarve with a quarter of each page's tokens."""
        return TokenCarve(keep_ratio=KEEP_RATIO, prune_layer=self.prune_layer)

    @property
    def rules(self) -> ExactRules:
        return ExactRules(kinds=self.kinds)

    def layer_of(self, method: str) -> int | None:
        """The prune_layer for a method of that name."""
        cls = method_class(method)
        return self.prune_layer if cls is not None and cls.default_layer else None
