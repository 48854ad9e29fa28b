"""The module that accelerate wraps: trained parts, heads that only training needs, losses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import ConfigError
from foveate.vist.fusion.fusion import PrefixCache, fit_span
from foveate.vist.fusion.kv_prefix import EmbeddingPrefix
from foveate.vist.fusion.prefix import compute_prefix
from foveate.vist.latents.glance_resampler import GlanceResampler
from foveate.vist.latents.memory import MemoryBatch
from foveate.vist.run.text_rows import TextScores
from foveate.vist.run.vist import Vist
from foveate.vist.train.batches import TrainBatch
from foveate.vist.train.distillation import pair_error, tail_divergence
from foveate.vist.train.frozen import FrozenInputs
from foveate.vist.train.latent_reading import LatentReader, reading_error
from foveate.vist.train.objectives import next_token_loss
from foveate.vist.train.pve import PveHead, choose_mask, info_nce, unmasked_mean
from foveate.vist.train.reading_loss import token_table
from foveate.vist.train.recipe import Recipe
from foveate.vist.train.recipe_tables import StageConfig
from foveate.vist.train.teacher import memory_keys_values, recorded_states, teacher_keys_values
from foveate.vist.train.token_counts import TokenCounts

__all__ = ["VistTrainee"]

# [B, D] of this process -> [processes * B, D] of all, in the order of the processes.
Gather = Callable[[Tensor], Tensor]


class VistTrainee(nn.Module):
    """Losses of a batch. Only what learns is inside the module; the frozen models stay outside.

    Args:
        vist: models and parts; its parts become this module's.
        recipe: objectives.
        gather: collects rows of all processes; None for one process.
        rank, num_processes: which of them this is.

    Raises:
        ConfigError: latents that are made of tokens are to learn reading them.
    """

    def __init__(
        self,
        vist: Vist,
        recipe: Recipe,
        *,
        gather: Gather | None = None,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        super().__init__()
        self.parts = vist.parts
        width = vist.config.resampler.width
        hidden = vist.parts.shape.hidden_size
        used = {name for stage in recipe.stages for name in stage.objectives}
        self.heads = nn.ModuleDict()
        if "pve" in used:
            self.heads["pve"] = PveHead(width, hidden)
        if "read" in used and vist.parts.is_pointed:
            raise ConfigError(
                "a stage has the objective read, but latents that are pointed at tokens are made "
                "of what the frozen encoder reads, with nothing to learn; leave it out."
            )
        if "read" in used:
            targets = recipe.objectives.targets
            self.heads["read"] = LatentReader(
                width,
                hidden,
                targets.packed if targets is not None else 0,
                own=not isinstance(vist.parts.fusion.prefix, EmbeddingPrefix),
                rms=vist.parts.shape.embedding_rms,
            )
        base: Any = vist.anatomy.base
        embeddings: Tensor = base.get_input_embeddings().weight
        self.counts = TokenCounts(len(embeddings), recipe.objectives.count_unit)
        self.recipe = recipe
        self.gather, self.rank, self.num_processes = gather, rank, num_processes
        # Tuples hide modules and tensors from nn.Module: they are frozen, and in no checkpoint.
        self._vist = (vist,)
        self._table = (token_table(embeddings.float()) if "read" in self.heads else None,)

    @property
    def vist(self) -> Vist:
        return self._vist[0]

    def forward(
        self, batch: TrainBatch, frozen: FrozenInputs, stage: StageConfig, step: int
    ) -> dict[str, Tensor]:
        """The losses by name, each a mean over the batch, and their weighted sum as "loss".

        Args:
            batch: on the device.
            frozen: what the frozen parts gave for it.
            stage: objectives and weights.
            step: of the run; masks and negatives are drawn anew each step.
        """
        memory, cls = self._memory(batch, frozen)
        losses: dict[str, Tensor] = {}
        score_last = stage.score_last or self.recipe.data.tail
        scores = None
        if stage.needs("text"):
            scores = self.vist.forward_train(
                memory,
                list(batch.ids[:, :1]),
                list(batch.ids[:, 1 + batch.context :]),
                score_last=score_last,
            )
        if "next_token" in stage.objectives:
            assert scores is not None
            losses["next_token"] = next_token_loss(scores.token_nll).mean()
        if "tail_kl" in stage.objectives:
            assert scores is not None
            assert frozen.tail is not None
            head: Any = self.vist.anatomy.model
            losses["tail_kl"] = tail_divergence(scores.logits, head.lm_head(frozen.tail)).mean()
        if "distil" in stage.objectives:
            losses["distil"] = self._distil(batch, memory, frozen, scores).mean()
        if "read" in stage.objectives:
            losses["read"] = self._read(batch, memory.latents, step)
        if "pve" in stage.objectives:
            assert cls is not None
            losses["pve"] = self._pve(batch, cls, step)
        total = torch.stack([w * losses[name] for name, w in stage.objectives.items()]).sum()
        return {**losses, "loss": total}

    def _memory(self, batch: TrainBatch, frozen: FrozenInputs) -> tuple[MemoryBatch, Tensor | None]:
        """Latents of the batch, and the CLS tokens of its pages [sum(P), D] (None if not read)."""
        cls = None
        resampler = self.parts.resampler
        if isinstance(resampler, GlanceResampler):
            assert batch.glances is not None
            # The source's tokens: the reader is frozen, and what it misreads cannot be learned.
            context = batch.ids[:, 1 : 1 + batch.context]
            readings = self.vist.embed(context).float().flatten(0, 1)  # [B C, D]
            latents = resampler.fold(readings, batch.glances.members)
            if frozen.features is not None:
                cls = resampler.pool(frozen.features, batch.patch_mask)
        else:
            latents, _, cls = self.parts(frozen.features, batch.patch_mask)
        memory = MemoryBatch(
            latents=latents.flatten(0, 1)[batch.latent_idx] * batch.mask.unsqueeze(-1),
            mask=batch.mask,
            positions=batch.positions,
            num_tokens=(batch.context,) * len(batch),
        )
        return memory, cls

    # --- objectives ---

    def _distil(
        self,
        batch: TrainBatch,
        memory: MemoryBatch,
        frozen: FrozenInputs,
        scores: TextScores | None,
    ) -> Tensor:
        assert frozen.states is not None
        config, anatomy = self.recipe.objectives.distil, self.vist.anatomy
        in_states = config.space == "states"
        with recorded_states(anatomy, (0, batch.mask.shape[1]) if in_states else None) as states:
            if scores is not None and scores.prefix is not None and not in_states:
                prefix = scores.prefix
            else:
                prefix = self._prefix(batch, memory)
        skip = config.skip_layers
        if in_states:
            found = [(states[i],) for i in sorted(states)][skip:]
            return pair_error(found, [(s,) for s in frozen.states[skip:]], batch.mask)
        scale = torch.tensor(prefix.spans, device=batch.ids.device) / batch.context
        positions = memory.positions * scale[:, None] + 1
        return pair_error(
            memory_keys_values(anatomy, prefix, positions, skip),
            teacher_keys_values(anatomy, frozen.states, skip),
            batch.mask,
        )

    def _prefix(self, batch: TrainBatch, memory: MemoryBatch) -> PrefixCache:
        head = self.vist.embed(batch.ids[:, :1])
        raw = batch.ids.shape[1] - batch.context
        spans = [fit_span(n, raw, self.vist.window) for n in memory.num_tokens]
        is_real = torch.ones(head.shape[:2], dtype=torch.bool, device=head.device)
        return compute_prefix(self.vist.anatomy, self.parts.fusion, memory, spans, head, is_real)

    def _read(self, batch: TrainBatch, latents: Tensor, step: int) -> Tensor:
        prefix, reader = self.parts.fusion.prefix, self.heads["read"]
        base: Any = self.vist.anatomy.base
        errors = []
        for key, (found, targets) in zip(batch.keys, self._read_rows(batch, latents), strict=True):
            projected = prefix(found) if isinstance(prefix, EmbeddingPrefix) else None
            errors.append(
                reading_error(
                    reader(found, projected),
                    targets,
                    base.get_input_embeddings().weight,
                    self.recipe.objectives.read,
                    self._generator(key, step),
                    self._table[0],
                )
            )
        return torch.stack(errors).mean()

    def _read_rows(self, batch: TrainBatch, latents: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What is read in each sample, [M, D], and the tokens it should be, [M, 1 + Q]."""
        rows = []
        assert batch.members is not None
        assert batch.packed is not None
        places = torch.cat([batch.members, batch.packed], dim=-1)
        places = places[..., : 1 + batch.packed.shape[-1]]
        for row in range(len(batch)):
            wanted = places[row][batch.mask[row]]
            targets = torch.where(wanted >= 0, batch.ids[row][wanted.clamp_min(0) + 1], -1)
            rows.append((latents[row][batch.mask[row]], targets))
        return rows

    def _pve(self, batch: TrainBatch, cls: Tensor, step: int) -> Tensor:
        config = self.recipe.objectives.pve
        ids = batch.ids[:, 1 : 1 + batch.context]
        importance = self.counts.importance(ids)
        masked = torch.stack(
            [
                choose_mask(row, config, self._generator(key, step))
                for row, key in zip(importance, batch.keys, strict=True)
            ]
        )
        text = unmasked_mean(self.vist.embed(ids).float(), masked)
        image = self.heads["pve"](cls, batch.page_counts)
        if self.gather is None:
            return info_nce(image, text, config.temperature, symmetric=config.symmetric)
        # Every process has the whole loss, but a gradient for its own rows only. Gradients are
        # averaged over processes afterwards; times their number that is the gradient of the whole.
        own = slice(self.rank * len(batch), (self.rank + 1) * len(batch))
        images = self.gather(image.detach().contiguous()).clone()
        images = torch.cat([images[: own.start], image, images[own.stop :]])
        texts = self.gather(text.contiguous())
        loss = info_nce(images, texts, config.temperature, symmetric=config.symmetric)
        return loss.detach() + self.num_processes * (loss - loss.detach())

    def _generator(self, key: str, step: int) -> torch.Generator:
        """The same draw for a window at a step, on whichever process it is."""
        digest = hashlib.sha256(f"{self.recipe.run.seed}/{step}/{key}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
