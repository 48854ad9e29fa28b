"""A Vist's recipe trains a CEPE in the same trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from foveate.vist.cepe.cepe import Cepe
from foveate.vist.cepe.encoder import CepeConfig, ChunkEncoderConfig
from foveate.vist.cepe.train import CepeTrainer, build_cepe, cepe_recipe
from foveate.vist.train.build import MadeUpText, tiny_vist
from foveate.vist.train.loop import EXPORT
from tests.vist.train import tiny

SMALL = ChunkEncoderConfig(width=16, layers=1, heads=2, chunk=64)


@pytest.mark.parametrize("resample", [False, True])
def test_every_stage_runs_and_the_result_loads(resample: bool, tmp_path: Path) -> None:
    source = MadeUpText(count=16, words=300)
    base = tiny.recipe("vist-smollm2-cpu", steps=1)
    vist = tiny_vist(base, source)
    recipe = cepe_recipe(base, SMALL, resample=resample)
    cepe = build_cepe(recipe, vist.model, vist.tokenizer)
    before = {name: p.detach().clone() for name, p in cepe.parts.named_parameters()}
    trainer = CepeTrainer(recipe, cepe, source, tmp_path, accelerator=tiny.accelerator_for(recipe))
    trainer.run()
    moved = {
        name.split(".")[0]
        for name, p in cepe.parts.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert moved == {"encoder", "fusion", *(["resampler"] if resample else [])}
    again = Cepe.from_pretrained(tmp_path / EXPORT, base=vist.model, tokenizer=vist.tokenizer)
    memory = again.read(source.document(0)[:400])
    chunks = memory.num_pages
    assert memory.num_latents == (
        memory.num_tokens if not resample else pytest.approx(8 * chunks, abs=64 * chunks)
    )
    about = json.loads((tmp_path / EXPORT / "vist.json").read_text())
    assert about["training"]["recipe"]["name"].endswith("-cepe")


def test_all_else_is_equal() -> None:
    base = tiny.recipe("vist-tinyllama-clip-l14")
    made = cepe_recipe(base, SMALL, resample=True)
    assert isinstance(made.vist, CepeConfig)
    assert made.vist.fusion == base.vist.fusion
    assert made.vist.resampler.num_latents == base.vist.resampler.num_latents
    assert (made.optim, made.run) == (base.optim, base.run)
    assert [s.objectives for s in made.stages] == [s.objectives for s in base.stages]
    assert made.data.context == base.data.context
