"""`foveate read`: a long text read as pictures, by the Vist model or by a vision-language model."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.console import err, out, print_json
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.carve.pages.reader import PageAnswer, PageReader

STDIN = "-"
METHOD, KEEP = "tokencarve", "25%"
NO_KINDS = "none"


@dataclass(frozen=True, kw_only=True)
class VistOptions:
    """Options of the road over strips."""

    model: Path | None
    base: str | None
    recent: int | None
    no_compare: bool


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Options of the road over pages; None and () where the user gave none."""

    method: str | None
    keep: str | None
    prune_layer: int | None
    keep_exact: tuple[str, ...]
    exact: str | None
    exact_limit: int | None
    or_text: bool
    page: str | None
    font_px: int | None
    flow: bool
    font: tuple[str, ...]
    installed_fonts: bool
    save_pages: Path | None
    no_compare: bool

    def given(self) -> list[str]:
        """Names of the options that were set."""
        unset = (None, False, ())
        return [
            f"--{name.replace('_', '-')}"
            for name, value in vars(self).items()
            if not any(value is nothing for nothing in unset)
        ]


def read(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Text file, or - for stdin.")],
    ask: Annotated[str | None, typer.Option(help="Question about the text.")] = None,
    continue_: Annotated[
        bool, typer.Option("--continue", help="Go on writing where the text ends.")
    ] = False,
    vlm: Annotated[
        str | None,
        typer.Option(
            help="Show pages to this vision-language model: folder, hub id, or 'embedded'. "
            "Without it the Vist model reads."
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help=f"[--vlm] Carving method; default {METHOD}.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(help=f"[--vlm] Visual tokens to keep of each page; default {KEEP}."),
    ] = None,
    prune_layer: Annotated[
        int | None, typer.Option(help="[--vlm] First decoder layer that runs short.")
    ] = None,
    keep_exact: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="[--vlm] A name, or /a regular expression/, to keep as text beside the pages.",
        ),
    ] = None,
    exact: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="[--vlm] Kinds kept as text: url,email,hex,date,identifier,number; or none. "
            "Default: all.",
        ),
    ] = None,
    exact_limit: Annotated[
        int | None, typer.Option(help="[--vlm] Most tokens for strings kept as text.")
    ] = None,
    or_text: Annotated[
        bool,
        typer.Option("--or-text", help="[--vlm] Read as text where pages cost more or do not fit."),
    ] = False,
    page: Annotated[
        str | None, typer.Option(metavar="WxH", help="[--vlm] Page in px; default: the model's.")
    ] = None,
    font_px: Annotated[
        int | None, typer.Option(help="[--vlm] Font size in px; default: by the model's tokens.")
    ] = None,
    flow: Annotated[
        bool,
        typer.Option("--flow", help="[--vlm] Draw line ends as a sign, not as new lines."),
    ] = False,
    font: Annotated[
        list[str] | None,
        typer.Option(help="[--vlm] Font file for characters that Noto Sans lacks."),
    ] = None,
    installed_fonts: Annotated[
        bool, typer.Option("--installed-fonts", help="[--vlm] Then try the installed fonts.")
    ] = False,
    save_pages: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="[--vlm] Write the pages as PNG.")
    ] = None,
    no_compare: Annotated[
        bool, typer.Option("--no-compare", help="Do not also run the text as text.")
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
    encoding: Annotated[str, typer.Option(help="Encoding of the text.")] = "utf-8",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Answer a question about a long text, or continue it, reading it as pictures."""
    if (ask is None) == (not continue_):
        raise InputError('give either --ask "QUESTION" or --continue.')
    options = PageOptions(
        method=method,
        keep=keep,
        prune_layer=prune_layer,
        keep_exact=tuple(keep_exact or ()),
        exact=exact,
        exact_limit=exact_limit,
        or_text=or_text,
        page=page,
        font_px=font_px,
        flow=flow,
        font=tuple(font or ()),
        installed_fonts=installed_fonts,
        save_pages=save_pages,
        no_compare=no_compare,
    )
    if vlm is None:
        given = [name for name in options.given() if name != "--no-compare"]
        if given:
            raise InputError(f"{', '.join(given)} need --vlm MODEL; add it.")
        strips = VistOptions(model=model, base=base, recent=recent, no_compare=no_compare)
        read_with_vist(open_text(file, encoding), ask, strips, max_new_tokens, device, as_json)
        return
    if (model, base, recent) != (None, None, None):
        raise InputError("--model, --base and --recent are of the Vist road; leave out --vlm.")
    if ask is None:
        raise InputError("--vlm answers questions and cannot continue a text; use --ask.")
    read_with_vlm(open_text(file, encoding), ask, vlm, options, max_new_tokens, device, as_json)


def read_with_vist(
    chunks: Iterator[str],
    question: str | None,
    options: VistOptions,
    max_new_tokens: int,
    device: str,
    as_json: bool,
) -> None:
    """The road over strips and latents; `question` None continues the text."""
    with err.status("Loading the libraries"):
        import foveate.assets
        from foveate.models.load import quiet_transformers
        from foveate.vist.run.document_reader import RECENT, DocumentReader
        from foveate.vist.run.vist import Vist

        quiet_transformers()
    folder = options.model if options.model is not None else foveate.assets.vist_path()
    if folder.is_dir() and not (folder / "vist.json").exists():
        raise InputError(
            f"{str(folder)!r} holds no Vist (no vist.json); train one (foveate train), name one "
            "with --model, or let a vision-language model read pages: --vlm embedded."
        )
    with err.status("Loading the model (the first time converts it, a minute)"):
        vist = Vist.from_pretrained(
            folder, base=options.base, device=None if device == "auto" else device
        )
    recent = options.recent if options.recent is not None else RECENT
    reader = DocumentReader(vist, recent=recent)
    # A strip holds hundreds of characters; more than these are refused by the reader.
    text = read_at_most(chunks, vist.config.max_pages * 1000)
    with err.status("Reading"):
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "compare": not options.no_compare,
        }
        answer = (
            reader.go_on(text, **settings)
            if question is None
            else reader.ask(text, question, **settings)
        )
    if as_json:
        print_json({"question": question, "answer": answer.text, "report": answer.report.to_dict()})
        return
    out.print(answer.text or "(nothing)", markup=False, soft_wrap=True)
    out.print()
    if answer.report.answer_before is not None:
        out.print("On raw text:", style="dim")
        out.print(answer.report.answer_before or "(nothing)", markup=False, soft_wrap=True)
        out.print()
    out.print(str(answer.report), soft_wrap=True, markup=False)


def read_with_vlm(
    chunks: Iterator[str],
    question: str,
    vlm: str,
    options: PageOptions,
    max_new_tokens: int,
    device: str,
    as_json: bool,
) -> None:
    """The road over pages: no training, any vision-language model."""
    reader = page_reader(vlm, options, device)
    text = read_at_most(chunks, reader.most_chars)
    from foveate.models.prompt import unknown_words

    with err.status("Reading"):
        answer = reader.read(
            text,
            question,
            max_new_tokens=max_new_tokens,
            or_text=options.or_text,
            compare=not options.no_compare,
        )
    files = save_images(answer, options.save_pages)
    unknown = unknown_words(reader.vlm, question)
    if as_json:
        result: dict[str, Any] = {
            "question": question,
            "model": reader.vlm.name,
            "family": reader.vlm.family.title,
            "answer": answer.answer,
            "unknown_words": unknown,
            "report": answer.report.to_dict(),
            "pages": [str(path) for path in files],
        }
        print_json(result)
        return
    for note in notes(reader, text, unknown):
        out.print(f"[yellow]{note}[/yellow]")
    out.print(answer.answer or "(nothing)", markup=False, soft_wrap=True)
    out.print()
    out.print(str(answer.report), soft_wrap=True, markup=False)
    for path in files:
        out.print(str(path), style="dim", soft_wrap=True)


def open_text(file: str, encoding: str) -> Iterator[str]:
    """A text file, or stdin, in pieces.

    Raises:
        InputError: it is missing, empty or no text.
    """
    from foveate.text_image.text_file import decode_text, read_text_file

    if file == STDIN:
        return decode_text(sys.stdin.buffer, "standard input", encoding)
    return read_text_file(file, encoding)


def read_at_most(chunks: Iterator[str], most: int | None) -> str:
    """The text, but not the rest of one that is longer than `most` characters."""
    pieces, length = [], 0
    for chunk in chunks:
        pieces.append(chunk)
        length += len(chunk)
        if most is not None and length > most:
            break
    return "".join(pieces)


def page_reader(vlm: str, options: PageOptions, device: str) -> PageReader:
    """A reader with the user's settings."""
    page = parse_page(options.page)
    with err.status("Loading the libraries"):
        from foveate.carve.methods import METHODS
        from foveate.carve.pages.reader import EMBEDDED, EMBEDDED_PRUNE_LAYER, PageReader
        from foveate.cli.method import build_method
        from foveate.models.load import quiet_transformers
        from foveate.text_image.font_file import find_fonts

        quiet_transformers()
    name = options.method or METHOD
    layer = options.prune_layer
    if layer is None and vlm == EMBEDDED and name in METHODS and METHODS[name].default_layer:
        layer = EMBEDDED_PRUNE_LAYER
    carving = build_method(name, options.keep or KEEP, prune_layer=layer)
    rules = exact_rules(options, by_default=vlm != EMBEDDED)
    fonts = (*options.font, *(find_fonts() if options.installed_fonts else ()))
    with err.status(f"Loading {vlm}"):
        return PageReader(
            vlm,
            method=carving,
            rules=rules,
            page=page,
            font_px=options.font_px,
            flow=options.flow,
            fonts=fonts,
            device=device,
        )


def exact_rules(options: PageOptions, *, by_default: bool) -> Any:
    """--exact, --keep-exact and --exact-limit as ExactRules."""
    from foveate.carve.pages.exact import KINDS, ExactRules

    kinds = KINDS if by_default else ()
    if options.exact is not None:
        wanted = options.exact.replace(",", " ").split()
        kinds = () if wanted == [NO_KINDS] else tuple(wanted)
    return ExactRules(kinds=kinds, marked=options.keep_exact, max_tokens=options.exact_limit)


def parse_page(text: str | None) -> tuple[int, int] | None:
    """`448x448`, or `448` for a square."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", text.strip())
    if match is None:
        raise InputError(f"page {text!r} is no size; write 448x448 or 448.")
    return int(match[1]), int(match[2] or match[1])


def save_images(answer: PageAnswer, folder: Path | None) -> list[Path]:
    """Write the pages that were shown, as page-001.png and so on."""
    if folder is None:
        return []
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(answer.images, start=1):
            paths.append(folder / f"page-{number:03d}.png")
            image.save(paths[-1])
    except OSError as error:
        raise InputError(
            f"pages cannot be written to {str(folder)!r} ({error.strerror}); choose another folder."
        ) from error
    return paths


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
