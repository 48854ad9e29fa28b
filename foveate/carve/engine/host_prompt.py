"""The prompt that a host model feeds to the language model inside it, as far as the host tells."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveate.carve.engine.explicit_mask import is_known
from foveate.errors import UnsupportedModeError, UnsupportedModelError
from foveate.models.family import Host


class HostPrompt:
    """Token ids of a prompt whose embeddings the language model reads next, images among them.

    It is meant for one prompt: whoever reads the prompt takes it away, so that a later one of the
    same length is not taken for it.

    Args:
        ids: [B, S].
    """

    def __init__(self, ids: Tensor) -> None:
        self._ids = ids

    def ids_of(self, embeds: Tensor) -> Tensor:
        """The ids for embeddings [B', S, D]; B' is B, or more with beams. [B', S]

        Raises:
            UnsupportedModeError: they are embeddings of another prompt.
        """
        (rows, length), (batch, given) = self._ids.shape, embeds.shape[:2]
        if given != length or batch % rows:
            raise UnsupportedModeError(
                f"the language model reads {batch} rows of {given} embeddings where the host's "
                f"prompt has {rows} of {length} token ids, so which of them are images is not "
                "known; call the host model itself, with input_ids."
            )
        return self._ids.repeat_interleave(batch // rows, dim=0).to(embeds.device)


def visual_of_ids(
    ids: Tensor, embeds: Tensor, valid: Tensor, placeholders: Collection[int], vocabulary: nn.Module
) -> Tensor:
    """Where a host's prompt is visual, [B, S] bool.

    Args:
        ids: [B, S] of the prompt.
        embeds: [B, S, D] what the host made of them.
        valid: [B, S] bool, real tokens.
        placeholders: ids that the host puts features in place of.
        vocabulary: embeds token ids.

    Raises:
        UnsupportedModelError: an embedding is not the vocabulary's although its id is none of the
            placeholders: they are not what the host looks for.
    """
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for placeholder in placeholders:
        mask |= ids == placeholder
    known = is_known(embeds, vocabulary)
    if known is None:
        return mask
    strange = ~known & ~mask & valid
    if bool(strange.any()):
        sample, column = strange.nonzero()[0].tolist()
        raise UnsupportedModelError(
            f"{int(strange.sum())} embeddings of this prompt are none of the vocabulary's (first: "
            f"column {column} of sample {sample}, token {int(ids[sample, column])}), and their "
            "tokens are no placeholder that foveate knows for this model, so what is visual cannot "
            "be told."
        )
    # A placeholder that no feature stands for is text.
    return mask & ~known


def visual_of_mask(inputs: Mapping[str, Any], host: Host, past: int) -> Tensor | None:
    """Where a host's own mask says that new tokens are visual, [B, S] bool; None for nowhere.

    Args:
        inputs: of the base, by name.
        host: says which of them is the mask.
        past: tokens before the new ones.

    Raises:
        UnsupportedModeError: it marks tokens behind others that are in the cache already, where
            models differ in whether they look at it.
    """
    mask, features = inputs.get(host.mask), inputs.get(host.features)
    if mask is None or features is None:
        return None
    marked: Tensor = mask != 0
    if past and bool(marked.any()):
        raise UnsupportedModeError(
            f"{host.mask} marks images in tokens that come behind {past} cached ones, where "
            f"foveate cannot tell whether the model shows them; leave {host.mask} and "
            f"{host.features} out of calls that go on with a cache."
        )
    return marked
