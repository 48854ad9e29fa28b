"""`foveate tune` on a tiny checkpoint, and what its profile does in the other commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.carve.answerer import Answerer
from foveate.carve.compare.answering import Answering
from foveate.carve.profile import load_profile
from foveate.cli.main import app
from tests.cli.conftest import Foveate

IMAGES = 40
TUNE = ("tune", "--methods", "divprune", "fastv", "--keep", "75%", "2", "--max-loss", "60%",
        "--max-new-tokens", 2, "--batch-size", 8)  # fmt: skip


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two about each of a few noisy images, without answers."""
    folder = tmp_path_factory.mktemp("questions")
    generator = np.random.default_rng(0)
    lines = []
    for number in range(IMAGES):
        noise = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
        for word in ("what", "which"):
            lines.append(json.dumps({"image": f"{number}.png", "question": f"{word} is it?"}))
    (folder / "q.jsonl").write_text("\n".join(lines))
    return folder / "q.jsonl"


@pytest.fixture(scope="module")
def tuned(checkpoint: Path, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    words = [*TUNE, checkpoint, "--data", questions, "--output", folder]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.stdout, done.stderr)
    assert "No line has answers, so agreement" in done.stderr
    assert "% of its prefill FLOPs" in done.stdout
    return folder


def result_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "tune.json").read_text())
    return found


def test_it_writes_what_it_found(tuned: Path) -> None:
    assert {path.name for path in tuned.iterdir()} == {
        "profile.toml", "tune.json", "tune.png", "tune-parts",
    }  # fmt: skip
    found = result_of(tuned)
    assert found["chosen"]["fate"] == "chosen"
    assert found["by"] == "agreement"
    assert found["images"] == IMAGES
    assert found["grid_calls"] == 5 * 2 * IMAGES
    assert 0 < found["calls"] < found["grid_calls"]
    assert found["manifest"]["data"] == "q.jsonl"
    chosen = found["chosen"]
    assert chosen["loss"]["low"] <= chosen["loss"]["value"] <= chosen["loss"]["high"]
    cheaper = [r for r in found["rows"] if r["costs"]["flops"] < chosen["costs"]["flops"]]
    assert all(row["fate"] != "proven" for row in cheaper)
    profile = load_profile(tuned / "profile.toml")
    assert profile.method.to_dict() == chosen["settings"]
    assert profile.evidence["max_loss"] == 0.6
    assert profile.versions["foveate"] == found["manifest"]["foveate"]
    assert str(tuned.parent) not in (tuned / "profile.toml").read_text()


def test_the_claim_is_what_the_answers_say(checkpoint: Path, questions: Path, tuned: Path) -> None:
    """The losses are counted again, by hand, from a plain run of both."""
    from foveate.carve.tune.settings import TuneSettings, draw_units
    from foveate.models.load import load_vlm
    from foveate.tasks.named import load_questions

    found = result_of(tuned)["chosen"]
    vlm = load_vlm(checkpoint)
    asked = load_questions(str(questions), limit=2000, needs_answers=False)
    units = draw_units(asked, TuneSettings(max_loss=0.6))[: found["units"]]
    losses = []
    for unit in units:
        inputs = vlm.inputs([q.question for q in unit], [q.image for q in unit])
        answerers = [Answerer(vlm, m) for m in (None, load_profile(tuned / "profile.toml").method)]
        full, carved = (a.answer(inputs, max_new_tokens=2).rows for a in answerers)
        pairs = zip(full, carved, strict=True)
        losses.append(np.mean([a.text != b.text for a, b in pairs]))
    assert np.mean(losses) == pytest.approx(found["loss"]["value"])


def test_a_stopped_run_goes_on(
    foveate: Foveate,
    checkpoint: Path,
    questions: Path,
    tuned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (*TUNE, checkpoint, "--data", questions, "--output", tmp_path)
    real, asked = Answering.answer, []

    def counted(self: Answering, chunk: Any, arms: Any) -> Any:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(chunk.start)
        return real(self, chunk, arms)

    monkeypatch.setattr(Answering, "answer", counted)
    with pytest.raises(BaseException):  # noqa: B017
        foveate(*command)
    monkeypatch.setattr(Answering, "answer", real)
    assert "holds an unfinished run; go on with --resume" in foveate(*command, ok=False).stderr
    later: list[int] = []

    def seen(self: Answering, chunk: Any, arms: Any) -> Any:
        later.append(chunk.start)
        return real(self, chunk, arms)

    monkeypatch.setattr(Answering, "answer", seen)
    foveate(*command, "--resume")
    assert not set(later) & set(asked)
    again, whole = result_of(tmp_path), result_of(tuned)
    for result in (again, whole):
        del result["manifest"]
    assert again == whole
    other = foveate(*command, "--resume", "--seed", 1, ok=False)
    assert "was made with another seed" in other.stderr


def test_likelihood_and_measured_time(checkpoint: Path, questions: Path, tmp_path: Path) -> None:
    words = ("--by", "likelihood", "--cost", "prefill", "--rounds", 1, "--json")
    command = [*TUNE, checkpoint, "--data", questions, "--output", tmp_path, *words]
    ran = CliRunner().invoke(app, [str(word) for word in command])
    assert ran.exit_code in (0, 3), (ran.stdout, ran.stderr)  # time decides what is cheap
    found = json.loads(ran.stdout)
    assert found["by"] == "likelihood"
    explored = [row for row in found["rows"] if row["units"] >= found["explored"]]
    assert explored
    assert all("prefill" in row["costs"] for row in explored if row["fate"] != "loses too much")
    assert all(-1 <= row["loss"]["value"] <= 1 for row in found["rows"])


def test_nothing_is_safe(
    foveate: Foveate, checkpoint: Path, questions: Path, tmp_path: Path
) -> None:
    (tmp_path / "profile.toml").write_text("old")
    done = foveate(
        "tune", checkpoint, "--data", questions, "--max-loss", "4%", "--claim", "file",
        "--methods", "random", "--keep", "1", "--max-new-tokens", 4, "--output", tmp_path, code=3,
    )  # fmt: skip
    assert "Nothing is safe at this loss" in done.stdout
    assert not (tmp_path / "profile.toml").exists()
    assert result_of(tmp_path)["chosen"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--max-loss", "1%"), "40 images cannot prove a loss below 1 points at 95 %"),
        (("--max-loss", "0"), "max_loss=0.0 is outside (0, 1)"),
        (("--max-loss", "much"), "--max-loss got 'much'; write a share"),
        (("--max-loss", "60%", "--confidence", "100%"), "confidence=1.0 is outside (0, 1)"),
        (("--max-loss", "60%", "--cost", "euros"), "cost='euros' is unknown; use one of flops"),
        (("--max-loss", "60%", "--by", "accuracy"), "80 of 80 questions have no answers"),
        (("--max-loss", "60%", "--claim", "all"), "claim='all' is unknown"),
        (
            ("--max-loss", "60%", "--claim", "file", "--limit", 79),
            "the data has more than the 79 questions of --limit, and --claim file is about all",
        ),
        (("--max-loss", "1%", "--limit", 60), "Only the first 60 questions are read; where"),
        (("--max-loss", "60%", "--methods", "no-such"), "unknown method 'no-such'"),
        (("--max-loss", "60%", "--keep", "200%"), "outside (0, 1]"),
    ],
)
def test_refused_before_a_model_is_loaded(
    foveate: Foveate, questions: Path, words: tuple[Any, ...], sentence: str
) -> None:
    done = foveate("tune", "no/such/model", "--data", questions, *words, code=2)
    assert sentence in " ".join(done.stderr.split())


def test_the_profile_in_other_commands(
    foveate: Foveate, checkpoint: Path, picture: Path, tuned: Path, tmp_path: Path
) -> None:
    profile = tuned / "profile.toml"
    method = load_profile(profile).method
    asked = foveate("ask", picture, "what?", "--model", checkpoint, "--profile", profile, "--json")
    assert json.loads(asked.stdout)["report"]["method"] == str(method)
    lines = tmp_path / "in.jsonl"
    lines.write_text(json.dumps({"image": str(picture), "question": "what?"}))
    foveate("run", "--input", lines, "--output", tmp_path / "a.jsonl", "--model", checkpoint,
            "--profile", profile, "--max-new-tokens", 2)  # fmt: skip
    assert json.loads((tmp_path / "a.jsonl").read_text())["tokens"]["kept"] < 16
    foveate("compare", "--data", "easy-vqa", "--limit", 3, "--model", checkpoint, "--rounds", 0,
            "--profile", profile, "--output", tmp_path / "c", "--max-new-tokens", 2)  # fmt: skip
    rows = json.loads((tmp_path / "c" / "compare.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["full", "profile", "random", "uniform", "blind"]
    assert {row["budget"] for row in rows[1:4]} == {str(method.budget)}


@pytest.mark.parametrize(
    ("command", "clash"),
    [
        (("ask", "{picture}", "what?"), ("--method", "fastv")),
        (("ask", "{picture}", "what?"), ("--keep", "25%")),
        (("run", "--input", "a", "--output", "b"), ("--keep", "25%")),
        (("compare",), ("--methods", "fastv")),
        (("compare",), ("--keep", "25%")),
        (("serve", "embedded"), ("--method", "divprune")),
        (("play",), ("--method", "fastv")),
    ],
)
def test_a_profile_and_a_method_are_one_too_many(
    foveate: Foveate, picture: Path, tuned: Path, command: tuple[str, ...], clash: tuple[str, str]
) -> None:
    if command[0] == "play":
        pytest.importorskip("gradio")
    words = [word.format(picture=picture) for word in command]
    done = foveate(*words, "--profile", tuned / "profile.toml", *clash, code=2)
    assert f"got --profile and {clash[0]}, and the profile says both" in done.stderr


@pytest.mark.parametrize("command", [("ask", "{picture}", "what?"), ("compare", "--limit", "2")])
def test_a_profile_of_another_model(
    foveate: Foveate, picture: Path, tuned: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    words = [word.format(picture=picture) for word in command]
    if command[0] == "compare":
        words += ["--output", str(tmp_path)]
    done = foveate(*words, "--profile", tuned / "profile.toml", code=2)
    assert "load the model as it was tuned, or tune for this one" in done.stderr


def test_run_refuses_a_profile_of_another_model(
    foveate: Foveate, picture: Path, tuned: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"image": str(picture), "question": "what?"}))
    done = foveate("run", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl",
                   "--profile", tuned / "profile.toml", code=2)  # fmt: skip
    assert "load the model as it was tuned" in done.stderr
