"""The text-reading vision transformer: strips of rendered text -> one feature row per patch.

Glyphs are drawn from an atlas at whole pixels, so reading them is local matching: a convolution
at two pixels' pitch sees every glyph in full, its outputs are merged to patches of 14 px, and a few
transformer layers with depthwise convolutions gather the characters of a word. Attention has no
position embedding but a bias that falls with distance (as ALiBi, Press et al. 2022), to both sides,
to the left or to the right, so that a text reads the same wherever it stands in a strip.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import nn

from foveate.errors import InputError
from foveate.files import make_folder, write_text
from foveate.tensor_file import save_tensors
from foveate.text_image.strip_style import StripStyle
from foveate.vist.encoder.encoder_config import TextEncoderConfig
from foveate.vist.encoder.labels import text_of

__all__ = ["TextEncoder", "TextEncoderConfig", "load_text_encoder", "save_text_encoder"]


class Stem(nn.Module):
    """Columns of pixels -> patches: ink [P, H, W] -> [P, L, width], and columns [P, L*S, C]."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.pitch = config.patch // config.slots
        self.reach, self.slots = config.stem_reach, config.slots
        self.glyph = nn.Linear(config.height * config.stem_reach, config.stem_width)
        self.near = nn.Linear(3 * config.stem_width, config.stem_width)
        self.merge = nn.Linear(config.slots * config.stem_width, config.width)

    def forward(self, ink: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pages = len(ink)
        spare = self.reach - self.pitch
        x = F.pad(ink, (spare // 2, spare - spare // 2)).unfold(2, self.reach, self.pitch)
        x = F.relu(self.glyph(x.transpose(1, 2).flatten(2)))  # [P, L*S, C]
        x = F.pad(x, (0, 0, 1, 1))
        columns = F.relu(self.near(torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], -1)))
        return self.merge(columns.view(pages, -1, self.slots * columns.shape[2])), columns


class Block(nn.Module):
    """Depthwise convolution, attention and feed-forward, each added to x [P, L, D]."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.conv = nn.Parameter(torch.zeros(width, 1, config.conv))
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, config.ff_mult * width)
        self.down = nn.Linear(config.ff_mult * width, width)

    def forward(self, x: torch.Tensor, shown: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        # Masked patches hold numbers after the first layer; the convolution must not see them.
        seen = (x * shown).transpose(1, 2)
        width = x.shape[2]
        mixed = F.conv1d(seen, self.conv, padding=self.conv.shape[2] // 2, groups=width)
        x = x + mixed.transpose(1, 2)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, -1)
        )
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # [P, H, L, D/H]
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.feed_norm(x))))


class TextEncoder(nn.Module):
    """Read strips of rendered text.

    Args:
        config: its shape.

    Example:
        >>> encoder = TextEncoder(TextEncoderConfig(patches=4, width=12, layers=1, heads=3))
        >>> pixels = torch.full((1, 14, 56), 255, dtype=torch.uint8)
        >>> encoder(pixels, torch.tensor([[True, True, False, False]])).shape
        torch.Size([1, 4, 12])
    """

    distances: torch.Tensor

    def __init__(self, config: TextEncoderConfig | None = None) -> None:
        super().__init__()
        config = config or TextEncoderConfig()
        self.config = config
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.slot_head = nn.Linear(config.width, config.slots * config.slot_width)
        # Not nn.Linear: class weights are scaled by an adaptive step, not a spectral one.
        self.classes = nn.Parameter(
            torch.randn(config.num_classes, config.slot_width) * config.slot_width**-0.5
        )
        self.class_bias = nn.Parameter(torch.zeros(config.num_classes))
        self.token_head = (
            nn.Linear(config.width, config.tokens * config.token_width) if config.tokens else None
        )
        self.register_buffer("distances", _distances(config), persistent=False)

    @property
    def width(self) -> int:
        """Width of a feature row."""
        return self.config.width

    @property
    def patches(self) -> int:
        """Patches per strip."""
        return self.config.patches

    @property
    def style(self) -> StripStyle:
        """The strips it was made for."""
        side = self.config.patch
        return StripStyle(height=self.config.height, width=side * self.config.patches, patch=side)

    def forward(self, pixels: torch.Tensor, patch_mask: torch.Tensor) -> torch.Tensor:
        """Return the features of strips.

        Args:
            pixels: uint8 [P, height, patch * patches]; 255 = paper, 0 = ink.
            patch_mask: bool [P, patches]; True = holds text.

        Returns:
            float32 [P, patches, width]; rows of masked patches are zero, and their pixels change
            no other row.

        Raises:
            InputError: if shapes or dtypes are not these.
        """
        return self.features(pixels, patch_mask)[0]

    def features(
        self, pixels: torch.Tensor, patch_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `forward`, and the stem's columns [P, patches * slots, stem_width] (for training)."""
        self._check(pixels, patch_mask)
        shown = patch_mask[..., None].to(self.norm.weight.dtype)  # [P, L, 1]
        ink = (255 - pixels).to(shown.dtype) / 255
        ink = ink * shown.repeat_interleave(self.config.patch, 1).transpose(1, 2)
        x, columns = self.stem(ink)
        hidden = ~patch_mask[:, None, None, :] & ~torch.eye(
            self.patches, dtype=torch.bool, device=patch_mask.device
        )
        bias = self.distances.masked_fill(hidden, -torch.inf)  # [P, H, L, L]
        for block in self.blocks:
            x = block(x, shown, bias)
        return self.norm(x).masked_fill(~patch_mask[..., None], 0.0), columns

    def slot_logits(self, features: torch.Tensor) -> torch.Tensor:
        """Features [..., width] -> logits of characters [..., slots, num_classes]."""
        slots = self.slot_head(features).unflatten(-1, (self.config.slots, -1))
        return F.linear(slots, self.classes, self.class_bias)

    def token_vectors(self, features: torch.Tensor) -> torch.Tensor:
        """Features [..., width] -> [..., tokens, token_width], compared by cosine.

        They point at the centred input embeddings of the LLM named in the encoder's card: of the
        last token that ends in the patch, and of the one before it.

        Raises:
            InputError: if the encoder has no token head.
        """
        if self.token_head is None:
            raise InputError("this encoder has no token head (tokens=0); use one that has.")
        return self.token_head(features).unflatten(-1, (self.config.tokens, -1))

    @torch.no_grad()
    def read(self, pixels: torch.Tensor, patch_mask: torch.Tensor) -> list[str]:
        """Return the text of every strip; arguments as of `forward`.

        Characters outside the alphabet come back as U+FFFD, and a tab as spaces or a tab.
        """
        best = self.slot_logits(self(pixels, patch_mask)).argmax(-1)  # [P, L, S]
        best = best.masked_fill(~patch_mask[..., None], 0)
        return [text_of(row) for row in best.numpy(force=True)]

    def _check(self, pixels: torch.Tensor, patch_mask: torch.Tensor) -> None:
        config = self.config
        wanted = (config.height, config.patch * config.patches)
        if pixels.dtype != torch.uint8 or pixels.dim() != 3 or tuple(pixels.shape[1:]) != wanted:
            raise InputError(
                f"got pixels {tuple(pixels.shape)} {pixels.dtype}; this encoder reads uint8 "
                f"[P, {wanted[0]}, {wanted[1]}]: render with its style."
            )
        if patch_mask.dtype != torch.bool or patch_mask.shape != (len(pixels), config.patches):
            raise InputError(
                f"got patch_mask {tuple(patch_mask.shape)} {patch_mask.dtype}; give bool "
                f"[{len(pixels)}, {config.patches}]."
            )


def _distances(config: TextEncoderConfig) -> torch.Tensor:
    """Attention bias by distance, [1, H, L, L]: heads look to both sides, left, right in turn."""
    place = torch.arange(config.patches)
    ahead = (place[None] - place[:, None]).float()  # key minus query
    rows = []
    for head in range(config.heads):
        row = -ahead.abs() * 0.5 ** (1 + 2 * (head // 3))
        if head % 3:
            row = row.masked_fill(ahead > 0 if head % 3 == 1 else ahead < 0, -torch.inf)
        rows.append(row)
    return torch.stack(rows)[None]


def save_text_encoder(encoder: TextEncoder, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` (float16) into a folder."""
    path = make_folder(folder)
    write_text(path / "config.json", json.dumps(encoder.config.to_dict(), indent=2) + "\n")
    tensors = {name: t.half().contiguous() for name, t in encoder.state_dict().items()}
    save_tensors(path / "model.safetensors", tensors, {"format": "pt"})


def load_text_encoder(folder: str | Path) -> TextEncoder:
    """Return the frozen float32 encoder, in eval mode, that `save_text_encoder` wrote.

    Raises:
        InputError: if a file is missing or does not fit the other.
    """
    path = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise InputError(
                f"{path} holds no {name}; give the folder of an encoder, such as "
                "foveate.assets.text_encoder_path()."
            )
    try:
        encoder = TextEncoder(
            TextEncoderConfig.from_dict(json.loads((path / "config.json").read_text()))
        )
        tensors = {name: t.float() for name, t in load_file(path / "model.safetensors").items()}
        encoder.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        what = " ".join(line.strip() for line in str(error).splitlines()[:2]).rstrip(".")
        raise InputError(f"{path} is no usable encoder: {what}; export it again.") from error
    return encoder.eval().requires_grad_(False)
