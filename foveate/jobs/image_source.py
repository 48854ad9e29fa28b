"""ImageSource: how a line of a job names an image -> the picture.

A path, relative to the input's folder or absolute; `file://`; a data URL; http(s), where it is
allowed. Whatever the way, the picture passes the gate of image_file.py: its formats and limits.
"""

from __future__ import annotations

import base64
import binascii
import re
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from PIL import Image

from foveate.errors import InputError
from foveate.image_file import decode_image, open_image
from foveate.jobs.http_images import HttpImages

__all__ = ["ImageSource"]

SHOWN = 40  # characters of a data URL in errors
SCHEME = re.compile(r"data(?=:)|[a-z][a-z0-9+.-]*(?=://)", re.IGNORECASE)


class ImageSource:
    """Opens the images of one input.

    Args:
        folder: that paths are relative to.
        http: fetches images of http(s) addresses; None refuses them.
    """

    def __init__(self, folder: Path, *, http: HttpImages | None = None) -> None:
        self.folder = folder
        self.http = http

    def open(self, place: str) -> Image.Image:
        """A picture; errors name it as the line does, whatever machine reads it.

        Raises:
            InputError: it cannot be read, is no image, too large, or named by an address that is
                not allowed.
        """
        found = SCHEME.match(place)
        scheme = found[0].lower() if found else None
        if scheme is None:
            return self._file(place, self.folder / place)
        if scheme == "data":
            return decode_image(BytesIO(_data(place)), repr(f"{place[:SHOWN]}..."))
        if scheme in ("http", "https"):
            if self.http is None:
                raise InputError(
                    f"image {place[:200]!r} is on the network, where nothing is fetched unless you "
                    "say so; add --allow-http, or copy the image here."
                )
            return decode_image(BytesIO(self.http.fetch(place)), repr(place[:200]))
        if scheme == "file":
            return self._file(place, _file_path(place))
        raise InputError(
            f"image {place[:200]!r} has an address of kind {scheme!r}; use a path, file://, a data "
            "URL, http or https."
        )

    def _file(self, place: str, path: Path) -> Image.Image:
        try:
            return open_image(path)
        except InputError as error:
            raise InputError(str(error).replace(repr(str(path)), repr(place))) from error


def _data(url: str) -> bytes:
    """The content of `data:image/png;base64,...`; its stated type is not believed."""
    head, comma, body = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError(
            f"data URL {url[:SHOWN]!r} is not in base64; write data:image/png;base64,..."
        )
    try:
        return base64.b64decode(unquote(body) if "%" in body else body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"data URL {url[:SHOWN]!r} is damaged ({error}); encode the image again."
        ) from error


def _file_path(url: str) -> Path:
    """The path of `file:///folder/cat.png`."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("file://?")
    is_here = parts.netloc in ("", "localhost") and parts.path.startswith("/")
    if not is_here or parts.query or parts.fragment:
        raise InputError(
            f"image {url[:200]!r} is not a file of this machine; write file:///folder/cat.png, "
            "with %23 for # and %3F for ?, or the path alone."
        )
    return Path(url2pathname(parts.path))
