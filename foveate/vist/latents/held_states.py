"""Keys and values of a whole document, read once by the LLM and held off the accelerator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foveate.errors import InputError

__all__ = ["HeldStates"]


@dataclass(frozen=True, kw_only=True)
class HeldStates:
    """What the LLM's own layers made of every token after a head text.

    Args:
        keys, values: one of each layer, [H_kv, N, head_dim], keys rotated; on the host, or mapped
            from a file: of a mapped one only what is looked at is ever read.
        head_ids: token ids before the document, whose positions come first.
        model: identifies the language model; "" if unknown.
    """

    keys: tuple[Tensor, ...] = field(repr=False)
    values: tuple[Tensor, ...] = field(repr=False)
    head_ids: tuple[int, ...]
    model: str = ""

    def __post_init__(self) -> None:
        shapes = {tuple(tensor.shape) for tensor in (*self.keys, *self.values)}
        is_whole = len(self.keys) == len(self.values) > 0 and len(shapes) == 1
        if not is_whole or len(next(iter(shapes))) != 3:
            raise InputError(
                f"HeldStates got {len(self.keys)} keys and {len(self.values)} values of shapes "
                f"{sorted(shapes)[:3]}; give one of each layer, all [H_kv, N, head_dim]."
            )
        is_ids = all(isinstance(i, int) and not isinstance(i, bool) for i in self.head_ids)
        if not self.head_ids or not is_ids or not isinstance(self.model, str):
            raise InputError(
                f"HeldStates got head_ids={self.head_ids!r} and model={self.model!r}; the head is "
                "at least one token id, the model a text."
            )

    @property
    def num_tokens(self) -> int:
        return int(self.keys[0].shape[1])

    @property
    def num_bytes(self) -> int:
        """Of all keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def rows(self, tokens: Tensor, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [1, H_kv, K, head_dim] of some tokens, layer by layer, on `device`.

        Args:
            tokens: [K] int64, which.
            device: where they are needed.
        """
        tokens = tokens.to(self.keys[0].device)
        return [
            (k[:, tokens].unsqueeze(0).to(device), v[:, tokens].unsqueeze(0).to(device))
            for k, v in zip(self.keys, self.values, strict=True)
        ]

    def tensors(self) -> dict[str, Tensor]:
        """By the names that a file has them under."""
        named = {f"keys.{i}": tensor for i, tensor in enumerate(self.keys)}
        return named | {f"values.{i}": tensor for i, tensor in enumerate(self.values)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], head_ids: tuple[int, ...], model: str) -> HeldStates:
        """The inverse of `tensors`. Raises InputError where a layer is missing."""
        num_layers = sum(name.startswith("keys.") for name in tensors)
        try:
            return cls(
                keys=tuple(tensors[f"keys.{i}"] for i in range(num_layers)),
                values=tuple(tensors[f"values.{i}"] for i in range(num_layers)),
                head_ids=head_ids,
                model=model,
            )
        except KeyError as error:
            raise InputError(
                f"the memory lacks {error.args[0]} of its states; read the document again."
            ) from error
