"""CEPE: a small bidirectional text encoder in place of renderer and vision encoder.

Source: Yen et al. 2024 (arXiv:2402.16617). Chunks of far text go through an encoder, and the
decoder reads one vector for each token by cross-attention. Here it is a control for Vist with all
else equal: a chunk of tokens takes the place of a page, its tokens the place of patches, and what
the encoder gives goes through the same fusion, memory, trainer and objectives. We differ where that
asks for it: tokens are the LLM's own, their embeddings are the LLM's (frozen, by reference, with a
learned map), and with `resample=True` the same resampler makes N latents of a chunk, so that both
read equal numbers of entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from foveate.core.decoder_shape import DecoderShape
from foveate.errors import ConfigError
from foveate.vist.config import (
    ResamplerConfig,
    VistConfig,
    _Dictable,
)
from foveate.vist.latents.resampler import PerceiverResampler
from foveate.vist.parts import VistParts, latent_positions
from foveate.vist.sizes import check_size

# (ids, [C] token index of each character as float64) of a text
Tokenise = Callable[[str], tuple[NDArray[np.int64], NDArray[np.float64]]]


@dataclass(frozen=True, kw_only=True)
class ChunkEncoderConfig(_Dictable):
    """Shape of the text encoder.

    Args:
        width, layers, heads, ff_mult: of the transformer.
        chunk: tokens that are encoded together.
    """

    width: int = 192
    layers: int = 4
    heads: int = 6
    ff_mult: int = 4
    chunk: int = 256

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "ff_mult", "chunk"):
            check_size("ChunkEncoderConfig", name, getattr(self, name))
        if self.width % self.heads:
            raise ConfigError(
                f"ChunkEncoderConfig got heads={self.heads}, which does not divide "
                f"width={self.width}; choose a divisor of it."
            )


@dataclass(frozen=True, kw_only=True)
class CepeConfig(VistConfig):
    """The trained parts of one CEPE.

    Args:
        encoder: of the text.
        resample: False: one latent for each token, as in CEPE; then `resampler` only states their
            width and number (the chunk's). True: the resampler makes its N latents of each chunk.
        resampler, fusion, max_pages: as in VistConfig; a page is a chunk.
    """

    encoder: ChunkEncoderConfig
    resample: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.resampler, ResamplerConfig):
            raise ConfigError(
                "CEPE reads text and cannot point its latents at pixels; use a ResamplerConfig."
            )
        width = self.encoder.width
        if self.resampler.input_width != width:
            raise ConfigError(
                f"the resampler takes features of width {self.resampler.input_width} and the "
                f"encoder gives {width}; set ResamplerConfig(input_width={width})."
            )
        wanted = (width, self.encoder.chunk)
        if not self.resample and (self.resampler.width, self.resampler.num_latents) != wanted:
            raise ConfigError(
                f"without resampling a latent is an encoder output: set ResamplerConfig("
                f"width={width}, num_latents={self.encoder.chunk}), or resample=True."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CepeConfig:
        """The inverse of `to_dict`."""
        parts = dict(values)
        if "encoder" in parts:
            parts["encoder"] = ChunkEncoderConfig.from_dict(parts["encoder"])
        made = super().from_dict(parts)
        assert isinstance(made, CepeConfig)
        return made


class ChunkEncoder(nn.Module):
    """Bidirectional transformer over the input embeddings of a chunk.

    Args:
        config: its shape.
        embedding_width: E, of the LLM's input embeddings.
    """

    def __init__(self, config: ChunkEncoderConfig, embedding_width: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.input = nn.Linear(embedding_width, width)
        self.place = nn.Parameter(torch.randn(config.chunk, width) * 0.02)
        self.input_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(_EncoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, embeds: Tensor, mask: Tensor) -> Tensor:
        """Features of tokens.

        Args:
            embeds: [P, L, E], L at most the chunk.
            mask: [P, L] bool, True = a token. A masked one cannot change any output.

        Returns:
            [P, L, width]; zero where masked.
        """
        x = self.input(embeds.masked_fill(~mask.unsqueeze(-1), 0.0))
        x = self.input_norm(x + self.place[: x.shape[1]])
        # A chunk without tokens would see nothing, which is NaN; its output is dropped below.
        seen = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None]
        for layer in self.layers:
            x = layer(x, seen)
        return self.norm(x).masked_fill(~mask.unsqueeze(-1), 0.0)


class _EncoderLayer(nn.Module):
    """Self-attention and feed-forward, normed before, both residual."""

    def __init__(self, config: ChunkEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.ff_mult * width),
            nn.GELU(),
            nn.Linear(config.ff_mult * width, width),
        )

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)  # [P, H, L, width / H]
        x = x + self.out(out.transpose(1, 2).flatten(2))
        return x + self.feed_forward(x)


class EveryToken(PerceiverResampler):
    """Stands where the resampler does: each token's feature is its latent; CLS is their mean.

    Args:
        config: only kept; there is nothing to learn.
    """

    def __init__(self, config: ResamplerConfig) -> None:
        nn.Module.__init__(self)
        self.config = config

    def forward(
        self, features: Tensor, patch_mask: Tensor, num_latents: int | None = None
    ) -> tuple[Tensor, Tensor]:
        counts = patch_mask.sum(dim=1, keepdim=True).clamp_min(1)
        return features, features.sum(dim=1) / counts

    def latent_mask(self, patch_mask: Tensor, num_latents: int | None = None) -> Tensor:
        return patch_mask


class CepeParts(VistParts):
    """Encoder, resampler and fusion; takes the place of VistParts wherever that is used.

    Its `forward` takes the LLM's input embeddings [P, L, E] where VistParts takes the features of
    the frozen encoder.

    Args:
        config: of all three.
        shape, layers: of the decoder, see VistParts.
    """

    config: CepeConfig

    def __init__(
        self,
        config: CepeConfig,
        shape: DecoderShape,
        layers: Sequence[nn.Module] | nn.ModuleList,
    ) -> None:
        super().__init__(config, shape, layers)
        self.encoder = ChunkEncoder(config.encoder, shape.hidden_size)
        if not config.resample:
            assert isinstance(config.resampler, ResamplerConfig)
            self.resampler = EveryToken(config.resampler)

    def forward(
        self,
        features: Tensor,
        patch_mask: Tensor,
        num_latents: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, their mask and CLS of chunks: [P, N, D], [P, N], [P, D]."""
        features = features.to(self.encoder.input.weight.dtype)
        return super().forward(self.encoder(features, patch_mask), patch_mask, num_latents)

    def positions(
        self,
        token_of_char: NDArray[np.float64],
        char_page: NDArray[np.integer],
        char_patch: NDArray[np.integer],
        patch_mask: NDArray[np.bool_],
        num_latents: int | None = None,
    ) -> NDArray[np.float32]:
        """Where the latents stand in the text; without resampling, where their tokens do."""
        if self.config.resample:
            return super().positions(token_of_char, char_page, char_patch, patch_mask, num_latents)
        length = patch_mask.shape[1]
        return latent_positions(
            token_of_char, char_page, char_patch, patch_mask, length, local=True
        )


@dataclass(frozen=True)
class Chunks:
    """Token ids where `Strips` has pixels.

    Args:
        pixels: int64 [P, 1, L], token ids; 0 at padding.
        patch_mask: bool [P, L], True = a token.
        char_page, char_patch: int32 [C], chunk of each character and its token's place there.
    """

    pixels: NDArray[np.int64]
    patch_mask: NDArray[np.bool_]
    char_page: NDArray[np.int32]
    char_patch: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.pixels)


class ChunkRenderer:
    """Cuts text into chunks of tokens, where `Renderer` draws it.

    Args:
        tokenise: gives the ids of a text, and the token that each character belongs to.
        chunk: L, tokens of a chunk.
    """

    def __init__(self, tokenise: Tokenise, chunk: int) -> None:
        self.tokenise, self.chunk = tokenise, chunk

    def render(self, text: str) -> Chunks:
        """Chunks of a text; the last may be short."""
        ids, token_of_char = self.tokenise(text)
        count = -(-len(ids) // self.chunk)
        tokens = np.zeros(count * self.chunk, dtype=np.int64)
        tokens[: len(ids)] = ids
        place = token_of_char.astype(np.int64)
        return Chunks(
            pixels=tokens.reshape(count, 1, self.chunk),
            patch_mask=(np.arange(count * self.chunk) < len(ids)).reshape(count, self.chunk),
            char_page=(place // self.chunk).astype(np.int32),
            char_patch=(place % self.chunk).astype(np.int32),
        )

    def stream(self, chunks: Iterable[str]) -> Iterator[Chunks]:
        """Chunks of a text given in pieces; ids are small, so it is tokenised whole."""
        text = "".join(chunks)
        if text:
            yield self.render(text)


class TokenEmbeddings(nn.Module):
    """The encoder interface for chunks: token ids [P, 1, L] -> the LLM's own input embeddings.

    Args:
        embeddings: the LLM's; shared, not copied.
        chunk: L.
        style: what a renderer of strips would ask for; nothing is drawn.
    """

    def __init__(self, embeddings: nn.Module, chunk: int, style: Any) -> None:
        super().__init__()
        self.embeddings = embeddings
        weight: Any = embeddings.weight
        self.width = int(weight.shape[1])
        self.patches = chunk
        self.style = style

    @torch.no_grad()
    def forward(self, pixels: Tensor, patch_mask: Tensor) -> Tensor:
        """[P, 1, L] ids and [P, L] bool -> [P, L, E]; zero where masked."""
        embeds: Tensor = self.embeddings(pixels[:, 0].long())
        return embeds.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
