"""A visual dictionary: what the LLM's tokens look like, and the embedding each stands for.

To turn a picture of a word into the LLM's input embedding, a small network would have to learn the
whole embedding table by heart. It need not: the table is there. Every token of the vocabulary is
drawn and encoded once; a token met in a text is looked up by its looks, and its embedding comes
from the table. Only the network that compares pictures is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.text_image.render import Renderer
from foveate.text_image.strips import Strips
from foveate.vist.latents.glances import Glances, glances_of
from foveate.vist.latents.targets import TargetConfig

__all__ = ["Dictionary", "TokenPictures", "draw_vocabulary", "picture_vocabulary"]

BETWEEN = " " * 8  # blank space between two tokens, so that each is seen alone
TOKENS_AT_A_TIME = 1024
ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenPictures:
    """Features under the picture of each token, see GlanceResampler.under_of.

    Attributes:
        token_ids: int64 [V], tokens that have a picture, ascending.
        under: float16 [V, reach * Din].
        start, extent: int64 [V], pixels.
    """

    token_ids: Tensor
    under: Tensor
    start: Tensor
    extent: Tensor

    def __len__(self) -> int:
        return len(self.token_ids)

    def places_of(self, ids: Tensor) -> Tensor:
        """Rows of token ids, of any shape; -1 for tokens without a picture."""
        found = torch.searchsorted(self.token_ids, ids.clamp_min(0))
        found = found.clamp_max(len(self.token_ids) - 1)
        return torch.where(self.token_ids[found] == ids, found, -1)


def draw_vocabulary(
    spellings: Sequence[str | None], renderer: Renderer
) -> Iterator[tuple[Strips, Glances, Tensor]]:
    """Draw tokens on strips, each apart from the others.

    Args:
        spellings: text of each token id; None has no picture.
        renderer: of the encoder's strips.

    Yields:
        strips, where the tokens are on them, and their ids in that order.
    """
    drawn = [i for i, text in enumerate(spellings) if text]
    for first in range(0, len(drawn), TOKENS_AT_A_TIME):
        ids = drawn[first : first + TOKENS_AT_A_TIME]
        text, offsets = BETWEEN, []
        for i in ids:
            spelling = spellings[i] or ""
            offsets.append((len(text), len(text) + len(spelling)))
            text += spelling + BETWEEN
        strips = renderer.render(text)
        everyone = TargetConfig(choice="runs", run=1, packed=0, grouping="tokens")
        glances = glances_of(strips, np.array(offsets), num_latents=1, choice=everyone)
        yield strips, glances, torch.tensor(ids)


@torch.no_grad()
def picture_vocabulary(
    spellings: Sequence[str | None],
    encoder: Callable[[Tensor, Tensor], Tensor],
    under_of: Callable[[Tensor, Tensor, Glances], tuple[Tensor, Tensor, Tensor]],
    renderer: Renderer,
    device: torch.device | str = "cpu",
) -> TokenPictures:
    """Encode the picture of every token.

    Args:
        spellings: text of each token id; None has no picture.
        encoder: pixels [P, H, W] and patch_mask [P, L] -> features [P, L, Din].
        under_of: of the resampler.
        renderer: of the encoder's strips.
        device: of the encoder.

    Raises:
        InputError: no token has a picture.
    """
    parts = []
    for strips, glances, ids in draw_vocabulary(spellings, renderer):
        mask = torch.from_numpy(strips.patch_mask).to(device)
        features = encoder(torch.from_numpy(strips.pixels).to(device), mask)
        held = glances.token_mask.to(device)
        under, start, extent = under_of(features, mask, glances.to(device))
        parts.append((ids.to(device), under[held].half(), start[held], extent[held]))
    if not parts:
        raise InputError("the tokenizer has no token that can be drawn; is it the right one?")
    token_ids, under, start, extent = (torch.cat(part) for part in zip(*parts, strict=True))
    return TokenPictures(token_ids=token_ids, under=under, start=start, extent=extent)


@dataclass(frozen=True, eq=False, kw_only=True)
class Dictionary:
    """Look tokens up by their looks.

    Attributes:
        keys: float [V, K], of unit length.
        token_ids: int64 [V].
        embeddings: float [vocabulary, D], the LLM's table.
    """

    keys: Tensor
    token_ids: Tensor
    embeddings: Tensor

    def look_up(self, queries: Tensor, sharpness: Tensor | float, top: int = 4) -> Tensor:
        """Embeddings [..., D] that queries [..., K] of unit length point at.

        The mean over the `top` nearest keys, weighted by softmax(sharpness * cosine).
        """
        flat = queries.flatten(0, -2)
        found = []
        for first in range(0, len(flat), ROWS_AT_A_TIME):
            rows = flat[first : first + ROWS_AT_A_TIME]
            nearest = (rows @ self.keys.T).topk(min(top, len(self.keys)), dim=-1)
            weights = (nearest.values * sharpness).softmax(dim=-1)  # [R, top]
            values = self.embeddings[self.token_ids[nearest.indices]]  # [R, top, D]
            found.append((weights.unsqueeze(-1) * values).sum(dim=1))
        return torch.cat(found).view(*queries.shape[:-1], -1)
