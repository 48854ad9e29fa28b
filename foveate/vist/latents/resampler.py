"""Perceiver Resampler: the patches of a page become N latents and one CLS."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.vist.config import ResamplerConfig


class PerceiverResampler(nn.Module):
    """Learned latents that read a page's features by cross-attention.

    Source: the resampler of Flamingo (Alayrac et al. 2022), which Vist (Xing et al. 2025) takes
    over: latents are the queries, keys and values are concat(features, latents). We differ where
    Vist says nothing: no time embedding (the LLM side knows each latent's position), an input map
    where the widths differ, and, with `local_bias="window"`, a learned bias over the distance
    between a patch and the latent's own place, cut off beyond the window.

    Args:
        config: see ResamplerConfig.
    """

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.latents = nn.Parameter(torch.randn(config.num_latents, width) * width**-0.5)
        self.cls = nn.Parameter(torch.randn(1, width) * width**-0.5)
        self.input = nn.Linear(config.input_width, width)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, features: Tensor, patch_mask: Tensor, num_latents: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Resample pages.

        Args:
            features: [P, L, Din] float.
            patch_mask: [P, L] bool, True = holds text. A masked patch cannot change any output.
            num_latents: N of this call, default the trained one; other numbers interpolate the
                learned latents along the page.

        Returns:
            latents [P, N, D] and cls [P, D].
        """
        count = num_latents or self.config.num_latents
        pages, num_patches = patch_mask.shape
        # Whatever a masked row holds, NaN included, it is gone here.
        features = features.to(self.input.weight.dtype)
        x = self.input(features.masked_fill(~patch_mask.unsqueeze(-1), 0.0))  # [P, L, D]
        latents = torch.cat([self._queries(count), self.cls]).expand(pages, -1, -1)  # [P, N+1, D]
        queries = latents.shape[1]
        seen = torch.cat([patch_mask, patch_mask.new_ones(pages, queries)], dim=1)
        # What a latent without text holds is nobody's business.
        seen[:, num_patches:-1] = self.latent_mask(patch_mask, count)
        seen = seen[:, None, None]  # [P, 1, 1, L + N + 1]
        offset = self._offsets(count, num_patches, features.device)
        for layer in self.layers:
            latents = layer(x, latents, seen, offset)
        latents = self.norm(latents)
        return latents[:, :-1], latents[:, -1]

    def latent_mask(self, patch_mask: Tensor, num_latents: int | None = None) -> Tensor:
        """Which latents stand for text, [P, N] bool.

        With a window, a latent whose own patches are all white is dropped; without one, all latents
        of a page that holds any text count.
        """
        count = num_latents or self.config.num_latents
        if self.config.local_bias == "none":
            return patch_mask.any(dim=1, keepdim=True).expand(-1, count)
        return F.adaptive_max_pool1d(patch_mask.float().unsqueeze(1), count).squeeze(1) > 0

    def _queries(self, count: int) -> Tensor:
        if count == len(self.latents):
            return self.latents
        wide = F.interpolate(self.latents.T.unsqueeze(0), size=count, mode="linear")
        return wide.squeeze(0).T

    def _offsets(self, count: int, num_patches: int, device: torch.device) -> Tensor | None:
        """Distance in patches from each latent's place to each patch, [N, L]; None without bias."""
        if self.config.local_bias == "none":
            return None
        place = (torch.arange(count, device=device) + 0.5) * (num_patches / count)
        patch = torch.arange(num_patches, device=device) + 0.5
        return patch[None] - place[:, None]


class _Layer(nn.Module):
    """Cross-attention over concat(features, latents), then a feed-forward; both residual."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.width, config.heads * config.head_dim
        self.norm_features = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.ff_mult * width, bias=False),
            nn.GELU(),
            nn.Linear(config.ff_mult * width, width, bias=False),
        )
        if config.local_bias == "window":
            self.bias = nn.Parameter(_spread(config.heads, config.window))

    def forward(self, x: Tensor, latents: Tensor, seen: Tensor, offset: Tensor | None) -> Tensor:
        normed = self.norm_latents(latents)
        q = self._split(self.to_q(normed))
        both = torch.cat([self.norm_features(x), normed], dim=1)
        k, v = (self._split(t) for t in self.to_kv(both).chunk(2, dim=-1))
        mask = seen if offset is None else self._biased(seen, offset).to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [P, H, N+1, head_dim]
        latents = latents + self.to_out(out.transpose(1, 2).flatten(2))
        return latents + self.feed_forward(latents)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.config.heads, self.config.head_dim).transpose(1, 2)

    def _biased(self, seen: Tensor, offset: Tensor) -> Tensor:
        """Additive mask [P, H, N+1, L + N+1] from the learned bias, the window and `seen`."""
        count, num_patches = offset.shape
        reach = num_patches / count / 2 + self.config.window
        # Buckets are relative to the reach, so that another N keeps its meaning.
        buckets = self.bias.shape[1]
        bucket = ((offset / reach + 1) / 2 * buckets).long().clamp(0, buckets - 1)
        bias = self.bias[:, bucket]  # [H, N, L]
        bias = bias.masked_fill(offset.abs() > reach, float("-inf"))
        # CLS sees every patch, and latents see each other: no bias there.
        bias = F.pad(bias, (0, count + 1, 0, 1))
        return bias.masked_fill(~seen, float("-inf"))


def _spread(heads: int, window: int) -> Tensor:
    """Start of the bias [H, buckets]: each head looks at another place of the window."""
    buckets = 2 * window + 1
    place = torch.linspace(-1, 1, buckets)
    centre = torch.linspace(-0.5, 0.5, heads)[:, None]
    return -((place - centre) ** 2) * 4
