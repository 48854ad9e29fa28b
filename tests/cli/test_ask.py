"""`foveate ask` on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveate.assets import EMBEDDED_READS, vlm_path
from foveate.tasks.named import load_questions
from tests.cli.conftest import Foveate
from tests.cli.vlm_folder import NUM_VISUAL, save_tiny_vlm

QUESTION = "what color is the shape?"


def test_text_shows_both_answers_and_the_report(
    foveate: Foveate, checkpoint: Path, picture: Path
) -> None:
    result = foveate("ask", picture, QUESTION, "--model", checkpoint, "--keep", "25%")
    assert "all visual tokens" in result.stdout
    assert "tokencarve(keep=25%)" in result.stdout
    assert "16 -> 4 kept (2 merged into them, 10 dropped) in 1 image" in result.stdout
    assert "does not know" not in result.stdout


def test_json_is_all_of_stdout(foveate: Foveate, checkpoint: Path, picture: Path) -> None:
    result = foveate(
        "ask", picture, QUESTION, "--model", checkpoint, "--keep", "5", "--json",
        "--max-new-tokens", "3",
    )  # fmt: skip
    data = json.loads(result.stdout)
    assert data["question"] == QUESTION
    assert data["family"] == "LLaVA-1.5"
    report = data["report"]
    assert (report["before"], report["kept"], report["fired"]) == (NUM_VISUAL, 5, True)
    assert report["kept"] + report["merged"] + report["dropped"] == NUM_VISUAL
    assert data["unknown_words"] == []


def test_a_budget_by_information(foveate: Foveate, checkpoint: Path, picture: Path) -> None:
    options = ("--model", checkpoint, "--method", "divprune", "--keep", "information=60%:2..50%")
    result = foveate("ask", picture, QUESTION, *options)
    assert "divprune(keep=information=60%:2..50%)" in result.stdout
    assert "tokens of an image, by its information" in result.stdout
    (image,) = json.loads(foveate("ask", picture, QUESTION, *options, "--json").stdout)["report"][
        "images"
    ]
    assert 2 <= image["kept"] == image["budget"] <= NUM_VISUAL // 2


def test_full_answer_does_not_depend_on_the_method_and_noop_gives_it_too(
    foveate: Foveate, checkpoint: Path, picture: Path
) -> None:
    said = {}
    for method in ("noop", "random", "pooling"):
        options = ("--model", checkpoint, "--method", method, "--keep", "2", "--json")
        said[method] = json.loads(foveate("ask", picture, QUESTION, *options).stdout)
    assert len({answer["answer"] for answer in said.values()}) == 1
    assert said["noop"]["answer_compressed"] == said["noop"]["answer"]
    assert said["noop"]["report"]["fired"] is False
    assert said["random"]["answer_compressed"] != said["random"]["answer"]


def test_several_images(foveate: Foveate, checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "new" / "folder" / "overlay.png"
    result = foveate(
        "ask", picture, picture, QUESTION, "--model", checkpoint, "--overlay", overlay, "--json"
    )
    report = json.loads(result.stdout)["report"]
    assert [image["before"] for image in report["images"]] == [16, 16]
    with Image.open(overlay) as drawn:
        assert drawn.width > drawn.height  # two pictures side by side


@pytest.mark.parametrize("method", ["tokencarve", "fastv", "divprune", "uniform", "noop"])
def test_overlay_of_every_kind_of_plan(
    foveate: Foveate, checkpoint: Path, picture: Path, tmp_path: Path, method: str
) -> None:
    overlay = tmp_path / "overlay.png"
    result = foveate(
        "ask", picture, QUESTION, "--model", checkpoint, "--method", method, "--overlay", overlay
    )
    assert str(overlay) in result.stdout
    with Image.open(overlay) as drawn:
        assert min(drawn.size) > 300


def test_unknown_words_are_named(foveate: Foveate, checkpoint: Path, picture: Path) -> None:
    result = foveate("ask", picture, "what is the zebra on?", "--model", checkpoint)
    assert "The model does not know: zebra, on;" in result.stdout


def test_prune_layer_is_passed_on(foveate: Foveate, checkpoint: Path, picture: Path) -> None:
    result = foveate("ask", picture, QUESTION, "--model", checkpoint, "--prune-layer", "3")
    assert "3..3 of 4 run short; on average 13 tokens of an image a layer" in result.stdout


def test_processor_without_a_chat_template(foveate: Foveate, tmp_path: Path, picture: Path) -> None:
    plain = save_tiny_vlm(tmp_path / "plain", template=None)
    result = foveate("ask", picture, QUESTION, "--model", plain, "--json")
    assert json.loads(result.stdout)["report"]["before"] == NUM_VISUAL


def test_repeats_give_the_same_output(foveate: Foveate, checkpoint: Path, picture: Path) -> None:
    def answers() -> tuple[str, str]:
        data = json.loads(foveate("ask", picture, QUESTION, "--model", checkpoint, "--json").stdout)
        return data["answer"], data["answer_compressed"]

    assert answers() == answers()


@pytest.mark.skipif(
    not (vlm_path() / "config.json").exists(), reason="no embedded model in this checkout"
)
def test_embedded_model_is_the_default(foveate: Foveate, tmp_path: Path) -> None:
    asked = load_questions("reading", limit=1)[0]
    asked.image.save(tmp_path / "page.png")
    result = foveate("ask", tmp_path / "page.png", asked.question, "--keep", "100%", "--json")
    data = json.loads(result.stdout)
    assert data["model"] == "embedded model"
    assert (data["report"]["before"], data["unknown_words"]) == (196, [])
    assert data["answer_compressed"] == data["answer"] != ""
    said = foveate("ask", tmp_path / "page.png", "what is the price of zebra?").stdout
    assert "does not know: zebra;" in said


def test_method_with_settings(foveate: Foveate, checkpoint: Path, picture: Path) -> None:
    result = foveate(
        "ask", "--model", checkpoint, picture, "what?", "--method",
        "tokencarve(merge_fraction=0, attention_weight=1)", "--keep", "4",
    )  # fmt: skip
    assert "tokencarve(keep=4 tokens, attention_weight=1.0, merge_fraction=0.0)" in result.stdout
    refused = foveate(
        "ask", "--model", checkpoint, picture, "what?", "--method", "fastv(depth=3)", ok=False
    )
    assert "fastv has no setting 'depth'; it has" in refused.stderr


def test_the_embedded_model_says_what_it_reads(foveate: Foveate, picture: Path) -> None:
    said = foveate("ask", picture, "what is the price of tea ?").stdout
    assert EMBEDDED_READS in said
    data = json.loads(foveate("ask", picture, "what is the price of tea ?", "--json").stdout)
    assert data["caution"] == EMBEDDED_READS


def test_another_model_needs_no_caution(foveate: Foveate, picture: Path, checkpoint: Path) -> None:
    said = foveate("ask", picture, QUESTION, "--model", checkpoint, "--json").stdout
    assert json.loads(said)["caution"] == ""


def test_a_full_disk_keeps_the_old_picture_and_the_answer(
    foveate: Foveate,
    picture: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    overlay = tmp_path / "kept.png"
    overlay.write_bytes(b"old")

    def full(self: Image.Image, file: Any, format: str) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    options = ("--model", checkpoint, "--overlay", overlay)
    done = foveate("ask", picture, QUESTION, *options, code=2)
    assert "all visual tokens" in done.stdout
    assert "cannot be written (No space left on device)" in done.stderr
    assert overlay.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [overlay]


@pytest.mark.parametrize(
    ("question", "overlay", "words"),
    [
        (" ", None, "the question is empty"),
        ("a\udcff", None, "U+DCFF, half a character"),
        (QUESTION, "/proc/kept.png", "cannot be written"),
        (QUESTION, "/dev/full", "has no name of a picture"),
    ],
)
def test_what_can_be_known_is_refused_before_loading(
    foveate: Foveate,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    question: str,
    overlay: str | None,
    words: str,
) -> None:
    monkeypatch.setattr("foveate.models.load.load_vlm", None)  # calling it fails the test
    options = ("--overlay", overlay) if overlay else ()
    done = foveate("ask", picture, question, *options, code=2)
    assert words in done.stderr
