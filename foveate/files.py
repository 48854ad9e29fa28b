"""Files in folders that others can reach: only regular ones are read, whole ones written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from foveate.errors import InputError

__all__ = ["NO_LINK", "fsync_folder", "is_file", "is_folder", "is_there", "open_regular",
           "refuse_link", "replacing"]  # fmt: skip

# A link at the very end of a path is not followed; Windows has no such flag.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_DRAFT = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK | getattr(os, "O_BINARY", 0)


def is_there(path: str | Path) -> bool:
    """Whether a path leads to anything; a name that no file system takes leads nowhere."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether it leads to a folder."""
    return is_there(path) and Path(path).is_dir()


def is_file(path: str | Path) -> bool:
    """Whether it leads to a regular file."""
    return is_there(path) and Path(path).is_file()


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading, but no pipe, device or socket, which might never end or answer.

    Raises:
        InputError: it is no regular file.
        OSError: it cannot be opened.
    """
    handle = os.open(path, _READ)  # a pipe without a writer would hold up a blocking open
    try:
        kind = os.fstat(handle).st_mode
        if not stat.S_ISREG(kind):
            what = "a folder" if stat.S_ISDIR(kind) else "a pipe, a device or a socket"
            raise InputError(f"{str(path)!r} is {what}; give a regular file.")
        return os.fdopen(handle, "rb")
    except BaseException:
        with suppress(OSError):
            os.close(handle)
        raise


@contextmanager
def replacing(path: Path, *, mark: str = "") -> Iterator[BinaryIO]:
    """A draft to write; at the end it is on the disk and takes the file's place at once.

    What is left when anything fails is what was there before. A link that somebody planted where
    the draft goes is removed, not followed; one at `path` itself is replaced.

    Args:
        path: the file; its folder is made if needed.
        mark: tells apart drafts of several processes.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}{mark}.draft")
    with suppress(FileNotFoundError):
        draft.unlink()
    try:
        with os.fdopen(os.open(draft, _DRAFT, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    fsync_folder(path.parent)


def refuse_link(path: Path) -> None:
    """Raise InputError where a file or folder that we made ourselves has become a link."""
    if path.is_symlink():
        raise InputError(
            f"{path} is a link, and what is written there would go elsewhere; remove the link."
        )


def fsync_folder(folder: Path) -> None:
    """Put names of new and renamed files on the disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
