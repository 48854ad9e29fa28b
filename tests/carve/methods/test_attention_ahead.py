"""PyramidDrop from the states that enter a layer to the tokens kept, on recordings of its authors.

The recorded norm and projections are put into a decoder layer of transformers, whose attention is
read as the engine reads it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding

from foveate.core.visual import VisualTokens
from foveate.models.attention import RowRecorder
from tests.carve.methods.recordings import Recording, compare, recordings
from tests.carve.methods.test_recordings import plan

CASES = [path for path in recordings(["pyramiddrop"]) if "first" in path.stem]
every_case = pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])


def attention_in(recording: Recording, query_weight: Tensor) -> Tensor:
    """Of the last token over the image, [1, H, N]."""
    features, settings = recording["in.features"], recording.settings
    heads, width = settings["num_heads"], features.shape[-1]
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=8,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        rope_parameters={"rope_type": "default", "rope_theta": settings["rope_theta"]},
        rms_norm_eps=1e-6,
    )
    config._attn_implementation = "sdpa"
    layer = LlamaDecoderLayer(config, 0)
    with torch.no_grad():
        layer.input_layernorm.weight.copy_(recording["in.norm_weight"])
        layer.self_attn.q_proj.weight.copy_(query_weight)
        layer.self_attn.k_proj.weight.copy_(recording["in.k_weight"])
    length, first = features.shape[1], settings["image_index"]
    tables = LlamaRotaryEmbedding(config)(features, torch.arange(length)[None])
    recorder = RowRecorder(layer.self_attn)
    row = recorder.look(
        lambda: layer.forward(features, position_embeddings=tables),
        torch.tensor([length - 1]),
        torch.ones(1, length, dtype=torch.bool),
    )
    recorder.remove()
    assert row is not None
    return row[..., first : first + settings["image_tokens_now"]]


@every_case
def test_the_layer_about_to_run(path: Path) -> None:
    recording = Recording.load(path)
    attention = attention_in(recording, recording["in.q_weight"])
    compare("attention", attention[0], recording["out.attention"])
    visual = VisualTokens(hidden=torch.zeros(1, attention.shape[-1], 1), attention=attention)
    made = plan("pyramiddrop", visual, recording.settings["keep"])
    compare("kept", made.keep_idx, recording["out.keep_idx"])


@every_case
def test_other_queries_give_other_attention(path: Path) -> None:
    recording = Recording.load(path)
    with pytest.raises(AssertionError):
        compare(
            "attention",
            attention_in(recording, recording["in.k_weight"])[0],
            recording["out.attention"],
        )
