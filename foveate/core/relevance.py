"""How much each visual token has to do with the prompt's text."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from foveate.core.similarity import cosine
from foveate.core.visual import VisualTokens

Relevance = Literal["attention", "text_attention", "similarity"]

# What each kind reads of VisualTokens.
RELEVANCE_NEEDS: dict[str, str] = {
    "attention": "attention",
    "text_attention": "text_attention",
    "similarity": "text",
}


def text_relevance(visual: VisualTokens, kind: Relevance) -> Tensor:
    """Relevance of every visual token to the text, higher is more. [G, N] float32

    Args:
        visual: with the field that `kind` reads, see RELEVANCE_NEEDS.
        kind: "attention": of the last prompt token, mean over heads. "text_attention": of all text
            tokens, mean over heads and tokens. "similarity": cosine of token and text in the
            residual stream, the mean over text tokens; needs no attention, so it works before the
            first decoder layer.
    """
    if kind == "attention":
        assert visual.attention is not None
        return visual.attention.mean(dim=1)
    assert visual.text_mask is not None
    count = visual.text_mask.sum(dim=1, keepdim=True).clamp_min(1)
    if kind == "text_attention":
        assert visual.text_attention is not None
        return visual.text_attention.sum(dim=1) / count
    return (text_similarity(visual)).sum(dim=1) / count


def text_similarity(visual: VisualTokens) -> Tensor:
    """Cosine of every text token with every visual token; 0 where there is no text. [G, T, N]"""
    assert visual.text is not None
    assert visual.text_mask is not None
    return cosine(visual.text, visual.hidden) * visual.text_mask.unsqueeze(-1)


def min_max(scores: Tensor) -> Tensor:
    """Scores [G, N] moved and scaled to [0, 1] in each row; a constant row becomes ones."""
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    spread = high - low
    scaled = (scores - low) / spread.clamp_min(torch.finfo(scores.dtype).tiny)
    return torch.where(spread > 0, scaled, torch.ones_like(scores))
