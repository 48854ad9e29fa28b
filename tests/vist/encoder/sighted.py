"""An encoder that knows what stands on the strips of one text: a reader without faults."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from foveate.text_image.render import Renderer
from foveate.text_image.strip_style import StripStyle
from foveate.vist.encoder.labels import NUM_CLASSES, character_targets


class SightedEncoder(nn.Module):
    """Features are the classes in a patch's slots; a strip is known by its pixels.

    Args:
        texts: whose strips it knows.
        swaps: characters that it takes for others, {seen: read as}.
    """

    slots = 7

    def __init__(self, *texts: str, swaps: dict[str, str] | None = None) -> None:
        super().__init__()
        self.style = StripStyle()
        self.width, self.patches = self.slots, self.style.patches
        self.known: dict[bytes, Tensor] = {}
        swap = str.maketrans(swaps or {})
        for text in texts:
            self.strips = Renderer(self.style).render(text)
            classes = torch.from_numpy(
                character_targets(self.strips, text.translate(swap), self.slots)
            )
            for pixels, row in zip(self.strips.pixels, classes, strict=True):
                self.known[pixels.tobytes()] = row.float()

    def forward(self, pixels: Tensor, patch_mask: Tensor) -> Tensor:
        found = [self.known[page.numpy().tobytes()] for page in pixels.cpu()]
        return torch.stack(found) * patch_mask.unsqueeze(-1)

    def slot_logits(self, features: Tensor) -> Tensor:
        return 9.0 * F.one_hot(features.long(), NUM_CLASSES).float()
