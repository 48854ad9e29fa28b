"""A resampler whose latents are pointed at tokens that the encoder has read (our variant)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.vist.config import GlanceConfig


class GlanceResampler(nn.Module):
    """Fold the read tokens of a strip into a few latents, and pool its features into a CLS.

    Vist's resampler (see resampler.py) has to find out where the words are and what they say; the
    renderer knows the first, and the frozen encoder's own characters say the second
    (foveate.vist.encoder.token_reader). So a latent is the input embedding of its own token as
    read, plus a small network's account of the tokens it packs: at the start it is a plain token to
    the language model.

    Args:
        config: see GlanceConfig.
    """

    def __init__(self, config: GlanceConfig) -> None:
        super().__init__()
        self.config = config
        inner = config.inner
        self.pack_in = nn.Linear((1 + config.packed) * config.width, config.pack_width)
        self.pack_out = nn.Linear(config.pack_width, config.width)
        nn.init.zeros_(self.pack_out.weight)
        nn.init.zeros_(self.pack_out.bias)
        self.input = nn.Linear(config.input_width, inner)
        self.norm_input = nn.LayerNorm(inner)
        self.cls = nn.Parameter(torch.randn(1, 1, inner) * inner**-0.5)
        self.cls_attention = nn.MultiheadAttention(inner, config.heads, batch_first=True)
        self.cls_out = nn.Linear(inner, config.width)

    def fold(self, readings: Tensor, members: Tensor) -> Tensor:
        """Latents from the embeddings of their tokens.

        More than config.packed packed tokens are cut off.

        Args:
            readings: [T, D], of all tokens of the text.
            members: int64 [P, N, 1 + Q], see Glances.

        Returns:
            [P, N, D]; zero where a latent has no token of its own.
        """
        members = members[..., : 1 + self.config.packed]
        members = F.pad(members, (0, 1 + self.config.packed - members.shape[-1]), value=-1)
        taken = readings[members.clamp_min(0)] * (members >= 0).unsqueeze(-1)  # [P, N, 1 + Q, D]
        packed = self.pack_out(F.gelu(self.pack_in(taken.flatten(2))))
        folded: Tensor = taken[:, :, 0] + packed * (members[..., :1] >= 0)
        return folded

    def pool(self, features: Tensor, patch_mask: Tensor) -> Tensor:
        """CLS of strips, [P, D].

        Args:
            features: [P, L, Din] float.
            patch_mask: [P, L] bool, True = holds text. A masked patch cannot change any output.
        """
        # Whatever a masked row holds, NaN included, it is gone here.
        features = features.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
        x = self.norm_input(self.input(features))
        seen = patch_mask | ~patch_mask.any(dim=1, keepdim=True)  # a white strip reads its zeros
        cls, _ = self.cls_attention(
            self.cls.expand(len(x), -1, -1), x, x, key_padding_mask=~seen, need_weights=False
        )
        pooled: Tensor = self.cls_out(cls[:, 0])
        return pooled
