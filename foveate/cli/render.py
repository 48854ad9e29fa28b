"""`foveate render`: a text file as the pictures that an encoder reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.console import err, out, percent, print_json
from foveate.cli.options import AsJson, Encoding, Fonts, InstalledFonts, TextFile
from foveate.cli.text_input import open_text
from foveate.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from foveate.text_image.render import Strips, StripStyle

# 256 strips of 14 x 3584 with their lines between make 14 megapixels; viewers manage that.
MAX_ROWS = 256 * 15
SEPARATOR = 192
MOST_CHARS = 50_000_000  # a shelf of books, and 2 GB of pictures; endless input has to end
SHOWN_MISSING = 10


@dataclass
class _Drawn:
    """What was drawn, counted while the text goes by."""

    characters: int = 0
    pictures: int = 0
    patches_used: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    files: list[Path] = field(default_factory=list)


def render(
    file: TextFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The PNG to write.")] = Path(
        "strips.png"
    ),
    font_px: Annotated[int, typer.Option(help="Size of the font, pixels an em.")] = 10,
    font: Fonts = None,
    installed_fonts: InstalledFonts = False,
    page: Annotated[
        bool, typer.Option("--page", help="Pages of lines broken at words, not strips.")
    ] = False,
    width: Annotated[
        int | None, typer.Option(help="Pixels; default: 3584 for strips, 224 for pages.")
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(help="Pixels; default: the lowest strip that holds the font, 224 for pages."),
    ] = None,
    patch: Annotated[int, typer.Option(help="Side of a patch; divides width and height.")] = 14,
    encoding: Encoding = "utf-8",
    as_json: AsJson = False,
) -> None:
    """Draw a text as strips (or pages), stacked in a PNG with grey lines between them.

    A long text takes several files, numbered.
    """
    from foveate.carve.pages.layout import line_height
    from foveate.files import check_writable
    from foveate.text_image.font_file import find_fonts
    from foveate.text_image.render import Renderer, StripStyle

    if output.suffix.lower() != ".png":
        raise InputError(f"output {str(output)!r} is no .png; strips are only written as PNG.")
    check_writable(output)
    fonts = [*(font or ()), *(find_fonts() if installed_fonts else ())]
    settings: dict[str, Any] = {"font_px": font_px, "patch": patch, "fonts": tuple(fonts)}
    line = line_height(font_px)
    if page:
        settings.update(
            width=_given(width, 224), height=_given(height, 224), wrap=1.0, newline="break"
        )
        settings["line_height"] = line
    else:
        lowest = -(-line // max(1, patch)) * patch
        settings.update(width=_given(width, 256 * patch), height=_given(height, lowest))
    renderer = Renderer(StripStyle(**settings))
    text = open_text(file, encoding)
    drawn = _Drawn()
    with err.status("Drawing"):
        sheets = _sheets(_counted(renderer.stream(text), drawn), renderer.style)
        _write(sheets, output, drawn)
    _report(drawn, renderer.style, "page" if page else "strip", as_json)


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def _counted(stream: Iterator[Strips], drawn: _Drawn) -> Iterator[Strips]:
    for strips in stream:
        drawn.characters += len(strips.char_page)
        if drawn.characters > MOST_CHARS:
            raise InputError(
                f"the text has more than {MOST_CHARS:,} characters"
                + (f", of which {len(drawn.files):,} pictures were written" if drawn.files else "")
                + "; draw it in parts (head -c, split)."
            )
        drawn.pictures += len(strips)
        drawn.patches_used += int(strips.patch_mask.sum())
        drawn.missing.update(strips.missing)
        yield strips


def _sheets(stream: Iterator[Strips], style: StripStyle) -> Iterator[npt.NDArray[np.uint8]]:
    """Pictures stacked with a grey line under each, as many as MAX_ROWS hold."""
    import numpy as np

    limit = max(1, MAX_ROWS // (style.height + 1))
    line = np.full((1, style.width), SEPARATOR, np.uint8)
    rows: list[npt.NDArray[np.uint8]] = []
    for strips in stream:
        for picture in strips.pixels:
            if len(rows) == 2 * limit:
                yield np.concatenate(rows[:-1])
                rows = []
            rows += [picture, line]
    yield np.concatenate(rows[:-1])


def _write(sheets: Iterator[npt.NDArray[np.uint8]], output: Path, drawn: _Drawn) -> None:
    """One sheet goes to the file named, several to numbered ones."""
    from PIL import Image

    from foveate.cli.pictures import save_picture

    waiting = next(sheets)
    for sheet in sheets:
        drawn.files.append(_numbered(output, len(drawn.files) + 1))
        save_picture(Image.fromarray(waiting), drawn.files[-1])
        waiting = sheet
    drawn.files.append(_numbered(output, len(drawn.files) + 1) if drawn.files else output)
    save_picture(Image.fromarray(waiting), drawn.files[-1])


def _numbered(output: Path, number: int) -> Path:
    return output.with_name(f"{output.stem}-{number:04d}{output.suffix}")


def _report(drawn: _Drawn, style: StripStyle, name: str, as_json: bool) -> None:
    patches = drawn.pictures * style.patches
    if as_json:
        print_json(
            {
                "characters": drawn.characters,
                f"{name}s": drawn.pictures,
                "patches": patches,
                "patches_used": drawn.patches_used,
                "missing": dict(drawn.missing.most_common()),
                "style": style.to_dict(),
                "files": [str(path) for path in drawn.files],
            }
        )
        return
    size = f"{style.height} x {style.width} pixels"
    rows = [
        ("characters", f"{drawn.characters:,}"),
        (f"{name}s", f"{drawn.pictures:,} of {size}"),
        ("patches used", f"{drawn.patches_used:,} of {patches:,}"),
        ("missing glyphs", _missing(drawn)),
    ]
    for label, value in rows:
        out.print(f"{label:<16}{value}", markup=False, soft_wrap=True)
    first, last = drawn.files[0], drawn.files[-1]
    files = str(first) if first == last else f"{first} to {last.name}"
    out.print(f"{'written':<16}{files}", markup=False, soft_wrap=True)


def _missing(drawn: _Drawn) -> str:
    total = drawn.missing.total()
    if not total:
        return "none"
    named = ", ".join(
        f"{_shown(char)} {count:,}x" for char, count in drawn.missing.most_common(SHOWN_MISSING)
    )
    more = len(drawn.missing) - SHOWN_MISSING
    rest = f" and {more:,} other characters" if more > 0 else ""
    share = percent(total / drawn.characters, 2)
    help_ = "--font or --installed-fonts may help"
    return f"{total:,} ({share}), drawn as boxes: {named}{rest}; {help_}"


def _shown(char: str) -> str:
    """The code point, and the character where a terminal can show it."""
    code = f"U+{ord(char):04X}"
    return f"{code} {char}" if char.isprintable() else code
