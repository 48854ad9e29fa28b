"""A document as the language model remembers it: latents, where they stand, what made them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from foveate.errors import InputError
from foveate.files import open_regular
from foveate.tensor_file import save_tensors
from foveate.vist.latents.held_states import HeldStates

MOST_TOKENS = 1 << 40  # that a memory can say it stands for
TENSORS = ("latents", "positions", "tokens", "segments", "index")
FORMS = ("latents", "carved", "states")
INDEX_SIDES = ("pictures", "words", "states")
UNREAD = -1  # a token that could not be read


@dataclass(frozen=True, kw_only=True)
class Memory:
    """One document, read once, for any number of questions.

    Args:
        latents: [M, D] float, in reading order.
        positions: [M] float32, ascending, in [0, num_tokens): where each latent stands, in tokens
            of the document.
        num_tokens: tokens of the text it stands for.
        num_pages: strips it was read from.
        encoder, parts: identify the encoder and the trained parts that made it; "" if unknown.
        tokens: [num_tokens] int64, the document's own token ids, UNREAD where one is not known; a
            question can then look at places of it again. Token t stands at position t.
        segments: [S] int64, first token of each unit that is looked at as a whole, ascending from
            0; see foveate.vist.fixation.segments.
        index: [S, E] float, what each segment is found by.
        index_side: what the index was made of. "words": the segments' own tokens, where there was a
            text. "pictures": the CLS of their pictures, where there was none. "states": the LLM's
            mean states of each segment, in forms that the LLM reads.
        form: what its entries are. "latents": of the resampler. "carved" and "states": rows of the
            document's own tokens, those that `positions` names; `latents` has no width then. See
            foveate.vist.forms.
        states: of all tokens, in a memory of form "states".
        misread, unreadable: tokens that the encoder reads wrong, and those of them with a character
            that it says it does not know; None where nobody can tell.
    """

    latents: Tensor = field(repr=False)
    positions: Tensor = field(repr=False)
    num_tokens: int
    num_pages: int = 0
    encoder: str = ""
    parts: str = ""
    tokens: Tensor | None = field(default=None, repr=False)
    segments: Tensor | None = field(default=None, repr=False)
    index: Tensor | None = field(default=None, repr=False)
    index_side: str = "pictures"
    form: str = "latents"
    states: HeldStates | None = field(default=None, repr=False)
    misread: int | None = None
    unreadable: int | None = None

    def __post_init__(self) -> None:
        if self.latents.ndim != 2 or self.positions.shape != self.latents.shape[:1]:
            raise InputError(
                f"Memory got latents {tuple(self.latents.shape)} and positions "
                f"{tuple(self.positions.shape)}; they must be [M, D] and [M]."
            )
        for name in ("num_tokens", "num_pages", "misread", "unreadable"):
            value = getattr(self, name)
            if value is None and name in ("misread", "unreadable"):
                continue
            is_count = isinstance(value, int) and not isinstance(value, bool)
            if not is_count or not 0 <= value <= MOST_TOKENS:
                raise InputError(
                    f"Memory got {name}={value!r}; it must be a whole number from 0 to "
                    f"{MOST_TOKENS:,}."
                )
        if not self.latents.is_floating_point() or self.positions.is_complex():
            raise InputError(
                f"Memory got latents of {self.latents.dtype} and positions of "
                f"{self.positions.dtype}; latents must be floating point, positions real."
            )
        for name in ("encoder", "parts"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"Memory got {name}={getattr(self, name)!r}; it must be a text.")
        self._check_text()
        self._check_form()

    def _check_form(self) -> None:
        """Whether it has what its form is made of."""
        if self.form not in FORMS:
            raise InputError(f"Memory got form={self.form!r}; use one of {', '.join(FORMS)}.")
        if self.form != "latents" and (self.tokens is None or self.latents.shape[1]):
            raise InputError(
                f"Memory got form={self.form!r} with latents of width {self.latents.shape[1]} and "
                f"{'no ' if self.tokens is None else ''}tokens; that form has the document's "
                "tokens, and latents of width 0."
            )
        if (self.form == "states") != (self.states is not None):
            raise InputError(
                f"Memory got form={self.form!r} {'with' if self.states else 'without'} states; "
                "they belong to the form 'states'."
            )
        if self.states is not None and self.states.num_tokens != self.num_tokens:
            raise InputError(
                f"Memory got states of {self.states.num_tokens} tokens for {self.num_tokens}; read "
                "the document again."
            )

    def _check_text(self) -> None:
        """Shapes and kinds of what is known of the text."""
        tokens, segments, index = self.tokens, self.segments, self.index
        if self.index_side not in INDEX_SIDES:
            raise InputError(
                f"Memory got index_side={self.index_side!r}; use one of {', '.join(INDEX_SIDES)}."
            )
        if tokens is not None and (
            tokens.shape != (self.num_tokens,) or tokens.dtype != torch.int64
        ):
            raise InputError(
                f"Memory got tokens {tuple(tokens.shape)} of {tokens.dtype} for "
                f"{self.num_tokens} tokens; they must be [num_tokens] int64."
            )
        if segments is not None and (segments.ndim != 1 or segments.dtype != torch.int64):
            raise InputError(
                f"Memory got segments {tuple(segments.shape)} of {segments.dtype}; they must be "
                "[S] int64."
            )
        if index is not None and (
            segments is None
            or index.ndim != 2
            or len(index) != len(segments)
            or not index.is_floating_point()
        ):
            found = None if segments is None else len(segments)
            raise InputError(
                f"Memory got an index {tuple(index.shape)} of {index.dtype} for {found} segments; "
                "it must be [S, E] floating point."
            )

    @property
    def num_latents(self) -> int:
        return int(self.latents.shape[0])

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Memory:
        """The same on another device; `dtype` is of the latents. States stay where they are."""
        moved: dict[str, Any] = {k: tensor.to(device) for k, tensor in self._tensors().items()}
        return replace(self, **{**moved, "latents": self.latents.to(device, dtype)})

    def save(self, path: str | Path) -> None:
        """Write one safetensors file. Raises InputError where that is impossible."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in self._tensors().items()}
        about = {k: v for k, v in vars(self).items() if k not in (*TENSORS, "states")}
        if self.states is not None:
            held = {k: v.detach().cpu().contiguous() for k, v in self.states.tensors().items()}
            tensors |= held
            about["head_ids"], about["model"] = self.states.head_ids, self.states.model
        save_tensors(path, tensors, {"foveate_memory": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> Memory:
        """Read what `save` wrote; states are mapped, not read. Raises InputError for all else."""
        try:
            open_regular(path).close()  # a pipe would hold up safetensors, and all of Python
            with safe_open(str(path), framework="pt") as file:
                about = json.loads((file.metadata() or {})["foveate_memory"])
                held = [name for name in TENSORS if name in file.keys()]  # noqa: SIM118
                if about.get("form", "latents") == "states":
                    rest = {k: file.get_tensor(k) for k in file.keys() if "." in k}  # noqa: SIM118
                    head = tuple(about.pop("head_ids"))
                    about["states"] = HeldStates.of(rest, head, about.pop("model"))
                made = cls(**{name: file.get_tensor(name) for name in held}, **about)
            made.check_values()
            return made
        except InputError:
            raise
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"{str(path)!r} is not a memory written by foveate ({type(error).__name__}: "
                f"{error}); read the document again."
            ) from error

    def check_values(self) -> None:
        """Raise InputError for values that no document gives: a stranger's file may hold any."""
        places = self.positions.double()
        is_sound = bool(self.latents.isfinite().all()) and bool(places.isfinite().all())
        if not is_sound or bool((places < 0).any()) or bool((places > self.num_tokens).any()):
            raise InputError(
                "the memory holds values that are not finite, or positions outside of its "
                f"{self.num_tokens} tokens; read the document again."
            )
        tokens, segments, index = self.tokens, self.segments, self.index
        if tokens is not None and bool((tokens < UNREAD).any()):
            raise InputError("the memory holds token ids below -1; read the document again.")
        if segments is not None:
            stops = torch.cat([segments, segments.new_tensor([self.num_tokens])])
            if not len(segments) or segments[0] != 0 or bool((stops.diff() < 1).any()):
                raise InputError(
                    "the memory's segments do not start at 0 and ascend below its "
                    f"{self.num_tokens} tokens; read the document again."
                )
        if index is not None and not bool(index.isfinite().all()):
            raise InputError("the memory's index is not finite; read the document again.")
        if self.form != "latents":
            rows = places.long()
            is_named = bool((places == rows).all()) and bool((rows < self.num_tokens).all())
            if not is_named or bool((rows.diff() < 1).any()):
                raise InputError(
                    "the memory's entries are no tokens of its document, in order; read it again."
                )

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors it has, by name."""
        return {k: v for k in TENSORS if (v := getattr(self, k)) is not None}


def concat(memories: Sequence[Memory]) -> Memory:
    """One memory of several documents, read in that order.

    Raises:
        InputError: there is none, or they were made by different models.
    """
    memories = [memories] if isinstance(memories, Memory) else list(memories)
    if not memories:
        raise InputError("concat got no memories; give at least one.")
    for memory in memories:
        if not isinstance(memory, Memory):
            raise InputError(f"concat got a {type(memory).__name__}; give a list of memories.")
    first = memories[0]
    for other in memories[1:]:
        if (other.encoder, other.parts) != (first.encoder, first.parts):
            raise InputError(
                "concat got memories made by different encoders or trained parts; read all "
                "documents with one Vist."
            )
        if other.form != first.form:
            raise InputError(
                f"concat got memories of the forms {first.form!r} and {other.form!r}; read all "
                "documents in one form."
            )
    indexed = [memory for memory in memories if memory.index is not None]
    if len({memory.index_side for memory in indexed}) > 1 and len(indexed) == len(memories):
        raise InputError(
            "concat got memories indexed by words and by pictures, whose scores do not compare; "
            "read the texts with tokens='read' too, or take one's index off "
            "(dataclasses.replace(memory, index=None))."
        )
    if first.form == "states" and len(memories) > 1:
        raise InputError(
            "concat got memories of form 'states', whose later documents never saw the first; read "
            "the documents as one text, or use another form."
        )
    starts, total = [], 0
    for memory in memories:
        starts.append(total)
        total += memory.num_tokens
    return Memory(
        latents=torch.cat([memory.latents for memory in memories]),
        positions=torch.cat([m.positions + s for m, s in zip(memories, starts, strict=True)]),
        num_tokens=total,
        num_pages=sum(memory.num_pages for memory in memories),
        encoder=first.encoder,
        parts=first.parts,
        form=first.form,
        states=first.states,
        tokens=_joined([memory.tokens for memory in memories]),
        segments=_joined(
            [None if m.segments is None else m.segments + s
             for m, s in zip(memories, starts, strict=True)]
        ),
        index=_joined([memory.index for memory in memories]),
        index_side=first.index_side,
        misread=_total([memory.misread for memory in memories]),
        unreadable=_total([memory.unreadable for memory in memories]),
    )  # fmt: skip


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """One after the other; None where any of them is missing."""
    held = [part for part in parts if part is not None]
    return torch.cat(held) if len(held) == len(parts) else None


def _total(counts: Sequence[int | None]) -> int | None:
    """Their sum; None where any of them is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


@dataclass(frozen=True, kw_only=True)
class MemoryBatch:
    """Memories of a batch side by side; rows may be empty.

    Args:
        latents: [B, M, D]; gradients flow through it.
        mask: [B, M] bool, True = a latent. Padding comes last.
        positions: [B, M] float32, as in Memory; 0 at padding.
        num_tokens: B counts.
        tokens: [B, M] int64, ids of raw tokens that stand in the place of a latent, UNREAD where a
            latent or padding does; None where there are none. Positions tell their order.
    """

    latents: Tensor
    mask: Tensor
    positions: Tensor
    num_tokens: tuple[int, ...]
    tokens: Tensor | None = None

    @property
    def num_rows(self) -> int:
        return len(self.num_tokens)


def pad_memories(memories: Sequence[Memory | None]) -> MemoryBatch:
    """Batch memories of any lengths; None is a row without one.

    Raises:
        InputError: every row is None (attach nothing instead), or the widths differ.
    """
    present = [memory for memory in memories if memory is not None]
    if not present:
        raise InputError(
            f"got {len(memories)} rows, none of which has a memory; give one to at least one row, "
            "or None instead of a batch where the model reads none."
        )
    widths = sorted({memory.latents.shape[1] for memory in present})
    if len(widths) > 1:
        raise InputError(f"memories have latents of widths {widths}; use those of one Vist.")
    longest = max(memory.num_latents for memory in present)
    like = present[0].latents
    latents = like.new_zeros(len(memories), longest, widths[0])
    positions = torch.zeros(len(memories), longest, device=like.device)
    mask = torch.zeros(len(memories), longest, dtype=torch.bool, device=like.device)
    for row, memory in enumerate(memories):
        if memory is not None:
            latents[row, : memory.num_latents] = memory.latents
            positions[row, : memory.num_latents] = memory.positions
            mask[row, : memory.num_latents] = True
    counts = tuple(memory.num_tokens if memory is not None else 0 for memory in memories)
    return MemoryBatch(latents=latents, mask=mask, positions=positions, num_tokens=counts)


def pack_pages(
    latents: Tensor, latent_mask: Tensor, positions: Tensor, num_tokens: Sequence[int]
) -> MemoryBatch:
    """Batch the latents of documents' pages, dropping those without text; differentiable.

    Args:
        latents: [B, P, N, D] float.
        latent_mask: [B, P, N] bool.
        positions: [B, P, N] float, in tokens of each document.
        num_tokens: B counts.
    """
    batch = latents.shape[0]
    flat, keep = latents.flatten(1, 2), latent_mask.flatten(1)
    longest = max(1, int(keep.sum(dim=1).max()))
    # Stable: latents that count come first, in reading order.
    order = (~keep).int().argsort(dim=1, stable=True)[:, :longest]
    mask = keep.gather(1, order)
    index = order.unsqueeze(-1).expand(-1, -1, flat.shape[-1])
    packed = flat.gather(1, index) * mask.unsqueeze(-1)
    where = positions.reshape(batch, -1).gather(1, order).float() * mask
    return MemoryBatch(
        latents=packed, mask=mask, positions=where, num_tokens=tuple(int(n) for n in num_tokens)
    )
