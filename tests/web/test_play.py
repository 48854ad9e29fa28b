"""Both tabs of the playground, driven as a person does: pointer, keys, files, mistakes."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.app.examples import image_examples
from tests.wheel import needs_smollm2

pytest.importorskip("gradio", reason="Gradio is not installed; make test-web installs it")
pytest.importorskip("playwright", reason="Playwright is not installed; make test-web installs it")

MOST_SECONDS = 10
PHONE = {"width": 390, "height": 844}
# Roles that a person acts on or that stand for a picture: each needs a name.
NAMED = {
    "button", "checkbox", "combobox", "img", "image", "link", "listbox", "option", "radio",
    "searchbox", "slider", "spinbutton", "switch", "tab", "textbox", "application", "region",
}  # fmt: skip


def upload(page: Any, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(path)


def ask(page: Any, question: str) -> None:
    page.get_by_label("Question", exact=True).fill(question)
    page.get_by_role("button", name="Answer").click()


def alert(page: Any) -> str:
    said = page.get_by_role("alert").first
    said.wait_for()
    return str(said.inner_text())


def pick(page: Any, label: str, number: int) -> None:
    """Pick a bundled example and wait until it is there."""
    page.get_by_label(label).click()
    page.get_by_role("option").nth(number).click()
    filled = "[...document.querySelectorAll('textarea')].some((t) => t.value)"
    page.wait_for_function(filled)
    if "text" not in label:
        page.get_by_label("Remove Image").wait_for()


def unnamed(page: Any) -> list[str]:
    """Roles of NAMED in Chromium's accessibility tree that have no name."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    found = []
    seen = 0
    for node in nodes:
        role = node.get("role", {}).get("value")
        if node.get("ignored") or role not in NAMED:
            continue
        seen += 1
        if not node.get("name", {}).get("value", "").strip():
            found.append(f"{role}: {node}")
    assert seen >= 8  # the tree was really read
    return found


def overflow(page: Any) -> int:
    """Pixels that the page is wider than the window."""
    width: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return width


def shoot(page: Any, path: Path) -> None:
    """The whole page as a PNG of 256 colours, a third of the bytes."""
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as full:
        small = full.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE)
    small.save(path, optimize=True)


def to_read_tab(page: Any) -> None:
    page.get_by_role("tab", name="Read").click()
    page.get_by_role("button", name="Read", exact=True).wait_for()


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "mine.png"
    image_examples()[0].image.save(path)
    return path


# --- Carve ---


def test_an_uploaded_image_is_answered(page: Any, picture: Path) -> None:
    example = image_examples()[0]
    upload(page, picture)
    page.get_by_label("Remove Image").wait_for()
    page.get_by_label("Question", exact=True).fill(example.question)
    begun = time.perf_counter()
    page.get_by_role("button", name="Answer").click()
    answers = page.locator("#carve-answers .answer")
    answers.nth(1).wait_for()
    assert time.perf_counter() - begun < MOST_SECONDS
    assert answers.all_inner_texts() == [example.answer] * 2
    assert page.locator("#carve-map rect[data-fate=kept]").count() == 98
    assert page.locator("#carve-map rect").count() == 196
    assert page.locator("#carve-answers .chip").first.inner_text().endswith("%")
    assert "The same answer from 98 of 196 visual tokens" in (page.locator(".verdict").inner_text())
    page.locator("#carve-agreement circle").nth(10).wait_for()
    assert page.locator("#carve-agreement circle").count() == 11
    assert unnamed(page) == []


def test_two_people_wait_for_each_other(page: Any, address: str) -> None:
    other = page.context.new_page()
    other.goto(address)
    for number, opened in enumerate((page, other)):
        pick(opened, "Or a bundled example", number)
    for opened in (page, other):
        opened.get_by_role("button", name="Answer").click()
    for example, opened in zip(image_examples(), (page, other), strict=False):
        answers = opened.locator("#carve-answers .answer")
        answers.nth(1).wait_for()
        assert answers.first.inner_text() == example.answer
        opened.locator("#carve-agreement circle").nth(10).wait_for()


def test_method_and_budget_are_those_chosen(page: Any) -> None:
    pick(page, "Or a bundled example", 1)
    page.get_by_label("Method").click()
    page.get_by_role("option", name="divprune").click()
    slider = page.get_by_role("slider", name=re.compile("Visual tokens to keep"))
    slider.focus()
    for _ in range(40):
        slider.press("ArrowLeft")
    page.get_by_role("button", name="Answer").click()
    page.locator(".verdict", has_text="from 20 of 196").wait_for()
    assert "divprune(keep=10%)" in page.locator("#carve-answers").inner_text()
    assert page.locator("#carve-map rect[data-fate=kept]").count() == 20


def test_tokens_are_read_out_by_pointer_and_keys(page: Any) -> None:
    pick(page, "Or a bundled example", 2)
    page.get_by_role("button", name="Answer").click()
    token = page.locator("#carve-map rect[data-token='15']")
    token.wait_for()
    readout = page.locator("#carve-map .readout")
    token.hover(force=True)
    assert re.match(r"row 2, column 2: (kept|merged|dropped)", readout.inner_text())
    for score in ("information", "attention", "fused"):
        assert re.search(rf"{score} \S+ \(rank \d+ of 196\)", readout.inner_text())
    page.mouse.move(0, 0)
    page.locator("#carve-map .map").focus()
    page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("row 2, column 3:")
    page.keyboard.press("ArrowDown")
    assert readout.inner_text().startswith("row 3, column 3:")
    merged = page.locator("#carve-map rect[data-fate=merged]").first
    number = merged.get_attribute("data-token")
    merged.hover(force=True)
    assert "merged into row" in readout.inner_text()
    assert page.locator(f"#carve-map g.current[data-from='{number}']").count() == 1
    page.get_by_text("All 196 tokens as a table").click()
    assert page.locator("#carve-map tbody tr").count() == 196
    assert unnamed(page) == []


def test_mistakes_on_carve_are_sentences(page: Any, picture: Path, tmp_path: Path) -> None:
    ask(page, "what is under bun?")
    assert alert(page) == "there is no image; drop one, or pick a bundled example."
    upload(page, picture)
    page.get_by_label("Remove Image").wait_for()
    ask(page, "   ")
    page.get_by_text("the question is empty; ask something about the image or text.").wait_for()
    ask(page, "what is under bun?")
    page.locator("#carve-answers .answer").nth(1).wait_for()
    assert page.get_by_role("alert").count() == 0


def test_a_file_that_is_no_image(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    upload(page, path)
    assert "is not an image that can be read; use one of PNG" in alert(page)
    assert str(tmp_path) not in alert(page)


def test_too_many_pixels(page: Any, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.new("1", (2000, 1000)).save(path)
    upload(page, path)
    assert "2000 x 1000 = 2,000,000 pixels, above the limit of 1,000,000; scale" in alert(page)


@pytest.mark.parametrize("size", [250_000, 3_000_000])
def test_too_big_a_file(page: Any, tmp_path: Path, size: int) -> None:
    path = tmp_path / "big.png"
    path.write_bytes(b"x" * size)
    upload(page, path)
    assert re.match(r"the file has [\d.]+ MB, above the limit of 0\.2 MB; make it", alert(page))
    assert page.get_by_label("Remove Image").count() == 0


def test_the_server_itself_refuses_a_large_file(page: Any, address: str) -> None:
    files = {"name": "big.png", "mimeType": "image/png", "buffer": b"x" * 300_000}
    sent = page.request.post(f"{address}gradio_api/upload", multipart={"files": files})
    assert sent.status == 413
    headers = page.request.get(address).headers
    assert "default-src 'self'" in headers["content-security-policy"]


def test_a_page_of_another_name_is_refused(page: Any, address: str) -> None:
    assert page.request.get(address).status == 200
    assert page.request.get(address, headers={"Host": "example.org"}).status == 400


# --- Read ---


@needs_smollm2
def test_a_text_is_read_in_three_ways(page: Any) -> None:
    to_read_tab(page)
    lines = [f"The lamp number {i} stands at the harbour of town {i * 7 % 90}." for i in range(30)]
    page.get_by_label("Long text").fill("\n".join(lines))
    page.get_by_label(re.compile("number input for Longest answer")).last.fill("4")
    page.get_by_role("button", name="Read", exact=True).click()
    page.get_by_text("Drawing and reading").first.wait_for()
    page.locator("#read-strips img").first.wait_for(timeout=60_000)
    page.locator("#read-answers .answer").nth(2).wait_for(timeout=120_000)
    counts = page.locator("#read-counts").inner_text()
    before, after = (
        int(re.search(rf"{name}\s+([\d,]+)", counts)[1].replace(",", ""))  # type: ignore[index]
        for name in ("tokens before", "after")
    )
    assert after < 0.7 * before
    parts = page.locator("#read-parts")
    far = parts.locator(".far").inner_text()
    assert "lamp number 0" in parts.inner_text()
    assert "lamp number 29" not in far
    assert "lamp number 29" in parts.locator(".raw").last.inner_text()
    assert unnamed(page) == []


@needs_smollm2
def test_a_text_file_is_opened(page: Any, tmp_path: Path) -> None:
    to_read_tab(page)
    path = tmp_path / "far.txt"
    path.write_text("from a file", encoding="utf-8")
    page.locator("input[type=file]").last.set_input_files(path)
    page.wait_for_function(
        "[...document.querySelectorAll('textarea')].some((t) => t.value === 'from a file')"
    )


@needs_smollm2
def test_mistakes_on_read_are_sentences(page: Any, tmp_path: Path) -> None:
    to_read_tab(page)
    go = page.get_by_role("button", name="Read", exact=True)
    go.click()
    assert alert(page) == "the text is empty; paste one, drop a file, or pick an example."
    page.get_by_label("Long text").fill("too short a text")
    go.click()
    page.get_by_text(re.compile("nothing would be read as pictures; give a longer")).wait_for()
    page.get_by_label("Long text").fill("x" * 20_001)
    go.click()
    page.get_by_text("the text has 20,001 characters, above the limit of 20,000").wait_for()
    path = tmp_path / "picture.txt"
    path.write_bytes(b"\xff\xfe\x00\x01")
    page.locator("input[type=file]").last.set_input_files(path)
    page.get_by_text(re.compile("utf-8", re.I)).first.wait_for()


# --- both ---


def test_controls_have_names_and_the_phone_no_overflow(page: Any, screenshots: Path) -> None:
    assert unnamed(page) == []
    page.set_viewport_size(PHONE)
    assert overflow(page) <= 0
    to_read_tab(page)
    assert unnamed(page) == []
    assert overflow(page) <= 0
    page.get_by_role("tab", name="Carve").click()
    pick(page, "Or a bundled example", 2)
    page.get_by_role("button", name="Answer").click()
    page.locator("#carve-agreement circle").nth(10).wait_for()
    assert overflow(page) <= 0
    shoot(page, screenshots / "play-phone.png")


def test_pictures_of_the_page(page: Any, screenshots: Path) -> None:
    pick(page, "Or a bundled example", 2)
    page.get_by_role("button", name="Answer").click()
    page.locator("#carve-agreement circle").nth(10).wait_for()
    page.locator("#carve-map rect[data-fate=merged]").nth(20).hover(force=True)
    shoot(page, screenshots / "play-carve.png")
    assert (screenshots / "play-carve.png").stat().st_size > 30_000


@needs_smollm2
def test_pictures_of_reading(page: Any, screenshots: Path) -> None:
    to_read_tab(page)
    pick(page, "Or a bundled text", 2)
    page.get_by_role("button", name="Read", exact=True).click()
    page.locator("#read-answers .answer").nth(2).wait_for(timeout=240_000)
    shoot(page, screenshots / "play-read.png")
    page.set_viewport_size(PHONE)
    assert overflow(page) <= 0
