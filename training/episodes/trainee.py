"""The losses of episodes: a memory must give the answers that the raw far text would give."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.vist.forms.carved import Lower, carve, read_lower
from foveate.vist.fusion.fuse import Fuser
from foveate.vist.fusion.fusion import PrefixCache, empty_prefix, stack_prefixes
from foveate.vist.fusion.kv_prefix import Lora
from foveate.vist.fusion.prefix import compute_prefix
from foveate.vist.latents.glance_resampler import GlanceResampler
from foveate.vist.latents.memory import MemoryBatch
from foveate.vist.run.vist import Vist
from training.episodes.batches import EpisodeBatch

__all__ = [
    "TRAINEES",
    "CarvedTrainee",
    "EpisodeTrainee",
    "LatentsTrainee",
    "NothingTrainee",
    "trainee_of",
]


class EpisodeTrainee(nn.Module):
    """Three losses of a memory's form, against the same model that reads the far text raw.

    The divergence of the answers' distributions from the raw ones; the answers' negative log
    likelihood; the distance of the entries' keys and values from those of the tokens they stand
    for, in units of their variance.

    Args:
        vist: whose language model reads; frozen, in any precision. In a tuple, so that it is in no
            checkpoint.
        cut: layers that both ways of reading share.
        weights: of the three losses.
    """

    def __init__(
        self, vist: Vist, *, cut: int, weights: tuple[float, float, float] = (1.0, 0.3, 0.3)
    ) -> None:
        super().__init__()
        self.cut, self.weights = cut, weights
        self._vist = (vist,)

    @property
    def vist(self) -> Vist:
        return self._vist[0]

    @abstractmethod
    def memory(self, batch: EpisodeBatch, lower: Lower, spans: tuple[int, ...]) -> PrefixCache:
        """What the near text reads of the far text; differentiable."""

    @abstractmethod
    def places(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        """Which far token each entry stands for, [B, K] int64, and which entries are real."""

    @abstractmethod
    def exported(self) -> Mapping[str, Tensor]:
        """What it has learnt, by the names of a Vist's parts."""

    def forward(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """The losses by name, means over the answers' tokens; "total" is their weighted sum."""
        lower = self._read(batch)
        spans = tuple(int(n) for n in lower.mask.sum(dim=1).tolist())
        with torch.no_grad():
            every = torch.arange(batch.far.shape[1], device=batch.far.device)
            everything = every.expand_as(batch.far)
            raw = carve(self.vist.anatomy, None, lower, everything, batch.far_mask, spans=spans)
            wanted = self.answers(batch, raw)
        prefix = self.memory(batch, lower, spans)
        found = self.answers(batch, prefix)
        targets = batch.near[batch.is_answer]
        ours, theirs = found.log_softmax(-1), wanted.log_softmax(-1)
        losses = {
            "divergence": (theirs.exp() * (theirs - ours)).sum(-1).mean(),
            "nll": F.nll_loss(ours, targets),
            "distance": self._distance(prefix, raw, batch),
            "raw_nll": F.nll_loss(theirs, targets),
            "right": (ours.argmax(-1) == targets).float().mean(),
            "raw_right": (theirs.argmax(-1) == targets).float().mean(),
        }
        kl, nll, distance = self.weights
        total = kl * losses["divergence"] + nll * losses["nll"] + distance * losses["distance"]
        return {**losses, "total": total}

    def answers(self, batch: EpisodeBatch, prefix: PrefixCache) -> Tensor:
        """Logits of the answers' tokens, [A, vocabulary] float32."""
        # The head stands before the first real token of each row.
        ids = F.pad(batch.near, (1, 0))
        mask = F.pad(batch.near_mask, (1, 0))
        first = mask.long().argmax(dim=1, keepdim=True) - 1
        ids = ids.scatter(1, first, self._head(batch))
        mask = mask.scatter(1, first, True)
        with Fuser(self.vist.anatomy, self.vist.parts.fusion, lambda text: prefix):
            hidden = self.vist.anatomy.base(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=(mask.long().cumsum(dim=1) - 1).clamp_min(0),
                use_cache=False,
            ).last_hidden_state
        head: Any = self.vist.anatomy.model
        logits: Tensor = head.lm_head(hidden[:, :-1][batch.is_answer])
        return logits.float()

    def _read(self, batch: EpisodeBatch) -> Lower:
        """Far tokens below the cut, after the head."""
        head = self._head(batch)
        return read_lower(
            self.vist.anatomy,
            self.vist.embed(head),
            torch.ones_like(head, dtype=torch.bool),
            self.vist.embed(batch.far),
            1 + torch.arange(batch.far.shape[1], device=head.device).expand_as(batch.far),
            batch.far_mask,
            self.cut,
        )

    def _head(self, batch: EpisodeBatch) -> Tensor:
        """[B, 1], the attention sink."""
        token = self.vist.tokenizer.bos_token_id
        return torch.full((len(batch.far), 1), token, device=batch.far.device)

    def _distance(self, prefix: PrefixCache, raw: PrefixCache, batch: EpisodeBatch) -> Tensor:
        places, is_real = self.places(batch)
        index = places[:, None, :, None]
        errors = []
        for layer in range(self.cut % len(prefix.keys), len(prefix.keys)):
            for own, all_rows in (
                (prefix.keys[layer], raw.keys[layer]),
                (prefix.values[layer], raw.values[layer]),
            ):
                wide = index.expand(-1, own.shape[1], -1, own.shape[3])
                wanted = all_rows.gather(2, wide).transpose(1, 2)[is_real].float()
                gap = own.transpose(1, 2)[is_real].float() - wanted
                spread = wanted.var(dim=0, keepdim=True).mean().clamp_min(1e-6)
                errors.append(gap.square().mean() / spread)
        return torch.stack(errors).mean()


class CarvedTrainee(EpisodeTrainee):
    """Far tokens through the layers below `cut`, a share of them above, with a LoRA there.

    Args:
        vist, cut, weights: see EpisodeTrainee.
        rank: of the LoRA.
    """

    def __init__(self, vist: Vist, *, cut: int, rank: int, **settings: Any) -> None:
        super().__init__(vist, cut=cut, **settings)
        self.lora = Lora(vist.parts.shape, rank, 1.0, first_layer=cut)

    def memory(self, batch: EpisodeBatch, lower: Lower, spans: tuple[int, ...]) -> PrefixCache:
        anatomy = self.vist.anatomy
        return carve(anatomy, self.lora, lower, batch.kept, batch.kept_mask, spans=spans)

    def places(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        return batch.kept, batch.kept_mask

    def exported(self) -> Mapping[str, Tensor]:
        return {f"carved.{name}": value for name, value in self.lora.state_dict().items()}


class LatentsTrainee(EpisodeTrainee):
    """Latents of a pointed resampler, made of the tokens that really stand there.

    Learns what folds tokens into a latent, and the LoRA that latents run through the LLM with.

    Args:
        vist: whose parts go on learning.
        weights: see EpisodeTrainee.
    """

    def __init__(self, vist: Vist, **settings: Any) -> None:
        super().__init__(vist, cut=len(vist.anatomy.layers), **settings)
        resampler = vist.parts.resampler
        assert isinstance(resampler, GlanceResampler)
        self.fusion = vist.parts.fusion
        self.pack_in, self.pack_out = resampler.pack_in, resampler.pack_out

    def memory(self, batch: EpisodeBatch, lower: Lower, spans: tuple[int, ...]) -> PrefixCache:
        resampler = self.vist.parts.resampler
        assert isinstance(resampler, GlanceResampler)
        rows = [
            resampler.fold(self.vist.embed(far).float(), members[None])[0]
            for far, members in zip(batch.far, batch.members, strict=True)
        ]
        places, is_real = self.places(batch)
        memories = MemoryBatch(
            latents=torch.stack(rows) * is_real.unsqueeze(-1),
            mask=is_real,
            positions=places.float(),
            num_tokens=spans,
        )
        head = self._head(batch)
        return compute_prefix(
            self.vist.anatomy,
            self.fusion,
            memories,
            spans,
            self.vist.embed(head),
            torch.ones_like(head, dtype=torch.bool),
        )

    def places(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        own = batch.members[..., 0]
        return own.clamp_min(0), own >= 0

    def exported(self) -> Mapping[str, Tensor]:
        named = {"fusion": self.fusion, "resampler.pack_in": self.pack_in,
                 "resampler.pack_out": self.pack_out}  # fmt: skip
        return {
            f"{start}.{name}": value
            for start, module in named.items()
            for name, value in module.state_dict().items()
        }


class NothingTrainee(EpisodeTrainee):
    """No far text at all: what there is to gain, nothing to learn.

    Args:
        vist, weights: see EpisodeTrainee.
    """

    def __init__(self, vist: Vist, **settings: Any) -> None:
        super().__init__(vist, cut=len(vist.anatomy.layers), **settings)

    def memory(self, batch: EpisodeBatch, lower: Lower, spans: tuple[int, ...]) -> PrefixCache:
        nothing = empty_prefix(self.vist.parts.fusion, self.vist.embed(self._head(batch)[:1]))
        return stack_prefixes([nothing] * len(batch.far))

    def places(self, batch: EpisodeBatch) -> tuple[Tensor, Tensor]:
        nothing = torch.zeros(len(batch.far), 1, dtype=torch.long, device=batch.far.device)
        return nothing, nothing.bool()

    def exported(self) -> Mapping[str, Tensor]:
        return {}

    def _distance(self, prefix: PrefixCache, raw: PrefixCache, batch: EpisodeBatch) -> Tensor:
        return prefix.keys[0].new_zeros(()).float()  # no entries, nothing to be apart


TRAINEES = ("carved", "latents")


def trainee_of(vist: Vist, form: str, cut: int, rank: int) -> EpisodeTrainee:
    """The trainee of a form from TRAINEES; `cut` and `rank` are for "carved"."""
    if form == "carved":
        return CarvedTrainee(vist, cut=cut, rank=rank)
    return LatentsTrainee(vist)
