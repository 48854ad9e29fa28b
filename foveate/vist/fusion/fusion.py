"""One interface for both forms: latents become a prefix, keys and values in some layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from foveate.core.decoder_shape import DecoderShape
from foveate.errors import ConfigError, InputError
from foveate.vist.config import FusionConfig
from foveate.vist.fusion.cross_attention import CrossAttention
from foveate.vist.fusion.kv_prefix import EmbeddingPrefix, StatePrefix


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """Keys and values of memories, ready for any number of questions.

    Args:
        keys, values: layer -> [B, H_kv, M, head_dim], rotated.
        mask: [B, M] bool, True = a latent.
        memory_at: B counts: raw tokens before each memory (the head); 0 in cross-attention.
        spans: B counts: positions each memory takes up; 0 for a row without one.
        num_tokens: B counts: tokens each memory stands for.
        heads: B tuples of the head's token ids, () where it does not matter.
    """

    keys: Mapping[int, Tensor]
    values: Mapping[int, Tensor]
    mask: Tensor
    memory_at: tuple[int, ...]
    spans: tuple[int, ...]
    num_tokens: tuple[int, ...]
    heads: tuple[tuple[int, ...], ...] = ()

    @property
    def num_rows(self) -> int:
        return len(self.spans)

    @property
    def longest_span(self) -> int:
        return max(self.spans)

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values of latents, padding not counted."""
        per_slot = sum(
            t.shape[1] * t.shape[3] * t.element_size()
            for kv in (self.keys, self.values)
            for t in kv.values()
        )
        return per_slot * int(self.mask.sum())

    def rows(self, index: Sequence[int]) -> PrefixCache:
        """The given rows, in that order, any number of times."""
        pick = torch.tensor(list(index), device=self.mask.device)
        return replace(
            self,
            keys={layer: k[pick] for layer, k in self.keys.items()},
            values={layer: v[pick] for layer, v in self.values.items()},
            mask=self.mask[pick],
            memory_at=tuple(self.memory_at[i] for i in index),
            spans=tuple(self.spans[i] for i in index),
            num_tokens=tuple(self.num_tokens[i] for i in index),
            heads=tuple(self.heads[i] for i in index) if self.heads else (),
        )


def stack_prefixes(prefixes: Sequence[PrefixCache]) -> PrefixCache:
    """One batch of several prefixes, padded to the longest."""
    if len(prefixes) == 1:
        return prefixes[0]
    longest = max(prefix.mask.shape[1] for prefix in prefixes)

    def stack(which: str) -> dict[int, Tensor]:
        layers: Mapping[int, Tensor] = getattr(prefixes[0], which)
        return {
            layer: torch.cat([_pad(getattr(p, which)[layer], longest, dim=2) for p in prefixes])
            for layer in layers
        }

    return PrefixCache(
        keys=stack("keys"),
        values=stack("values"),
        mask=torch.cat([_pad(prefix.mask, longest, dim=1) for prefix in prefixes]),
        memory_at=tuple(n for prefix in prefixes for n in prefix.memory_at),
        spans=tuple(n for prefix in prefixes for n in prefix.spans),
        num_tokens=tuple(n for prefix in prefixes for n in prefix.num_tokens),
        heads=tuple(ids for prefix in prefixes for ids in prefix.heads),
    )


def _pad(x: Tensor, length: int, dim: int) -> Tensor:
    shape = list(x.shape)
    shape[dim] = length - shape[dim]
    return torch.cat([x, x.new_zeros(shape)], dim=dim) if shape[dim] else x


def fit_span(num_tokens: int, raw_length: int, window: int) -> int:
    """Positions for a memory of `num_tokens` beside `raw_length` raw tokens in `window` positions.

    Where the tokens do not fit, what is left is rounded down to a 16th of the window, so that
    questions of about the same length share one prefix.

    Raises:
        InputError: the raw text alone fills the window.
    """
    left = window - raw_length
    if num_tokens <= left:
        return num_tokens
    grain = max(1, window // 16)
    span = left // grain * grain if left >= grain else left
    if span < 1:
        raise InputError(
            f"the raw text of {raw_length} tokens (new ones included) leaves no room for a memory "
            f"in the model's {window} positions; shorten the prompt or generate fewer tokens."
        )
    return span


def fusion_layers(config: FusionConfig, shape: DecoderShape) -> tuple[int, ...]:
    """Layers that get a cross-attention, ascending. Raises ConfigError if one does not exist."""
    if config.layers is None:
        return tuple(range(shape.num_layers))
    for layer in config.layers:
        if not -shape.num_layers <= layer < shape.num_layers:
            raise ConfigError(
                f"FusionConfig got layer {layer}, but the model has {shape.num_layers} layers; use "
                f"-{shape.num_layers} to {shape.num_layers - 1}."
            )
    return tuple(sorted({layer % shape.num_layers for layer in config.layers}))


class Fusion(nn.Module):
    """The trained modules of one form. They live outside the base model.

    Args:
        config: which form.
        width: D of the latents.
        shape: of the decoder.
        layers: the decoder's layers: cross-attention starts from their weights.

    Attributes:
        prefix: EmbeddingPrefix or StatePrefix; None in the cross-attention form.
        cross: decoder layer (as text) -> CrossAttention; empty in the prefix form.
    """

    prefix: EmbeddingPrefix | StatePrefix | None

    def __init__(
        self,
        config: FusionConfig,
        width: int,
        shape: DecoderShape,
        layers: Sequence[nn.Module] | nn.ModuleList,
    ) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.cross = nn.ModuleDict()
        self.prefix = None
        if config.form == "cross_attention":
            for i in fusion_layers(config, shape):
                self.cross[str(i)] = CrossAttention.beside(layers[i], width, shape, config)
        elif config.source == "embeddings":
            self.prefix = EmbeddingPrefix(width, shape, config)
        else:
            self.prefix = StatePrefix(width, shape)


def empty_prefix(fusion: Fusion, head: Tensor) -> PrefixCache:
    """A row that reads nothing, in the shapes of others.

    Args:
        fusion: trained modules.
        head: [1, H, hidden_size], embeddings of the text before the memory it has not.
    """
    shape = fusion.shape
    layers = range(shape.num_layers) if fusion.prefix is not None else map(int, fusion.cross)
    nothing = head.new_zeros(1, shape.num_kv_heads, 1, shape.head_dim)
    kv = dict.fromkeys(layers, nothing)
    return PrefixCache(
        keys=kv,
        values=kv,
        mask=torch.zeros(1, 1, dtype=torch.bool, device=head.device),
        memory_at=(head.shape[1],),
        spans=(0,),
        num_tokens=(0,),
        heads=((),),
    )
