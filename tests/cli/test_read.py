"""`foveate read`: every mistake in one sentence; what it reads is tested with the shipped Vist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Foveate
from tests.cli.test_bad_input import refusal


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("bread red 37 52\n" * 20)
    return path


@pytest.mark.parametrize("options", [(), ("--ask", "x", "--continue")])
def test_one_of_two_wishes(foveate: Foveate, text: Path, options: tuple[str, ...]) -> None:
    said = refusal(foveate, "read", text, *options)
    assert 'give either --ask "QUESTION" or --continue' in said


def test_a_folder_without_a_vist(foveate: Foveate, text: Path, tmp_path: Path) -> None:
    said = refusal(foveate, "read", text, "--ask", "x", "--model", tmp_path)
    assert "holds no Vist (no vist.json)" in said
    assert "let a vision-language model read pages (foveate pages)" in said.replace("\n", " ")


def test_the_file_is_looked_at_first(foveate: Foveate, tmp_path: Path) -> None:
    assert "is a folder" in refusal(foveate, "read", tmp_path, "--ask", "x")
    assert "does not exist" in refusal(foveate, "read", tmp_path / "no.txt", "--continue")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ask", "x", "--look", "ten"), "--look got 'ten'; use a share such as 10% or 0.1"),
        (("--ask", "x", "--look", "110%"), "--look got '110%'; use a share"),
        (("--continue", "--look", "10%"), "--look is for a question (--ask)"),
        (("--ask", "x", "--latents"), "--latents is for --continue"),
    ],
)
def test_a_look_is_a_share_of_a_text_that_is_asked(
    foveate: Foveate, text: Path, options: tuple[str, ...], words: str
) -> None:
    assert words in refusal(foveate, "read", text, *options).replace("\n", " ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ask", " "), "the question is empty"),
        (("--ask", "a\ud800"), "U+D800, half a character"),
        (("--ask", "x", "--max-new-tokens", "0"), "max_new_tokens=0 is below 1"),
        (("--ask", "x", "--max-new-tokens", "9" * 20), "above the limit of 1,000,000"),
        (("--continue", "--recent", "0"), "--recent 0 is below 1"),
        (("--ask", "x", "--recent", "-1"), "--recent -1 is below 0"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(
    foveate: Foveate,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.setattr("foveate.vist.run.vist.Vist.from_pretrained", None)
    assert words in refusal(foveate, "read", text, *options)


@pytest.mark.parametrize("command", ["read", "pages"])
def test_a_blank_text(
    foveate: Foveate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("foveate.vist.run.vist.Vist.from_pretrained", None)
    monkeypatch.setattr("foveate.carve.pages.reader.load_vlm", None)
    (tmp_path / "blank.txt").write_text(" \n" * 9)
    assert "nothing but blanks" in refusal(foveate, command, tmp_path / "blank.txt", "--ask", "x")


@pytest.mark.parametrize("option", ["--vlm", "--keep", "--save-pages"])
def test_options_of_pages_are_not_taken(foveate: Foveate, text: Path, option: str) -> None:
    done = foveate("read", text, "--ask", "x", option, "y", ok=False)
    assert f"No such option: {option}" in done.stderr
