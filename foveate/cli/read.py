"""`foveate read`: a long text read as pictures by a Vist, its end as raw text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli.console import err, out, print_json
from foveate.cli.options import AsJson, Device, Encoding, MaxNewTokens, NoCompare, TextFile
from foveate.cli.text_input import open_text, read_at_most
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
    recent: Annotated[
        int | None, typer.Option(help="Tokens at the end of the text that stay raw; default 256.")
    ] = None,
    no_compare: NoCompare = False,
    encoding: Encoding = "utf-8",
    max_new_tokens: MaxNewTokens = 32,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer a question about a long text, or continue it, reading all but its end as pictures."""
    if (ask is None) == (not continue_):
        raise InputError('give either --ask "QUESTION" or --continue.')
    chunks = open_text(file, encoding)
    with err.status("Loading the libraries"):
        import foveate.assets
        from foveate.models.load import quiet_transformers
        from foveate.vist.run.document_reader import RECENT, DocumentReader
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
    reader = DocumentReader(vist, recent=recent if recent is not None else RECENT)
    text = read_at_most(chunks, vist.config.max_pages * CHARS_PER_STRIP)
    with err.status("Reading"):
        settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "compare": not no_compare}
        answer = (
            reader.go_on(text, **settings) if ask is None else reader.ask(text, ask, **settings)
        )
    if as_json:
        print_json({"question": ask, "answer": answer.text, "report": answer.report.to_dict()})
        return
    out.print(answer.text or "(nothing)", markup=False, soft_wrap=True)
    out.print()
    if answer.report.answer_before is not None:
        out.print("On raw text:", style="dim")
        out.print(answer.report.answer_before or "(nothing)", markup=False, soft_wrap=True)
        out.print()
    out.print(str(answer.report), soft_wrap=True, markup=False)
