"""Images as people have them: every kind opens upright and in RGB, or says why not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.image_file import MAX_PIXELS, open_image


def photo(width: int = 12, height: int = 8) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 20, y * 30, x * 0 + 100], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels)


def header_only_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0" * 100)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm"])
def test_lossless_formats_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    photo().save(path, **({"lossless": True} if suffix == "webp" else {}))
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert np.array_equal(np.asarray(opened), np.asarray(photo()))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photo().save(tmp_path / "turned.png", exif=exif)
    opened = open_image(tmp_path / "turned.png")
    assert opened.size == (8, 12)
    assert np.array_equal(np.asarray(opened), np.rot90(np.asarray(photo()), -1))


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png")).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_palette_with_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert np.asarray(open_image(tmp_path / "a.png")).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [0, 128, 255]


def test_dark_sixteen_bit_image_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 200, dtype=np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(open_image(tmp_path / "a.png")).max() == 1


def test_float_grey_in_the_unit_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "a.tiff")
    assert np.asarray(open_image(tmp_path / "a.tiff"))[0, :, 0].tolist() == [0, 128, 255]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert open_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "LA", "YCbCr"])
def test_other_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.png" if mode in ("L", "1", "LA") else "a.jpg")
    photo().convert(mode).save(path)
    assert open_image(path).mode == "RGB"


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="is a folder"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_what_is_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="is not an image that can be read"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_cut_off_file(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    (tmp_path / "a.img").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(InputError, match=r"damaged or cut off|is not an image"):
        open_image(tmp_path / "a.img")


def test_flipped_bytes_in_the_pixel_data(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photo(64, 64).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    middle = data.index(b"IDAT") + 20
    data[middle : middle + 8] = b"\xff" * 8
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(InputError, match="damaged or cut off"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(50_000, 50_000), (9_000, 8_000)])
def test_bomb_is_refused_by_its_header(tmp_path: Path, size: tuple[int, int]) -> None:
    """The first is above Pillow's limit, the second only above ours."""
    (tmp_path / "bomb.png").write_bytes(header_only_png(*size))
    with pytest.raises(InputError, match=f"above the limit of {MAX_PIXELS:,}"):
        open_image(tmp_path / "bomb.png")


def test_limit_is_inclusive(tmp_path: Path) -> None:
    photo(10, 10).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png", max_pixels=100).size == (10, 10)
    with pytest.raises(InputError, match="10 x 10 = 100 pixels, above the limit of 99"):
        open_image(tmp_path / "a.png", max_pixels=99)


def test_a_float_image_runs_up_to_its_largest_value(tmp_path: Path) -> None:
    ramp = np.linspace(0, 300, 16, dtype=np.float32).reshape(4, 4)
    ramp[0, 0] = np.nan
    Image.fromarray(ramp).save(tmp_path / "ramp.tiff")
    seen = np.asarray(open_image(tmp_path / "ramp.tiff"))[..., 0]
    assert seen.max() == 255
    assert seen[0, 0] == 0
    assert abs(int(seen[2, 2]) - round(ramp[2, 2] * 255 / 300)) <= 1
