"""Training code of the embedded model: packing, optimiser, start and exact resume."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from foveate.vist.train.muon import orthogonalise
from training.run import trained_weights
from training.vlm.export import classic_names
from training.vlm.language import LanguageModel
from training.vlm.packing import pack
from training.vlm.score import interval
from training.vlm.start import structured_start
from training.vlm.vision import VisionTower
from training.vlm.vocabulary import VOCABULARY

needs_data = pytest.mark.skipif(
    importlib.util.find_spec("easy_vqa") is None, reason="the package easy-vqa is not installed"
)


def test_pack_puts_targets_on_the_answer_and_its_end() -> None:
    ids, targets = pack([[("what costs 37?", "bread"), ("what is the price of bread?", "37")]])
    words = [[VOCABULARY[i] for i in row] for row in ids[0].tolist()]
    assert words[0][:7] == ["what", "costs", "3", "7", "?", "ASSISTANT:", "bread"]
    told = [[VOCABULARY[i] for i in row if i != -100] for row in targets[0].tolist()]
    assert told == [["bread", "</s>"], ["3", "7", "</s>"]]
    assert words[1][int((targets[0, 1] != -100).nonzero()[0])] == "ASSISTANT:"


def test_intervals_are_those_of_the_published_tables() -> None:
    values = [float(i % 3 > 0) for i in range(20)]
    found = interval(values, [f"p{5 * i % 7}" for i in range(20)], seed=4)
    assert found == {
        "exact_match": 65.0,
        "low": 61.11,
        "high": 66.67,
        "questions": 20,
        "pictures": 7,
    }


def test_packed_questions_do_not_see_each_other() -> None:
    model = LanguageModel()
    structured_start(model)
    visual = torch.randn(1, 30, 192, generator=torch.Generator().manual_seed(0))
    both, _ = pack([[("what costs 37?", "bread"), ("what is above bread?", "milk")]])
    with torch.no_grad():
        together = model(visual, both)
        alone = model(visual, both[:, 1:])
    torch.testing.assert_close(together[:, 1:], alone, atol=1e-4, rtol=1e-4)


def test_shaded_layers_end_as_an_ordinary_model() -> None:
    model = LanguageModel()
    structured_start(model)
    visual = torch.randn(1, 30, 192, generator=torch.Generator().manual_seed(0))
    ids, _ = pack([[("what costs 37?", "bread")]])
    with torch.no_grad():
        open_, plain = model(visual, ids, blind_layers=3, bias=0.0), model(visual, ids)
        hidden = model(visual, ids, blind_layers=3)
        closed = model(visual, ids, blind_layers=3, bias=-60.0)
    assert torch.equal(open_, plain)
    torch.testing.assert_close(closed, hidden, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(open_, hidden, atol=1e-2)


@pytest.mark.parametrize("shape", [(2, 24, 40), (3, 40, 24)])
def test_orthogonalise_gives_singular_values_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.4


def test_local_heads_look_at_their_neighbours() -> None:
    tower = VisionTower()
    x = tower.pre_layrnorm(tower.position_embedding[None])
    attention = tower.layers[0].self_attn
    normed = tower.layers[0].layer_norm1(x)

    def heads(projection: torch.nn.Linear) -> torch.Tensor:
        return projection(normed).view(1, 197, 6, 32).transpose(1, 2)

    logits = heads(attention.q_proj) @ heads(attention.k_proj).transpose(2, 3)
    best = logits[0, :, 1 + 7 * 14 + 7, 1:].argmax(-1).tolist()
    assert best == [7 * 14 + 6, 7 * 14 + 8, 7 * 14 + 5, 7 * 14 + 9, 7 * 14 + 7, 8 * 14 + 7]


def test_export_refuses_foreign_weights() -> None:
    with pytest.raises(ValueError, match=r"'optimiser\.x' has no place in a LLaVA checkpoint"):
        classic_names({"optimiser.x": torch.zeros(1)})


@needs_data
def test_training_resumes_exactly(tmp_path: Path) -> None:
    from training.vlm.train_language import train_language

    settings = {"minutes": 5.0, "batch": 1, "questions": 2, "lines": 1, "shape_share": 0.3}
    train_language(tmp_path / "once", max_steps=3, **settings)
    train_language(tmp_path / "twice", max_steps=1, **settings)
    train_language(tmp_path / "twice", max_steps=3, **settings)
    once = trained_weights(tmp_path / "once", "language")
    twice = trained_weights(tmp_path / "twice", "language")
    assert set(once) == set(twice)
    different = [name for name in once if not torch.equal(once[name], twice[name])]
    assert different == []
