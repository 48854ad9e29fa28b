"""How a line names an image: paths, file://, data URLs, http; one gate for all of them."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.jobs.image_source import ImageSource

RED = (255, 0, 0)


def encoded(image: Image.Image, form: str = "PNG") -> str:
    file = BytesIO()
    image.save(file, form)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    for name in ("red.png", "red #1.png", "data:red.png"):
        Image.new("RGB", (5, 4), "red").save(tmp_path / name)
    return ImageSource(tmp_path)


@pytest.mark.parametrize("place", ["red.png", "./red.png", "red #1.png"])
def test_paths(source: ImageSource, place: str) -> None:
    assert source.open(place).getpixel((0, 0)) == RED


@pytest.mark.parametrize("form", ["file://{}/red.png", "FILE://localhost{}/red%20%231.png"])
def test_files_by_address(source: ImageSource, form: str) -> None:
    assert source.open(form.format(source.folder)).getpixel((0, 0)) == RED


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "", "text/plain;charset=x"])
def test_data_is_what_it_is_and_not_what_it_says(source: ImageSource, kind: str) -> None:
    body = encoded(Image.new("RGB", (5, 4), "red"))
    assert source.open(f"data:{kind};base64,{body}").getpixel((0, 0)) == RED
    escaped = body.replace("+", "%2B").replace("=", "%3D")
    assert source.open(f"data:{kind};base64,{escaped}").getpixel((0, 0)) == RED


class Fetched:
    """Stands for the network."""

    def fetch(self, url: str) -> bytes:
        assert url == "HTTPS://example.org/red"
        return base64.b64decode(encoded(Image.new("RGB", (5, 4), "red")))


def test_an_address_where_it_is_allowed(tmp_path: Path) -> None:
    source: Any = ImageSource(tmp_path, http=Fetched())  # type: ignore[arg-type]
    assert source.open("HTTPS://example.org/red").getpixel((0, 0)) == RED


HUGE = encoded(Image.new("1", (8001, 8001)))


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("http://example.org/a.png", "nothing is fetched unless you say so; add --allow-http"),
        ("Https://example.org/a.png", "nothing is fetched unless you say so"),
        ("ftp://example.org/a.png", "has an address of kind 'ftp'; use a path"),
        ("s3://bucket/a.png", "has an address of kind 's3'"),
        ("file://server/a.png", "is not a file of this machine"),
        ("file://red.png", "is not a file of this machine"),
        ("file:///a.png?x", "is not a file of this machine"),
        ("file:///nowhere/a.png", "image 'file:///nowhere/a.png' does not exist"),
        ("file:///dev/zero", "is a pipe, a device or a socket"),
        ("data:image/png,abc", "is not in base64"),
        ("data:image/png;base64", "is not in base64"),
        ("data:image/png;base64,@@", "is damaged"),
        ("data:image/png;base64,QUJD", "is not an image that can be read"),
        (f"data:image/png;base64,{HUGE}", "above the limit of 64,000,000"),
        ("data:image/svg+xml;base64,PHN2Zy8+", "is not an image that can be read"),
    ],
)
def test_images_that_cannot_be(source: ImageSource, place: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        source.open(place)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300  # a data URL is not repeated whole
