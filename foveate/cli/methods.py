"""`foveate methods`: what can be put on a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from foveate.cli.console import out, print_json

if TYPE_CHECKING:
    from foveate.carve.methods import Method


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the compression methods, one line each."""
    from foveate.carve.methods import METHODS

    if as_json:
        print_json(
            [
                {"name": n, "where": _where(cls), "summary": cls.summary, "paper": cls.paper}
                for n, cls in METHODS.items()
            ]
        )
        return
    width = max(map(len, METHODS))
    for name, cls in METHODS.items():
        paper = f"  [dim]{cls.paper}[/dim]" if cls.paper else ""
        where = f"[dim]{_where(cls):<12}[/dim]"
        out.print(f"[bold]{name:<{width}}[/bold]  {where}  {cls.summary}{paper}", soft_wrap=True)


def _where(method: type[Method]) -> str:
    """Where it acts; a stack acts where its methods do."""
    return method.where if isinstance(method.where, str) else "any"
