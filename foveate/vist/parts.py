"""Vist's trained parts as one module, and where each latent stands in the text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foveate.core.decoder_shape import DecoderShape
from foveate.errors import ConfigError, InputError
from foveate.text_image.strips import Strips
from foveate.vist.config import GlanceConfig, VistConfig
from foveate.vist.fusion.fusion import Fusion
from foveate.vist.fusion.kv_prefix import Lora
from foveate.vist.latents.glance_resampler import GlanceResampler
from foveate.vist.latents.glances import Glances, glances_of
from foveate.vist.latents.index_head import IndexHead
from foveate.vist.latents.resampler import PerceiverResampler
from foveate.vist.latents.targets import TargetConfig


class VistParts(nn.Module):
    """Resampler and fusion: all that is trained, all that a checkpoint holds.

    Args:
        config: of both.
        shape: of the decoder they are for.
        layers: the decoder's layers, see Fusion.

    Attributes:
        index: makes the index of memories; None is without. It has a file of its own (see
            foveate.vist.index_file) and is trained by itself, but is one of the parts whose hash
            says what made a memory.
    """

    index: IndexHead | None

    def __init__(
        self,
        config: VistConfig,
        shape: DecoderShape,
        layers: Sequence[nn.Module] | nn.ModuleList,
    ) -> None:
        super().__init__()
        self.config = config
        self.shape = shape
        self.resampler: PerceiverResampler | GlanceResampler = (
            GlanceResampler(config.resampler)
            if isinstance(config.resampler, GlanceConfig)
            else PerceiverResampler(config.resampler)
        )
        self.fusion = Fusion(config.fusion, config.resampler.width, shape, layers)
        self.carved = _carved_lora(config, shape)
        self.index = None

    @property
    def is_pointed(self) -> bool:
        """Whether latents are made of tokens (`fold`), not of features."""
        return isinstance(self.resampler, GlanceResampler)

    def forward(
        self, features: Tensor, patch_mask: Tensor, num_latents: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Latents made of features, their mask and CLS of pages: [P, N, D], [P, N], [P, D].

        Args:
            features: [P, L, Din], of the frozen encoder.
            patch_mask: [P, L] bool, True = holds text.
            num_latents: N, default the trained one.

        Raises:
            InputError: the latents are pointed at tokens.
        """
        if isinstance(self.resampler, GlanceResampler):
            raise InputError(
                "this resampler's latents are made of the tokens they are pointed at, not of "
                "features; call VistParts.fold."
            )
        latents, cls = self.resampler(features, patch_mask, num_latents)
        return latents, self.resampler.latent_mask(patch_mask, num_latents), cls

    def fold(self, readings: Tensor, glances: Glances) -> tuple[Tensor, Tensor]:
        """Latents that are pointed at tokens, and their mask: [P, N, D], [P, N].

        Args:
            readings: [T, D], the LLM's input embeddings of the text's tokens as read.
            glances: which of them each latent takes in.

        Raises:
            InputError: the resampler is not pointed.
        """
        if not isinstance(self.resampler, GlanceResampler):
            raise InputError("only a GlanceResampler is pointed at tokens; configure one.")
        return self.resampler.fold(readings, glances.members), glances.mask

    def glances(
        self,
        strips: Strips,
        offsets: NDArray[np.integer],
        num_latents: int | None = None,
        rarity: NDArray[np.floating] | None = None,
    ) -> Glances:
        """Where the latents of strips look, by the resampler's configuration.

        Args:
            strips: of a text.
            offsets: int [T, 2], characters of its tokens.
            num_latents: N, default the trained one.
            rarity: [T], for choice="rare".

        Raises:
            InputError: the resampler is not pointed.
        """
        config = self.config.resampler
        if not isinstance(config, GlanceConfig):
            raise InputError("only a GlanceResampler is pointed at tokens; configure one.")
        count = num_latents or config.num_latents
        return glances_of(
            strips,
            offsets,
            num_latents=count,
            choice=TargetConfig(
                choice=config.choice,
                run=config.run,
                packed=config.packed,
                grouping="tokens",
                # Fewer latents, larger groups: the share is what the caller asks for.
                group_tokens=round(config.group_tokens * config.num_latents / count),
            ),
            rarity=rarity,
        )

    def positions(
        self,
        token_of_char: NDArray[np.float64],
        char_page: NDArray[np.integer],
        char_patch: NDArray[np.integer],
        patch_mask: NDArray[np.bool_],
        num_latents: int | None = None,
    ) -> NDArray[np.float32]:
        """Where the latents stand in the text, see `latent_positions`."""
        return latent_positions(
            token_of_char,
            char_page,
            char_patch,
            patch_mask,
            num_latents or self.config.resampler.num_latents,
            local=getattr(self.config.resampler, "local_bias", "window") == "window",
        )


def _carved_lora(config: VistConfig, shape: DecoderShape) -> Lora | None:
    """The LoRA of carved memories, None without one."""
    carved = config.carved
    if carved is None:
        return None
    if carved.layer >= shape.num_layers:
        raise ConfigError(
            f"CarvedConfig got layer={carved.layer}, but the decoder has {shape.num_layers} "
            "layers; use a lower one."
        )
    if not carved.lora_rank:
        return None
    return Lora(shape, carved.lora_rank, carved.lora_scale, first_layer=carved.layer)


def latent_positions(
    token_of_char: NDArray[np.float64],
    char_page: NDArray[np.integer],
    char_patch: NDArray[np.integer],
    patch_mask: NDArray[np.bool_],
    num_latents: int,
    *,
    local: bool,
) -> NDArray[np.float32]:
    """Where the latents of pages stand in the text, in tokens.

    Args:
        token_of_char: [C], index of the token that each character belongs to, ascending.
        char_page: [C], the page of each character, ascending.
        char_patch: [C], the patch within its page that holds its centre.
        patch_mask: [P, L] bool, True = holds text.
        num_latents: N.
        local: latent n stands for the patches around n L / N; its position is their mean token's.
            Otherwise the latents share out the page's tokens evenly.

    Returns:
        [P, N] float32, ascending in each page; 0 on a page without characters.
    """
    num_pages, num_patches = patch_mask.shape
    positions = np.zeros((num_pages, num_latents), dtype=np.float32)
    cell = char_page.astype(np.int64) * num_patches + char_patch
    count = np.bincount(cell, minlength=num_pages * num_patches).reshape(patch_mask.shape)
    total = np.bincount(cell, weights=token_of_char, minlength=count.size).reshape(count.shape)
    starts = np.searchsorted(char_page, np.arange(num_pages + 1))
    share = (np.arange(num_latents) + 0.5) / num_latents
    for page in range(num_pages):
        first, stop = int(starts[page]), int(starts[page + 1])
        if first == stop:
            continue
        if local:
            # Patches that hold no character's centre are interpolated; np.interp clamps at ends.
            held = np.flatnonzero(count[page])
            mean = total[page, held] / count[page, held]
            positions[page] = np.interp(share * num_patches - 0.5, held, mean)
        else:
            low, high = token_of_char[first], token_of_char[stop - 1] + 1
            positions[page] = low + share * (high - low)
    return positions


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, shapes and values of all weights, rounded to fp16.

    The same for one checkpoint loaded in any precision that is at least its own (bfloat16 and
    float32 copies of a bfloat16 file agree), tied weights counted once. About 1 s for 500 MB.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(module.named_parameters()):
        digest.update(f"{name}:{tuple(weight.shape)};".encode())
        half = weight.detach().to("cpu", torch.float16).flatten().contiguous()
        digest.update(half.view(torch.uint8).numpy().data)
    return digest.hexdigest()
