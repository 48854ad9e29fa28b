"""One call of the base model: what it brings, and where that is visual."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from foveate.carve.engine.explicit_mask import ExplicitMask, is_known
from foveate.carve.engine.host_prompt import HostPrompt, visual_of_ids, visual_of_mask
from foveate.carve.engine.labels import Labels
from foveate.carve.engine.on_host import OnHost
from foveate.errors import UnsupportedModeError
from foveate.models.anatomy import MODALITIES, Anatomy, visual_token_ids
from foveate.models.cache_argument import cache_in
from foveate.models.masks import valid_tokens

_UNSAID = (
    "inputs_embeds does not say which tokens are visual; pass visual_mask= to foveate.attach, or "
    "set run.visual_mask (all False for text only)."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """What one call brings.

    Args:
        inputs: the base model's arguments by name.
        batch, length: B and S, of the new tokens.
        rows_per_prompt: rows of the batch that are one prompt (beams, returned sequences).
        device: of the new tokens.
        cache: the KV cache, None for none.
        past: uncompressed length of the cache before the call.
        visual_mask: [B, S] bool, where the new tokens are visual; None where none is.
        is_explicit_mask: the caller gave the mask; token ids say nothing about images.
        ids: [B, S] of the new tokens, where they are known.
        labels: what the host model was asked for by column, None for nothing.
        on_host: what the host knows of a call that has visual tokens.
    """

    inputs: Mapping[str, Any]
    batch: int
    length: int
    rows_per_prompt: int
    device: torch.device
    cache: Any
    past: int
    visual_mask: Tensor | None
    is_explicit_mask: bool
    ids: Tensor | None = None
    labels: Labels | None = None
    on_host: OnHost | None = None

    @classmethod
    def of(
        cls,
        inputs: Mapping[str, Any],
        anatomy: Anatomy,
        explicit: ExplicitMask | None,
        num_prompts: int | None,
        labels: Labels | None = None,
        prompt: HostPrompt | None = None,
    ) -> Call:
        """Read a call off its arguments.

        Args:
            inputs: by name.
            anatomy: of the model.
            explicit: the caller's visual_mask; it counts where its length is the call's.
            num_prompts: rows before beams, None where that is not known.
            labels: of the host model's call around it.
            prompt: that the host model feeds, where the call brings embeddings.

        Raises:
            UnsupportedModeError: nothing says where the new tokens are visual, or `explicit` does
                not fit the call.
            UnsupportedModelError: the host model's placeholders are not the family's.
        """
        ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        tokens = ids if ids is not None else embeds
        if tokens is None:
            raise UnsupportedModeError(
                "the model was called with neither input_ids nor inputs_embeds."
            )
        cache = cache_in(inputs)
        past = cache.get_seq_length() if cache is not None else 0
        batch, length = tokens.shape[:2]
        valid = functools.partial(
            valid_tokens, inputs.get("attention_mask"), batch, length, tokens.device
        )
        host = anatomy.family.host
        if ids is None and prompt is not None:
            ids, is_explicit = prompt.ids_of(tokens), True
            placeholders = visual_token_ids(anatomy).values()
            vocabulary = anatomy.base.get_input_embeddings()
            visual_mask: Tensor | None = visual_of_ids(
                ids, tokens, valid(), placeholders, vocabulary
            )
        elif host is not None and host.mask and explicit is None:
            visual_mask, is_explicit = visual_of_mask(inputs, host, past), True
            if ids is None and visual_mask is None and length > 1:
                _check_text(tokens, anatomy)
        else:
            visual_mask, is_explicit = _visual_mask(inputs, tokens, anatomy, explicit)
        on_host = None
        if visual_mask is not None:
            on_host = read_prompt(visual_mask, valid(), labels, ids)
            if not on_host.num_visual:
                visual_mask = on_host = None
        is_multiple = num_prompts is not None and num_prompts and batch % num_prompts == 0
        return cls(
            inputs=inputs,
            batch=batch,
            length=length,
            rows_per_prompt=batch // num_prompts if is_multiple and num_prompts else 1,
            device=tokens.device,
            cache=cache,
            past=past,
            visual_mask=visual_mask,
            is_explicit_mask=is_explicit,
            ids=ids,
            labels=labels,
            on_host=on_host,
        )

    def showing(self, visual_mask: Tensor) -> Call:
        """The same call with other places of visual tokens, [B, S] bool."""
        valid = valid_tokens(
            self.inputs.get("attention_mask"), self.batch, self.length, self.device
        )
        on_host = read_prompt(visual_mask, valid, self.labels, self.ids)
        return replace(self, visual_mask=visual_mask, on_host=on_host)

    @property
    def known(self) -> OnHost:
        """`on_host` of a call that has visual tokens."""
        assert self.on_host is not None
        return self.on_host

    @property
    def visual(self) -> Tensor:
        """`visual_mask` of a call that has visual tokens."""
        assert self.visual_mask is not None
        return self.visual_mask


def read_prompt(
    visual_mask: Tensor, valid: Tensor, labels: Labels | None, ids: Tensor | None
) -> OnHost:
    """What the host knows of a prompt; text that is the answer of a training step is not asked.

    Args:
        visual_mask: [B, S] bool.
        valid: [B, S] bool, real tokens.
        labels: of the host model's call, None for none.
        ids: [B, S], None where they are not known.
    """
    asked = None
    if labels is not None:
        asked = valid & ~labels.answering(visual_mask).to(valid.device)
    return OnHost.read(visual_mask, valid, asked, ids)


def _visual_mask(
    inputs: Mapping[str, Any], tokens: Tensor, anatomy: Anatomy, explicit: ExplicitMask | None
) -> tuple[Tensor | None, bool]:
    """Where the new tokens are visual, [B, S] or None, and whether the caller said so."""
    ids, length = inputs.get("input_ids"), tokens.shape[1]
    if explicit is not None and not explicit.fits(length):
        explicit = None
        if ids is None and length > 1:
            return None, True  # the caller's mask is another prompt's
    placeholders = set(visual_token_ids(anatomy).values())
    if ids is None:
        if explicit is not None:
            return explicit.of_embeds(tokens, anatomy.base.get_input_embeddings()), True
        if length > 1:
            raise UnsupportedModeError(_UNSAID)
        return None, True
    if explicit is not None and not placeholders:
        return explicit.of_ids(ids), True
    # A decoded token is text, whatever its id, and so is a placeholder that comes without an image:
    # prompt lookup may guess one.
    if length == 1 or not brings_images(inputs, anatomy):
        return None, False
    masks = [ids == token_id for token_id in placeholders]
    return functools.reduce(torch.logical_or, masks) if masks else None, False


def _check_text(embeds: Tensor, anatomy: Anatomy) -> None:
    """Embeddings that come without a host's mask must all be of text.

    Raises:
        UnsupportedModeError: one is none of the vocabulary's.
    """
    known = is_known(embeds, anatomy.base.get_input_embeddings())
    if known is not None and not bool(known.all()):
        raise UnsupportedModeError(_UNSAID)


def brings_images(inputs: Mapping[str, Any], anatomy: Anatomy) -> bool:
    """Whether a call of the base model has images or their features among its arguments."""
    encoded = inputs.get("mm_encoder_outputs") or {}
    if any(value is not None for value in encoded.values()):
        return True
    return any(inputs.get(name) is not None for name in _image_inputs(type(anatomy.base)))


@functools.lru_cache(maxsize=64)
def _image_inputs(base: type) -> frozenset[str]:
    """Names of the arguments that hold images, or features of them."""
    extractors = [getattr(base, f"get_{modality}_features", None) for modality in MODALITIES]
    found = {"pixel_values", "pixel_values_videos", "image_hidden_states"}
    for extractor in extractors:
        if extractor is not None:
            found.add(list(inspect.signature(extractor).parameters)[1])  # behind self
    return frozenset(found)
