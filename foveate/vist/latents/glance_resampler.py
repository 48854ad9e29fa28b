"""A Perceiver Resampler whose latents are pointed at tokens (our variant)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.vist.config import GlanceConfig
from foveate.vist.latents.dictionary import ROWS_AT_A_TIME, Dictionary, TokenPictures
from foveate.vist.latents.glances import Glances


class GlanceResampler(nn.Module):
    """Read every token of a strip at its place, then fold a few into each latent.

    Vist's resampler (see resampler.py) has to find out where the words are; the renderer knows.
    A query starts from the features under its token and reads the neighbourhood by cross-attention
    with position codes on both sides; the result is the token's input embedding as far as it can
    be read, by a linear map or looked up in a visual dictionary (`key_width`). A latent is the
    reading of its own token plus a small network's account of the tokens it packs, so that at the
    start it is a plain token to the language model.

    Args:
        config: see GlanceConfig.

    Attributes:
        dictionary: of the LLM that reads the latents; needed where config.key_width is set, and in
            no checkpoint (see `learn_vocabulary`).
    """

    dictionary: Dictionary | None

    def __init__(self, config: GlanceConfig) -> None:
        super().__init__()
        self.config = config
        inner, hidden = config.inner, 2 * config.inner
        self.under = nn.Linear(config.reach * config.input_width, hidden)
        self.left = nn.Embedding(config.steps, hidden)
        self.extent = nn.Embedding(config.steps * config.reach, hidden)
        self.query = nn.Linear(hidden, inner)
        self.input = nn.Linear(config.input_width, inner)
        self.norm_input = nn.LayerNorm(inner)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(inner)
        self.read = nn.Linear(inner, config.key_width or config.width)
        self.sharpness = nn.Parameter(torch.tensor(3.0)) if config.key_width else None  # log
        self.dictionary = None
        self.pack_in = nn.Linear((1 + config.packed) * config.width, config.pack_width)
        self.pack_out = nn.Linear(config.pack_width, config.width)
        nn.init.zeros_(self.pack_out.weight)
        nn.init.zeros_(self.pack_out.bias)
        self.cls = nn.Parameter(torch.randn(1, 1, inner) * inner**-0.5)
        self.cls_attention = nn.MultiheadAttention(inner, config.heads, batch_first=True)
        self.cls_out = nn.Linear(inner, config.width)

    def forward(
        self, features: Tensor, patch_mask: Tensor, glances: Glances
    ) -> tuple[Tensor, Tensor]:
        """Resample strips.

        Args:
            features: [P, L, Din] float.
            patch_mask: [P, L] bool, True = holds text. A masked patch cannot change any output.
            glances: of these strips.

        Returns:
            latents [P, N, D] and cls [P, D].
        """
        readings, queries, x = self._read(features, patch_mask, glances)
        latents = self.fold(readings, glances.members)
        seen = torch.cat([patch_mask, glances.token_mask], dim=1)
        seen = seen | ~seen.any(dim=1, keepdim=True)  # a white strip reads its zeros
        both = torch.cat([x, queries], dim=1)
        cls, _ = self.cls_attention(
            self.cls.expand(len(x), -1, -1), both, both, key_padding_mask=~seen, need_weights=False
        )
        return latents, self.cls_out(cls[:, 0])

    def readings(self, features: Tensor, patch_mask: Tensor, glances: Glances) -> Tensor:
        """Input embeddings of all tokens as read from the strips, [P, T, D]."""
        return self._read(features, patch_mask, glances)[0]

    # --- the visual dictionary ---

    def under_of(
        self, features: Tensor, patch_mask: Tensor, glances: Glances
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What lies under each token: features [P, T, reach * Din], its start and extent in pixels.

        The start counts from its patch's edge. Features are of the patch before it and of those it
        lies on, in order.
        """
        steps, reach = self.config.steps, self.config.reach
        # Whatever a masked row holds, NaN included, it is gone here.
        features = features.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
        pages, num_patches, _ = features.shape
        start = (glances.left * steps).round().long()
        extent = ((glances.right - glances.left) * steps).round().long()
        patch = start.div(steps, rounding_mode="floor").unsqueeze(-1) - 1
        patch = patch + torch.arange(reach, device=start.device)  # [P, T, reach]
        inside = (patch >= 0) & (patch < num_patches)
        row = torch.arange(pages, device=start.device)[:, None, None]
        under = features[row, patch.clamp(0, num_patches - 1)] * inside.unsqueeze(-1)
        return under.flatten(2), start % steps, extent.clamp(0, steps * reach - 1)

    def names(self, under: Tensor, start: Tensor, extent: Tensor) -> Tensor:
        """Keys of unit length [..., key_width] of what `under_of` gives."""
        return F.normalize(self.read(self.norm(self._start(under, start, extent))), dim=-1)

    def _start(self, under: Tensor, start: Tensor, extent: Tensor) -> Tensor:
        """Queries [..., inner] of what `under_of` gives."""
        hidden = self.under(under) + self.left(start) + self.extent(extent)
        queries: Tensor = self.query(F.gelu(hidden))
        return queries

    @torch.no_grad()
    def learn_vocabulary(self, pictures: TokenPictures, embeddings: Tensor) -> None:
        """Make the dictionary from the pictures of all tokens and the LLM's embedding table.

        Again after every change of the weights: keys are made by them.
        """
        rows = range(0, len(pictures), ROWS_AT_A_TIME)
        keys = [
            self.names(
                pictures.under[i : i + ROWS_AT_A_TIME].float(),
                pictures.start[i : i + ROWS_AT_A_TIME],
                pictures.extent[i : i + ROWS_AT_A_TIME],
            )
            for i in rows
        ]
        self.dictionary = Dictionary(
            keys=torch.cat(keys), token_ids=pictures.token_ids, embeddings=embeddings.detach()
        )

    def fold(self, readings: Tensor, members: Tensor) -> Tensor:
        """Latents [P, N, D] from readings [P, T, D] of their members [P, N, 1 + Q].

        More than config.packed packed tokens are cut off.
        """
        members = members[..., : 1 + self.config.packed]
        members = F.pad(members, (0, 1 + self.config.packed - members.shape[-1]), value=-1)
        index = members.clamp_min(0).flatten(1).unsqueeze(-1)  # [P, N (1 + Q), 1]
        taken = readings.gather(1, index.expand(-1, -1, readings.shape[-1]))
        taken = taken.view(*members.shape, taken.shape[-1])
        taken = taken * (members >= 0).unsqueeze(-1)  # [P, N, 1 + Q, D]
        packed = self.pack_out(F.gelu(self.pack_in(taken.flatten(2))))
        return taken[:, :, 0] + packed * (members[..., :1] >= 0)

    def _read(
        self, features: Tensor, patch_mask: Tensor, glances: Glances
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Readings [P, T, D], queries [P, T, inner] and mapped features [P, L, inner]."""
        features = features.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
        under, start, extent = self.under_of(features, patch_mask, glances)
        queries = self._start(under, start, extent)
        x = self.norm_input(self.input(features))
        places = torch.arange(patch_mask.shape[1], device=start.device) + 0.5
        middle = (glances.left + glances.right) / 2
        near = (places - middle.unsqueeze(-1)).abs() <= self.config.window
        near = near & patch_mask.unsqueeze(1)
        near = near | ~near.any(dim=-1, keepdim=True)  # padding reads something, to no avail
        codes = position_code(places)
        span = torch.cat([position_code(glances.left), position_code(glances.right)], dim=-1)
        for layer in self.layers:
            queries = layer(x, queries, codes, span, near.unsqueeze(1))
        readings = self.read(self.norm(queries))
        if self.sharpness is not None:
            if self.dictionary is None:
                raise InputError(
                    "this resampler looks tokens up and has no dictionary yet; call "
                    "learn_vocabulary (Vist.from_pretrained and the trainer do)."
                )
            keys = F.normalize(readings, dim=-1)
            readings = self.dictionary.look_up(keys, self.sharpness.exp())
        return readings, queries, x


class _Layer(nn.Module):
    """Cross-attention from queries to features with position codes, then a feed-forward."""

    def __init__(self, config: GlanceConfig) -> None:
        super().__init__()
        inner = config.inner
        self.heads = config.heads
        self.norm_queries = nn.LayerNorm(inner)
        self.to_q = nn.Linear(inner, inner)
        self.to_kv = nn.Linear(inner, 2 * inner)
        self.to_out = nn.Linear(inner, inner)
        self.code_q = nn.Linear(2 * CODE_WIDTH, inner)
        self.code_k = nn.Linear(CODE_WIDTH, inner)
        self.norm_feed = nn.LayerNorm(inner)
        self.up = nn.Linear(inner, 4 * inner)
        self.down = nn.Linear(4 * inner, inner)

    def forward(
        self, x: Tensor, queries: Tensor, codes: Tensor, span: Tensor, near: Tensor
    ) -> Tensor:
        q = self._split(self.to_q(self.norm_queries(queries)) + self.code_q(span))
        k, v = self.to_kv(x).chunk(2, dim=-1)
        k, v = self._split(k + self.code_k(codes)), self._split(v)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=near)  # [P, H, T, inner / H]
        queries = queries + self.to_out(out.transpose(1, 2).flatten(2))
        return queries + self.down(F.gelu(self.up(self.norm_feed(queries))))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


CODE_WIDTH = 48


def position_code(places: Tensor) -> Tensor:
    """Sines and cosines of places in patches, [..., 48]; periods from one patch to 600."""
    periods = torch.logspace(0, math.log10(600.0), CODE_WIDTH // 2, device=places.device)
    angles = places.unsqueeze(-1).float() * (2 * math.pi / periods)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
