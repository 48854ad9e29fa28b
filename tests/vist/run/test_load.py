"""Checkpoints: trained parts only, base and encoder by reference and hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from foveate import Vist
from foveate.core import eight_bit
from foveate.errors import ConfigError, InputError
from foveate.vist.checkpoint import WEIGHTS
from tests.vist import tiny_vist
from tests.vist.tiny_vist import FORMS, ids


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_vist.model().save_pretrained(path)
    tiny_vist.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def saved(base: Path, tmp_path: Path) -> Path:
    llm = tf.AutoModelForCausalLM.from_pretrained(base)
    return tiny_vist.vist(llm, "lora").save_pretrained(tmp_path / "vist", training={"steps": 3})


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(base: Path, tmp_path: Path, form: str) -> None:
    llm = tf.AutoModelForCausalLM.from_pretrained(base)
    first = tiny_vist.vist(llm, form)
    first.parts.half().float()  # what fp16 keeps
    folder = first.save_pretrained(tmp_path / "vist")
    files = ["README.md", "vist.json", "vist.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == files
    stored = load_file(folder / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    assert not any("embed_tokens" in key or "tower" in key for key in stored)
    second = Vist.from_pretrained(folder, encoder=tiny_vist.TinyEncoder())
    assert second.config == first.config
    assert {p.dtype for p in second.parts.parameters()} == {torch.float32}
    memory = first.read(tiny_vist.TEXT)
    again = second.read(tiny_vist.TEXT)
    assert torch.equal(memory.latents, again.latents)
    assert (memory.parts, memory.encoder) == (again.parts, again.encoder)
    want = first.nll(memory, ids(2), ids(9), 5)
    assert torch.equal(second.nll(memory, ids(2), ids(9), 5), want)


@pytest.mark.parametrize("form", FORMS)
def test_round_trip_in_eight_bits(
    base: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half the file, almost the same loss, and from then on the same weights in either form."""
    monkeypatch.setattr(eight_bit, "LEAST_NUMBERS", 64)
    llm = tf.AutoModelForCausalLM.from_pretrained(base)
    first = tiny_vist.vist(llm, form)
    whole = first.save_pretrained(tmp_path / "whole")
    small = first.save_pretrained(tmp_path / "small", eight_bit=True)
    stored = load_file(small / WEIGHTS)
    assert torch.int8 in {tensor.dtype for tensor in stored.values()}
    assert json.loads((small / "vist.json").read_text())["format"] == 4
    assert json.loads((whole / "vist.json").read_text())["format"] == 3
    second = Vist.from_pretrained(small, encoder=tiny_vist.TinyEncoder())
    assert {p.dtype for p in second.parts.parameters()} == {torch.float32}
    want = dict(first.parts.named_parameters())
    for name, weight in second.parts.named_parameters():
        rows = want[name].detach().abs().amax(dim=-1, keepdim=True)
        # Half a step of 127, and float16 before and after.
        assert ((weight - want[name]).abs() <= rows * (0.5 / 127 + 2**-10)).all(), name
    nll = [v.nll(v.read(tiny_vist.TEXT), ids(2), ids(9), 5) for v in (first, second)]
    torch.testing.assert_close(nll[1], nll[0], atol=2e-3, rtol=2e-3)
    again = second.save_pretrained(tmp_path / "again")
    third = Vist.from_pretrained(again, encoder=tiny_vist.TinyEncoder())
    for a, b in zip(second.parts.parameters(), third.parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_whole_numbers_need_their_scales(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eight_bit, "LEAST_NUMBERS", 64)
    llm = tf.AutoModelForCausalLM.from_pretrained(base)
    folder = tiny_vist.vist(llm, "lora").save_pretrained(tmp_path / "vist", eight_bit=True)
    stored = load_file(folder / WEIGHTS)
    scale = next(name for name in stored if name.endswith(":scale"))
    name = scale.removesuffix(":scale")
    without = {key: value for key, value in stored.items() if key != scale}
    for content, message in (
        (without, "lacks weights .*:scale"),
        ({**stored, name: stored[name].half()}, "has unknown weights .*:scale"),
        ({**stored, scale: stored[scale][:-1]}, r":scale of .* asks for"),
        ({**stored, scale: stored[scale] * torch.inf}, ":scale of .* is not finite"),
        ({**stored, scale: stored[scale] * 1e9}, "is not finite"),
        ({**stored, scale: stored[scale].long()}, ":scale of .* is stored as I64"),
        ({**without, name: stored[name].short()}, "is stored as I16, and only as"),
    ):
        save_file(content, folder / WEIGHTS)
        with pytest.raises(InputError, match=message):
            Vist.from_pretrained(folder, encoder=tiny_vist.TinyEncoder())


def test_the_base_may_be_given(saved: Path, base: Path) -> None:
    llm = tf.AutoModelForCausalLM.from_pretrained(base)
    encoder = tiny_vist.TinyEncoder()
    for given in (llm, base, str(base)):
        assert Vist.from_pretrained(saved, base=given, encoder=encoder).config.fusion.lora_rank == 2
    assert json.loads((saved / "vist.json").read_text())["training"] == {"steps": 3}


def test_another_base_or_encoder_is_refused(saved: Path) -> None:
    other = tiny_vist.model()
    with torch.no_grad():
        other.model.norm.weight[0] += 0.1
    encoder = tiny_vist.TinyEncoder()
    with pytest.raises(InputError, match=r"was trained with the base model .* and got one with"):
        Vist.from_pretrained(saved, base=other, tokenizer=tiny_vist.tokenizer(), encoder=encoder)
    with torch.no_grad():
        encoder.weight[0, 0] += 1
    with pytest.raises(InputError, match="was trained with the encoder"):
        Vist.from_pretrained(saved, encoder=encoder)
    with pytest.raises(InputError, match="encoder of the user's own class; pass encoder="):
        Vist.from_pretrained(saved)
    with pytest.raises(InputError, match=r"base model '.*none' cannot be loaded"):
        Vist.from_pretrained(saved, base=saved / "none", encoder=encoder)


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def test_broken_files_are_named(saved: Path, tmp_path: Path) -> None:
    encoder = tiny_vist.TinyEncoder()
    stored = load_file(saved / WEIGHTS)
    name = "resampler.latents"
    for content, message in (
        ({key: value for key, value in stored.items() if key != name}, "lacks weights resampler"),
        ({**stored, "extra": torch.zeros(1)}, "has unknown weights extra"),
        ({**stored, name: torch.zeros(3, 3)}, r"latents of .* is \(3, 3\), vist.json asks for"),
    ):
        save_file(content, saved / WEIGHTS)
        with pytest.raises(InputError, match=message):
            Vist.from_pretrained(saved, encoder=encoder)
    (saved / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(InputError, match=r"vist\.safetensors' cannot be read"):
        Vist.from_pretrained(saved, encoder=encoder)
    edit(saved / "vist.json", format=9)
    with pytest.raises(InputError, match="has format 9, this version reads 1 to 4; update"):
        Vist.from_pretrained(saved)
    edit(saved / "vist.json", format=1, base={"path": "x"})
    with pytest.raises(InputError, match="lacks or misnames a field"):
        Vist.from_pretrained(saved)
    edit(saved / "vist.json", config={"depth": 3})
    with pytest.raises(ConfigError, match="unknown fields depth"):
        Vist.from_pretrained(saved)
    (saved / "vist.json").write_text("{")
    with pytest.raises(InputError, match="is broken"):
        Vist.from_pretrained(saved)
    with pytest.raises(InputError, match=r"has no readable vist\.json"):
        Vist.from_pretrained(tmp_path)


def test_diverged_weights_are_not_saved(tmp_path: Path) -> None:
    vist = tiny_vist.vist(tiny_vist.model())
    with torch.no_grad():
        vist.parts.resampler.cls[0, 0] = 1e6
    with pytest.raises(InputError, match=r"resampler\.cls holds values that fp16 cannot"):
        vist.save_pretrained(tmp_path / "vist")


def test_half_precision_base() -> None:
    llm = tiny_vist.model().to(torch.bfloat16)
    for form in FORMS:
        vist = tiny_vist.vist(llm, form)
        memory = vist.read(tiny_vist.TEXT)
        assert memory.latents.dtype == torch.float32
        assert bool(vist.nll(memory, ids(2), ids(9), 5).isfinite().all())
        with vist.attach(memory):
            assert llm.generate(ids(5)[None], max_new_tokens=3).shape == (1, 8)
