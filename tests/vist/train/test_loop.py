"""The loop: resumed runs, accumulated gradients, caches, stages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from foveate.errors import ConfigError, InputError, TrainingError
from foveate.vist.config import FusionConfig
from foveate.vist.run.vist import Vist
from foveate.vist.train.build import take_over
from foveate.vist.train.checkpoint import latest, read_snapshot
from foveate.vist.train.distillation import DistillationConfig
from foveate.vist.train.history import History, read_history
from foveate.vist.train.loop import EXPORT, Trainer
from foveate.vist.train.recipe_tables import StageConfig
from tests.vist.train.tiny import perceiver, recipe, trainer


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.trainee.state_dict().items()}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than all steps of a tiny run; the run that `whole` makes has one."""
    monkeypatch.setattr(History, "draw", lambda self: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, list[dict[str, Any]]]:
    """Three stages of two steps, uninterrupted."""
    run = trainer(recipe(), tmp_path_factory.mktemp("whole"))
    return run, untimed(run.run())


# Within a stage, and between two.
@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    whole: tuple[Trainer, list[dict[str, Any]]], stop: int, tmp_path: Path
) -> None:
    first = trainer(recipe(), tmp_path)
    first.run(stop_after=stop)
    # Steps that no checkpoint holds are forgotten.
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write(json.dumps({"step": stop + 1, "stage": "lost", "loss": 1.0}) + "\n{cut o")
    torch.manual_seed(999)
    second = trainer(recipe(), tmp_path)
    records = untimed(second.run(resume=True))
    run, wanted = whole
    assert records == wanted
    mine, theirs = weights(second), weights(run)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []
    states = [
        read_snapshot(latest(r.folder / "checkpoints"))  # type: ignore[arg-type]
        for r in (second, run)
    ]
    assert states[0].state["positions"] == states[1].state["positions"]
    for part in ("optimizer", "counts"):
        left, right = getattr(states[0], part), getattr(states[1], part)
        assert left.keys() == right.keys()
        assert all(left[name].equal(right[name]) for name in left)


def test_the_history_and_the_finished_model_are_there(
    whole: tuple[Trainer, list[dict[str, Any]]],
) -> None:
    run, records = whole
    assert [r["stage"] for r in records] == ["distil"] * 2 + ["end-to-end"] * 2
    assert untimed(read_history(run.folder)) == records
    assert (run.folder / "loss.png").stat().st_size > 1000
    made = Vist.from_pretrained(
        run.folder / "vist",
        base=run.vist.model,
        tokenizer=run.vist.tokenizer,
        encoder=run.vist.encoder,
    )
    memory = made.read("A text that nobody trained on. " * 20)
    assert memory.num_latents > 0


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    # PVE's negatives come from one micro-batch, so it is left out.
    wanted = recipe(batch=4, micro_batch=4)
    stage = dataclasses.replace(wanted.stages[0], objectives={"distil": 1.0, "next_token": 1.0})
    wanted = dataclasses.replace(wanted, stages=(stage,))
    whole = trainer(wanted, tmp_path / "whole")
    windows = [[next(stream) for _ in range(2)] for stream in whole.streams]
    whole.streams = [_Row(row) for row in windows]  # type: ignore[misc]
    losses = [[record["loss"] for record in whole.run()]]
    halves = trainer(
        dataclasses.replace(wanted, run=dataclasses.replace(wanted.run, micro_batch=2)),
        tmp_path / "halves",
    )
    # The same four windows a step: two and two instead of four at once.
    halves.streams = [  # type: ignore[misc]
        _Row([windows[row][i] for i in range(2) for row in (part, part + 2)]) for part in (0, 1)
    ]
    losses.append([record["loss"] for record in halves.run()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


class _Row:
    """Windows in a fixed order, in the place of a stream."""

    stream = 0

    def __init__(self, windows: list[Any]) -> None:
        self._windows = iter(windows)

    def __next__(self) -> Any:
        return next(self._windows)

    def state(self) -> dict[str, int]:
        return {}


def test_a_cache_changes_nothing_but_the_work(tmp_path: Path) -> None:
    """First run fills it, the second reads it: bitwise the same losses."""
    wanted = recipe(save_every=1)
    wanted = dataclasses.replace(
        wanted, data=dataclasses.replace(wanted.data, cache=str(tmp_path / "cache"))
    )
    first = untimed(trainer(wanted, tmp_path / "a").run())
    again = trainer(wanted, tmp_path / "b")
    again.vist.encoder.forward = _refuse
    assert untimed(again.run()) == first


def _refuse(*_: Any) -> Any:
    raise AssertionError("the encoder ran though its features are cached")


def test_only_the_stage_s_parts_learn(tmp_path: Path) -> None:
    wanted = perceiver(recipe())
    run = trainer(dataclasses.replace(wanted, stages=wanted.stages[:1]), tmp_path)
    before = weights(run)
    run.run()
    changed = {name for name, value in weights(run).items() if not value.equal(before[name])}
    assert any(name.startswith("parts.resampler") for name in changed)
    assert any(name.startswith("heads.read") for name in changed)
    assert not any("lora" in name for name in changed)


def test_the_paper_s_resampler_learns_targets_too(tmp_path: Path) -> None:
    run = trainer(perceiver(recipe(steps=1)), tmp_path)
    records = run.run()
    assert [set(r) & {"read", "distil", "pve"} for r in records] == [
        {"read"}, {"distil"}, {"distil", "pve"},
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["states", "states_space", "cross_attention"])
def test_other_forms_train(form: str, tmp_path: Path) -> None:
    wanted = perceiver(recipe(steps=1))
    fusion = FusionConfig(
        form="cross_attention" if form == "cross_attention" else "kv_prefix", source="states"
    )
    objectives = {"next_token": 1.0, "tail_kl": 1.0, "read": 1.0}
    if form != "cross_attention":
        objectives["distil"] = 1.0
    space = "states" if form == "states_space" else "keys_values"
    wanted = dataclasses.replace(
        wanted,
        vist=dataclasses.replace(wanted.vist, fusion=fusion),
        stages=(StageConfig(name="all", steps=1, lr=1e-3, objectives=objectives),),
        objectives=dataclasses.replace(
            wanted.objectives,
            distil=DistillationConfig(space=space),  # type: ignore[arg-type]
        ),
    )
    (record,) = trainer(wanted, tmp_path).run()
    assert objectives.keys() <= record.keys()
    assert record["grad_norm"] > 0


def test_latents_of_tokens_have_nothing_to_learn_in_reading(tmp_path: Path) -> None:
    wanted = recipe(steps=1)
    stage = dataclasses.replace(wanted.stages[0], objectives={"read": 1.0})
    with pytest.raises(ConfigError, match="made of what the frozen encoder reads"):
        trainer(dataclasses.replace(wanted, stages=(stage,)), tmp_path)


def test_latents_start_as_the_embeddings_of_their_tokens(tmp_path: Path) -> None:
    """At first nothing is packed into them, so they are the tokens to the letter."""
    run = trainer(recipe(steps=1), tmp_path)
    batch = run._batch()
    frozen = run.frozen.inputs(batch, states=False, score_last=0, features=False)
    assert frozen.features is None
    memory, cls = run.trainee._memory(batch, frozen)
    assert cls is None
    assert batch.members is not None
    wanted = torch.stack(
        [ids[members[:, 0] + 1] for ids, members in zip(batch.ids, batch.members, strict=True)]
    )
    latents, embedded = memory.latents[batch.mask], run.vist.embed(wanted)[batch.mask]
    assert len(latents) > 10
    assert torch.equal(latents, embedded)
    # The control: of the neighbouring tokens they are not.
    assert not torch.allclose(latents[1:], embedded[:-1])


def test_the_paper_s_recipe_runs(tmp_path: Path) -> None:
    run = trainer(recipe("vist-tinyllama-clip-l14"), tmp_path)
    records = run.run()
    assert {"next_token", "pve"} <= records[0].keys()
    assert run.trainee.counts.num_samples == 4


def test_old_checkpoints_go(tmp_path: Path) -> None:
    run = trainer(recipe(save_every=1, keep_last=2), tmp_path)
    run.run(stop_after=4)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000004"]


def test_a_used_folder_is_not_overwritten(tmp_path: Path) -> None:
    trainer(recipe(), tmp_path).run(stop_after=1)
    with pytest.raises(InputError, match=r"holds a run already.*--resume"):
        trainer(recipe(), tmp_path).run()


def test_resuming_another_recipe_names_what_differs(tmp_path: Path) -> None:
    trainer(recipe(), tmp_path).run(stop_after=1)
    with pytest.raises(InputError, match=r"recipe\.run\.seed was 0, is 1"):
        trainer(recipe(seed=1), tmp_path).run(resume=True)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    run = trainer(recipe(), tmp_path)
    with torch.no_grad():
        for weight in run.trainee.parts.resampler.parameters():
            weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="step 1 of stage 'distil'"):
        run.run()


def test_parts_that_do_not_exist_are_named(tmp_path: Path) -> None:
    wanted = recipe()
    stage = dataclasses.replace(wanted.stages[0], trainable=("resampler", "lora"))
    with pytest.raises(ConfigError, match=r"'parts.lora', which is no part .* parts.resampler"):
        trainer(dataclasses.replace(wanted, stages=(stage,)), tmp_path)


def test_a_window_too_long_for_the_teacher_is_refused(tmp_path: Path) -> None:
    wanted = recipe()
    wanted = dataclasses.replace(wanted, data=dataclasses.replace(wanted.data, context=4000))
    with pytest.raises(ConfigError, match="exceed its window of 2048"):
        trainer(wanted, tmp_path)


def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run.batch=3 is no multiple"):
        trainer(recipe(batch=3), tmp_path)


def test_parts_of_another_vist_are_taken_over(tmp_path: Path) -> None:
    made = trainer(recipe(steps=1), tmp_path / "run")
    made.run()
    stored = load_file(tmp_path / "run" / EXPORT / "vist.safetensors")
    wanted = recipe()
    other = dataclasses.replace(
        wanted.vist, fusion=FusionConfig(form="cross_attention", layers=(0,))
    )
    stages = tuple(
        dataclasses.replace(stage, trainable=(), objectives={"next_token": 1.0})
        for stage in wanted.stages[:1]
    )
    fresh = trainer(dataclasses.replace(wanted, vist=other, stages=stages), tmp_path / "other")
    found = take_over(fresh.vist.parts, tmp_path / "run" / EXPORT)
    own = fresh.vist.parts.state_dict()
    assert found
    assert all(name.startswith("resampler") for name in found)
    assert all(torch.equal(own[name], stored[name].float()) for name in found)
    some = take_over(fresh.vist.parts, tmp_path / "run" / EXPORT, ("resampler.pack_in",))
    assert some == ["resampler.pack_in.bias", "resampler.pack_in.weight"]
    with pytest.raises(InputError, match=r"holds no|no readable vist\.json"):
        take_over(fresh.vist.parts, tmp_path)
