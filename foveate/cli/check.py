"""`foveate check`: what is guaranteed of a model, shown on a tiny twin of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.console import err, out, print_json, titled_table
from foveate.cli.options import AsJson

if TYPE_CHECKING:
    from foveate.carve.check.result import Checked


def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Local folder, hub id, or model type; its config.json is enough.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Build a tiny twin of a model, hold it to a slow path, and say what is guaranteed.

    Takes seconds and no weights; code of a checkpoint is never run. Exit code 1 where the model
    can be carved neither in its language model nor before it.
    """
    with err.status("Loading the libraries"):
        from foveate.carve.check.check import check as check_config
        from foveate.models.load import quiet_transformers

        quiet_transformers()
    config = _config_of(model)
    with err.status(f"Checking a tiny twin of {model}"):
        found = check_config(config)
    if as_json:
        print_json({**found.to_dict(), "summary": found.summary})
    else:
        _show(found)
    if not (found.in_llm or found.before_llm):
        raise typer.Exit(1)


def _config_of(name: str) -> Any:
    from foveate.carve.check.known import zoo_types
    from foveate.models.load import load_config
    from foveate.models.twin import typical_config

    if name in zoo_types() and not Path(name).exists():
        return typical_config(name)
    return load_config(name)


def _show(found: Checked) -> None:
    table = titled_table(f"{found.title} ({found.model_type})", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    yes = {True: "yes", False: "no", None: "not tried"}
    table.add_row("in the language model", yes[found.in_llm])
    table.add_row("before it", yes[found.before_llm])
    table.add_row("batches", yes[found.batches])
    table.add_row("video", "it takes none" if found.video is None else yes[found.video])
    table.add_row("attention kernels", ", ".join(found.kernels) or "none")
    table.add_row("KV cache", ", ".join(found.cache_kinds) or "not read")
    table.add_row(
        "first layer", "not derived" if found.first_layer is None else str(found.first_layer)
    )
    table.add_row("held to", f"the {found.oracle} path" if found.oracle else "nothing")
    if found.given_features:
        table.add_row("tower", f"not run, features were given: {found.given_features}")
    table.add_row("transformers", found.transformers)
    out.print(table)
    for name, why in found.findings.items():
        mark, style = ("does not hold", "yellow") if why else ("holds", "green")
        out.print(f"{name:<28} {mark:<14} {why}", style=style, soft_wrap=True, markup=False)
    if found.refusal:
        out.print(found.refusal, style="bold", soft_wrap=True, markup=False)
