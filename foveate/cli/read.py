"""`foveate read`: a long text read as pictures by a Vist, its end as raw text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli.console import err, out, print_json
from foveate.cli.options import AsJson, Device, Encoding, MaxNewTokens, TextFile, as_share, asked
from foveate.cli.text_input import check_not_blank, open_text, read_at_most
from foveate.errors import InputError
from foveate.files import is_folder

CHARS_PER_STRIP = 1000  # more than a strip holds: longer texts are refused by the reader


def read(
    file: TextFile,
    ask: Annotated[str | None, typer.Option(help="Question about the text.")] = None,
    continue_: Annotated[
        bool, typer.Option("--continue", help="Go on writing where the text ends.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="Vist: folder or hub id; default: the embedded one.")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The Vist's language model, where it is not found by name.")
    ] = None,
    look: Annotated[
        str,
        typer.Option(
            help="What a question may read of the text, as a share of its tokens: 10% or 0.1; the "
            "places it points at as text, the rest as latents. auto: a tenth, at least 128 tokens; "
            "0: latents only."
        ),
    ] = "auto",
    recent: Annotated[
        int | None,
        typer.Option(
            help="Tokens at the end of the text that stay raw; default: 256 with --continue, none "
            "with --ask."
        ),
    ] = None,
    latents: Annotated[
        bool,
        typer.Option(
            "--latents",
            help="With --continue: read the far part as latents; default: more raw tokens instead.",
        ),
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also run the whole text as text, where it fits.")
    ] = False,
    allow_lost: Annotated[
        bool,
        typer.Option(
            "--allow-lost",
            help="Answer even where a fifth of the text's characters or more cannot be shown.",
        ),
    ] = False,
    encoding: Encoding = "utf-8",
    max_new_tokens: MaxNewTokens = 32,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Skim a long text as pictures and look where a question points; or continue a text."""
    if (ask is None) == (not continue_):
        raise InputError('give either --ask "QUESTION" or --continue.')
    if continue_ and look != "auto":
        raise InputError("--look is for a question (--ask); a text that goes on looks nowhere.")
    if ask is not None and latents:
        raise InputError(
            "--latents is for --continue; for a question, --look 0 reads latents only."
        )
    question = None if ask is None else asked(ask)
    if recent is not None and recent < (1 if continue_ else 0):
        raise InputError(
            f"--recent {recent} is below {int(continue_)}; raise it"
            + (": a text goes on from raw tokens." if continue_ else ".")
        )
    share = None if look == "auto" else _share(look)
    chunks = check_not_blank(open_text(file, encoding), file)
    with err.status("Loading the libraries"):
        import foveate.assets
        from foveate.models.load import quiet_transformers
        from foveate.vist.encoder.lost_text import MOST_LOST
        from foveate.vist.run.document_reader import DocumentReader
        from foveate.vist.run.vist import Vist

        quiet_transformers()
    folder = model if model is not None else foveate.assets.vist_path()
    if is_folder(folder) and not (folder / "vist.json").exists():
        raise InputError(
            f"{str(folder)!r} holds no Vist (no vist.json); train one (foveate train), name one "
            "with --model, or let a vision-language model read pages (foveate pages)."
        )
    with err.status("Loading the model (the first time converts it, a minute)"):
        place = None if device == "auto" else device
        vist = Vist.from_pretrained(folder, base=base, device=place)
    reader = DocumentReader(vist, recent=recent)
    text = read_at_most(chunks, vist.config.max_pages * CHARS_PER_STRIP)
    shown = _Shown()
    settings: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "compare": compare,
        "stream": None if as_json else shown.piece,
        "stream_raw": None if as_json else shown.raw_piece,
        "most_lost": 1.0 if allow_lost else MOST_LOST,
    }
    with shown.waiting("Reading"):
        if question is None:
            answer = reader.go_on(text, grow=not latents, **settings)
        else:
            answer = reader.ask(text, question, fixate=share, **settings)
    if as_json:
        print_json({"question": question, "answer": answer.text, "report": answer.report.to_dict()})
        return
    if not answer.text:
        out.print("(nothing)", markup=False)
    shown.end_line()
    out.print()
    out.print(str(answer.report), soft_wrap=True, markup=False)


class _Shown:
    """Answers on the terminal as they are written, a spinner before the first piece of each."""

    def __init__(self) -> None:
        self._status: Any = None
        self._open = False  # a line that has not ended

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that something is done until the first piece comes."""
        self._begin(what)
        try:
            yield
        finally:
            self._stop()

    def piece(self, text: str) -> None:
        """Print a piece of an answer at once."""
        self._stop()
        out.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        self._open = True

    def raw_piece(self, text: str) -> None:
        """The same of the raw run, which begins with an empty piece."""
        if text:
            self.piece(text)
            return
        self._stop()
        self.end_line()
        out.print("\nOn raw text:", style="dim")
        self._begin("Reading the text as text")

    def end_line(self) -> None:
        if self._open:
            out.print()
        self._open = False

    def _begin(self, what: str) -> None:
        self._status = err.status(what)
        self._status.__enter__()

    def _stop(self) -> None:
        if self._status is not None:
            self._status.__exit__(None, None, None)
        self._status = None


def _share(text: str) -> float:
    """10% or 0.1 as a share, 0 up to 1."""
    try:
        share = as_share(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"--look got {text!r}; use a share such as 10% or 0.1, 0, or auto.")
    return share
