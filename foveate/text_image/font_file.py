"""Which characters a font file can draw, and which font files are installed."""

from __future__ import annotations

import os
import struct
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ImageFont

from foveate.errors import InputError
from foveate.files import is_file, is_there, open_regular

__all__ = ["check_font_file", "code_points", "find_fonts", "open_font", "shipped_font"]

# The largest fonts in use, with all of Chinese, Japanese and Korean, stay below a third of it.
MOST_BYTES = 128 << 20
LAST_POINT = 0x10FFFF
MOST_NAMED = 4 * LAST_POINT  # code points in all groups of a table; a sound one has each once

SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")

# Bold or slanted faces come last: a plain face with the same characters is easier to read.
STYLED = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "medium")


def shipped_font() -> Path:
    """The path of the Noto Sans Regular that comes with foveate (licence: OFL 1.1, beside it)."""
    return Path(str(resources.files("foveate.text_image") / "fonts" / "NotoSans-Regular.ttf"))


def find_fonts(folders: tuple[str | Path, ...] | None = None) -> tuple[str, ...]:
    """Installed font files, to be given to `StripStyle(fonts=...)`.

    The order is the same on every run over the same files: plain faces (sans serif first) by name,
    then bold, slanted, light and condensed ones. Files that cannot be used are left out.

    Args:
        folders: where to look; None for the usual folders of this system.
    """
    found = {
        path
        for folder in (folders if folders is not None else _font_folders())
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    }

    def order(path: Path) -> tuple[bool, bool, str, str]:
        name = path.name.lower()
        return any(word in name for word in STYLED), "sans" not in name, name, str(path)

    return tuple(str(path) for path in sorted(found, key=order) if _usable(path))


def open_font(path: str | Path, size: int) -> ImageFont.FreeTypeFont:
    """The font at `size` pixels an em, for basic layout: one glyph a character.

    Raises:
        InputError: FreeType cannot open the file at that size.
    """
    try:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise InputError(
            f"font {str(path)!r} cannot be opened at {size} px ({error}); give another file."
        ) from None


def check_font_file(path: str | Path) -> None:
    """Raises InputError if there is no regular file of a font's size at the path."""
    path = Path(path)
    if not is_file(path):
        state = "does not exist"
        if is_there(path):
            state = "is a folder" if path.is_dir() else "is a pipe, a device or a socket"
        raise InputError(f"font {str(path)!r} {state}; give a .ttf, .otf or .ttc file.")
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise InputError(
            f"font {str(path)!r} has {size:,} bytes, above the limit of {MOST_BYTES:,}; give "
            "another file."
        )


def code_points(path: str | Path) -> npt.NDArray[np.int64]:
    """The Unicode code points for which a font file has a glyph, ascending.

    Read from the font's `cmap` table (TrueType, OpenType and collections, whose first face is
    read), because drawing a character does not tell whether the glyph was there.

    Raises:
        InputError: the file is missing or is no such font, or has no Unicode table.
    """
    check_font_file(path)
    try:
        with open_regular(path) as file:
            return _read_cmap(file.read(MOST_BYTES))
    except (struct.error, IndexError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"font {str(path)!r} cannot be read ({reason}); give a .ttf, .otf or .ttc file."
        ) from None


def _read_cmap(data: bytes) -> npt.NDArray[np.int64]:
    start = 0
    if data[:4] == b"ttcf":
        (start,) = struct.unpack_from(">I", data, 12)
    elif data[:4] not in (b"\0\1\0\0", b"OTTO", b"true"):
        raise ValueError("not a TrueType or OpenType file")
    (num_tables,) = struct.unpack_from(">H", data, start + 4)
    for record in range(start + 12, start + 12 + 16 * num_tables, 16):
        if data[record : record + 4] == b"cmap":
            (cmap,) = struct.unpack_from(">I", data, record + 8)
            break
    else:
        raise ValueError("no cmap table")
    (num_encodings,) = struct.unpack_from(">H", data, cmap + 2)
    # A mark for each code point: tables that name the same ones again and again take no more room.
    is_covered = np.zeros(LAST_POINT + 1, dtype=np.bool_)
    num_tables, seen = 0, set()
    for index in range(num_encodings):
        platform, encoding, offset = struct.unpack_from(">HHI", data, cmap + 4 + 8 * index)
        # Platform 0 is Unicode; 3 is Windows, whose encodings 1 and 10 are Unicode.
        unicode = platform == 0 or (platform == 3 and encoding in (1, 10))
        if unicode and offset not in seen:
            seen.add(offset)
            (kind,) = struct.unpack_from(">H", data, cmap + offset)
            if kind == 4:
                _mark_segments(data, cmap + offset, is_covered)
            elif kind == 12:
                _mark_groups(data, cmap + offset, is_covered)
            num_tables += kind in (4, 12)
    if not num_tables:
        raise ValueError("no Unicode character table")
    return np.flatnonzero(is_covered).astype(np.int64)


def _mark_segments(data: bytes, at: int, is_covered: npt.NDArray[np.bool_]) -> None:
    """Code points of a format 4 subtable: segments of the basic multilingual plane."""
    length, _, double = struct.unpack_from(">HHH", data, at + 2)
    count = double // 2
    words = np.frombuffer(data[at : at + length], dtype=">u2").astype(np.int64)
    ends = words[7 : 7 + count]
    starts, deltas, offsets = (words[8 + n * count : 8 + (n + 1) * count] for n in (1, 2, 3))
    base = 8 + 3 * count
    if int(np.maximum(ends - starts + 1, 0).sum()) > MOST_NAMED:
        raise ValueError("a character table that names the same characters over and over")
    for segment in range(count):
        points = np.arange(starts[segment], ends[segment] + 1)
        if offsets[segment]:
            place = base + segment + offsets[segment] // 2 + points - starts[segment]
            points, place = points[place < len(words)], place[place < len(words)]
            glyph = words[place]
            glyph = np.where(glyph, (glyph + deltas[segment]) & 0xFFFF, 0)
        else:
            glyph = (points + deltas[segment]) & 0xFFFF
        is_covered[points[(glyph != 0) & (points != 0xFFFF)]] = True


def _mark_groups(data: bytes, at: int, is_covered: npt.NDArray[np.bool_]) -> None:
    """Code points of a format 12 subtable: groups over all of Unicode."""
    (count,) = struct.unpack_from(">I", data, at + 12)
    named = 0
    for index in range(count):
        first, last, glyph = struct.unpack_from(">III", data, at + 16 + 12 * index)
        if last < first or last > LAST_POINT:
            raise ValueError("damaged character table")
        named += last - first + 1
        if named > MOST_NAMED:
            raise ValueError("a character table that names the same characters over and over")
        is_covered[first + (glyph == 0) : last + 1] = True


def _usable(path: Path) -> bool:
    """Whether both our table reader and FreeType can read it (bitmap emoji fonts fail here)."""
    try:
        open_font(path, 10)
        return len(code_points(path)) > 0
    except InputError:
        return False


def _font_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "win32":
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
        folders.append(home / "AppData/Local/Microsoft/Windows/Fonts")
    elif sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    else:
        folders = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts")]
        folders += [home / ".local/share/fonts", home / ".fonts"]
    return [folder for folder in folders if folder.is_dir()]
