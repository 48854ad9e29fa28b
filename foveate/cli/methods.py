"""`foveate methods`: what can be put on a model."""

from __future__ import annotations

from typing import Annotated

import typer

from foveate.cli.console import out, print_json


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the compression methods, one line each."""
    from foveate.prune import METHODS

    if as_json:
        print_json(
            [
                {"name": name, "summary": cls.summary, "paper": cls.paper}
                for name, cls in METHODS.items()
            ]
        )
        return
    width = max(map(len, METHODS))
    for name, cls in METHODS.items():
        paper = f"  [dim]{cls.paper}[/dim]" if cls.paper else ""
        out.print(f"[bold]{name:<{width}}[/bold]  {cls.summary}{paper}", soft_wrap=True)
