"""Files as strangers give them: images, texts, JSON, recipes and fonts, whole or spoilt."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FONT = ROOT / "foveate" / "text_image" / "fonts" / "NotoSans-Regular.ttf"
RECIPE = ROOT / "foveate" / "vist" / "train" / "recipes" / "vist-smollm2-cpu.toml"
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")

WEIRD_TEXTS = (
    "", " ", "\n", "a", "what color is the shape?", "東京タワー", "\U0001f600" * 3, "\x1b[31mred",
    "a\u0301" * 20, "\u202e\u200b", "[bold]x[/nope]", "%s {0} $HOME", "'\"\\", "-", "--", "../../x",
    "x" * 5000, "\udcff", "nan", "<image>", "/(a+)+$/", "/[/", "\t",
)  # fmt: skip
WEIRD_NUMBERS = (
    "0", "-1", "1", "2", "3", "7", "17", "99", "2147483648", "9" * 30, "1e3", "1e400", "nan", "-0",
    "", " 3 ", "½", "٣", "0x10", "1_0", "50%", "0.25", "25%", "1/3", "1/0", "auto",
)  # fmt: skip

weird_text = st.one_of(st.sampled_from(WEIRD_TEXTS), st.text(max_size=40))
weird_json = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), weird_text,
        st.sampled_from(["image.png", "text.txt", "nowhere.png", "", "/dev/zero", "."]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)  # fmt: skip


@functools.cache
def good_image(form: str, mode: str) -> bytes:
    """A small picture."""
    noise = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, form)
    return file.getvalue()


@st.composite
def spoilt(draw: Any, whole: bytes) -> bytes:
    """Bytes with some changed, and perhaps the end cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.one_of(st.none(), st.integers(0, len(data))))])


@st.composite
def images(draw: Any) -> bytes:
    form = draw(st.sampled_from(FORMATS))
    good = good_image(form, draw(st.sampled_from(["RGB", "L"])))
    return bytes(draw(st.one_of(st.just(good), spoilt(good), st.binary(max_size=60))))


def texts() -> st.SearchStrategy[bytes]:
    good = b"bread red 37 52\ntea green 12 30\n"
    words = st.one_of(weird_text, st.text(max_size=300))
    return st.one_of(
        st.just(good * 9),
        words.map(lambda text: text.encode("utf-8", "surrogatepass")),
        words.map(lambda text: text.encode("utf-16", "surrogatepass")),
        st.binary(max_size=200),
        spoilt(good),
    )


@st.composite
def json_lines(draw: Any, fields: tuple[str, ...]) -> bytes:
    """Rows of the fields that a command reads, some of them missing or of a wrong kind."""
    lines = []
    for _ in range(draw(st.integers(0, 3))):
        row: dict[str, Any] = {
            "image": "image.png", "question": "what color is the shape?", "answers": ["red"],
            "passage": "the shape is red", "passages": ["the shape is red"], "title": "shapes",
            "text": "the shape is red", "id": "1",
        }  # fmt: skip
        row = {name: value for name, value in row.items() if name in fields}
        for _ in range(draw(st.integers(0, 2))):
            name = draw(st.sampled_from(fields))
            row[name] = draw(weird_json)
        for name in draw(st.sets(st.sampled_from(fields), max_size=1)):
            row.pop(name, None)
        lines.append(json.dumps(row, ensure_ascii=draw(st.booleans())))
    joined = "\n".join(lines).encode("utf-8", "surrogatepass")
    return bytes(draw(st.one_of(st.just(joined), st.just(joined), spoilt(joined))))


@st.composite
def recipes(draw: Any) -> bytes:
    """A shipped recipe with a line changed."""
    lines = RECIPE.read_text(encoding="utf-8").splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    value = draw(st.one_of(st.sampled_from(WEIRD_NUMBERS), weird_text))
    quoted = json.dumps(value) if draw(st.booleans()) else value
    lines[place] = f"{lines[place].partition('=')[0]}= {quoted}"
    whole = "\n".join(lines).encode("utf-8", "surrogatepass")
    return bytes(draw(st.one_of(st.just(whole), spoilt(whole))))


@st.composite
def configs(draw: Any) -> bytes:
    """The config.json of a model with a field changed."""
    config: dict[str, Any] = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    key = draw(st.sampled_from(["model_type", "text_config", "vision_config", "auto_map", "x"]))
    config[key] = draw(weird_json)
    whole = json.dumps(config).encode()
    return bytes(draw(st.one_of(st.just(whole), spoilt(whole))))


@functools.cache
def font_head() -> bytes:
    return FONT.read_bytes()[:3000]


def fonts() -> st.SearchStrategy[bytes]:
    return st.one_of(spoilt(font_head()), st.binary(max_size=60))
