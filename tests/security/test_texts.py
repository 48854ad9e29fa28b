"""Fonts, patterns and encodings that cost more than they look."""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress
from pathlib import Path

import pytest

from foveate.carve.pages.exact import MATCH_SECONDS, ExactRules, compile_mark, find_exact
from foveate.errors import InputError
from foveate.text_image.font_file import MOST_BYTES, code_points
from foveate.text_image.text_file import read_text_file


def font(path: Path, *, groups: int, last: int = 0x10FFFF) -> Path:
    """A file that has nothing but a character table, with the same group many times."""
    body = struct.pack(">HHIII", 12, 0, 16 + 12 * groups, 0, groups)
    body += struct.pack(">III", 0, last, 1) * groups
    cmap = struct.pack(">HHHHI", 0, 1, 3, 10, 12) + body
    head = b"\0\1\0\0" + struct.pack(">HHHH", 1, 16, 0, 0)
    head += b"cmap" + struct.pack(">III", 0, 28, len(cmap))
    path.write_bytes(head + cmap)
    return path


def test_a_table_with_repeated_groups(tmp_path: Path) -> None:
    """12 kB that named a thousand times all of Unicode: nine gigabytes, before."""
    path = font(tmp_path / "a.ttf", groups=1000)
    assert path.stat().st_size < 13_000
    with pytest.raises(InputError, match="names the same characters over and over"):
        code_points(path)
    assert code_points(font(tmp_path / "b.ttf", groups=1, last=100)).tolist() == list(range(101))


def test_a_table_with_overlapping_segments(tmp_path: Path) -> None:
    """The older form of the table, with segments that all cover everything."""
    count = 1000
    columns = [0xFFFF] * count, [0] * count, [1] * count, [0] * count
    ends, starts, deltas, offsets = (struct.pack(f">{count}H", *column) for column in columns)
    body = struct.pack(">HHHHHHH", 4, 16 + 8 * count, 0, 2 * count, 0, 0, 0)
    body += ends + b"\0\0" + starts + deltas + offsets
    cmap = struct.pack(">HHHHI", 0, 1, 3, 1, 12) + body
    head = b"\0\1\0\0" + struct.pack(">HHHH", 1, 16, 0, 0)
    head += b"cmap" + struct.pack(">III", 0, 28, len(cmap))
    path = tmp_path / "a.ttf"
    path.write_bytes(head + cmap)
    with pytest.raises(InputError, match="names the same characters over and over"):
        code_points(path)


@pytest.mark.skipif(os.name == "nt", reason="devices as on Unix")
def test_an_endless_font(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a pipe, a device or a socket"):
        code_points("/dev/zero")
    os.mkfifo(tmp_path / "pipe.ttf")
    with pytest.raises(InputError, match="is a pipe, a device or a socket"):
        code_points(tmp_path / "pipe.ttf")
    large = tmp_path / "large.ttf"
    with large.open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # takes no room on the disk
    with pytest.raises(InputError, match="above the limit of 134,217,728"):
        code_points(large)


def seconds(text: str, rules: ExactRules) -> float:
    started = time.perf_counter()
    find_exact(text, rules)
    return time.perf_counter() - started


def test_a_name_with_a_gap_takes_linear_time() -> None:
    rules = ExactRules(kinds=(), marked=("a b",))
    few, many = (f"a{' ' * n}b " * 2 for n in (20_000, 320_000))
    short = min(seconds(few, rules) for _ in range(3))
    assert seconds(many, rules) < 100 * max(short, 1e-3)  # 256 times if it were quadratic
    (first, _) = find_exact("a \n  b a  b", rules)
    assert first.text == "a b"


@pytest.mark.parametrize("pattern", ["/(a+)+$/", "/(a|aa)+$/", r"/(\w+\s?)+:/"])
def test_an_exponential_pattern_is_given_up(pattern: str) -> None:
    rules = ExactRules(kinds=(), marked=(pattern,))
    started = time.perf_counter()
    # What the engine sees through by itself is fine too.
    with suppress(InputError):
        find_exact("a" * 4000 + "!", rules)
    assert time.perf_counter() - started < 5 * MATCH_SECONDS


def test_a_pattern_that_is_given_up_is_named() -> None:
    rules = ExactRules(kinds=(), marked=("/(a+)+$/",))
    with pytest.raises(InputError, match=r"pattern /\(a\+\)\+\$/ takes more than 2 s on this text"):
        find_exact("a" * 4000 + "!", rules)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("/a{99999999999999999999}/", "above the limit of 10,000"),
        ("/(?:(?:(?:a{99}){99}){99}){99}/", "counted repeats multiply to 96,059,601"),
        (f"/{'(' * 499}{')' * 499}/", "is no regular expression|matches the empty string"),
        ("/" + "(" * 5000 + ")" * 5000 + "/", "above the limit of 1,000"),
        ("x" * 1001, "has 1,001 characters, above the limit of 1,000"),
        ("/(/", "is no regular expression"),
    ],
)
def test_patterns_that_cannot_be(pattern: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        compile_mark(pattern)


def test_a_pattern_that_works_still_works() -> None:
    rules = ExactRules(kinds=(), marked=("/[A-Z]{2}-\\d+/",))
    assert [item.text for item in find_exact("AB-12 and CD-3", rules)] == ["AB-12", "CD-3"]


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("base64", "'base64' is no encoding of text"), ("rot13", "is no encoding of text"),
        ("zlib", "is no encoding of text"), ("hex", "is no encoding of text"),
        ("undefined", "is not undefined text"), ("punycode", "is not punycode text|is empty"),
        ("no-such", "encoding 'no-such' is not known"), ("a\0b", "is not known"),
        ("x" * 5000, "is not known"), ("", "is not known"),
    ],
)  # fmt: skip
def test_encodings_that_are_none(tmp_path: Path, encoding: str, words: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a text, plain")
    with pytest.raises(InputError, match=words):
        "".join(read_text_file(path, encoding))
