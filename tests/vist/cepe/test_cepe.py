"""A Cepe is read, trained, saved and asked like a Vist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.errors import InputError
from foveate.vist.cepe.cepe import Cepe
from foveate.vist.cepe.encoder import CepeConfig, ChunkEncoderConfig
from foveate.vist.config import FusionConfig, ResamplerConfig
from foveate.vist.eval.context import FarContext
from foveate.vist.eval.subjects import VistSubject
from foveate.vist.latents.memory import Memory, pack_pages
from foveate.vist.run.vist import Vist
from tests.vist import tiny_vist as tiny
from tests.vist.eval.test_subjects import tokenizer

TEXT = " ".join(f"w{5 + i}_" for i in range(50))
TAIL = [20, 21, 22, 23, 24, 25]


def cepe(form: str, *, resample: bool = False, model: Any = None) -> Cepe:
    torch.manual_seed(2)
    latents = 4 if resample else 16
    config = CepeConfig(
        encoder=ChunkEncoderConfig(width=12, layers=1, heads=2, chunk=16),
        resampler=ResamplerConfig(
            input_width=12, width=12, num_latents=latents, heads=2, head_dim=6, layers=1
        ),
        fusion=FusionConfig(**tiny.FORMS[form]),
        resample=resample,
    )
    made = Cepe(model if model is not None else tiny.model("llama"), tokenizer(), config)
    with torch.no_grad():
        for name, weight in made.parts.named_parameters():
            if "o_proj" in name:
                weight.normal_(std=0.2)
    return made


@pytest.fixture(params=["embeddings", "states", "cross"])
def subject(request: pytest.FixtureRequest) -> Cepe:
    return cepe(request.param)


def test_one_latent_for_each_token(subject: Cepe) -> None:
    memory = subject.read(TEXT)
    assert isinstance(memory, Memory)
    assert memory.num_latents == memory.num_tokens == 50
    assert memory.num_pages == 4
    assert memory.positions.tolist() == list(range(50))
    assert subject.read([TEXT[:9], TEXT[9:]]).latents.equal(memory.latents)


def test_the_model_reads_it(subject: Cepe) -> None:
    memory = subject.read(TEXT)
    with_it, without = (subject.nll(m, [1], TAIL, 4) for m in (memory, None))
    assert abs(float(with_it - without)) > 1e-4
    far = FarContext(source=VistSubject(subject).encode(TEXT))
    (score,) = VistSubject(subject).nll([far], [TAIL[:2]], [TAIL[2:]])
    assert score.nats == pytest.approx(4 * float(with_it), rel=1e-5)
    with subject.attach(memory):
        ids = torch.tensor([[1, 9, 8]])
        out = subject.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False
        )
    assert out.shape == (1, 6)


def test_equal_budget() -> None:
    made = cepe("embeddings", resample=True)
    memory = made.read(TEXT)
    assert memory.num_latents == 4 * 4
    assert made.read(TEXT, 2).num_latents == 4 * 2
    positions = memory.positions.tolist()
    assert positions == sorted(positions)
    assert positions[-1] < 50


@pytest.mark.parametrize("resample", [False, True])
def test_it_learns_through_the_same_pass(resample: bool) -> None:
    """Next-token loss falls, with all parts in the gradient and none of the model's."""
    made = cepe("embeddings", resample=resample)
    before = {name: p.clone() for name, p in made.model.named_parameters()}
    chunks = made.renderer.render(TEXT)
    ids, mask = torch.from_numpy(chunks.pixels), torch.from_numpy(chunks.patch_mask)
    optimizer = torch.optim.Adam(made.parts.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        latents, keep, _ = made.parts(made.encoder(ids, mask), mask)
        batch = pack_pages(latents[None], keep[None], torch.zeros(1, *keep.shape), [50])
        loss = made.forward_train(batch, [1], TAIL, score_last=4).token_nll.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.92 * losses[0]
    assert made.parts.encoder.input.weight.grad is not None
    for name, weight in made.model.named_parameters():
        assert torch.equal(weight, before[name]), name


def test_saved_and_loaded(subject: Cepe, tmp_path: Path) -> None:
    subject.save_pretrained(tmp_path, training={"steps": 3})
    again = Cepe.from_pretrained(tmp_path, base=subject.model, tokenizer=subject.tokenizer)
    assert again.config == subject.config
    ours, theirs = subject.read(TEXT), again.read(TEXT)
    tiny.assert_close(theirs.latents, ours.latents, 2e-3)  # stored as fp16
    with pytest.raises(InputError, match="trained with the base model"):
        Cepe.from_pretrained(tmp_path, base=tiny.model("qwen3"), tokenizer=subject.tokenizer)


def test_what_is_no_cepe(tmp_path: Path) -> None:
    model = tiny.model("llama")
    with pytest.raises(InputError, match=r"give a folder written by Cepe\.save_pretrained"):
        Cepe.from_pretrained(tmp_path, base=model, tokenizer=None)
    vist: Vist = tiny.vist(model)
    vist.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"load it with Vist\.from_pretrained"):
        Cepe.from_pretrained(tmp_path, base=model, tokenizer=None)


def test_empty_text(subject: Cepe) -> None:
    with pytest.raises(InputError, match="the text is empty"):
        subject.read("")
