"""Forms of a memory: carved and states against raw text, in memory and from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import foveate
from foveate.errors import ConfigError, InputError, UnsupportedModeError
from foveate.vist.config import CarvedConfig
from foveate.vist.latents.memory import Memory, concat
from foveate.vist.run import vist as vist_module
from foveate.vist.run.vist import Vist
from tests.vist import tiny_vist
from tests.vist.tiny_vist import TEXT, assert_close, ids

HEAD = (1,)


def made(family: str = "llama", attention: str = "sdpa", rank: int = 2) -> Vist:
    """A tiny Vist with a LoRA for carved memories that is not zero."""
    llm = tiny_vist.model(family, attention)
    plain = tiny_vist.vist(llm, "lora")
    config = replace(plain.config, carved=CarvedConfig(layer=2, share=0.5, lora_rank=rank))
    torch.manual_seed(5)
    vist = Vist(llm, plain.tokenizer, plain.encoder, config)
    with torch.no_grad():
        for name, weight in vist.parts.named_parameters():
            if ".up." in name:
                weight.normal_(std=0.3)
    return vist


def logits(vist: Vist, memory: Memory | None, tail: Tensor, **attach: Any) -> Tensor:
    """Of `tail` after the head and a memory, [T, vocabulary]."""
    text = torch.cat([torch.tensor(HEAD), tail])[None]
    with torch.no_grad(), vist.attach(memory, **attach):
        return vist.model(input_ids=text).logits[0, 1:]


def raw_logits(vist: Vist, memory: Memory, tail: Tensor) -> Tensor:
    """The same after the memory's own tokens."""
    assert memory.tokens is not None
    text = torch.cat([torch.tensor(HEAD), memory.tokens, tail])[None]
    with torch.no_grad():
        return vist.model(input_ids=text).logits[0, 1 + memory.num_tokens :]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "smollm3"])
def test_everything_equals_raw_text(family: str, attention: str) -> None:
    vist = made(family, attention)
    base = vist.read(TEXT)
    tail = ids(7)
    want = raw_logits(vist, base, tail)
    held = vist.recast(base, "states", share=1.0, head_ids=HEAD)
    assert_close(logits(vist, held, tail), want)
    # The control: with the LoRA on every row it is something else, without it is raw text.
    carved = vist.recast(base, "carved", share=1.0, head_ids=HEAD)
    with pytest.raises(AssertionError):
        assert_close(logits(vist, carved, tail), want)
    vist.parts.carved = None
    assert_close(logits(vist, replace(carved, parts=""), tail), want)


@pytest.mark.parametrize("form", ["carved", "states"])
def test_everything_looked_at_equals_raw_text(form: str) -> None:
    vist = made()
    memory = vist.read(TEXT, form=form, share=0.3, head_ids=HEAD)
    tail = ids(7)
    want = raw_logits(vist, memory, tail)
    asked = {"fixate": 1.0, "question": "the harbour"}
    assert_close(logits(vist, memory, tail, **asked), want)
    with pytest.raises(AssertionError):
        assert_close(logits(vist, memory, tail), want)


def test_a_looked_at_place_of_states_is_exact() -> None:
    """What comes to the device are the rows of the whole pass, wherever the rest is."""
    vist = made()
    memory = vist.read(TEXT, form="states", share=0.2, head_ids=HEAD)
    assert memory.states is not None
    prefix = vist.prefill(memory, HEAD)
    rows = memory.positions.long()
    assert 0 < len(rows) < memory.num_tokens
    assert_close(prefix.keys[3][0], memory.states.keys[3][:, rows], 0)
    assert prefix.num_bytes < memory.states.num_bytes / 3


@pytest.mark.parametrize("form", ["carved", "states"])
def test_a_saved_memory_is_the_same(form: str, tmp_path: Path) -> None:
    vist = made()
    memory = vist.read(TEXT, form=form, head_ids=HEAD)
    memory.save(tmp_path / "memory.safetensors")
    loaded = Memory.load(tmp_path / "memory.safetensors")
    tail = ids(5)
    assert_close(logits(vist, loaded, tail), logits(vist, memory, tail), 0)
    assert (loaded.form, loaded.num_latents) == (form, memory.num_latents)


def test_prefixes_and_batches_equal_single_rows() -> None:
    vist = made()
    carved = vist.read(TEXT, form="carved", head_ids=HEAD)
    held = vist.read(TEXT[:200], form="states", head_ids=HEAD)
    latents = vist.read(TEXT[:300])
    tail = ids(6)
    text = torch.cat([torch.tensor(HEAD), tail])[None]
    rows = [carved, held, None, latents]
    with torch.no_grad(), vist.attach(rows):
        together = vist.model(input_ids=text.expand(4, -1)).logits[:, 1:]
    for row, memory in enumerate(rows):
        assert_close(together[row], logits(vist, memory, tail))
    with torch.no_grad(), vist.attach(vist.prefill([carved, held], HEAD)):
        prefilled = vist.model(input_ids=text.expand(2, -1)).logits[:, 1:]
    assert_close(prefilled, together[:2])


def test_generates_as_without_a_cache() -> None:
    vist = made()
    memory = vist.read(TEXT, form="carved", head_ids=HEAD)
    text = torch.cat([torch.tensor(HEAD), ids(4)])[None]
    with vist.attach(memory) as run:
        out = vist.model.generate(input_ids=text, max_new_tokens=6, do_sample=False)
        assert run.report is not None
        assert run.report.num_latents == (memory.num_latents,)
    for length in range(text.shape[1], out.shape[1]):
        tail = out[0, 1:length]
        assert int(logits(vist, memory, tail)[-1].argmax()) == int(out[0, length])


def test_a_method_chooses() -> None:
    """DivPrune by the states at the cut; TokenCarve by attention too, which merging would spoil."""
    vist = made()
    ends = vist.read(TEXT, form="carved", head_ids=HEAD)
    for name in ("divprune", "random", "tokencarve"):
        settings = {"merge_fraction": 0.0} if name == "tokencarve" else {}
        method = foveate.method(name, keep_ratio=0.5, **settings)
        memory = vist.recast(ends, "carved", carving=method, head_ids=HEAD)
        assert memory.num_latents == method.count(memory.num_tokens)
        assert memory.positions.tolist() != ends.positions.tolist()
    with pytest.raises(InputError, match="merges tokens"):
        vist.recast(
            ends, "carved", carving=foveate.method("tokencarve", keep_ratio=0.5), head_ids=HEAD
        )
    with pytest.raises(InputError, match="which a document read as text has not"):
        vist.recast(
            ends, "carved", carving=foveate.method("visionzip", keep_ratio=0.5), head_ids=HEAD
        )
    with pytest.raises(InputError, match="both say how much"):
        vist.recast(
            ends,
            "carved",
            carving=foveate.method("divprune", keep_ratio=0.5),
            share=0.5,
            head_ids=HEAD,
        )


def test_documents_are_joined_where_they_can_be() -> None:
    vist = made()
    first, second = (vist.read(t, form="carved", head_ids=HEAD) for t in (TEXT[:150], TEXT[150:]))
    both = concat([first, second])
    assert both.form == "carved"
    assert logits(vist, both, ids(4)).isfinite().all()
    held = [vist.recast(m, "states", head_ids=HEAD) for m in (first, second)]
    with pytest.raises(InputError, match="never saw the first"):
        concat(held)
    with pytest.raises(InputError, match="in one form"):
        concat([first, held[1]])


def test_tokens_that_could_not_be_read_are_no_entries() -> None:
    vist = made()
    base = vist.read(TEXT)
    assert base.tokens is not None
    tokens = base.tokens.clone()
    tokens[5:9] = -1
    for form in ("carved", "states"):
        memory = vist.recast(replace(base, tokens=tokens), form, share=1.0, head_ids=HEAD)
        assert memory.num_latents == base.num_tokens - 4
        assert logits(vist, memory, ids(4)).isfinite().all()


def test_refusals_say_what_to_do() -> None:
    vist = made()
    memory = vist.read(TEXT, form="states", head_ids=HEAD)
    with pytest.raises(InputError, match="made after the tokens"), vist.attach(memory):
        vist.model(input_ids=torch.tensor([[4, 5, 6]]))
    with pytest.raises(InputError, match="'carved' or 'states'"):
        vist.read(TEXT, form="pictures")
    with pytest.raises(InputError, match="drops nothing"):
        vist.recast(
            memory, "states", carving=foveate.method("divprune", keep_ratio=0.5), head_ids=HEAD
        )
    with pytest.raises(InputError, match="exceed the model's 512 positions"):
        vist.recast(concat([vist.read(TEXT)] * 4), "states", head_ids=HEAD)
    with pytest.raises(InputError, match="does not know the tokens"):
        vist.recast(tiny_vist.memory(3, 9), "states", head_ids=HEAD)
    with pytest.raises(InputError, match="is outside"):
        vist.recast(memory, "carved", share=1.5)
    with pytest.raises(ConfigError, match=r"has no config\.carved"):
        tiny_vist.vist(tiny_vist.model(), "lora").read(TEXT, form="carved", head_ids=HEAD)
    with pytest.raises(UnsupportedModeError, match="cross-attention"):
        tiny_vist.vist(tiny_vist.model(), "cross").read(TEXT, form="states", head_ids=HEAD)
    other = made("qwen3")
    with pytest.raises(InputError, match="another language model"):
        other.attach(replace(memory, encoder="", parts=""))


@pytest.mark.parametrize("form", ["carved", "states"])
def test_a_memory_of_another_vist_is_not_recast(form: str) -> None:
    vist = made()
    memory = vist.read(TEXT)
    assert memory.tokens is not None
    with pytest.raises(InputError, match="this model knows 100; read the document again"):
        vist.recast(replace(memory, tokens=memory.tokens + 1000), form, head_ids=HEAD)
    with pytest.raises(InputError, match="made by other trained parts"):
        made(rank=0).recast(memory, form, head_ids=HEAD)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    vist = made()
    memory = vist.read(TEXT, form="carved", head_ids=HEAD)
    odd = replace(memory, positions=memory.positions.flip(0))
    odd.save(tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="no tokens of its document"):
        Memory.load(tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="without states"):
        replace(memory, form="states")
    with pytest.raises(InputError, match="latents of width 0"):
        replace(vist.read(TEXT), form="carved")


def test_a_second_question_does_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers below the cut run once for a document that is looked at; answers stay theirs."""
    vist = made()
    memory = vist.read(TEXT, form="carved", head_ids=HEAD)
    other = vist.read(TEXT[100:], form="carved", head_ids=HEAD)
    asked = tuple({"fixate": share, "question": "which harbour"} for share in (0.3, 0.6))
    want = [logits(vist, m, ids(5), **a) for m in (memory, other) for a in asked]
    calls = []
    lower_of = vist_module.lower_of
    monkeypatch.setattr(vist_module, "lower_of", lambda *a: calls.append(1) or lower_of(*a))
    for row, (m, a) in enumerate([(m, a) for m in (memory, other) for a in asked]):
        assert_close(logits(vist, m, ids(5), **a), want[row], 0)
    # A skim and a look of each document's first question; eight without what is kept.
    assert len(calls) == 4
    with torch.no_grad():
        assert (want[0] - want[2]).abs().max() > 1e-3
