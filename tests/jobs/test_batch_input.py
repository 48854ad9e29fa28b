"""Lines of a batch job: what may stand in them, and the sentence for what may not."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.jobs.batch_input import InputFile, read_row
from foveate.jobs.batch_row import row_turns
from foveate.jobs.image_source import ImageSource


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for colour in ("red", "blue"):
        Image.new("RGB", (5, 4), colour).save(tmp_path / f"{colour}.png")
    Image.effect_noise((64, 64), 50).save(tmp_path / "torn.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "torn.png").read_bytes()[:2000])
    (tmp_path / "notes.png").write_text("no picture")
    Image.new("1", (8001, 8001)).save(tmp_path / "huge.png")
    return tmp_path


def shown(turns: Any) -> list[Any]:
    """[(role, [texts and colours])]."""
    return [
        (
            turn["role"],
            [part.get("text") or part["image"].getpixel((0, 0)) for part in turn["content"]],
        )
        for turn in turns
    ]


RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"image": "red.png", "question": "what?"}, [("user", [RED, "what?"])]),
        ({"question": "what?"}, [("user", ["what?"])]),
        ({"images": [], "question": "what?"}, [("user", ["what?"])]),
        ({"image": None, "text_only": True, "question": "what?"}, [("user", ["what?"])]),
        ({"image": "", "text_only": True, "question": "what?"}, [("user", ["what?"])]),
        ({"image": "red.png", "text_only": False, "question": "what?", "messages": None},
         [("user", [RED, "what?"])]),
        (
            {"images": ["red.png", "blue.png"], "question": "from <image> to <image>?"},
            [("user", ["from ", RED, " to ", BLUE, "?"])],
        ),
        (
            {
                "image": "red.png",
                "messages": [
                    {"role": "system", "content": "short"},
                    {"role": "user", "content": "what?"},
                ],
            },
            [("system", ["short"]), ("user", [RED, "what?"])],
        ),
        (
            {
                "images": ["red.png"],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "this"},
                                                 {"type": "image"}]},
                    {"role": "assistant", "content": "red"},
                    {"role": "user", "content": [{"type": "image", "image": "blue.png"},
                                                 {"type": "text", "text": "and?"}]},
                ],
            },
            [("user", ["this", RED]), ("assistant", ["red"]), ("user", [BLUE, "and?"])],
        ),
    ],
)  # fmt: skip
def test_what_a_line_asks(folder: Path, row: dict[str, Any], wanted: Any) -> None:
    _, read = read_row(json.dumps(row).encode())
    assert shown(row_turns(read, ImageSource(folder))) == wanted


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "url": "red.png"},
        {"type": "image", "path": "red.png", "url": None, "image": None},
        {"type": "image", "base64": "DATA"},
        {"type": "image", "base64": "data:image/png;base64,DATA"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,DATA", "detail": "low"}},
        {"type": "image_url", "image_url": "red.png"},
    ],
)
def test_parts_that_others_write(folder: Path, part: dict[str, Any]) -> None:
    """OpenAI's `image_url`, and the keys of transformers."""
    data = base64.b64encode((folder / "red.png").read_bytes()).decode()
    part = json.loads(json.dumps(part).replace("DATA", data))
    row = {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]}
    assert shown(row_turns(row, ImageSource(folder))) == [("user", [RED, "what?"])]


def test_absolute_paths(folder: Path, tmp_path: Path) -> None:
    row = {"image": str(folder / "red.png"), "question": "what?"}
    assert shown(row_turns(row, ImageSource(Path("elsewhere")))) == [("user", [RED, "what?"])]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "not JSON (Expecting property name"),
        (b"[" * 100_000, "not JSON"),
        (b'{"question": NaN}', "not JSON (NaN is no JSON number)"),
        (b'{"question": "\xff"}', "not UTF-8 text"),
        (b'"what?"', "got str, not an object"),
        (b'{"question": "what?", "answer": "red"}', "field 'answer' is where the result goes"),
    ],
)
def test_lines_that_are_no_rows(line: bytes, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read_row(line)
    assert words in str(caught.value)


USER = {"role": "user", "content": "what?"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "red.png"}, "has neither of 'question' and 'messages'"),
        ({"question": "what?", "messages": [USER]}, "has both of 'question' and 'messages'"),
        ({"question": " "}, "'question' is empty or not a text"),
        ({"question": 3}, "'question' is empty or not a text"),
        ({"image": 3, "question": "what?"}, "'image' is not a path"),
        ({"image": None, "question": "what?"}, "'image' is null; give the image, or say"),
        ({"images": None, "question": "what?"}, "'images' is null; give the image, or say"),
        ({"images": [None], "question": "what?"}, "'images' no list of paths"),
        ({"text_only": "yes", "question": "what?"}, "'text_only' is 'yes'; write true"),
        ({"text_only": True, "image": "red.png", "question": "what?"}, "and there is 'image'"),
        (
            {
                "text_only": True,
                "messages": [{"role": "user", "content": [{"type": "image", "image": "red.png"}]}],
            },
            "and 'messages' has images",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": None}]}]},
            "of type 'image' that cannot be used",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image", "image": "red.png", "url": "blue.png"}],
                    }
                ]
            },
            "cannot be used",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "of type 'image_url' that cannot be used",
        ),
        ({"image": "red.png", "images": [], "question": "what?"}, "has both 'image' and 'images'"),
        ({"image": "gone.png", "question": "what?"}, "image 'gone.png' does not exist"),
        ({"image": "", "question": "what?"}, "'image' is not a path"),
        ({"image": "x" * 5000, "question": "what?"}, "cannot be opened"),
        ({"image": "a\0b.png", "question": "what?"}, "'a\\x00b.png'"),
        ({"image": ".", "question": "what?"}, "is a folder"),
        ({"image": "torn.png", "question": "what?"}, "image 'torn.png' is damaged or cut off"),
        ({"image": "notes.png", "question": "what?"}, "'notes.png' is not an image"),
        ({"image": "huge.png", "question": "what?"}, "above the limit of 64,000,000"),
        ({"image": "red.png", "question": "<image> <image>"}, "2 times <image>"),
        ({"messages": []}, "'messages' is no list of turns"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'; use system, user"),
        ({"messages": [{"role": "user"}]}, "has no content"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "ends with an assistant's"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "of type 'video'"),
        ({"image": "red.png", "messages": [{"role": "system", "content": "x"}]}, "no user turn"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "1 image parts without a path, and there are 0 paths",
        ),
    ],
)
def test_rows_that_cannot_be_asked(folder: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        row_turns(row, ImageSource(folder))
    assert words in str(caught.value)
    assert str(folder) not in str(caught.value)


def test_places_are_those_of_lines_with_something_in_them(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n{1}\r\n  \n{2}\n{3}")
    questions = InputFile(path)
    assert len(questions) == 3
    places = questions.places(0, 9)
    assert [place.number for place in places] == [2, 4, 5]
    assert [path.read_bytes()[place.offset :][:3] for place in places] == [b"{1}", b"{2}", b"{3}"]
    assert [place.number for place in questions.places(1, 2)] == [4]


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), (b"\n \n", "no lines")])
def test_inputs_without_lines(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=words):
        InputFile(tmp_path / "in.jsonl")
