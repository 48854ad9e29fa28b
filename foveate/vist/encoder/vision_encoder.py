"""CLIP- and SigLIP-class vision towers as frozen encoders of rendered strips.

A strip is one row of patches; the towers were trained on squares. A strip is refolded to the
tower's own square in row order: patch i of the strip becomes the patch in row i // side, column
i % side, so 14 x 3584 pixels are read as 224 x 224 with 16 rows of 16 patches of 14 x 14.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    CLIPVisionModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)
from transformers.utils import cached_file

from foveate.errors import InputError, UnsupportedModelError
from foveate.models.load import check_safetensors, first_line
from foveate.text_image.render import StripStyle

TOWERS: dict[str, Any] = {
    "clip": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip2": Siglip2VisionModel,
}
Normalise = Literal["image", "processor"]
# The paper's text is 10 px high in patches of 14.
PATCH, FONT_PX = 14, 10


class VisionEncoder(nn.Module):
    """A frozen tower that reads strips; the encoder interface of `foveate.Vist`.

    Patches without text are masked out of the tower's attention and zero in its output, so what
    they show changes nothing.

    Args:
        tower: CLIPVisionModel, SiglipVisionModel or Siglip2VisionModel.
        name: where it is from.
        style: geometry of the strips, default `strip_style_for(tower.config)`.
        normalise: "image": text patches of a strip get mean 0 and deviation 1 (Vist: "normalize
            the input pixel values in each image"); "processor": mean and std of the tower's own
            image processor.
        mean, std: of the processor, three channels.
    """

    def __init__(
        self,
        tower: Any,
        *,
        name: str = "",
        style: StripStyle | None = None,
        normalise: Normalise = "image",
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
    ) -> None:
        super().__init__()
        if normalise not in ("image", "processor"):
            raise InputError(f"normalise={normalise!r} is unknown; use 'image' or 'processor'.")
        config = tower.config
        self.tower = tower.requires_grad_(False).eval()
        self.name = name
        self.normalise = normalise
        self.style = style if style is not None else strip_style_for(config)
        self.width = int(config.hidden_size)
        self.side = _side(config)
        self.patches = self.side**2
        if (self.style.patch, self.style.patches) != (config.patch_size, self.patches):
            raise InputError(
                f"strips of {self.style.patches} patches of {self.style.patch} px do not fit a "
                f"tower of {self.patches} patches of {config.patch_size} px; use strip_style_for."
            )
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def options(self) -> dict[str, Any]:
        """What `load_vision_encoder` needs besides the name to make this one again."""
        return {"normalise": self.normalise, "style": self.style.to_dict()}

    @torch.no_grad()
    def forward(self, pixels: Tensor, patch_mask: Tensor) -> Tensor:
        """Features of strips.

        Args:
            pixels: [P, H, W] uint8, 255 is paper.
            patch_mask: [P, L] bool, True = holds text.

        Returns:
            [P, L, width] float; zero where masked.
        """
        patches = self._normalised(self._patches(pixels), patch_mask)  # [P, L, 3, p, p]
        # A page without text would see nothing, which is NaN; its output is dropped below.
        seen = patch_mask | ~patch_mask.any(dim=1, keepdim=True)
        dtype = next(self.tower.parameters()).dtype
        if isinstance(self.tower, Siglip2VisionModel):
            shapes = torch.tensor([[self.side, self.side]]).expand(len(pixels), -1)
            output = self.tower(
                pixel_values=patches.permute(0, 1, 3, 4, 2).flatten(2).to(dtype),
                pixel_attention_mask=seen.long(),
                spatial_shapes=shapes,
            )
        else:
            extra = 1 if isinstance(self.tower, CLIPVisionModel) else 0
            keys = F.pad(seen, (extra, 0), value=True)[:, None, None]  # [P, 1, 1, extra + L]
            mask = torch.zeros(keys.shape, dtype=dtype, device=keys.device)
            mask = mask.masked_fill(~keys, torch.finfo(dtype).min)
            mask = mask.expand(-1, 1, keys.shape[-1], -1)
            output = self.tower(pixel_values=self._square(patches).to(dtype), attention_mask=mask)
        features = output.last_hidden_state[:, -self.patches :].float()
        return features.masked_fill(~patch_mask.unsqueeze(-1), 0.0)

    def _patches(self, pixels: Tensor) -> Tensor:
        """[P, H, W] -> [P, L, patch, patch] in reading order, 0 is ink and 1 paper."""
        patch = self.style.patch
        cut = pixels.unflatten(1, (-1, patch)).unflatten(3, (-1, patch))
        return cut.permute(0, 1, 3, 2, 4).flatten(1, 2).float() / 255

    def _normalised(self, patches: Tensor, patch_mask: Tensor) -> Tensor:
        """[P, L, p, p] -> [P, L, 3, p, p]; masked patches become paper, whatever they show."""
        shown = patch_mask[:, :, None, None]
        patches = patches.masked_fill(~shown, 1.0)
        if self.normalise == "processor":
            return (patches.unsqueeze(2) - self.mean) / self.std
        # Statistics over text patches only: the length of the white rest must not matter.
        count = (shown.sum(dim=(1, 2, 3), keepdim=True) * patches.shape[-1] ** 2).clamp_min(1)
        mean = (patches * shown).sum(dim=(1, 2, 3), keepdim=True) / count
        spread = ((patches - mean).square() * shown).sum(dim=(1, 2, 3), keepdim=True) / count
        made = (patches - mean) / (spread + 1e-6).sqrt()
        return made.unsqueeze(2).expand(-1, -1, 3, -1, -1)

    def _square(self, patches: Tensor) -> Tensor:
        """[P, L, 3, p, p] -> [P, 3, S, S]: row i // side, column i % side."""
        grid = patches.unflatten(1, (self.side, self.side))
        image = grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        # Some towers' image size is no multiple of their patch: pixels they never read.
        size = getattr(self.tower.config, "image_size", None) or image.shape[-1]
        rest = int(size) - image.shape[-1]
        return F.pad(image, (0, rest, 0, rest)) if rest else image


def strip_style_for(config: Any, *, font_px: int | None = None) -> StripStyle:
    """Strips that hold exactly the patches of a tower, one row of them.

    Args:
        config: the tower's vision config (image_size or num_patches, and patch_size).
        font_px: size of the text; None scales the paper's 10 px in 14 px patches to the patch.
    """
    patch = int(config.patch_size)
    size = font_px if font_px is not None else max(6, round(FONT_PX * patch / PATCH))
    return StripStyle(height=patch, width=patch * _side(config) ** 2, patch=patch, font_px=size)


def load_vision_encoder(
    name: str | Path,
    *,
    normalise: Normalise = "image",
    style: StripStyle | dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> VisionEncoder:
    """The vision tower of a CLIP, SigLIP or SigLIP 2 checkpoint, as an encoder of strips.

    Args:
        name: a local folder or a hub id; a whole CLIP or its tower alone.
        normalise: see VisionEncoder.
        style: geometry of the strips; None fits them to the tower.
        dtype: of the tower; features are float32 in any case.
        local_files_only: never look at the hub.
        cache_dir, token: for the hub, as in huggingface_hub.

    Raises:
        InputError: the checkpoint is missing, broken or not in safetensors; or
            normalise="processor" and it has no preprocessor_config.json.
        UnsupportedModelError: it is of another class.
    """
    name = str(name)
    check_safetensors(name)
    options = {"local_files_only": local_files_only, "cache_dir": cache_dir, "token": token}
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # any config class may raise anything
        raise InputError(
            f"vision tower {name!r} is neither a local folder nor found on the hub "
            f"({first_line(error)}); check the name and the connection."
        ) from error
    kind = str(config.model_type).removesuffix("_vision_model")
    if kind not in TOWERS:
        raise UnsupportedModelError(
            f"{name!r} is of type {config.model_type!r}; use a vision tower of type "
            f"{', '.join(TOWERS)}."
        )
    try:
        tower, info = TOWERS[kind].from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # a damaged checkpoint can fail anywhere inside transformers
        raise InputError(
            f"weights of {name!r} cannot be loaded ({type(error).__name__}: {first_line(error)}); "
            "download or save the checkpoint again."
        ) from error
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise InputError(
            f"checkpoint {name!r} lacks {len(missing)} weights of the tower (first: {missing[0]}); "
            "use a complete one."
        )
    stats = {}
    if normalise == "processor":
        stats = _processor_stats(name, options)
    if isinstance(style, dict):
        style = StripStyle.from_dict(style)
    return VisionEncoder(tower, name=name, style=style, normalise=normalise, **stats)


def _processor_stats(name: str, options: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    try:
        path = cached_file(name, "preprocessor_config.json", **options)
        content = json.loads(Path(str(path)).read_text(encoding="utf-8"))
        return {"mean": tuple(content["image_mean"]), "std": tuple(content["image_std"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name!r} has no preprocessor_config.json with image_mean and image_std "
            f"({first_line(error)}); use normalise='image'."
        ) from error


def _side(config: Any) -> int:
    """Patches along one side of the tower's square."""
    if getattr(config, "image_size", None):
        return int(config.image_size) // int(config.patch_size)
    return math.isqrt(int(config.num_patches))
