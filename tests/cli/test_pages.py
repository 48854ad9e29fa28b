"""`foveate pages`: pages for a vision-language model, and every mistake in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.carve.pages.fact_sheet import fact_sheet
from foveate.cli.main import app
from foveate.tasks.reading import page_at
from tests.cli.conftest import Foveate
from tests.cli.test_bad_input import refusal

ITEMS = [cell for cell in page_at(2, 0).cells if cell.kind == "item"]
QUESTION = f"what is the price of {ITEMS[-1].word}?"
PRICE = str(ITEMS[-1].price)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    path = tmp_path / "sheet.txt"
    path.write_text(fact_sheet(ITEMS))
    return path


def test_embedded_model_answers_from_pages(foveate: Foveate, sheet: Path, tmp_path: Path) -> None:
    pages = tmp_path / "new" / "pages"
    said = foveate(
        "pages", sheet, "--model", "embedded", "--ask", QUESTION, "--save-pages", pages
    ).stdout
    assert said.splitlines()[0] == PRICE
    text_tokens = 6 * len(ITEMS)
    assert "196 -> 49 visual, 0 for 0 exact strings, 0 around the pages" in said
    assert f"as text   {text_tokens} tokens ({text_tokens / 49:.2f} times as many)" in said
    with Image.open(pages / "page-001.png") as page:
        assert page.size == (224, 224)


def test_json_is_all_of_stdout(foveate: Foveate, sheet: Path) -> None:
    said = foveate(
        "pages", sheet, "--model", "embedded", "--ask", QUESTION, "--json", "--keep", "25",
        "--method", "fastv", "--no-compare",
    ).stdout  # fmt: skip
    data = json.loads(said)
    assert (data["answer"], data["model"], data["unknown_words"]) == (PRICE, "embedded model", [])
    report = data["report"]
    assert (report["road"], report["cost"]["kept_tokens"]) == ("pages", 25)
    assert report["method"] == "fastv(keep=25 tokens, prune_layer=5)"
    assert report["seconds_text"] is None


def test_standard_input(sheet: Path) -> None:
    command = ["pages", "-", "--model", "embedded", "--ask", QUESTION, "--json", "--no-compare"]
    result = CliRunner().invoke(app, command, input=sheet.read_text())
    assert json.loads(result.stdout)["answer"] == PRICE


def test_exact_strings(foveate: Foveate, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("Anna paid 4711 for v1.2 on 2024-05-17")

    def exact(*options: str) -> int:
        command = ("pages", path, "--model", checkpoint, "--ask", "what?", "--or-text", "--json")
        command += ("--page", "256x64")  # all on one page
        cost = json.loads(foveate(*command, *options).stdout)["report"]["cost"]
        return int(cost["exact_tokens"])

    # "Page 1:" and one word of the tokenizer for each string
    assert exact() == 5
    assert exact("--exact", "none") == 0
    assert exact("--exact", "number,date") == 4
    assert exact("--exact", "none", "--keep-exact", "Anna", "--keep-exact", "/v.../") == 4
    assert exact("--exact-limit", "3") == 3


def test_declines_and_reads_as_text_when_allowed(
    foveate: Foveate, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "note.txt"
    path.write_text("the shape is a red circle")
    command = ("pages", path, "--model", checkpoint, "--ask", "what color is the shape?")
    said = refusal(foveate, *command)
    assert "rendering is not worth it, the text is cheaper: " in said
    assert "6 as text; allow reading it as text (--or-text)" in said
    assert "read as text  it is cheaper: " in foveate(*command, "--or-text").stdout


def test_embedded_model_says_what_it_cannot_read(foveate: Foveate, tmp_path: Path) -> None:
    path = tmp_path / "story.txt"
    path.write_text("Once upon a time there was a price. " * 30)
    said = foveate("pages", path, "--model", "embedded", "--ask", "what zebra?", "--or-text").stdout
    assert "does not know: zebra;" in said
    assert "reads fact sheets only" in said.replace("\n", " ")


def test_page_and_font(foveate: Foveate, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("what color is the shape in the image? " * 60)
    said = foveate(
        "pages", path, "--model", checkpoint, "--ask", "what?", "--page", "256x128",
        "--font-px", "8", "--flow", "--keep", "1", "--exact", "none", "--json", "--no-compare",
    ).stdout  # fmt: skip
    report = json.loads(said)["report"]
    assert (report["page"]["width"], report["page"]["height"]) == (256, 128)
    assert (report["page"]["font_px"], report["page"]["flow"]) == (8, True)
    assert report["road"] == "pages"
    assert report["cost"]["kept_tokens"] == report["num_pages"] > 1


def test_missing_characters_and_fonts_for_them(
    foveate: Foveate, checkpoint: Path, tmp_path: Path
) -> None:
    path = tmp_path / "note.txt"
    path.write_text("shape \u2603 \u2603", encoding="utf-16")  # snowmen, which Noto Sans lacks
    command = ("pages", path, "--model", checkpoint, "--ask", "what?", "--encoding", "utf-16")
    options = ("--page", "256x64", "--keep", "1", "--exact", "none", "--no-compare", "--json")

    def missing(*fonts: object) -> dict[str, int]:
        return json.loads(foveate(*command, *options, *fonts).stdout)["report"]["missing"]

    assert missing() == {"\u2603": 2}
    dejavu = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    assert missing("--font", dejavu) == {}
    said = refusal(foveate, *command, *options, "--font", path)
    assert "cannot be read" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ask", " "), "the question is empty"),
        (("--ask", "x", "--model", "./nowhere/model"), "does not exist; check the path"),
        (("--ask", "x", "--page", "big"), "page 'big' is no size"),
        (("--ask", "x", "--font-px", "99"), "font_px=99 is outside 6 to 64"),
        (("--ask", "x", "--exact", "zip"), "exact strings 'zip' is unknown"),
        (("--ask", "x", "--keep-exact", "/(/"), "is no regular expression"),
        (("--ask", "x", "--exact-limit", "-1"), "max_tokens=-1 is below 0"),
        (("--ask", "x", "--keep", "197"), "exceeds the 196 visual tokens"),
        (("--ask", "x", "--method", "magic"), "unknown method 'magic'"),
        (("--ask", "x", "--max-new-tokens", "0"), "is below 1"),
        (("--ask", "x", "--max-new-tokens", "999"), "use a smaller page"),
    ],
)
def test_mistakes(foveate: Foveate, sheet: Path, options: tuple[str, ...], message: str) -> None:
    assert message in refusal(foveate, "pages", sheet, *options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b" \n", "holds nothing but blanks; there is nothing to read"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary file"),
        (b"bread red 37 52\n" * 900, "needs more than 5 pages of 224 x 224 px"),
        (b"bread red 37 52\n" * 99000, "more than 262,144 characters, above what the model's"),
    ],
)
def test_bad_files(foveate: Foveate, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert message in refusal(foveate, "pages", path, "--model", "embedded", "--ask", "what?")


def test_folder_as_file(foveate: Foveate, tmp_path: Path) -> None:
    assert "is a folder" in refusal(foveate, "pages", tmp_path, "--model", "embedded", "--ask", "x")


def test_pages_that_cannot_be_written(foveate: Foveate, sheet: Path) -> None:
    said = refusal(
        foveate, "pages", sheet, "--model", "embedded", "--ask", QUESTION, "--save-pages", sheet
    )
    assert "cannot be written" in said
