"""The source of a model's methods, as trees to read names from."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from typing import Any


def is_self(node: ast.AST) -> bool:
    """Whether a node of a method is the object itself."""
    return isinstance(node, ast.Name) and node.id == "self"


@functools.lru_cache(maxsize=256)
def tree_of(function: Any) -> ast.AST:
    """The source of a function as a tree; an empty one where there is no source to read."""
    if function is None:
        return ast.Module(body=[], type_ignores=[])
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return ast.Module(body=[], type_ignores=[])
