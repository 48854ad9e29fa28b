"""The `foveate` command: registers the subcommands, turns errors into one sentence."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foveate.cli.ask import ask
from foveate.cli.check import check
from foveate.cli.compare import ListOptions, compare
from foveate.cli.demo import demo
from foveate.cli.eval import eval_app
from foveate.cli.knockout import knockout
from foveate.cli.methods import methods
from foveate.cli.models import models
from foveate.cli.pages import pages
from foveate.cli.play import play
from foveate.cli.read import read
from foveate.cli.render import render
from foveate.cli.run import run
from foveate.cli.serve import serve
from foveate.cli.train import train
from foveate.cli.tune import tune
from foveate.errors import FoveateError
from foveate.version import __version__


class _Commands(TyperGroup):
    """Commands whose FoveateErrors end as one sentence on stderr, exit code 2, no traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FoveateError as error:
            print(f"foveate: {error}", file=sys.stderr)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    name="foveate",
    help="Vision-language models that answer from a fraction of their visual tokens.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(ask)
app.command(cls=ListOptions)(compare)
app.command(cls=ListOptions)(tune)
for command in (check, demo, knockout, methods, models, pages, play, read, render, run, train):
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(serve)
app.add_typer(eval_app, name="eval")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"foveate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Console entry point."""
    app()


if __name__ == "__main__":
    main()
