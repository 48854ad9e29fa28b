"""The `foveate` command: registers the subcommands, turns errors into one sentence."""

from __future__ import annotations

import errno
import shutil
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foveate.cli.ask import ask
from foveate.cli.check import check
from foveate.cli.compare import ListOptions, compare
from foveate.cli.console import drop_unwritten, show_anything
from foveate.cli.demo import demo
from foveate.cli.eval import eval_app
from foveate.cli.knockout import knockout
from foveate.cli.methods import methods
from foveate.cli.models import models
from foveate.cli.narrow_help import fit_help
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

# How an interrupted command goes on.
RESUMED = {
    "run": "; the same command goes on where it stopped",
    "compare": "; the same command with --resume goes on where it stopped",
    "train": "; the same command with --resume goes on from the last checkpoint",
}


class _Commands(TyperGroup):
    """Commands whose mistakes end as one sentence on stderr and an exit code, no traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        show_anything()
        fit_help(self, shutil.get_terminal_size().columns)
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()  # a full disk shows here, not when the interpreter ends
        except OSError as error:
            drop_unwritten()
            if error.errno == errno.EPIPE:  # whoever read it has read enough
                sys.exit(1)
            place = f" ({error.filename})" if error.filename else ""
            _say(f"cannot go on: {error.strerror or error}{place}.")
        except MemoryError:
            _say("out of memory; use a smaller input, batch or model.")
        sys.exit(2)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FoveateError as error:
            _say(str(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            how = RESUMED.get(ctx.invoked_subcommand or "", "")
            _say(f"interrupted{how}.")
            raise typer.Exit(130) from None


def _say(sentence: str) -> None:
    with suppress(OSError):  # nobody may listen there either
        print(f"foveate: {sentence}", file=sys.stderr)


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
