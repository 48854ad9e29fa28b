"""`foveate pages`: a long text shown as pages to a vision-language model that nobody trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.console import err, out, print_json
from foveate.cli.options import (
    AsJson,
    Device,
    Encoding,
    Fonts,
    InstalledFonts,
    MaxNewTokens,
    Method,
    NoCompare,
    TextFile,
    asked,
)
from foveate.cli.pictures import save_picture
from foveate.cli.text_input import check_not_blank, open_text, read_at_most
from foveate.errors import InputError
from foveate.files import check_writable

if TYPE_CHECKING:
    from foveate.carve.pages.reader import PageAnswer, PageReader

METHOD, KEEP = "tokencarve", "25%"
NO_KINDS = "none"


def pages(
    file: TextFile,
    ask: Annotated[str, typer.Option(help="Question about the text.")],
    model: Annotated[
        str, typer.Option(help="Vision-language model: local folder, hub id, or 'embedded'.")
    ] = "embedded",
    method: Method = METHOD,
    keep: Annotated[str, typer.Option(help="Visual tokens to keep of each page.")] = KEEP,
    prune_layer: Annotated[
        int | None, typer.Option(help="First decoder layer that runs short.")
    ] = None,
    keep_exact: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="A name, or /a regular expression/, to keep as text beside the pages.",
        ),
    ] = None,
    exact: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Kinds kept as text: url,email,hex,date,identifier,number; or none. "
            "Default: all, and none for the embedded model.",
        ),
    ] = None,
    exact_limit: Annotated[
        int | None, typer.Option(help="Most tokens for strings kept as text.")
    ] = None,
    or_text: Annotated[
        bool, typer.Option("--or-text", help="Read as text where pages cost more or do not fit.")
    ] = False,
    page: Annotated[
        str | None, typer.Option(metavar="WxH", help="Page in px; default: the model's.")
    ] = None,
    font_px: Annotated[
        int | None, typer.Option(help="Font size in px; default: by the model's tokens.")
    ] = None,
    flow: Annotated[
        bool, typer.Option("--flow", help="Draw line ends as a sign, not as new lines.")
    ] = False,
    proof: Annotated[
        bool,
        typer.Option(
            "--proofread",
            help="Let the embedded reader read the pages first: words it misreads stand as text.",
        ),
    ] = False,
    font: Fonts = None,
    installed_fonts: InstalledFonts = False,
    save_pages: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the pages as PNG.")
    ] = None,
    no_compare: NoCompare = False,
    encoding: Encoding = "utf-8",
    max_new_tokens: MaxNewTokens = 32,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer a question about a long text, shown as carved pages to a vision-language model."""
    question = asked(ask)
    chunks = check_not_blank(open_text(file, encoding), file)
    if save_pages is not None:
        check_writable(save_pages / "page-001.png")
    size = parse_page(page)
    with err.status("Loading the libraries"):
        from foveate.carve.pages.defaults import PageDefaults
        from foveate.carve.pages.reader import PageReader
        from foveate.cli.method import build_method
        from foveate.cli.model import check_fits_embedded
        from foveate.models.load import quiet_transformers
        from foveate.text_image.font_file import find_fonts

        quiet_transformers()
    defaults = PageDefaults.of(model)
    layer = prune_layer if prune_layer is not None else defaults.layer_of(method)
    carving = build_method(method, keep, prune_layer=layer)
    check_fits_embedded(model, carving)
    rules = exact_rules(exact, keep_exact or [], exact_limit, defaults.kinds)
    with err.status(f"Loading {model}"):
        reader = PageReader(
            model,
            method=carving,
            rules=rules,
            page=size,
            font_px=font_px,
            flow=flow,
            fonts=(*(font or ()), *(find_fonts() if installed_fonts else ())),
            proofreader=proofreader() if proof else None,
            device=device,
        )
    text = read_at_most(chunks, reader.most_chars)
    with err.status("Reading"):
        answer = reader.read(
            text, question, max_new_tokens=max_new_tokens, or_text=or_text, compare=not no_compare
        )
    unknown = reader.vlm.unknown_words(question)
    said = notes(reader, text, unknown)
    files = page_files(answer, save_pages)
    if as_json:
        result: dict[str, Any] = {
            "question": question,
            "model": reader.vlm.name,
            "family": reader.vlm.family.title,
            "answer": answer.answer,
            "unknown_words": unknown,
            "notes": said,
            "report": answer.report.to_dict(),
            "pages": [str(path) for path in files],
        }
        print_json(result)
        save_images(answer, files)
        return
    for note in said:
        out.print(note, style="yellow", markup=False, soft_wrap=True)
    out.print(answer.answer or "(nothing)", markup=False, soft_wrap=True)
    out.print()
    out.print(str(answer.report), soft_wrap=True, markup=False)
    save_images(answer, files)
    for path in files:
        out.print(str(path), style="dim", markup=False, soft_wrap=True)


def proofreader() -> Any:
    """The embedded text encoder as a proofreader."""
    from foveate.assets import text_encoder_path
    from foveate.vist.encoder.proofreader import PageProofreader
    from foveate.vist.encoder.text_encoder import load_text_encoder

    return PageProofreader(load_text_encoder(text_encoder_path()))


def exact_rules(
    kinds: str | None, marked: list[str], limit: int | None, by_default: tuple[str, ...]
) -> Any:
    """--exact, --keep-exact and --exact-limit as ExactRules."""
    from foveate.carve.pages.exact import ExactRules

    chosen = by_default
    if kinds is not None:
        wanted = kinds.replace(",", " ").split()
        chosen = () if wanted == [NO_KINDS] else tuple(wanted)
    return ExactRules(kinds=chosen, marked=tuple(marked), max_tokens=limit)


def parse_page(text: str | None) -> tuple[int, int] | None:
    """`448x448`, or `448` for a square."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text.strip())
    if match is None:
        raise InputError(f"page {text!r} is no size; write 448x448 or 448.")
    return int(match[1]), int(match[2] or match[1])


def page_files(answer: PageAnswer, folder: Path | None) -> list[Path]:
    """Where the pages that were shown go: page-001.png and so on."""
    if folder is None:
        return []
    return [folder / f"page-{number + 1:03d}.png" for number in range(len(answer.images))]


def save_images(answer: PageAnswer, files: list[Path]) -> None:
    """Write the pages to these files."""
    for image, path in zip(answer.images, files, strict=bool(files)):
        save_picture(image, path)


def notes(reader: PageReader, text: str, unknown: list[str]) -> list[str]:
    """What the reader of the answer should know."""
    said = []
    if unknown:
        said.append(
            f"The model does not know: {', '.join(unknown)}; its answer may be meaningless."
        )
    if reader.reads_fact_sheets_only and reader.layout_for(text).to_dict()["layout"] == "text":
        said.append(
            "The embedded model reads fact sheets only (lines such as: bread red 37 52); its "
            "answer is meaningless."
        )
    return said
