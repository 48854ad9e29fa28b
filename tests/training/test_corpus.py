"""Training text out of packages: prose only, each paragraph once, nothing that is held out."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from foveate.errors import InputError
from training.corpus import clean_paragraphs, members, prose, write_corpus

LINE = (
    "The keeper of the lamp went down to the sea in the morning, for it was the hour at which the "
    "boats that had been out in the night come home with the tide and the wind behind them. "
)


def paragraph(number: int) -> str:
    return f"On day {number} of the voyage " + LINE + f"That was all of day {number}."


def wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_files_of_both_kinds_of_archive_are_read(tmp_path: Path) -> None:
    made = wheel(tmp_path / "a-1.0.whl", {"x/b.txt": "b", "x/a.txt": "a"})
    assert list(members(made)) == [("x/a.txt", b"a"), ("x/b.txt", b"b")]
    packed = tmp_path / "c-1.tgz"
    with tarfile.open(packed, "w:gz") as archive:
        content = gzip.compress(b"inside")
        info = tarfile.TarInfo("doc/c.txt.gz")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    assert list(members(packed)) == [("doc/c.txt", b"inside")]


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match=r"is no \.deb"):
        list(members(tmp_path / "a.txt"))
    (tmp_path / "b.whl").write_text("no zip file")
    with pytest.raises(InputError, match="cannot be read"):
        list(members(tmp_path / "b.whl"))


def test_a_page_loses_its_markup_and_menus() -> None:
    page = (
        b"<html><nav>Home</nav><h1>Sea</h1><p>One\n  two &amp; three.</p><pre>a\n  b</pre></html>"
    )
    assert prose("x/page.html", page).split("\n\n") == ["", "Sea", "", "One two & three.", "",
                                                        "a\n  b", ""]  # fmt: skip
    assert prose("x/logo.svg", b"<svg/>") == ""
    assert prose("usr/share/doc/x/changelog.txt", b"text") == ""


def test_tags_of_brown_are_taken_off() -> None:
    text = b"The/at jury/nn said/vbd ``/`` no/at ''/'' ./.\n"
    assert prose("package/ca01", text).split() == ["The", "jury", "said", '"', "no", '".']


def test_strings_of_r_data_are_found() -> None:
    strings = [b"Call me", b"Ishmael."]
    plain = b"\x00\x00" + b"".join(
        b"\x00\x04\x00\x09" + len(s).to_bytes(4, "big") + s for s in strings
    )
    content = len(plain).to_bytes(4, "big") + zlib.compress(plain)
    assert prose("data/Rdata.rdb", content).split("\n") == ["Call me", "Ishmael.", ""]


def test_paragraphs_come_once_and_held_out_ones_never() -> None:
    seen: set[bytes] = set()
    text = f"{paragraph(1)}\n\n{paragraph(2)}\n\n{paragraph(1)}\n\nshort"
    assert clean_paragraphs(text, seen, frozenset()) == [paragraph(1), paragraph(2), "short"]
    assert clean_paragraphs(text, seen, frozenset()) == ["short"]


def test_the_corpus_is_clean_and_the_same_again(tmp_path: Path) -> None:
    prose_of = {f"doc/{i}.txt": "\n\n".join(paragraph(100 * i + j) for j in range(20))
                for i in range(4)}  # fmt: skip
    code = "\n\n".join(f"int x{i} = {i}; return x{i} + 7 * {i};" for i in range(400))
    made = wheel(tmp_path / "tales-1.0.whl", {**prose_of, "doc/code.txt": code})
    held_out = tmp_path / "held-out.txt"
    held_out.write_text("Other words. On day 103 of the voyage the keeper of the lamp went down to")
    said: list[str] = []
    sizes = write_corpus([made], [held_out], tmp_path / "a.jsonl", say=said.append)
    write_corpus([made], [held_out], tmp_path / "b.jsonl", say=said.append)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    together = "\n".join(row["text"] for row in rows)
    assert {row["domain"] for row in rows} == {"tales"}
    assert "int x" not in together
    assert paragraph(102) in together
    assert paragraph(103) not in together
    assert sizes["tales"] == sum(len(row["text"]) for row in rows)
    assert "tales" in said[0]
