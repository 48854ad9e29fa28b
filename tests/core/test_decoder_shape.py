"""Sizes read off configs, and off the vist.json of a trained Vist."""

from __future__ import annotations

import pytest

from foveate.assets import vist_path
from foveate.core.decoder_shape import DecoderShape
from foveate.errors import InputError
from foveate.vist.checkpoint import read_checkpoint


class TextConfig:
    num_hidden_layers, hidden_size, intermediate_size, num_attention_heads = 4, 64, 96, 8
    num_key_value_heads, head_dim = 2, 16


class WholeConfig:
    def get_text_config(self, decoder: bool) -> TextConfig:
        return TextConfig()


@pytest.mark.parametrize("config", [TextConfig(), WholeConfig()])
def test_shape_is_read_off_a_config(config: object) -> None:
    shape = DecoderShape.of(config)
    assert (shape.num_layers, shape.num_heads, shape.num_kv_heads) == (4, 8, 2)
    assert (shape.hidden_size, shape.intermediate_size, shape.head_dim) == (64, 96, 16)


def test_shape_of_a_dict_fills_in_what_old_configs_leave_out() -> None:
    sizes = {
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
    }
    shape = DecoderShape.of(sizes)
    assert (shape.num_kv_heads, shape.head_dim) == (4, 8)


def test_config_without_a_size_is_named() -> None:
    with pytest.raises(InputError, match="no intermediate_size"):
        DecoderShape.of({"num_attention_heads": 1, "hidden_size": 2, "num_hidden_layers": 1})


def test_the_shipped_vist_json_still_says_its_shape() -> None:
    shape = read_checkpoint(vist_path()).shape
    assert (shape.hidden_size, shape.intermediate_size, shape.num_layers) == (576, 1536, 30)
    assert (shape.num_heads, shape.num_kv_heads, shape.head_dim) == (9, 3, 64)
    assert shape.embedding_rms == pytest.approx(0.12237, abs=1e-5)
