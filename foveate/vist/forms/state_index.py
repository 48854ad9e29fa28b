"""What the segments of a document mean to the LLM: mean states halfway up, each read by itself.

States of one pass over the whole document are a poor index: they tell what stood before as much as
what is meant. A segment and a question read alike, each alone, can be compared. That takes half of
the layers once more for each token, and is made where the LLM reads the document anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.models.anatomy import Anatomy
from foveate.vist.forms.layers import HeldKeys, run_layers

__all__ = ["state_entries"]

ROWS_AT_A_TIME = 16


@torch.no_grad()
def state_entries(anatomy: Anatomy, head: Tensor, texts: Sequence[Tensor]) -> Tensor:
    """Mean state of each text behind the head, [S, hidden_size] float32.

    Args:
        anatomy: of the decoder.
        head: [1, 1, hidden_size], input embedding of the token before each text, the attention
            sink.
        texts: int64 [T] each; negative ids are tokens that could not be read. A text without any
            other gets zeros.
    """
    base: Any = anatomy.base
    embed = base.get_input_embeddings()
    device = embed.weight.device
    layers = range((len(anatomy.layers) + 1) // 2)
    made: list[Tensor] = []
    for first in range(0, len(texts), ROWS_AT_A_TIME):
        some = [text.to(device) for text in texts[first : first + ROWS_AT_A_TIME]]
        ids = pad_sequence(some, batch_first=True, padding_value=-1)  # [R, T]
        rows = torch.cat([head.expand(len(ids), -1, -1), embed(ids.clamp_min(0))], dim=1)
        is_real = ids >= 0
        seen = torch.cat([is_real.new_ones(len(ids), 1), is_real], dim=1)
        places = torch.arange(seen.shape[1], device=device).expand(len(ids), -1)
        states = run_layers(anatomy, rows, places, HeldKeys(), layers, seen)[:, 1:].float()
        sums = (states * is_real.unsqueeze(-1)).sum(dim=1)
        made.append(sums / is_real.sum(dim=1, keepdim=True).clamp_min(1))
    return torch.cat(made) if made else head.new_zeros(0, head.shape[2]).float()
