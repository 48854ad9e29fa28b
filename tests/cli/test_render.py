"""`foveate render`: what is written, what is said, what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.cli import render as command
from foveate.cli.main import app
from foveate.text_image.font_file import shipped_font
from foveate.text_image.render import Renderer, StripStyle
from tests.cli.conftest import Foveate
from tests.cli.test_bad_input import refusal

TEXT = "Far context becomes pictures.\n" * 120


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(TEXT)
    return path


def unstacked(path: Path, height: int) -> np.ndarray:
    """The pictures of a sheet, without the lines between them."""
    rows = np.asarray(Image.open(path))
    return np.stack([rows[at : at + height] for at in range(0, len(rows), height + 1)])


def test_strips(foveate: Foveate, story: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "strips.png"
    said = foveate("render", story, "-o", output).stdout
    strips = Renderer().render(TEXT)
    np.testing.assert_array_equal(unstacked(output, 14), strips.pixels)
    lines = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert lines["characters"] == f"{len(TEXT):,}"
    assert lines["strips"] == f"{len(strips)} of 14 x 3584 pixels"
    assert lines["patches"] == f"used    {strips.patch_mask.sum():,} of {strips.patch_mask.size:,}"
    assert lines["missing"] == "glyphs  none"
    assert lines["written"] == str(output)


def test_pages(foveate: Foveate, story: Path, tmp_path: Path) -> None:
    output = tmp_path / "pages.png"
    options = ("--page", "--width", 280, "--height", 140, "--json")
    listed = json.loads(foveate("render", story, "-o", output, *options).stdout)
    style = StripStyle(width=280, height=140, line_height=14, wrap=1.0, newline="break")
    assert StripStyle.from_dict(listed["style"]) == style
    pages = Renderer(style).render(TEXT)
    assert listed["pages"] == len(pages)
    assert listed["patches_used"] == pages.patch_mask.sum()
    np.testing.assert_array_equal(unstacked(output, 140), pages.pixels)


def test_standard_input(tmp_path: Path) -> None:
    output = tmp_path / "strips.png"
    result = CliRunner().invoke(app, ["render", "-", "-o", str(output)], input=b"caf\xc3\xa9\r\n")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(unstacked(output, 14), Renderer().render("café\n").pixels)


def test_long_texts_take_numbered_files(
    foveate: Foveate, story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "MAX_ROWS", 30)
    output = tmp_path / "strips.png"
    listed = json.loads(foveate("render", story, "-o", output, "--json").stdout)
    assert listed["strips"] == 6
    names = [f"strips-{number:04d}.png" for number in (1, 2, 3)]
    assert [Path(path).name for path in listed["files"]] == names
    assert not output.exists()
    together = np.concatenate([unstacked(Path(path), 14) for path in listed["files"]])
    np.testing.assert_array_equal(together, Renderer().render(TEXT).pixels)
    assert f"{names[0]} to {names[2]}" in foveate("render", story, "-o", output).stdout


def test_missing_glyphs_are_named(foveate: Foveate, tmp_path: Path) -> None:
    path = tmp_path / "mixed.txt"
    path.write_text("plain \u6f22\u6f22 and \x07 ...")
    output = tmp_path / "strips.png"
    said = foveate("render", path, "-o", output).stdout
    assert "3 (16.67 %), drawn as boxes: U+6F22 \u6f22 2x, U+0007 1x; --font" in said
    listed = json.loads(foveate("render", path, "-o", output, "--json").stdout)
    assert listed["missing"] == {"\u6f22": 2, "\x07": 1}


def test_larger_fonts_take_higher_strips(foveate: Foveate, story: Path, tmp_path: Path) -> None:
    output = tmp_path / "strips.png"
    options = ("--font-px", 16, "--font", shipped_font(), "--json")
    listed = json.loads(foveate("render", story, "-o", output, *options).stdout)
    assert listed["style"]["height"] == 28
    assert listed["style"]["fonts"] == [str(shipped_font())]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; check the path"),
        (b"", "is empty; there is nothing to read"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "holds NUL characters, so it is a binary file"),
        (bytes(range(128, 256)), "that are not utf-8, above 5 %"),
    ],
)
def test_files_that_are_no_text(
    foveate: Foveate, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "odd.txt"
    if content is not None:
        path.write_bytes(content)
    output = tmp_path / "strips.png"
    assert message in refusal(foveate, "render", path, "-o", output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "strips.jpg"), "output 'strips.jpg' is no .png"),
        (("--font", "absent.ttf"), "font 'absent.ttf' does not exist"),
        (("--width", 100), "width=100 is no multiple of patch=14; use 98."),
        (("--height", 14, "--font-px", 12), "a 12 px font needs lines of 17 pixels"),
        (("--page", "--height", 0), "height=0 is no number of pixels"),
        (("--encoding", "utf-9"), "encoding 'utf-9' is not known"),
        (("--patch", 0), "patch=0 is no number of pixels"),
        (("--font-px", 0), "font_px=0 is below 1"),
    ],
)
def test_options_that_cannot_be(
    foveate: Foveate, story: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    options = ("-o", tmp_path / "strips.png", *options)
    assert message in refusal(foveate, "render", story, *options)


def test_folder_as_text(foveate: Foveate, tmp_path: Path) -> None:
    assert "is a folder" in refusal(foveate, "render", tmp_path, "-o", tmp_path / "a.png")


def test_endless_input_ends(
    foveate: Foveate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foveate.cli.render.MOST_CHARS", 20_000)
    monkeypatch.setattr(
        "foveate.cli.render.open_text", lambda *given: itertools.repeat("words and more " * 90)
    )
    said = foveate("render", "-", "-o", tmp_path / "a.png", code=2)
    assert "the text has more than 20,000 characters" in said.stderr
    assert "draw it in parts" in said.stderr
