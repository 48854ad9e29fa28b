"""The folder of one page's uploads: private, bounded, and gone when the page ends."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from foveate.errors import InputError

__all__ = ["Uploads"]

LEAST = 4096  # bytes that any file takes on a disk


class Uploads:
    """A temporary folder that only this user can enter, and the only one the page opens files in.

    Made before Gradio's components are: they ask the environment once where uploads go.

    Args:
        most_bytes: of all files together.

    Example:
        uploads = Uploads(most_bytes=200_000_000)
        try:
            ...
        finally:
            uploads.close()
    """

    def __init__(self, *, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.folder = Path(tempfile.mkdtemp(prefix="foveate-play-")).resolve()  # mode 700
        # Gradio knows no other way to be told.
        os.environ["GRADIO_TEMP_DIR"] = str(self.folder)

    def own(self, path: str | Path) -> Path:
        """The real path of an upload.

        A request can name any path, so what is not a regular file of this folder is refused, and
        with one sentence: nobody learns which other files exist.

        Raises:
            InputError: the path leads elsewhere, or to no regular file.
        """
        try:
            real = Path(path).resolve(strict=True)
            is_own = real.is_relative_to(self.folder) and stat.S_ISREG(real.stat().st_mode)
        except (OSError, RuntimeError, ValueError):  # missing, a circle of links, a NUL in the name
            is_own = False
        if not is_own:
            raise InputError("that is no upload of this page; drop the file again.")
        return real

    def used(self) -> int:
        """Bytes of all files in the folder; an empty one takes room too."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                try:
                    total += max(LEAST, os.lstat(os.path.join(folder, name)).st_size)
                except OSError:
                    continue  # Gradio has just removed it
        return total

    def close(self) -> None:
        """Remove the folder with all it holds. Harmless if done already."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if os.environ.get("GRADIO_TEMP_DIR") == str(self.folder):
            del os.environ["GRADIO_TEMP_DIR"]
