"""How often tokens occur in the training text: counted online, merged, saved with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from foveate.errors import InputError
from foveate.tensor_file import save_tensors

__all__ = ["TokenCounts"]


class TokenCounts:
    """Counts of each token of a vocabulary.

    Args:
        vocabulary: number of tokens V.
        unit: "samples": count(w) is the number of samples that hold w, which makes the importance
            an inverse document frequency; "occurrences": every occurrence counts. The paper only
            writes count(w).

    Example:
        >>> counts = TokenCounts(4)
        >>> counts.add(torch.tensor([[0, 0, 1], [0, 2, 2]]))
        >>> counts.counts.tolist(), counts.num_samples
        ([2, 1, 1, 0], 2)
    """

    def __init__(
        self, vocabulary: int, unit: Literal["samples", "occurrences"] = "samples"
    ) -> None:
        if unit not in ("samples", "occurrences"):
            raise InputError(f"TokenCounts got unit={unit!r}; use samples or occurrences.")
        self.unit = unit
        self.counts = torch.zeros(vocabulary, dtype=torch.int64)
        self.num_samples = 0

    def add(self, ids: Tensor) -> None:
        """Count samples.

        Args:
            ids: int [B, T], one sample a row.

        Raises:
            InputError: a token is outside of the vocabulary.
        """
        ids = ids.detach().cpu()
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.counts):
            raise InputError(
                f"token {int(ids.max())} is outside of the vocabulary of {len(self.counts)}; make "
                "TokenCounts for the model's whole vocabulary."
            )
        for row in ids:
            seen = torch.unique(row) if self.unit == "samples" else row
            self.counts += torch.bincount(seen, minlength=len(self.counts))
        self.num_samples += len(ids)

    def merge(self, other: TokenCounts) -> None:
        """Add what another process or run counted."""
        if (other.unit, len(other.counts)) != (self.unit, len(self.counts)):
            raise InputError(
                f"cannot merge counts of {len(other.counts)} tokens by {other.unit} into "
                f"{len(self.counts)} by {self.unit}; count both the same way."
            )
        self.counts += other.counts
        self.num_samples += other.num_samples

    def importance(self, ids: Tensor) -> Tensor:
        """s_w = log(|S| / (1 + count(w))) of tokens, float32 in the shape of `ids`.

        Source: Xing et al. 2025, the frequency-based masking of PVE; |S| is the number of samples.
        Higher is rarer. Before anything was counted all tokens are equal.
        """
        counts = self.counts.to(ids.device)[ids].float()
        return torch.log(max(1, self.num_samples) / (1.0 + counts))

    def save(self, path: str | Path) -> None:
        """Write one safetensors file."""
        save_tensors(path, self.state(), {"unit": self.unit})

    @classmethod
    def load(cls, path: str | Path) -> TokenCounts:
        """Read what `save` wrote. Raises InputError for anything else."""
        try:
            with safe_open(str(path), framework="pt") as file:
                unit = (file.metadata() or {})["unit"]
                tensors = {name: file.get_tensor(name) for name in ("counts", "num_samples")}
        except (OSError, SafetensorError, KeyError) as error:
            raise InputError(
                f"{str(path)!r} is no file of token counts ({error}); write one with "
                "TokenCounts.save, or count online."
            ) from error
        made = cls(len(tensors["counts"]), unit)
        made.load_state(tensors)
        return made

    def state(self) -> dict[str, Tensor]:
        """Tensors that `load_state` takes."""
        return {"counts": self.counts.clone(), "num_samples": torch.tensor([self.num_samples])}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` gave."""
        if tensors["counts"].shape != self.counts.shape:
            raise InputError(
                f"the saved counts are of {len(tensors['counts'])} tokens and the model has "
                f"{len(self.counts)}; they belong to another tokenizer."
            )
        self.counts = tensors["counts"].clone()
        self.num_samples = int(tensors["num_samples"])
