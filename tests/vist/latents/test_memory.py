"""Memories: files, joining, batching; and where latents stand in the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.core.decoder_shape import DecoderShape
from foveate.errors import ConfigError, InputError
from foveate.vist.config import FusionConfig, ResamplerConfig, VistConfig
from foveate.vist.fusion.fusion import fit_span, fusion_layers
from foveate.vist.latents.memory import Memory, concat, pack_pages, pad_memories
from foveate.vist.parts import latent_positions, weights_hash


def memory(num_latents: int, num_tokens: int, **more: str) -> Memory:
    return Memory(
        latents=torch.arange(num_latents * 4.0).view(num_latents, 4),
        positions=torch.linspace(0, num_tokens - 1, num_latents),
        num_tokens=num_tokens,
        num_pages=1,
        **more,
    )


def test_file_round_trip(tmp_path: Path) -> None:
    first = memory(3, 10, encoder="e", parts="p")
    first.save(tmp_path / "m.safetensors")
    second = Memory.load(tmp_path / "m.safetensors")
    assert torch.equal(second.latents, first.latents)
    assert torch.equal(second.positions, first.positions)
    assert (second.num_tokens, second.num_pages, second.encoder, second.parts) == (10, 1, "e", "p")


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "m.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"m\.safetensors' is not a memory written by foveate"):
        Memory.load(path)


def test_concat_shifts_positions() -> None:
    both = concat([memory(3, 10), memory(2, 5)])
    assert both.positions.tolist() == [0, 4.5, 9, 10, 14]
    assert (both.num_tokens, both.num_pages, both.num_latents) == (15, 2, 5)
    with pytest.raises(InputError, match="different encoders or trained parts"):
        concat([memory(3, 10), memory(3, 10, parts="other")])
    with pytest.raises(InputError, match="no memories"):
        concat([])


def test_concat_takes_memories_only() -> None:
    one = memory(3, 10)
    assert torch.equal(concat(one).latents, one.latents)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got a NoneType; give a list of memories"):
        concat([one, None])  # type: ignore[list-item]


def test_pad_memories() -> None:
    batch = pad_memories([memory(3, 10), None, memory(1, 5)])
    assert batch.latents.shape == (3, 3, 4)
    assert batch.mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert batch.num_tokens == (10, 0, 5)
    with pytest.raises(InputError, match="2 rows, none of which has a memory"):
        pad_memories([None, None])


def test_pack_pages_keeps_order_and_gradients() -> None:
    latents = torch.randn(2, 2, 3, 4, requires_grad=True)
    keep = torch.tensor([[[1, 1, 0], [1, 0, 0]], [[0, 0, 0], [0, 1, 1]]]).bool()
    where = torch.arange(12.0).view(2, 2, 3)
    batch = pack_pages(latents, keep, where, [20, 30])
    assert batch.mask.tolist() == [[True, True, True], [True, True, False]]
    assert batch.positions.tolist() == [[0, 1, 3], [10, 11, 0]]
    assert torch.equal(batch.latents[0], latents[0].flatten(0, 1)[[0, 1, 3]])
    batch.latents.sum().backward()
    assert latents.grad is not None
    assert torch.equal(latents.grad.bool().any(-1), keep)


def test_positions_of_local_latents() -> None:
    # Two pages of 8 patches; 12 characters, one token each two, a patch each character.
    page = np.repeat([0, 1], [8, 4])
    patch = np.concatenate([np.arange(8), np.arange(4)])
    token = np.arange(12) // 2
    mask = np.array([[True] * 8, [True] * 4 + [False] * 4])
    got = latent_positions(token.astype(float), page, patch, mask, 4, local=True)
    assert got[0].tolist() == [0, 1, 2, 3]
    assert got[1].tolist() == [4, 5, 5, 5]
    spread = latent_positions(token.astype(float), page, patch, mask, 4, local=False)
    assert spread[0].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert spread[1].tolist() == [4.25, 4.75, 5.25, 5.75]
    assert (np.diff(got) >= 0).all()


def test_spans_fit_the_window() -> None:
    assert fit_span(100, 50, 512) == 100
    assert fit_span(462, 50, 512) == 462
    assert fit_span(5000, 66, 512) == 416
    assert fit_span(5000, 500, 512) == 12
    with pytest.raises(InputError, match=r"raw text of 512 tokens .* in the model's 512 positions"):
        fit_span(10, 512, 512)


def test_configuration_round_trip_and_errors() -> None:
    config = VistConfig(
        resampler=ResamplerConfig(input_width=4, width=8),
        fusion=FusionConfig(form="cross_attention", layers=(0, -1)),
    )
    assert VistConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="unknown fields depth; it knows"):
        FusionConfig.from_dict({"depth": 3})
    with pytest.raises(ConfigError, match="VistConfig cannot be made from the file"):
        VistConfig.from_dict({})
    with pytest.raises(ConfigError, match="acts in every layer"):
        FusionConfig(layers=(1,))
    with pytest.raises(ConfigError, match="lora_rank=4 with form='kv_prefix', source='states'"):
        FusionConfig(source="states", lora_rank=4)
    shape = DecoderShape(
        hidden_size=8, intermediate_size=8, num_layers=4, num_heads=2, num_kv_heads=1, head_dim=4
    )
    assert fusion_layers(config.fusion, shape) == (0, 3)
    with pytest.raises(ConfigError, match="got layer 4, but the model has 4 layers; use -4 to 3"):
        fusion_layers(FusionConfig(form="cross_attention", layers=(4,)), shape)


def test_weights_hash_is_of_values_not_of_precision() -> None:
    layer = torch.nn.Linear(8, 8).half()
    first = weights_hash(layer)
    assert weights_hash(layer.float()) == first
    with torch.no_grad():
        layer.weight[0, 0] += 1
    assert weights_hash(layer) != first


def known(num_tokens: int = 6, **changes: object) -> Memory:
    """A memory whose text is known."""
    fields: dict[str, object] = {
        "latents": torch.zeros(2, 4),
        "positions": torch.tensor([1.0, 4.0]),
        "num_tokens": num_tokens,
        "tokens": torch.arange(num_tokens),
        "segments": torch.tensor([0, 3]),
        "index": torch.eye(2, 5),
    }
    return Memory(**{**fields, **changes})  # type: ignore[arg-type]


def test_what_is_known_of_the_text_goes_along(tmp_path: Path) -> None:
    first = known()
    first.save(tmp_path / "m.safetensors")
    for other in (Memory.load(tmp_path / "m.safetensors"), first.to("cpu", torch.bfloat16)):
        for name in ("tokens", "segments", "index"):
            assert torch.equal(getattr(other, name), getattr(first, name)), name
    both = concat([first, known(4)])
    assert both.tokens is not None
    assert both.segments is not None
    assert both.tokens.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert both.segments.tolist() == [0, 3, 6, 9]
    unknown = concat([first, memory(2, 4)])
    assert unknown.tokens is unknown.segments is unknown.index is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": torch.zeros(5, dtype=torch.int64)}, r"tokens \(5,\) of torch.int64 for 6"),
        ({"tokens": torch.zeros(6)}, "must be \\[num_tokens\\] int64"),
        ({"segments": torch.zeros(2)}, "must be \\[S\\] int64"),
        ({"index": torch.zeros(3, 5)}, r"index \(3, 5\) of torch.float32 for 2 segments"),
        ({"segments": None}, "for None segments"),
    ],
)
def test_what_is_known_of_the_text_must_fit(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        known(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": torch.full((6,), -2)}, "token ids below -1"),
        ({"segments": torch.tensor([1, 3])}, "do not start at 0 and ascend below its 6 tokens"),
        ({"segments": torch.tensor([0, 6])}, "do not start at 0 and ascend"),
        ({"segments": torch.tensor([0, 0])}, "do not start at 0 and ascend"),
        ({"index": torch.full((2, 5), float("nan"))}, "index is not finite"),
    ],
)
def test_a_strangers_file_is_checked(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    known(**changes).save(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=words):
        Memory.load(tmp_path / "m.safetensors")
