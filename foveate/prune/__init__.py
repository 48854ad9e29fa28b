"""Published compression methods, one file each, and the registry that names them.

Adding a method: write `foveate/prune/<name>.py` with one Method subclass, then add its line below.
"""

from __future__ import annotations

from typing import Any

from foveate.errors import MethodError
from foveate.prune.average_pooling import AveragePooling
from foveate.prune.divprune import DivPrune
from foveate.prune.fastv import FastV
from foveate.prune.method import Method
from foveate.prune.noop import NoOp
from foveate.prune.random_tokens import RandomTokens
from foveate.prune.tokencarve import TokenCarve
from foveate.prune.uniform import UniformGrid

METHODS: dict[str, type[Method]] = {
    "noop": NoOp,
    "random": RandomTokens,
    "uniform": UniformGrid,
    "pooling": AveragePooling,
    "fastv": FastV,
    "divprune": DivPrune,
    "tokencarve": TokenCarve,
}


def method(name: str, **settings: Any) -> Method:
    """Build a registered method by name, e.g. method("fastv", keep_ratio=0.25).

    Raises:
        MethodError: for an unknown name or a setting the method does not have.
    """
    if name not in METHODS:
        raise MethodError(f"unknown method {name!r}; choose one of {', '.join(METHODS)}.")
    return METHODS[name].from_dict(settings)


__all__ = ["METHODS", "Method", "method", *sorted(cls.__name__ for cls in METHODS.values())]
