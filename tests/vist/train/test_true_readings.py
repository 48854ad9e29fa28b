"""Teacher forcing of the reading: what comes after it learns as if every token were read right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveate.vist.train.frozen import FrozenInputs
from foveate.vist.train.loop import Trainer
from foveate.vist.train.recipe_tables import StageConfig
from tests.vist.train.tiny import recipe, trainer

TAUGHT = StageConfig(name="a", steps=1, lr=1e-3, objectives={"distil": 1.0}, true_readings=True)
READ = dataclasses.replace(TAUGHT, true_readings=False)
NAMED = dataclasses.replace(READ, objectives={"read": 1.0})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    made = trainer(recipe(), tmp_path_factory.mktemp("run"))
    made.trainee.make_dictionary(anew=True)
    return made


def memory_of(run: Trainer, stage: StageConfig) -> tuple[Tensor, Tensor]:
    """Latents of a batch and the embeddings of the tokens they stand for."""
    batch = run._batch()
    frozen = run.frozen.inputs(batch, states=False, score_last=0, features=not stage.true_readings)
    memory, _ = run.trainee._memory(batch, frozen, stage)
    assert batch.members is not None
    wanted = torch.stack(
        [ids[members[:, 0] + 1] for ids, members in zip(batch.ids, batch.members, strict=True)]
    )
    return memory.latents[batch.mask], run.vist.embed(wanted)[batch.mask]


def test_latents_start_as_the_embeddings_of_their_tokens(run: Trainer) -> None:
    """At first nothing is packed into them, so they are the tokens to the letter."""
    latents, wanted = memory_of(run, TAUGHT)
    assert len(latents) > 10
    assert torch.equal(latents, wanted)
    # The control: an untrained resampler reads most of them wrong.
    latents, wanted = memory_of(run, READ)
    assert not torch.allclose(latents, wanted, atol=1e-2)


def test_the_pictures_do_not_matter(run: Trainer) -> None:
    batch = run._batch()
    frozen = run.frozen.inputs(batch, states=True, score_last=0, features=False)
    assert frozen.features is None
    loss = run.trainee(batch, frozen, TAUGHT, 0)["loss"]
    assert torch.isfinite(loss)
    run.trainee.zero_grad(set_to_none=True)
    loss.backward()
    moved = {n.split(".")[2] for n, p in run.trainee.named_parameters() if p.grad is not None}
    assert "pack_out" in moved
    assert not moved & {"under", "query", "read"}


def test_naming_alone_looks_nothing_up(run: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = run._batch()
    frozen: FrozenInputs = run.frozen.inputs(batch, states=True, score_last=0)
    both = dataclasses.replace(READ, objectives={"read": 1.0, "distil": 1.0})
    wanted = run.trainee(batch, frozen, both, 0)["read"]
    monkeypatch.setattr(run.trainee, "_memory", None)
    found = run.trainee(batch, frozen, NAMED, 0)
    assert torch.equal(found["read"], wanted)
    assert torch.equal(found["loss"], wanted)


def test_two_trainings_are_put_together(tmp_path: Path) -> None:
    """Stages that need nothing of each other run apart; a third starts from both."""
    from foveate.vist.train.build import take_over, tiny_vist

    base = recipe(steps=1)
    for name in ("read", "distil"):
        trainer(base.only([name]), tmp_path / name).run()
    source = trainer(base, tmp_path / "fresh").source
    vist = tiny_vist(base, source)
    fresh = {name: value.clone() for name, value in vist.parts.state_dict().items()}
    taken = {}
    for name, starts in (("read", ["resampler.under"]), ("distil", ["fusion"])):
        taken[name] = take_over(vist.parts, tmp_path / name / "vist", starts)
    assert all(name.startswith("resampler.under") for name in taken["read"])
    assert all(name.startswith("fusion") for name in taken["distil"])
    moved = {n for n, value in vist.parts.state_dict().items() if not value.equal(fresh[n])}
    assert {name.split(".")[0] for name in moved} == {"fusion", "resampler"}
    assert moved <= {*taken["read"], *taken["distil"]}
