"""`foveate models`: which model families can be compressed."""

from __future__ import annotations

from foveate.cli.console import out, print_json
from foveate.cli.options import AsJson


def models(
    as_json: AsJson = False,
) -> None:
    """List the supported model families, one line each."""
    from foveate.models.families import FAMILIES

    if as_json:
        print_json([{"model_type": key, "title": family.title} for key, family in FAMILIES.items()])
        return
    width = max(len(family.title) for family in FAMILIES.values())
    for key, family in FAMILIES.items():
        out.print(f"[bold]{family.title:<{width}}[/bold]  [dim]{key}[/dim]", soft_wrap=True)
