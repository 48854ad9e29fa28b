"""CEPE around a transformers model: read text with a small encoder, then use it like a Vist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foveate.errors import InputError
from foveate.models.token_offsets import token_of_char, tokenise
from foveate.text_image.render import StripStyle
from foveate.vist.cepe.encoder import CepeConfig, CepeParts, ChunkRenderer, TokenEmbeddings
from foveate.vist.checkpoint import (
    ABOUT,
    Reference,
    check_reference,
    load_weights,
    read_about,
)
from foveate.vist.fusion.prefix import decoder_of, decoder_shape
from foveate.vist.latents.memory import Memory
from foveate.vist.parts import weights_hash
from foveate.vist.run.load import check_pinned, load_base
from foveate.vist.run.vist import Vist
from foveate.vist.sizes import check_latents

__all__ = ["Cepe"]

KIND = "cepe"
CHUNKS_AT_A_TIME = 32


class Cepe(Vist):
    """The text encoder in place of renderer and vision encoder; else a Vist.

    Source: Yen et al. 2024; foveate/vist/cepe/encoder.py says where this control differs.

    Args:
        model, tokenizer: as in Vist.
        config: of the trained parts.
        parts: trained parts; None makes new ones.

    Attributes:
        renderer: cuts text into chunks of tokens; a trainer takes it where it would draw.
    """

    config: CepeConfig

    def __init__(
        self, model: nn.Module, tokenizer: Any, config: CepeConfig, parts: CepeParts | None = None
    ) -> None:
        anatomy = decoder_of(model)
        embeddings: nn.Module = anatomy.base.get_input_embeddings()
        weight: Any = embeddings.weight
        if parts is None:
            parts = CepeParts(config, decoder_shape(anatomy), anatomy.layers).to(weight.device)
        super().__init__(model, tokenizer, None, config, parts)
        self.renderer = ChunkRenderer(self._tokenise, config.encoder.chunk)
        self.encoder = TokenEmbeddings(embeddings, config.encoder.chunk, StripStyle())

    @torch.no_grad()
    def read(self, text: str | Iterable[str], num_latents: int | None = None) -> Memory:
        """Read a document once, for any number of questions.

        Args:
            text: the document, or its pieces in order.
            num_latents: per chunk; None is the trained number. Without resampling there is one for
                each token, whatever is asked for.

        Raises:
            InputError: the text is empty, or fills more chunks than config.max_pages; num_latents
                is none.
        """
        check_latents(num_latents)
        whole = text if isinstance(text, str) else "".join(text)
        if not whole:
            raise InputError("the text is empty; there is nothing to remember.")
        chunks = self.renderer.render(whole)
        if len(chunks) > self.config.max_pages:
            raise InputError(
                f"the text fills {len(chunks)} chunks, more than max_pages="
                f"{self.config.max_pages}; read it in parts, or raise max_pages."
            )
        offsets = tokenise(self.tokenizer, whole).offsets
        owners = token_of_char(offsets, len(whole))
        where = self.parts.positions(
            owners, chunks.char_page, chunks.char_patch, chunks.patch_mask, num_latents
        )
        latents, positions = [], []
        for first in range(0, len(chunks), CHUNKS_AT_A_TIME):
            part = slice(first, first + CHUNKS_AT_A_TIME)
            ids = torch.from_numpy(chunks.pixels[part]).to(self.device)
            mask = torch.from_numpy(chunks.patch_mask[part]).to(self.device)
            found, keep, _ = self.parts(self.encoder(ids, mask), mask, num_latents)
            latents.append(found[keep])
            positions.append(torch.from_numpy(where[part]).to(self.device)[keep])
        return Memory(
            latents=torch.cat(latents),
            positions=torch.cat(positions),
            num_tokens=len(offsets),
            num_pages=len(chunks),
            parts=self.identity(self.parts),
        )

    def _encoder_reference(self) -> Reference:
        return Reference(name="", sha256="", kind=KIND)

    @classmethod
    def _load(
        cls,
        folder: Path,
        base: Any,
        tokenizer: Any,
        encoder: Any,
        device: str | torch.device | None,
        access: Mapping[str, Any],
    ) -> Cepe:
        if encoder is not None:
            raise InputError("a CEPE brings its own encoder; leave out encoder=.")
        content = read_about(folder)
        try:
            kind, wanted = content["encoder"]["kind"], Reference(**content["base"])
            fields = content["config"]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{str(folder)!r} holds no readable {ABOUT} ({error}); give a folder written by "
                "Cepe.save_pretrained."
            ) from error
        if kind != KIND:
            raise InputError(
                f"{str(folder)!r} is a Vist that reads pictures, not a CEPE; load it with "
                "Vist.from_pretrained."
            )
        if base is None:
            check_pinned("base model", wanted, "base")
        model, tokenizer = load_base(wanted, base, tokenizer, device, **access)
        check_reference("base model", wanted, weights_hash(decoder_of(model).model))
        made = cls(model, tokenizer, CepeConfig.from_dict(fields))
        load_weights(folder, made.parts)
        return made

    def _tokenise(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        ids, offsets = tokenise(self.tokenizer, text)
        return ids, token_of_char(offsets, len(text))
