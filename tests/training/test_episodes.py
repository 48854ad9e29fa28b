"""Episodes: drawn from labelled texts, made into tensors, and what their losses teach."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.errors import InputError
from foveate.vist.config import CarvedConfig
from foveate.vist.run.vist import Vist
from foveate.vist.train.build import MadeUpText, tiny_recipe, tiny_vist
from foveate.vist.train.recipe import load_recipe
from training.episodes import curve, export, train
from training.episodes.batches import EpisodeBatches, unit_starts
from training.episodes.draw import Episode, Episodes, read_episodes
from training.episodes.draw import main as draw
from training.episodes.sources import Labelled, labelled_texts
from training.episodes.trainee import (
    CarvedTrainee,
    EpisodeTrainee,
    LatentsTrainee,
    NothingTrainee,
)


def packages(path: Path) -> Path:
    """A list of packages as apt writes it: 14 games, 14 libraries, and one that says too little."""
    entries = [
        f"Package: p{i}\nSection: {section}\nTag: role::{role}, use::playing\n"
        f"Description: {section} thing number {i} of many, which runs\n"
        for i, (section, role) in enumerate([("games", "program"), ("libs", "shared-lib")] * 14)
    ]
    path.write_text("\n".join([*entries, "Package: q\nSection: games\nDescription: short\n"]))
    return path


def made() -> Vist:
    """Tiny, of two layers, with attention that is not flat."""
    vist = tiny_vist(tiny_recipe(load_recipe("vist-smollm2-cpu")), MadeUpText())
    vist.tokenizer.bos_token = vist.tokenizer.convert_ids_to_tokens(1)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in vist.model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.3 if "embed" in name else weight.shape[1] ** -0.5)
    return vist


@pytest.fixture(scope="module")
def vist() -> Vist:
    return made()


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    document = MadeUpText().document(3)
    words = document.split()
    texts = {
        label: tuple(" ".join(words[i : i + 5]) for i in range(start, start + 60, 5))
        for label, start in (("one", 0), ("two", 100), ("three", 200))
    }
    source = Episodes([Labelled(name="made up", texts=texts)], seed=1)
    return list(itertools.islice(source, 12))


def batches(whose: Vist, episodes: list[Episode], **settings: Any) -> EpisodeBatches:
    settings = {"size": 2, "share": 0.5, "longest": (400, 400), **settings}
    return EpisodeBatches(episodes, whose.tokenizer, **settings)


def losses(trainee: EpisodeTrainee, batch: Any) -> dict[str, float]:
    with torch.no_grad():
        return {name: value.item() for name, value in trainee(batch).items()}


# --- what is drawn ---


def test_labels_come_from_sections_and_single_tags(tmp_path: Path) -> None:
    found = {one.name: one.texts for one in labelled_texts([packages(tmp_path / "Packages")])}
    assert sorted(found) == ["packages by role", "packages by section"]
    assert sorted(found["packages by role"]) == ["program", "shared lib"]
    assert {len(texts) for texts in found["packages by section"].values()} == {14}
    (tmp_path / "empty").write_text("Package: p\n")
    with pytest.raises(InputError, match="no labelled texts were found"):
        labelled_texts([tmp_path / "empty"])


def test_answers_are_marked_and_the_same_seed_draws_the_same(
    tmp_path: Path, episodes: list[Episode]
) -> None:
    packages(tmp_path / "Packages")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        command = [str(tmp_path / "Packages"), "--count", "40", "--seed", str(seed)]
        draw([*command, "--out", str(tmp_path / name)])
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    assert (tmp_path / "a").read_text() != (tmp_path / "c").read_text()
    drawn = read_episodes(tmp_path / "a")
    assert {episode.kind for episode in drawn} == {"labels", "renamed", "dealt", "facts"}
    for episode in drawn:
        for first, stop in episode.answers:
            # Every answer stands somewhere in the far text, which is where it is learnt from.
            assert episode.near[first:stop] in episode.far
            assert episode.near[first] == " "


def test_dealt_labels_are_wrong_in_themselves() -> None:
    texts = {label: tuple(f"{label} {i}" for i in range(20)) for label in ("red", "blue", "green")}
    source = Episodes([Labelled(name="colours", texts=texts)], seed=0)
    dealt = [e for e in itertools.islice(source, 200) if e.kind == "dealt"]
    assert len(dealt) > 5
    for episode in dealt:
        for shown in episode.far.strip().split("\n\n"):
            text, label = (line.split(": ")[1] for line in shown.split("\n"))
            assert text.split()[0] != label


# --- tensors ---


def test_units_are_demonstrations_and_never_long() -> None:
    text = "Q: a b\nA: c\n\nQ: d e\nA: f\n\n" + "x " * 100
    offsets = [m.span() for m in __import__("re").finditer(r"\S+\s*", text)]
    starts = unit_starts(text, offsets)
    assert starts[:3] == [0, 5, 10]
    assert max(b - a for a, b in itertools.pairwise([*starts, len(offsets)])) <= 64


def test_a_batch_is_the_same_whoever_makes_it(vist: Vist, episodes: list[Episode]) -> None:
    first, again = batches(vist, episodes)[7], batches(vist, episodes)[7]
    other = batches(vist, episodes)[8]
    assert torch.equal(first.far, again.far)
    assert torch.equal(first.kept, again.kept)
    assert first.far.shape != other.far.shape or not torch.equal(first.far, other.far)
    assert bool((first.is_answer & ~first.near_mask).any()) is False


def test_one_shape_for_all(vist: Vist, episodes: list[Episode]) -> None:
    """Padding to one shape changes no loss."""
    plain, static = batches(vist, episodes), batches(vist, episodes, is_static=True)
    assert static[0].far.shape == static[1].far.shape == (2, 400)
    assert static[0].kept.shape == static[1].kept.shape == (2, 200)
    trainee = CarvedTrainee(vist, cut=0, rank=2)
    want, got = losses(trainee, plain[3]), losses(trainee, static[3])
    assert got == pytest.approx(want, abs=1e-4)


# --- losses ---


def test_all_tokens_are_raw_text(vist: Vist, episodes: list[Episode]) -> None:
    """With all tokens above the cut and a LoRA that is still zero nothing is lost; with half is."""
    trainee = CarvedTrainee(vist, cut=0, rank=2)
    whole = losses(trainee, batches(vist, episodes, share=1.0, choice="even")[0])
    assert whole["divergence"] == pytest.approx(0, abs=1e-5)
    assert whole["distance"] == pytest.approx(0, abs=1e-5)
    assert whole["nll"] == pytest.approx(whole["raw_nll"], abs=1e-4)
    half = losses(trainee, batches(vist, episodes)[0])
    assert half["distance"] > 1e-3


def test_a_batch_is_its_rows(vist: Vist, episodes: list[Episode]) -> None:
    trainee = CarvedTrainee(vist, cut=0, rank=2)
    pair = batches(vist, episodes, choice="ends")[2]
    rows = []
    for row in range(2):
        cut = {name: value[row : row + 1] for name, value in vars(pair).items()}
        rows.append(
            (losses(trainee, dataclasses.replace(pair, **cut)), int(cut["is_answer"].sum()))
        )
    total = sum(count for _, count in rows)
    want = sum(loss["nll"] * count for loss, count in rows) / total
    assert losses(trainee, pair)["nll"] == pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("form", ["carved", "latents"])
def test_steps_lower_the_losses(form: str, episodes: list[Episode]) -> None:
    """On one batch again and again; the language model itself stays as it was."""
    vist = made()
    before = [p.clone() for p in vist.model.parameters()]
    trainee: EpisodeTrainee = (
        CarvedTrainee(vist, cut=0, rank=4) if form == "carved" else LatentsTrainee(vist)
    )
    batch = batches(vist, episodes, vist=vist if form == "latents" else None)[0]
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=5e-3)
    first = losses(trainee, batch)
    for _ in range(12):
        optimizer.zero_grad()
        trainee(batch)["total"].backward()
        optimizer.step()
    last = losses(trainee, batch)
    assert last["total"] < 0.97 * first["total"]
    assert all(torch.equal(a, b) for a, b in zip(before, vist.model.parameters(), strict=True))


def test_nothing_is_the_near_text_alone(vist: Vist, episodes: list[Episode]) -> None:
    batch = batches(vist, episodes)[0]
    trainee = NothingTrainee(vist)
    found = losses(trainee, batch)
    first = batch.near.shape[1] - batch.near_mask.sum(dim=1)
    wanted = []
    for row, skip in enumerate(first.tolist()):
        ids = torch.cat([torch.tensor([1]), batch.near[row, skip:]])[None]
        with torch.no_grad():
            nats = vist.model(ids).logits[0, :-1].log_softmax(-1)
        is_answer = batch.is_answer[row, skip:]
        wanted.append(-nats[torch.arange(len(nats)), ids[0, 1:]][is_answer])
    assert found["nll"] == pytest.approx(float(torch.cat(wanted).mean()), abs=1e-4)
    assert found["divergence"] > 0
    assert found["distance"] == 0
    assert not list(trainee.parameters())


# --- the commands ---


def test_a_curve_has_every_checkpoint(
    tmp_path: Path, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    vist = made()
    data = tmp_path / "episodes.jsonl"
    data.write_text("".join(json.dumps(dataclasses.asdict(e)) + "\n" for e in episodes))
    monkeypatch.setattr(Vist, "from_pretrained", lambda *args, **kwargs: vist)
    monkeypatch.setattr(vist.model, "to", lambda *args, **kwargs: vist.model)
    run = ["--data", str(data), "--folder", str(tmp_path / "run"), "--form", "latents"]
    train.main([*run, "--steps", "3", "--lr", "0.02", "--save-every", "0", "--keep-last", "9"])
    # What trains here is the Vist's own; the curve begins with parts that did not.
    fresh = made()
    monkeypatch.setattr(Vist, "from_pretrained", lambda *args, **kwargs: fresh)
    monkeypatch.setattr(fresh.model, "to", lambda *args, **kwargs: fresh.model)
    command = ["--data", str(data), "--run", str(tmp_path / "run" / "latents"), "--count", "3"]
    command += ["--scored", str(tmp_path / "scored.jsonl"), "--out", str(tmp_path / "out")]
    curve.main(command)
    page = json.loads((tmp_path / "out" / "vist-episodes.json").read_text())
    rows = {row["name"]: row for row in page["points"]}
    assert list(rows) == ["none", "step 0", "step 1", "step 2", "step 3", "raw"]
    assert rows["step 0"]["saved"]["value"] == 0
    change = rows["step 0"]["divergence"]["value"] - rows["step 3"]["divergence"]["value"]
    assert rows["step 3"]["saved"]["value"] == pytest.approx(change, abs=1e-6)
    assert change != 0
    assert rows["step 3"]["core_minutes"] >= 0
    text = (tmp_path / "out" / "vist-episodes.md").read_text()
    curve.main(command)  # from what was scored
    again = (tmp_path / "out" / "vist-episodes.md").read_text()
    assert again.split("Made by")[0] == text.split("Made by")[0]
    assert len((tmp_path / "scored.jsonl").read_text().splitlines()) == 5
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        curve.main([*command[:2], "--run", str(tmp_path)])


def test_a_run_is_resumed_and_exported(
    tmp_path: Path, vist: Vist, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "episodes.jsonl"
    data.write_text("".join(json.dumps(dataclasses.asdict(e)) + "\n" for e in episodes))
    monkeypatch.setattr(Vist, "from_pretrained", lambda *args, **kwargs: vist)
    monkeypatch.setattr(vist.model, "to", lambda *args, **kwargs: vist.model)
    command = ["--data", str(data), "--folder", str(tmp_path / "run"), "--cut", "1", "--rank", "2"]
    for steps in (2, 3):
        train.main([*command, "--steps", str(steps), "--batch", "2", "--micro", "1"])
    log = (tmp_path / "run" / "carved.log").read_text().splitlines()
    assert json.loads(log[-1])["step"] == 3
    with pytest.raises(SystemExit, match="no multiple"):
        train.main([*command, "--batch", "3", "--micro", "2"])

    written: dict[str, Any] = {}
    about = type("About", (), {"training": {}})
    monkeypatch.setattr(vist, "about", about, raising=False)
    monkeypatch.setattr(export.dataclasses, "replace", _replace)
    monkeypatch.setattr(
        export, "save_checkpoint", lambda out, parts, about, **_: written.update(parts=parts)
    )
    export.main(["--run", str(tmp_path / "run" / "carved"), "--out", str(tmp_path / "vist")])
    parts = written["parts"]
    assert parts.config.carved == CarvedConfig(layer=1, share=1 / 3, lora_rank=2)
    assert any(bool(value.any()) for name, value in parts.carved.up.items())
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        export.main(["--run", str(tmp_path), "--out", str(tmp_path / "vist")])


_dataclass_replace = dataclasses.replace


def _replace(value: Any, **changes: Any) -> Any:
    return value if isinstance(value, type) else _dataclass_replace(value, **changes)
