"""Files in folders that others can reach: only regular ones are read, whole ones written."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from foveate.errors import InputError

__all__ = ["NO_LINK", "check_writable", "fsync_folder", "is_file", "is_folder", "is_there",
           "make_folder", "open_regular", "refuse_link", "replacing", "replacing_by_name",
           "replacing_folder", "why_not_there", "write_text"]  # fmt: skip

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


def why_not_there(path: str | Path) -> str:
    """For a sentence about a path that leads nowhere: it does not exist, or cannot be followed."""
    try:
        Path(path).stat()
    except FileNotFoundError:
        is_link = Path(path).is_symlink()
        return "is a link to nothing" if is_link else "does not exist"
    except (OSError, ValueError) as error:  # links in a circle, a folder of others, no name at all
        return f"cannot be reached ({getattr(error, 'strerror', None) or error})"
    return "cannot be reached"


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
        InputError: something that is no regular file stands at `path`.
        OSError: it cannot be written.
    """
    _check_replaceable(path)
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


@contextmanager
def replacing_by_name(path: Path, *, mark: str = "") -> Iterator[Path]:
    """As `replacing`, for libraries that write a file by its name: that of the draft."""
    with replacing(path, mark=mark):
        draft = path.with_name(f"{path.name}{mark}.draft")
        yield draft
        _fsync(draft)  # which may be another file now than the one that was opened


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A draft folder to fill with files; at the end they are on the disk and it takes its place.

    The draft starts with a dot; what an interrupted run left under that name is removed.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}")
    if draft.is_symlink() or draft.is_file():
        draft.unlink()
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        for file in draft.iterdir():
            _fsync(file)
        fsync_folder(draft)
        if path.exists():
            shutil.rmtree(path)
        draft.replace(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    fsync_folder(path.parent)


def make_folder(folder: str | Path) -> Path:
    """A folder to write to, made if needed. Raises InputError where that is impossible."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{str(path)!r} cannot be a folder to write to ({reason}); choose another."
        ) from error
    return path


def write_text(path: Path, text: str) -> None:
    """Write or replace a text file as `replacing` does. Raises what that raises."""
    with replacing(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def check_writable(path: Path) -> None:
    """Raise InputError, before any work, where a file could not be written at `path`."""
    try:
        _check_replaceable(path)
        folder = path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent  # the missing ones are made
        if not folder.is_dir():
            raise InputError(f"{str(path)!r} cannot be written: {str(folder)!r} is no folder.")
        draft = folder / f".{os.getpid()}.foveate-draft"
        os.close(os.open(draft, _DRAFT, 0o600))  # permissions do not tell all, a disk may be full
        draft.unlink()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{str(path)!r} cannot be written ({reason}); choose another.") from error


def _check_replaceable(path: Path) -> None:
    """A device, a pipe or a folder is not replaced by a file."""
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe, a device or a socket"
        raise InputError(f"{str(path)!r} is {what}; give the name of a file to write.")


def refuse_link(path: Path) -> None:
    """Raise InputError where a file or folder that we made ourselves has become a link."""
    if path.is_symlink():
        raise InputError(
            f"{path} is a link, and what is written there would go elsewhere; remove the link."
        )


def fsync_folder(folder: Path) -> None:
    """Put names of new and renamed files on the disk."""
    if os.name != "nt":  # folders cannot be opened there
        _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | NO_LINK)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
