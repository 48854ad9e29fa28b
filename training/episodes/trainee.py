"""The losses of episodes: a memory must give the answers that the raw far text would give."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.vist.forms.carved import Lower, carve, read_lower
from foveate.vist.fusion.fuse import Fuser
from foveate.vist.fusion.fusion import PrefixCache
from foveate.vist.fusion.kv_prefix import Lora
from foveate.vist.run.vist import Vist
from training.episodes.batches import EpisodeBatch

__all__ = ["CarvedTrainee"]


class CarvedTrainee(nn.Module):
    """Far tokens through the layers below `cut`, a share of them above, with a LoRA there.

    Three losses: the divergence of the answers' distributions from those of the same model that
    reads the far text raw; the answers' negative log likelihood; the distance of the kept rows'
    keys and values above the cut from the raw ones, in units of their variance.

    Args:
        vist: whose language model reads; frozen, in any precision.
        cut, rank: of the LoRA.
        weights: of the three losses.
    """

    def __init__(
        self,
        vist: Vist,
        *,
        cut: int,
        rank: int,
        weights: tuple[float, float, float] = (1.0, 0.3, 0.3),
    ) -> None:
        super().__init__()
        self.lora = Lora(vist.parts.shape, rank, 1.0, first_layer=cut)
        self.cut, self.weights = cut, weights
        self._vist = (vist,)  # in a tuple: frozen, and in no checkpoint

    def forward(self, batch: EpisodeBatch) -> dict[str, Tensor]:
        """The losses by name, means over the answers' tokens; "total" is their weighted sum."""
        vist = self._vist[0]
        lower = self.read(batch)
        spans = tuple(int(n) for n in lower.mask.sum(dim=1).tolist())
        with torch.no_grad():
            every = torch.arange(batch.far.shape[1], device=batch.far.device)
            raw = carve(
                vist.anatomy, None, lower, every.expand_as(batch.far), batch.far_mask, spans=spans
            )
            wanted = self.answers(batch, raw)
        prefix = carve(vist.anatomy, self.lora, lower, batch.kept, batch.kept_mask, spans=spans)
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

    def read(self, batch: EpisodeBatch) -> Lower:
        """Far tokens below the cut, after the head."""
        vist = self._vist[0]
        head = self._head(batch)
        return read_lower(
            vist.anatomy,
            vist.embed(head),
            torch.ones_like(head, dtype=torch.bool),
            vist.embed(batch.far),
            1 + torch.arange(batch.far.shape[1], device=head.device).expand_as(batch.far),
            batch.far_mask,
            self.cut,
        )

    def answers(self, batch: EpisodeBatch, prefix: PrefixCache) -> Tensor:
        """Logits of the answers' tokens, [A, vocabulary] float32."""
        vist = self._vist[0]
        # The head stands before the first real token of each row.
        ids = F.pad(batch.near, (1, 0))
        mask = F.pad(batch.near_mask, (1, 0))
        first = mask.long().argmax(dim=1, keepdim=True) - 1
        ids = ids.scatter(1, first, self._head(batch))
        mask = mask.scatter(1, first, True)
        with Fuser(vist.anatomy, vist.parts.fusion, lambda text: prefix):
            hidden = vist.anatomy.base(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=(mask.long().cumsum(dim=1) - 1).clamp_min(0),
                use_cache=False,
            ).last_hidden_state
        head: Any = vist.anatomy.model
        logits: Tensor = head.lm_head(hidden[:, :-1][batch.is_answer])
        return logits.float()

    def _head(self, batch: EpisodeBatch) -> Tensor:
        """[B, 1], the attention sink."""
        token = self._vist[0].tokenizer.bos_token_id
        return torch.full((len(batch.far), 1), token, device=batch.far.device)

    def _distance(self, prefix: PrefixCache, raw: PrefixCache, batch: EpisodeBatch) -> Tensor:
        errors = []
        index = batch.kept[:, None, :, None]
        for layer in range(self.cut + 1, len(prefix.keys)):
            for own, all_rows in (
                (prefix.keys[layer], raw.keys[layer]), (prefix.values[layer], raw.values[layer])
            ):  # fmt: skip
                wide = index.expand(-1, own.shape[1], -1, own.shape[3])
                wanted = all_rows.gather(2, wide).transpose(1, 2)[batch.kept_mask].float()
                gap = own.transpose(1, 2)[batch.kept_mask].float() - wanted
                spread = wanted.var(dim=0, keepdim=True).mean().clamp_min(1e-6)
                errors.append(gap.square().mean() / spread)
        return torch.stack(errors).mean()
