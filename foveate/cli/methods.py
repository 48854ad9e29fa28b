"""`foveate methods`: what can be put on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from foveate.cli.console import err, out, print_json
from foveate.cli.options import AsJson

if TYPE_CHECKING:
    from foveate.carve.method import Method


def methods(
    as_json: AsJson = False,
) -> None:
    """List the compression methods, one line each; those of installed packages with the package."""
    from foveate.carve.registry import all_methods, broken_packages, origin

    listed = all_methods()
    for sentence in broken_packages():
        err.print(sentence, markup=False, style="yellow", soft_wrap=True)
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "where": _where(cls),
                    "summary": cls.summary,
                    "paper": cls.paper,
                    "origin": origin(cls),
                }
                for name, cls in listed.items()
            ]
        )
        return
    width = max(map(len, listed))
    for name, cls in listed.items():
        line = Text.assemble((f"{name:<{width}}", "bold"), "  ", (f"{_where(cls):<12}", "dim"))
        line.append(f"  {cls.summary}")
        whence = origin(cls)
        for note in (cls.paper, "" if whence == "foveate" else f"from {whence}"):
            line.append(f"  {note}" if note else "", style="dim")
        out.print(line, soft_wrap=True)


def _where(method: type[Method]) -> str:
    """Where it acts; a stack acts where its methods do."""
    return method.where if isinstance(method.where, str) else "any"
