"""Open an image file that somebody gave us: upright RGB, or an error that says what is wrong."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from foveate.errors import InputError
from foveate.files import is_folder, open_regular, why_not_there

__all__ = ["FORMATS", "MAX_PIXELS", "decode_image", "open_image", "to_rgb"]

# Checked on the header, before anything is decoded: 64 megapixels are 192 MB as RGB.
MAX_PIXELS = 64_000_000

# Raster formats that Pillow decodes itself; others (EPS) would start external programs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def open_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image as the viewer would see it: first frame, EXIF orientation applied, RGB.

    Transparency is laid on white; 16-bit and float grey values are scaled to 8 bit.

    Args:
        path: a file in one of FORMATS.
        max_pixels: largest width x height that is decoded.

    Raises:
        InputError: the file is missing, a folder, a pipe or device, not an image, corrupt,
            truncated or too large.
    """
    path = Path(path)
    if is_folder(path):
        raise InputError(f"image {str(path)!r} is a folder; give the file itself.")
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise InputError(f"image {str(path)!r} {why_not_there(path)}; check the path.") from None
    except PermissionError:
        raise InputError(f"image {str(path)!r} may not be read; check permissions.") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # a name that no file system takes, a broken disk
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"image {str(path)!r} cannot be opened ({reason}).") from error
    with file:
        return decode_image(file, repr(str(path)), max_pixels=max_pixels)


def decode_image(file: BinaryIO, name: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The same for an open file, or bytes as one (io.BytesIO), whoever they come from.

    Args:
        file: can be read and sought.
        name: of the image in errors.
        max_pixels: largest width x height that is decoded.

    Raises:
        InputError: it is no image of FORMATS, corrupt, truncated or too large.
    """
    with warnings.catch_warnings():
        # Our own limit below is lower than the one Pillow warns about.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(file, formats=_formats())
        except Image.DecompressionBombError:
            raise InputError(_too_large(name, "more than Pillow's limit of", max_pixels)) from None
        except Exception:  # Pillow's plug-ins raise nearly anything on damaged headers
            raise InputError(
                f"{name} is not an image that can be read; use one of {', '.join(FORMATS)}."
            ) from None
    with image:
        width, height = image.size
        if width < 1 or height < 1:
            raise InputError(f"image {name} is {width} x {height} pixels, so it is empty.")
        if width * height > max_pixels:
            raise InputError(_too_large(name, f"{width} x {height} =", max_pixels, width * height))
        try:
            image.seek(0)
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # as above, now on damaged pixel data
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"image {name} is damaged or cut off ({reason}); save or copy it again."
            ) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """The image as 8-bit RGB; transparent parts become white."""
    if image.mode.startswith(("I", "F")):
        grey = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0.0, neginf=0.0)
        top = float(grey.max(initial=0.0))
        # "I" and "F" do not say their range: whole numbers are of 16 bit unless they fit 8 bit or
        # exceed it; others run up to their largest, unless they fit 8 bit or [0, 1].
        if image.mode.startswith("I") and (";16" in image.mode or 255.0 < top <= 65535.0):
            grey = grey / 65535.0 * 255.0
        elif top > 255.0:
            grey = grey / top * 255.0
        elif image.mode == "F" and top <= 1.0:
            grey = grey * 255.0
        image = Image.fromarray(np.clip(grey, 0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    return image.convert("RGB")


def _formats() -> list[str]:
    """FORMATS that this build of Pillow has."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _too_large(name: str, size: str, max_pixels: int, pixels: int | None = None) -> str:
    counted = pixels if pixels is not None else 2 * (Image.MAX_IMAGE_PIXELS or 0)
    return (
        f"image {name} has {size} {counted:,} pixels, above the limit of {max_pixels:,}; "
        "scale it down first."
    )
