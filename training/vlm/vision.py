"""Vision tower (CLIP's architecture) and two-layer projector, in plain torch for training.

Parameter names follow the classic LLaVA checkpoint, so exporting is a copy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from PIL.Image import Image
from torch import nn

from foveate.tasks.reading_page import PITCH, SIZE
from training.vlm.codes import GRID, WIDTH

__all__ = ["VISION_CONFIG", "Projector", "VisionTower", "pixels_of"]

VISION_CONFIG: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 768,
    "num_hidden_layers": 5,
    "num_attention_heads": 6,
    "image_size": SIZE,
    "patch_size": PITCH,
    "hidden_act": "quick_gelu",
    "projection_dim": 192,
    "layer_norm_eps": 1e-5,
}
_OFFSETS = ((0, -1), (0, 1), (0, -2), (0, 2), (0, 0), (1, 0))


class Attention(nn.Module):
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    out_proj: nn.Linear

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            setattr(self, name, nn.Linear(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape

        def split(projection: nn.Linear) -> torch.Tensor:
            return projection(x).view(batch, length, self.heads, -1).transpose(1, 2)

        out = F.scaled_dot_product_attention(
            split(self.q_proj), split(self.k_proj), split(self.v_proj)
        )
        return self.out_proj(out.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.fc1(x)
        return self.fc2(h * torch.sigmoid(1.702 * h))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = Mlp(width, inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionTower(nn.Module):
    """CLIP vision transformer: pixels [B, 3, 224, 224] -> patch features [B, 196, width]."""

    def __init__(self) -> None:
        super().__init__()
        width = VISION_CONFIG["hidden_size"]
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.patch_embedding = nn.Conv2d(3, width, PITCH, PITCH, bias=False)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(GRID * GRID + 1, width))
        self.pre_layrnorm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            Layer(width, VISION_CONFIG["num_attention_heads"], VISION_CONFIG["intermediate_size"])
            for _ in range(VISION_CONFIG["num_hidden_layers"])
        )
        self.post_layernorm = nn.LayerNorm(width)  # part of the format; LLaVA does not use it
        self.start_local()

    @torch.no_grad()
    def start_local(self) -> None:
        """Initialise: 2-D sine positions, and heads of the first layers that look at neighbours."""
        head = VISION_CONFIG["hidden_size"] // VISION_CONFIG["num_attention_heads"]
        nn.init.normal_(self.patch_embedding.weight, std=0.03)
        layer: Any
        for layer in self.layers:
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                linear = getattr(layer.self_attn, name)
                nn.init.normal_(linear.weight, std=0.04)
                nn.init.zeros_(linear.bias)
            nn.init.normal_(layer.mlp.fc1.weight, std=0.06)
            nn.init.normal_(layer.mlp.fc2.weight, std=0.02)
            nn.init.zeros_(layer.mlp.fc1.bias)
            nn.init.zeros_(layer.mlp.fc2.bias)
        rates = torch.tensor([2 * math.pi / span for span in (3.1, 4.5, 6.3, 9, 14, 22, 36, 60)])
        steps = torch.arange(GRID, dtype=torch.float32)[:, None] * rates
        wave = torch.stack([steps.sin(), steps.cos()], -1).flatten(1)  # [14, 16]
        sine = torch.cat(
            [wave[:, None].expand(GRID, GRID, 16), wave[None].expand(GRID, GRID, 16)], -1
        ).flatten(0, 1)  # [196, 32]
        self.position_embedding[1:, -head:] = sine
        self.patch_embedding.weight[-head:] *= 0.1
        for depth, gain in ((0, 2.0), (1, 1.4)):
            layer = self.layers[depth]
            attention = layer.self_attn
            for idx, (down, right) in enumerate(_OFFSETS):
                rows = slice(idx * head, (idx + 1) * head)
                turn: torch.Tensor = torch.block_diag(  # type: ignore[no-untyped-call]
                    *[
                        torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
                        for shift in (down, right)
                        for a in (rates * shift).tolist()
                    ]
                )
                attention.q_proj.weight[rows, -head:] += gain * turn
                attention.k_proj.weight[rows, -head:] += gain * torch.eye(head)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [B, 196, width]
        first = self.class_embedding.expand(len(pixels), 1, -1)
        x = self.pre_layrnorm(torch.cat([first, patches], 1) + self.position_embedding)
        for layer in self.layers:
            x = layer(x)
        return x[:, 1:]


class Projector(nn.Module):
    """LLaVA's two-layer GELU projector: [B, 196, vision width] -> [B, 196, language width]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(VISION_CONFIG["hidden_size"], WIDTH)
        self.linear_2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.gelu(self.linear_1(x)))


def pixels_of(images: Sequence[Image]) -> torch.Tensor:
    """PIL RGB images of 224 x 224 -> [B, 3, 224, 224], scaled to -1..1 (mean = std = 0.5)."""
    import numpy as np

    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return stacked.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()
