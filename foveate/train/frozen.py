"""What the frozen parts give a training step: features of pages, states of the teacher; cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import ConfigError
from foveate.hf.teacher import teacher_states
from foveate.hf.vist import Vist
from foveate.train.batches import TrainBatch
from foveate.train.cache import FrozenCache
from foveate.train.recipe import Recipe
from foveate.vist.distillation import gather_states
from foveate.vist.model import weights_hash

# Settings of resamplers that decide which tokens latents stand for.
CHOOSING = ("num_latents", "local_bias", "choice", "run", "packed")

__all__ = ["Frozen", "FrozenInputs"]


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenInputs:
    """What a step reads of the frozen parts.

    Attributes:
        features: float [sum(P), L, Din].
        states: of each layer, targets of the latents [B, M, hidden_size]; None if not needed.
        tail: teacher's last hidden states before the scored tokens, [B, K, hidden_size]; or None.
    """

    features: Tensor
    states: list[Tensor] | None = None
    tail: Tensor | None = None


class Frozen:
    """Runs encoder and teacher, or reads from the caches what they gave before.

    Args:
        vist: with the frozen models.
        recipe: its data and targets name the caches.
        writer: number of the process.

    Raises:
        InputError: the cache folder cannot be used.
    """

    def __init__(self, vist: Vist, recipe: Recipe, *, writer: int = 0) -> None:
        self.vist = vist
        self._features: FrozenCache | None = None
        self._teacher: FrozenCache | None = None
        if recipe.data.cache:
            encoder: Any = vist.encoder
            if not isinstance(encoder, nn.Module):
                raise ConfigError(
                    "data.cache needs an encoder whose weights tell it from others (nn.Module); "
                    "set data.cache=''."
                )
            style: Any = encoder.style
            drawn = {
                "encoder": weights_hash(encoder),
                "kind": type(encoder).__name__,
                "options": getattr(encoder, "options", {}),
                "style": style.to_dict(),
                "max_pages": recipe.vist.max_pages,
            }
            targets = recipe.objectives.targets
            taught: dict[str, Any] = {
                "llm": weights_hash(vist.anatomy.model),
                "dtype": recipe.model.dtype,
                "context": recipe.data.context,
                "style": drawn["style"],
                "max_pages": recipe.vist.max_pages,
                "latents": {k: v for k, v in vars(recipe.vist.resampler).items() if k in CHOOSING},
                "targets": vars(targets) if targets else None,
            }  # fmt: skip
            self._features = FrozenCache(recipe.data.cache, {"what": "features", **drawn},
                                         writer=writer)  # fmt: skip
            self._teacher = FrozenCache(recipe.data.cache, {"what": "teacher", **taught},
                                        writer=writer)  # fmt: skip

    def flush(self) -> None:
        """Write what the caches hold back."""
        for cache in (self._features, self._teacher):
            if cache is not None:
                cache.flush()

    @torch.no_grad()
    def inputs(self, batch: TrainBatch, *, states: bool, score_last: int) -> FrozenInputs:
        """What a step needs.

        Args:
            batch: on the device.
            states: whether the teacher's states at the latents are needed.
            score_last: tokens whose distribution the teacher gives, 0 for none.
        """
        return FrozenInputs(
            features=self._encode(batch),
            states=list(self._states(batch).unbind(1)) if states else None,
            tail=self._tail(batch, score_last) if score_last else None,
        )

    def _encode(self, batch: TrainBatch) -> Tensor:
        """Features of all pages; only rows of text are stored."""
        counts = batch.page_counts.tolist()
        starts = [sum(counts[:row]) for row in range(len(counts) + 1)]

        def encode(rows: list[int]) -> list[Tensor]:
            pages = [page for row in rows for page in range(starts[row], starts[row + 1])]
            mask = batch.patch_mask[pages]
            found = self.vist.encoder(batch.pixels[pages], mask).float()
            sizes = [int(batch.patch_mask[starts[r] : starts[r + 1]].sum()) for r in rows]
            return list(found[mask].split(sizes))

        parts = self._held(self._features, [f"{key}:features" for key in batch.keys], encode)
        device = batch.ids.device
        features = torch.zeros(
            *batch.patch_mask.shape, self.vist.encoder.width, device=device, dtype=torch.float32
        )
        features[batch.patch_mask] = torch.cat([p.to(device, torch.float32) for p in parts])
        return features

    def _states(self, batch: TrainBatch) -> Tensor:
        """Targets of all layers, [B, layers, M, hidden_size]."""
        sizes = batch.mask.sum(dim=1).tolist()

        def teach(rows: list[int]) -> list[Tensor]:
            taught = teacher_states(
                self.vist.anatomy, batch.ids[rows], context=(1, 1 + batch.context), score_last=0
            )
            assert batch.members is not None
            members = batch.members[rows]
            wanted = torch.stack([gather_states(s, members) for s in taught.layers], dim=1)
            return [wanted[i, :, : sizes[row]] for i, row in enumerate(rows)]

        parts = self._held(self._teacher, [f"{key}:states" for key in batch.keys], teach)
        like = parts[0]
        states = torch.zeros(
            len(batch), like.shape[0], batch.mask.shape[1], like.shape[2],
            device=batch.ids.device, dtype=self.vist.embed(batch.ids[:1, :1]).dtype,
        )  # fmt: skip
        for row, part in enumerate(parts):
            states[row, :, : part.shape[1]] = part
        return states

    def _tail(self, batch: TrainBatch, score_last: int) -> Tensor:
        """Teacher's last hidden states before the scored tokens, [B, K, hidden_size]."""

        def teach(rows: list[int]) -> list[Tensor]:
            taught = teacher_states(
                self.vist.anatomy, batch.ids[rows], context=None, score_last=score_last
            )
            assert taught.tail is not None
            return list(taught.tail)

        keys = [f"{key}:tail{score_last}" for key in batch.keys]
        like = self.vist.embed(batch.ids[:1, :1])
        return torch.stack([part.to(like) for part in self._held(self._teacher, keys, teach)])

    def _held(
        self,
        cache: FrozenCache | None,
        keys: list[str],
        compute: Callable[[list[int]], list[Tensor]],
    ) -> list[Tensor]:
        """One tensor for each key: from the cache, and computed together where it has none."""
        if cache is None:
            return compute(list(range(len(keys))))
        held = [cache.get(key) for key in keys]
        missing = [row for row, found in enumerate(held) if found is None]
        if missing:
            for row, part in zip(missing, compute(missing), strict=True):
                held[row] = cache.put(keys[row], {"x": part})
        return [found["x"] for found in held if found is not None]
