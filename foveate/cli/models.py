"""`foveate models`: which models can be compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from foveate.cli.console import err, out, print_json
from foveate.cli.options import AsJson

if TYPE_CHECKING:
    from foveate.carve.check.result import Checked


def models(
    as_json: AsJson = False,
) -> None:
    """List every image-text-to-text type of the installed transformers with what works in it.

    What works was found on a tiny twin of each type when this version of foveate was made;
    `foveate check` does it anew, for any model.
    """
    with err.status("Loading the libraries"):
        from foveate.carve.check.known import listed

    found = listed()
    if as_json:
        print_json([{**one.to_dict(), "summary": one.summary} for one in found])
        return
    width = max(len(one.model_type) for one in found)
    names = max(len(one.title) for one in found)
    for one in sorted(found, key=lambda one: (not one.in_llm, not one.before_llm)):
        out.print(_line(one, width, names), soft_wrap=True)


def _line(one: Checked, width: int, names: int) -> Text:
    works = one.in_llm or bool(one.before_llm)
    style = "green" if works else "dim"
    return Text.assemble(
        (f"{one.model_type:<{width}}", "bold" if works else ""),
        "  ",
        (f"{one.title:<{names}}", ""),
        "  ",
        (one.summary, style),
    )
