"""The bills of a memory's forms: against transformers' own counting, and when one pays."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

from benchmarks.vist_forms import (
    ARMS,
    Bill,
    FormShape,
    bill,
    index_flops,
    pays_after,
    rows_flops,
    seconds_table,
    table,
)
from benchmarks.vist_forms_seconds import measure
from foveate.core.decoder_shape import DecoderShape
from tests.vist.forms.test_forms import made

SMALL = DecoderShape(
    num_layers=3, hidden_size=48, intermediate_size=64, num_heads=4, num_kv_heads=2, head_dim=12
)


def test_rows_cost_what_a_counter_says() -> None:
    """The products of a decoder over 20 rows."""
    config = LlamaConfig(
        vocab_size=10, hidden_size=48, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaModel(config)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(inputs_embeds=torch.zeros(1, 20, 48), use_cache=False)
    assert counter.get_total_flops() == rows_flops(FormShape(llm=SMALL), 20, 0)


def test_forms_stand_as_they_must() -> None:
    shape = FormShape()
    for tokens in (1024, 8000):
        raw, kept = (bill(shape, name, tokens) for name in ("raw, again", "raw, kept"))
        carved, states = (bill(shape, name, tokens) for name in ("carved", "states + look"))
        assert raw.ask == pytest.approx(kept.read + kept.ask)
        assert carved.read < states.read
        assert carved.device == pytest.approx(kept.device / 3, rel=0.01)
        assert kept.device < states.host < 1.01 * kept.device  # the index is small beside it
        index = index_flops(shape, tokens)
        assert 0.3 < index / (tokens / 1024 * bill(shape, "raw, kept", 1024).read) < 0.5
        assert states.read > kept.read + index
        assert states.device < kept.device / 4
        assert bill(shape, "latents + look", tokens).ask > bill(shape, "latents", tokens).ask
    assert bill(shape, "raw, kept", 8192).exact
    assert not bill(shape, "raw, kept", 8193).exact


def test_when_a_form_pays() -> None:
    def made(read: float, ask: float) -> Bill:
        return Bill(read=read, ask=ask, entries=1, device=1)

    assert pays_after(made(100, 1), made(0, 11)) == 11  # 111 against 121; after ten both cost 110
    assert pays_after(made(100, 1), made(0, 1)) is None
    assert pays_after(made(0, 5), made(0, 5)) is None
    assert pays_after(made(0, 1), made(50, 2)) == 1


def test_the_table_has_every_arm() -> None:
    lines = table(FormShape(), (1024, 65536))
    assert sum(line.startswith(tuple(f"| {name}" for name in ARMS)) for line in lines) >= 2 * len(
        ARMS
    )
    assert any(" * |" in line for line in lines)


def test_every_form_is_run_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On tiny models: each arm has its seconds, and reads where its bill says that it reads."""
    vist = made()
    vist.tokenizer.bos_token = "w1"
    # To the tiny tokenizer nearly every word is a special one, which questions leave out.
    monkeypatch.setattr(vist.tokenizer, "decode", lambda ids, **_: " ".join(map(str, ids)))
    found = measure(vist, 120, answer=2, look=0.3, rounds=1)
    assert set(found) == set(ARMS)
    for name, own in found.items():
        assert (own.read > 0) == (bill(FormShape(), name, 1024).read > 0)
        assert own.ask > 0
    lines = seconds_table({120: found}, FormShape())
    assert sum(line.startswith("| ") for line in lines) == 1 + len(ARMS)
