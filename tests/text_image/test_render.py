"""What the renderer draws: Pillow's own pixels, the same on every run, broken at spaces."""

from __future__ import annotations

import hashlib
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from foveate.errors import InputError
from foveate.text_image.font_file import code_points, shipped_font
from foveate.text_image.render import Renderer, StripStyle

GOLDEN_TEXT = "Wafer jelly (fjord) 1,024 kB — naïve cafe\u0301;\n\tλόγος Ёж №5 €9.50 \u6f22 end."
GOLDEN_FREETYPE = "2.14.3"
GOLDEN_SHA256 = "39e8718c146b0c158469e482d953e070fa6ada200b1c5652c390cbfa73fba4e4"

ENGLISH = (
    "Jeff's quixotic wizard, vexed by 37 kayaks & [jumbo] yaks: WAVE _after_ fjords? "
    "“Kyiv”, Žižek, Ångström and Façade; Ïa! Æsir (½ ¾) «où» šč @#%&*{}|~^"
)


def pillow_line(text: str, font_px: int, width: int, height: int, baseline: int) -> np.ndarray:
    """The line as Pillow draws it."""
    font = ImageFont.truetype(str(shipped_font()), font_px, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (width, height), 255)
    ImageDraw.Draw(image).text((0, baseline), text, font=font, fill=0, anchor="ls")
    return np.asarray(image)


def some_text(kind: str) -> str:
    rng = random.Random(0)
    if kind == "english":
        return ENGLISH * 40
    letters = [chr(p) for p in code_points(shipped_font()) if chr(p).isalnum()]
    return "".join(rng.choices(rng.sample(letters, 300), k=3000))


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


@pytest.mark.parametrize("font_px", [7, 8, 9, 10, 12, 16])
@pytest.mark.parametrize("kind", ["english", "letters"])
def test_pixels_are_pillows(kind: str, font_px: int) -> None:
    height = 14 if font_px <= 10 else 28
    style = StripStyle(font_px=font_px, height=height, patch=14)
    renderer = Renderer(style)
    text = some_text(kind)
    strips = renderer.render(text)
    assert not strips.missing
    font = ImageFont.truetype(str(shipped_font()), font_px)
    ascent, descent = font.getmetrics()
    baseline = ascent + (height - ascent - descent) // 2
    different = 0
    for page in range(len(strips)):
        line = text[slice(*strips.char_range(page))]
        pillow = pillow_line(line, font_px, style.width, height, baseline)
        different += int((pillow != strips.pixels[page]).sum())
    assert different / strips.pixels.size < 0.001


@pytest.mark.skipif(
    features.version("freetype2") != GOLDEN_FREETYPE,
    reason=f"recorded with FreeType {GOLDEN_FREETYPE}; another one may hint otherwise",
)
def test_pixels_are_as_recorded(renderer: Renderer) -> None:
    pixels = renderer.render(GOLDEN_TEXT).pixels
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == GOLDEN_SHA256


def test_other_processes_and_other_orders_draw_the_same(renderer: Renderer) -> None:
    script = (
        "import hashlib, sys; from foveate.text_image.render import Renderer\n"
        "r = Renderer(); r.render('zyxwv \\u0416 first')\n"
        "print(hashlib.sha256(r.render(sys.argv[1]).pixels.tobytes()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, GOLDEN_TEXT], capture_output=True, text=True, check=True
    )
    own = hashlib.sha256(renderer.render(GOLDEN_TEXT).pixels.tobytes()).hexdigest()
    assert done.stdout.strip() == own


def test_a_renderer_travels_to_another_process(renderer: Renderer) -> None:
    copy = pickle.loads(pickle.dumps(renderer))
    np.testing.assert_array_equal(copy.render("abc").pixels, renderer.render("abc").pixels)


def test_all_letters_fit_between_the_edges(renderer: Renderer) -> None:
    """Nothing of ASCII or Latin-1 is cut at the top or bottom of a 14 px strip."""
    text = "".join(chr(p) for p in range(33, 256) if chr(p).isprintable())
    tall = Renderer(StripStyle(height=28, patch=14, width=7168)).render(text)
    ink = (tall.pixels[0] < 255).any(axis=1)
    assert ink.sum() <= 14
    assert (renderer.render(text).pixels < 255).sum() == (tall.pixels < 255).sum()


def test_no_text_no_pictures(renderer: Renderer) -> None:
    strips = renderer.render("")
    assert strips.pixels.shape == (0, 14, 3584)
    assert strips.patch_mask.shape == (0, 256)
    assert len(strips.char_page) == 0
    assert strips.patches_of(0, 0) == []


def test_blank_patches_are_masked(renderer: Renderer) -> None:
    strips = renderer.render("far context")
    last = (int(strips.char_right[-1]) - 1) // 14
    assert strips.patch_mask[0].tolist() == [True] * (last + 1) + [False] * (255 - last)
    assert (strips.pixels[0, :, 14 * (last + 1) :] == 255).all()


def test_a_strip_ends_after_a_space(renderer: Renderer) -> None:
    text = "several ordinary words " * 100
    strips = renderer.render(text)
    for page in range(len(strips) - 1):
        _, stop = strips.char_range(page)
        assert " " in text[stop - 1 : stop + 1]
        assert strips.char_right[stop - 1] > 0.9 * 3584


def test_without_a_space_near_the_end_a_strip_breaks_between_characters(renderer: Renderer) -> None:
    strips = renderer.render("start " + "m" * 1000)
    _, stop = strips.char_range(0)
    assert 3584 - strips.char_right[stop - 1] < strips.char_right[20] - strips.char_left[20]


def test_newline_and_tab(renderer: Renderer) -> None:
    strips = renderer.render("a\n\tb")
    mark, tab = (strips.pixels[0][:, strips.char_left[i] : strips.char_right[i]] for i in (1, 2))
    assert (mark == 0).sum() > 5
    assert (tab == 0).sum() > 5  # a sign: nothing could tell it from four blanks
    assert tab.shape[1] == 4 * int(np.diff(renderer.render("  ").char_left)[0])
    assert not strips.missing
    real = Renderer(StripStyle(newline="break")).render("a\tb")
    blank = real.pixels[0][:, real.char_left[1] : real.char_right[1]]
    assert blank.shape == tab.shape
    assert (blank == 255).all()


def test_pages_wrap_at_words_and_newlines_break() -> None:
    style = StripStyle(height=112, width=112, line_height=14, wrap=1.0, newline="break")
    text = "one two three four five six\n\nseven"
    strips = Renderer(style).render(text)
    lines = [
        "".join(char for char, at in zip(text, strips.char_top, strict=True) if at == top)
        for top in np.unique(strips.char_top)
    ]
    assert "".join(lines) == text
    assert lines[-2:] == ["\n", "seven"]
    assert all(line.endswith((" ", "\n")) for line in lines[:-1])
    assert strips.pixels.shape == (1, 112, 112)


@pytest.mark.parametrize("spaces", [" ", "   ", " \n"])
def test_no_line_of_a_page_begins_with_the_space_before_its_word(spaces: str) -> None:
    style = StripStyle(height=56, width=112, line_height=14, wrap=1.0, newline="break")
    renderer = Renderer(style)
    num = int((renderer.render("i" * 100).char_top == 0).sum())
    text = "i" * num + spaces + "word"
    strips = renderer.render(text)
    assert strips.char_top.tolist() == [0] * (num + len(spaces)) + [14] * 4
    assert strips.char_left[-4] == 0
    assert strips.char_right.max() <= 112


@pytest.mark.parametrize(
    ("char", "width"), [("\r", 7), ("\x00", 7), ("\x85", 7), ("\ud800", 7), ("\u6f22", 7)]
)
def test_what_cannot_be_drawn_is_a_counted_box(renderer: Renderer, char: str, width: int) -> None:
    strips = renderer.render(f"a{char}{char}b")
    assert dict(strips.missing) == {char: 2}
    assert (strips.char_right - strips.char_left)[1:3].tolist() == [width, width]
    boxes = renderer.render("\x01" * 2).pixels[0][:, : 2 * width]
    left = int(strips.char_left[1])
    np.testing.assert_array_equal(strips.pixels[0][:, left : left + 2 * width], boxes)


@pytest.mark.parametrize(("char", "like"), [("\u2028", "\n"), ("\u2029", "\n"), ("А", "A")])
def test_some_characters_have_the_same_pixels(renderer: Renderer, char: str, like: str) -> None:
    first, second = renderer.render(f"x{char}y"), renderer.render(f"x{like}y")
    np.testing.assert_array_equal(first.pixels, second.pixels)


def test_white_space_that_no_font_has_is_blank(renderer: Renderer) -> None:
    strips = renderer.render("x\u3000y")
    assert (strips.char_right - strips.char_left)[1] == 10
    assert not strips.missing


def test_more_marks_than_one_can_see_do_no_harm(renderer: Renderer) -> None:
    text = "a" + "\u0301\u0323" * 2000 + "b"
    strips = renderer.render(text)
    assert strips.pixels.shape[0] == 1
    assert strips.char_left[-1] == strips.char_right[0]


@pytest.mark.parametrize("char", ["\u0301", "\u200b", "\u200d", "\ufe0f", "\ufeff", "\u00ad"])
def test_marks_without_width_sit_on_the_glyph_before(renderer: Renderer, char: str) -> None:
    strips = renderer.render(f"ea{char}{char}b")
    middle = int(strips.char_left[1] + strips.char_right[1]) // 2
    assert strips.char_left[2:4].tolist() == strips.char_right[2:4].tolist() == [middle] * 2
    assert strips.char_left[4] == strips.char_right[1]
    assert not strips.missing


def test_a_combining_accent_is_drawn_over_its_letter(renderer: Renderer) -> None:
    plain, accented = renderer.render("see").pixels[0], renderer.render("se\u0301e").pixels[0]
    changed = np.flatnonzero((plain != accented).any(axis=0))
    strips = renderer.render("see")
    assert len(changed)
    assert strips.char_left[1] - 1 <= changed.min()
    assert changed.max() <= strips.char_right[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 15}, "height=14 is no multiple of patch=15; use 15."),
        ({"width": 3580}, "width=3580 is no multiple of patch=14; use 3584."),
        ({"font_px": 3}, "font_px=3 is outside 6 to 64; 10 is usual."),
        ({"font_px": 10.5}, "font_px=10.5 is no number of pixels; give an integer >= 1."),
        ({"width": 28, "font_px": 10}, "width=28 is below 4 x font_px=10, too narrow for a wide"),
        ({"line_height": 28}, "line_height=28 exceeds height=14; lower it or raise height."),
        ({"height": 28, "line_height": 10}, "line_height=10 is below patch=14"),
        ({"wrap": 1.5}, "wrap=1.5 is outside [0, 1]; it is a share of the line."),
        ({"newline": "skip"}, "newline='skip' is not one of mark, break."),
        ({"font_px": 12}, "a 12 px font needs lines of 17 pixels, above the line's 14"),
        ({"height": 28000}, "height=28000 exceeds 16384 pixels; lower it."),
        ({"fonts": "no.ttf"}, "fonts='no.ttf' is one string; give a tuple of files."),
        ({"fonts": ("no.ttf",)}, "font 'no.ttf' does not exist; give a .ttf, .otf or .ttc file."),
    ],
)
def test_impossible_styles(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as raised:
        Renderer(StripStyle(**settings))
    assert message in str(raised.value)


def test_a_style_as_plain_values() -> None:
    style = StripStyle(height=56, line_height=14, fonts=("a.ttf",), newline="break")
    assert StripStyle.from_dict(style.to_dict()) == style
    with pytest.raises(InputError, match="a strip style has no size; it has height"):
        StripStyle.from_dict({"size": 3})


def test_bytes_are_no_text(renderer: Renderer) -> None:
    with pytest.raises(InputError, match="text is bytes, not str; decode bytes first"):
        renderer.render(b"abc")
