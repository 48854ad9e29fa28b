"""--help on a narrow terminal: whole names of options on lines of their own, no boxes."""

from __future__ import annotations

from typing import Any

__all__ = ["fit_help"]

NARROW = 80  # below it, the columns of the usual help cut off names and words
LEAST = 20
NAMES = 4  # columns that names take before the text about them moves to the next line


def fit_help(command: Any, columns: int) -> None:
    """Let a command, and all that are in it, show their help within so many columns.

    Classes are taken from the command itself, for Typer brings its own copy of them.
    """
    is_narrow = columns < NARROW
    command.rich_markup_mode = None if is_narrow else "rich"
    vars(command).pop("context_class", None)
    command.context_settings.pop("terminal_width", None)
    if is_narrow:
        command.context_class = _narrow(command.context_class)
        command.context_settings["terminal_width"] = max(LEAST, columns)
    for inner in getattr(command, "commands", {}).values():
        fit_help(inner, columns)


def _narrow(context: Any) -> Any:
    """A class of contexts whose help has its texts below the names."""
    formatter = context.formatter_class

    class Formatter(formatter):  # type: ignore[misc]
        def write_dl(self, rows: Any, *_: Any, **__: Any) -> None:
            super().write_dl(rows, col_max=NAMES, col_spacing=2)

    class Context(context):  # type: ignore[misc]
        formatter_class = Formatter

    return Context
