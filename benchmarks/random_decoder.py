"""Random decoders: for measuring speed and memory, where weights do not matter."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def random_llama(shape: dict[str, Any], *, seed: int) -> LlamaForCausalLM:
    """A Llama of the given sizes with random weights, sdpa attention, in evaluation mode.

    Args:
        shape: arguments of LlamaConfig (hidden_size, num_hidden_layers, ...).
        seed: of the weights; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(**shape, attn_implementation="sdpa")
        return LlamaForCausalLM(config).eval()
