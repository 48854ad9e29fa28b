"""The whole model for training: vision tower, projector and language model, joined."""

from __future__ import annotations

import copy

import torch
from torch import nn

from training.vlm.language import LanguageModel
from training.vlm.start import SCALE
from training.vlm.train_vision import Eye

__all__ = ["Averaged", "JointModel"]


class JointModel(nn.Module):
    """Pixels [B, 3, 224, 224] and questions [B, Q, L] -> hidden states [B, Q, L, 192]."""

    def __init__(self) -> None:
        super().__init__()
        self.eye = Eye()
        self.language = LanguageModel()

    def forward(
        self,
        pixels: torch.Tensor,
        questions: torch.Tensor,
        *,
        blind_layers: int = 0,
        bias: float = float("-inf"),
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (hidden states of the questions, visual tokens [B, 196, 192])."""
        visual = self.eye(pixels)
        return self.language(visual, questions, blind_layers=blind_layers, bias=bias), visual

    @torch.no_grad()
    def join(self, eye: dict[str, torch.Tensor], language: dict[str, torch.Tensor]) -> None:
        """Start from the two decoupled stages; codes are scaled to the residual stream's unit."""
        self.eye.load_state_dict(eye)
        self.language.load_state_dict(language)
        self.eye.multi_modal_projector.linear_2.weight.mul_(SCALE)
        self.eye.multi_modal_projector.linear_2.bias.mul_(SCALE)


class Averaged(nn.Module):
    """A model and the running average of its weights, which is what gets exported."""

    def __init__(self) -> None:
        super().__init__()
        self.current = JointModel()
        self.average = copy.deepcopy(self.current).requires_grad_(False)

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """Move the average towards the current weights by ``rate``."""
        for mean, value in zip(self.average.parameters(), self.current.parameters(), strict=True):
            mean.lerp_(value, rate)
