"""Published compression methods, one file each, and the registry that names them.

Adding a method: write `foveate/carve/methods/<name>.py` with one Method subclass, then import it
below; that line is its registration (docs/add-a-method.md).
"""

from __future__ import annotations

from typing import Any

from foveate.carve.method import Method as Method
from foveate.carve.methods.average_pooling import AveragePooling as AveragePooling
from foveate.carve.methods.cdpruner import CdPruner as CdPruner
from foveate.carve.methods.dart import Dart as Dart
from foveate.carve.methods.divprune import DivPrune as DivPrune
from foveate.carve.methods.fastv import FastV as FastV
from foveate.carve.methods.foveacarve import FoveaCarve as FoveaCarve
from foveate.carve.methods.mmtok import MmTok as MmTok
from foveate.carve.methods.noop import NoOp as NoOp
from foveate.carve.methods.prune_and_merge import PruneAndMerge as PruneAndMerge
from foveate.carve.methods.pyramiddrop import PyramidDrop as PyramidDrop
from foveate.carve.methods.random_tokens import RandomTokens as RandomTokens
from foveate.carve.methods.resize import ResizeFirst as ResizeFirst
from foveate.carve.methods.sparsevlm import SparseVlm as SparseVlm
from foveate.carve.methods.tokencarve import TokenCarve as TokenCarve
from foveate.carve.methods.tome import ToMe as ToMe
from foveate.carve.methods.uniform import UniformGrid as UniformGrid
from foveate.carve.methods.visionzip import VisionZip as VisionZip
from foveate.carve.stack import Stack as Stack
from foveate.errors import MethodError

METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in list(vars().values())
    if isinstance(cls, type) and issubclass(cls, Method) and cls is not Method
}


def method(name: str, **settings: Any) -> Method:
    """Build a registered method by name, e.g. method("fastv", keep_ratio=0.25).

    Raises:
        MethodError: for an unknown name or a setting the method does not have.
    """
    if name not in METHODS:
        raise MethodError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name].from_dict(settings)
