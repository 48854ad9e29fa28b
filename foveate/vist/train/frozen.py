"""What the frozen parts give a training step: features of pages, states of the teacher; cached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.errors import ConfigError
from foveate.vist.fusion.prefix import decoder_of
from foveate.vist.parts import weights_hash
from foveate.vist.run.vist import Vist
from foveate.vist.train.batches import TrainBatch
from foveate.vist.train.cache import FrozenCache
from foveate.vist.train.distillation import gather_states
from foveate.vist.train.recipe import Recipe
from foveate.vist.train.teacher import TeacherStates, teacher_states

# Settings of resamplers that decide which tokens latents stand for.
CHOOSING = ("num_latents", "local_bias", "choice", "run", "packed")

__all__ = ["Frozen", "FrozenInputs"]


@dataclass(frozen=True, eq=False, kw_only=True)
class FrozenInputs:
    """What a step reads of the frozen parts.

    Attributes:
        features: float [sum(P), L, Din]; None if not needed.
        states: of each layer, targets of the latents [B, M, hidden_size]; None if not needed.
        tail: teacher's last hidden states before the scored tokens, [B, K, hidden_size]; or None.
    """

    features: Tensor | None
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
        self.teacher = vist.anatomy
        if recipe.model.teacher_dtype not in ("", recipe.model.dtype):
            dtype = getattr(torch, recipe.model.teacher_dtype)
            self.teacher = decoder_of(copy.deepcopy(vist.model).to(dtype))
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
                "dtype": recipe.model.teacher_dtype or recipe.model.dtype,
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
    def inputs(
        self, batch: TrainBatch, *, states: bool, score_last: int, features: bool = True
    ) -> FrozenInputs:
        """What a step needs.

        Args:
            batch: on the device.
            states: whether the teacher's states at the latents are needed.
            score_last: tokens whose distribution the teacher gives, 0 for none.
            features: whether the encoder's features are needed.
        """
        taught, tail = self._teach(batch, states=states, score_last=score_last)
        seen = self._encode(batch) if features else None
        return FrozenInputs(features=seen, states=taught, tail=tail)

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

    def _teach(
        self, batch: TrainBatch, *, states: bool, score_last: int
    ) -> tuple[list[Tensor] | None, Tensor | None]:
        """Targets of each layer, and the last hidden states of the tail: one pass for both."""
        wanted = {"states": "states"} if states else {}
        if score_last:
            wanted["tail"] = f"tail{score_last}"
        cache = self._teacher
        held: dict[str, list[Tensor | None]] = {
            name: [_tensor(cache, f"{key}:{suffix}") for key in batch.keys]
            for name, suffix in wanted.items()
        }
        lacking = [any(found[row] is None for found in held.values()) for row in range(len(batch))]
        rows = [row for row, lacks in enumerate(lacking) if lacks]
        if rows:
            needs_states = any(held["states"][row] is None for row in rows) if states else False
            stop = 1 + batch.context
            taught = teacher_states(
                self.teacher,
                # What comes after the context cannot change its states.
                batch.ids[rows] if score_last else batch.ids[rows, :stop],
                context=(1, stop) if needs_states else None,
                score_last=score_last,
            )
            made = {"states": self._targets(batch, rows, taught), "tail": taught.tail}
            for name, suffix in wanted.items():
                for place, row in enumerate(rows):
                    if held[name][row] is not None:
                        continue
                    part = made[name]
                    assert part is not None
                    held[name][row] = _kept(cache, f"{batch.keys[row]}:{suffix}", part[place])
        like = self.vist.embed(batch.ids[:1, :1])
        layers = _padded(held["states"], batch.mask.shape[1], like) if states else None
        tail = torch.stack([_there(part).to(like) for part in held["tail"]]) if score_last else None
        return (list(layers.unbind(1)) if layers is not None else None), tail

    def _targets(
        self, batch: TrainBatch, rows: list[int], taught: TeacherStates
    ) -> list[Tensor] | None:
        """[layers, M, hidden_size] of each row, without padding."""
        if not taught.layers:
            return None
        assert batch.members is not None
        members = batch.members[rows]
        wanted = torch.stack([gather_states(s, members) for s in taught.layers], dim=1)
        sizes = batch.mask.sum(dim=1).tolist()
        return [wanted[place, :, : sizes[row]] for place, row in enumerate(rows)]

    def _held(
        self,
        cache: FrozenCache | None,
        keys: list[str],
        compute: Callable[[list[int]], list[Tensor]],
    ) -> list[Tensor]:
        """One tensor for each key: from the cache, and computed together where it has none."""
        held = [_tensor(cache, key) for key in keys]
        missing = [row for row, found in enumerate(held) if found is None]
        if missing:
            for row, part in zip(missing, compute(missing), strict=True):
                held[row] = _kept(cache, keys[row], part)
        return [_there(part) for part in held]


def _tensor(cache: FrozenCache | None, key: str) -> Tensor | None:
    found = cache.get(key) if cache is not None else None
    return found["x"] if found is not None else None


def _kept(cache: FrozenCache | None, key: str, part: Tensor) -> Tensor:
    return cache.put(key, {"x": part})["x"] if cache is not None else part


def _there(part: Tensor | None) -> Tensor:
    assert part is not None
    return part


def _padded(parts: list[Tensor | None], length: int, like: Tensor) -> Tensor:
    """[layers, M, D] of each row -> [B, layers, longest M, D]."""
    rows = [_there(part).to(like) for part in parts]
    return torch.stack([F.pad(row, (0, 0, 0, length - row.shape[1])) for row in rows])
