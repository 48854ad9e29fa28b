"""Which font draws what: the shipped one, then the style's, then a box."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from fontTools.ttLib.tables._c_m_a_p import cmap_classes

from foveate.errors import InputError
from foveate.text_image.font_file import code_points, find_fonts, shipped_font
from foveate.text_image.render import Renderer, StripStyle

HAN, EMOJI = "\u6f22", "\U0001f642"


def font_with(path: Path, glyphs: dict[str, str]) -> Path:
    """The shipped font with other characters: each is drawn as the letter given for it."""
    font = TTFont(shipped_font())
    letters = font.getBestCmap()
    mapping = {ord(char): letters[ord(letter)] for char, letter in glyphs.items()}
    tables = []
    for kind, limit in ((4, 0xFFFF), (12, 0x10FFFF)):
        table = cmap_classes[kind](kind)
        table.platformID, table.platEncID, table.language = 3, 1 if kind == 4 else 10, 0
        table.cmap = {point: name for point, name in mapping.items() if point <= limit}
        tables.append(table)
    font["cmap"].tables = tables
    font.save(path)
    return path


@pytest.fixture(scope="module")
def han_font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fonts") / "han.ttf"
    return font_with(path, {HAN: "B", EMOJI: "C", "x": "D"})


def test_code_points_are_those_of_the_character_table(han_font: Path) -> None:
    assert code_points(han_font).tolist() == sorted(map(ord, (HAN, EMOJI, "x")))
    expected = sorted(TTFont(shipped_font()).getBestCmap())
    assert code_points(shipped_font()).tolist() == expected


def test_the_shipped_font_covers_the_alphabets_it_names() -> None:
    points = set(code_points(shipped_font()).tolist())
    assert shipped_font().stat().st_size < 500_000
    for first, last in (
        (0x20, 0x7E),
        (0xA0, 0x17F),
        (0x391, 0x3A1),
        (0x400, 0x4FF),
        (0x1E00, 0x1EFF),
    ):
        assert points >= set(range(first, last + 1))
    assert points >= set(map(ord, "‘’“”„–—…•€£¥₹‰†"))
    assert (shipped_font().parent / "OFL.txt").read_text().startswith("Copyright")


def test_another_font_draws_what_the_shipped_one_lacks(han_font: Path) -> None:
    renderer = Renderer(StripStyle(fonts=(str(han_font),)))
    strips = renderer.render(f"a{HAN}x{EMOJI}\u6f23")
    assert dict(strips.missing) == {"\u6f23": 1}
    # x comes from the shipped font, which is asked first
    plain = Renderer().render("aBxC")
    width = int(plain.char_right[-1])
    np.testing.assert_array_equal(strips.pixels[0, :, :width], plain.pixels[0, :, :width])


def test_fonts_are_asked_in_order(han_font: Path, tmp_path: Path) -> None:
    other = font_with(tmp_path / "other.ttf", {HAN: "W", "\u6f23": "M"})
    text = f"{HAN}\u6f23"
    first = Renderer(StripStyle(fonts=(str(han_font), str(other)))).render(text)
    second = Renderer(StripStyle(fonts=(str(other), str(han_font)))).render(text)
    np.testing.assert_array_equal(first.pixels, Renderer().render("BM").pixels)
    np.testing.assert_array_equal(second.pixels, Renderer().render("WM").pixels)


def test_the_order_of_rendering_does_not_choose_the_font(han_font: Path, tmp_path: Path) -> None:
    other = font_with(tmp_path / "other.ttf", {HAN: "W", "\u6f23": "M"})
    renderer = Renderer(StripStyle(fonts=(str(han_font), str(other))))
    renderer.render("\u6f23")
    np.testing.assert_array_equal(renderer.render(HAN).pixels, Renderer().render("B").pixels)


def test_find_fonts_is_ordered_and_leaves_out_what_cannot_be_used(
    han_font: Path, tmp_path: Path
) -> None:
    data = han_font.read_bytes()
    for name in ("zeta.ttf", "alpha-bold.ttf", "beta.OTF", "deep/gamma-sans.ttf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "broken.ttf").write_bytes(data[:300])
    (tmp_path / "notes.txt").write_text("no font")
    found = [Path(path).name for path in find_fonts((tmp_path, tmp_path / "absent"))]
    assert found == ["gamma-sans.ttf", "beta.OTF", "zeta.ttf", "alpha-bold.ttf"]


def test_installed_fonts_are_found_without_an_error() -> None:
    assert find_fonts() == find_fonts()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no font at all", "cannot be read (not a TrueType or OpenType file); give a .ttf"),
        (b"\0\1\0\0\0\0" + bytes(20), "cannot be read (no cmap table); give a .ttf"),
    ],
)
def test_a_file_that_is_no_font(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.ttf"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        Renderer(StripStyle(fonts=(str(path),))).render(HAN)
    assert message in str(raised.value)


def test_a_folder_is_no_font(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; give a \.ttf, \.otf or \.ttc file"):
        Renderer(StripStyle(fonts=(str(tmp_path),)))
