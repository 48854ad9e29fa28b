"""Lets the API reference show the examples of docstrings as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example:\n((?:[ ]{4}.*(?:\n|\Z)|\n)+)", re.M)


class ExamplesAsCode(griffe.Extension):
    """Puts the body of every `Example:` section between fences."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            text = griffe.Docstring(obj.docstring.value).value  # cleaned of its indentation
            obj.docstring.value = _EXAMPLE.sub(_fenced, text)


def _fenced(match: re.Match[str]) -> str:
    body = match[1].rstrip()
    return f"Example:\n    ```python\n{body}\n    ```\n"
