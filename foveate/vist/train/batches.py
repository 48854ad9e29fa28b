"""Windows become batches: contexts rendered, latents matched to tokens, rows padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from foveate.errors import ConfigError
from foveate.models.token_offsets import token_of_char
from foveate.text_image.render import Renderer, Strips
from foveate.vist.latents.glances import Glances, stack_glances
from foveate.vist.latents.resampler import PerceiverResampler
from foveate.vist.latents.targets import TargetConfig, choose_targets
from foveate.vist.parts import VistParts
from foveate.vist.train.token_counts import TokenCounts
from foveate.vist.train.windows import Window

__all__ = ["Sample", "SampleMaker", "TrainBatch", "collate"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """A window with its pictures.

    Attributes:
        window: what was rendered.
        pixels: uint8 [P, H, W].
        patch_mask: bool [P, L].
        latent_idx: int64 [M], latents that count, among the P N of the pages.
        positions: float32 [M], where they stand in the context, in tokens.
        members, packed: int64 [M, K] and [M, Q], see LatentTargets; None without targets.
        glances: of the pages, for a resampler that is pointed at tokens; None otherwise.
    """

    window: Window
    pixels: Tensor
    patch_mask: Tensor
    latent_idx: Tensor
    positions: Tensor
    members: Tensor | None = None
    packed: Tensor | None = None
    glances: Glances | None = None


class SampleMaker:
    """Render windows and say what each latent stands for.

    Args:
        renderer: of the encoder's strips.
        parts: trained parts: their shape decides which latents count.
        max_pages: of a context that fills more, the last ones are taken.
        targets: rule of the latents' tokens; None lets them stand evenly along the text.
        counts: for targets that ask for rare tokens.
    """

    def __init__(
        self,
        renderer: Renderer,
        parts: VistParts,
        *,
        max_pages: int,
        targets: TargetConfig | None,
        counts: TokenCounts | None = None,
    ) -> None:
        self.renderer, self.parts = renderer, parts
        self.max_pages, self.targets, self.counts = max_pages, targets, counts

    def __call__(self, window: Window) -> Sample:
        strips = self.renderer.render(window.text)
        dropped = max(0, len(strips) - self.max_pages)
        made: dict[str, Any] = {
            "window": window,
            "pixels": torch.from_numpy(strips.pixels[dropped:]),
            "patch_mask": torch.from_numpy(strips.patch_mask[dropped:]),
        }
        if self.parts.is_pointed:
            return self._pointed(made, strips, dropped)
        if self.targets is not None:
            return self._with_targets(made, strips, dropped)
        keep = self._resampled(made["patch_mask"])
        where = self.parts.positions(
            token_of_char(window.offsets, len(window.text)),
            strips.char_page,
            strips.char_patch,
            strips.patch_mask,
        )[dropped:]
        index = keep.flatten().nonzero()[:, 0]
        return Sample(**made, latent_idx=index, positions=torch.from_numpy(where).flatten()[index])

    def _resampled(self, patch_mask: Tensor) -> Tensor:
        """Latents that the resampler lets count, [P, N]."""
        resampler = self.parts.resampler
        assert isinstance(resampler, PerceiverResampler)
        return resampler.latent_mask(patch_mask)

    def _with_targets(self, made: dict[str, Any], strips: Strips, dropped: int) -> Sample:
        """Latents of the paper's resampler, each with the tokens it stands for."""
        assert self.targets is not None
        window, keep = made["window"], self._resampled(made["patch_mask"])
        last = window.offsets[:, 1] - 1
        page = strips.char_page[last].astype(np.int64) - dropped
        seen = page >= 0
        rarity = self._rarity(window, self.targets.choice)
        found = choose_targets(
            page[seen],
            strips.char_patch[last][seen],
            num_pages=len(keep),
            num_patches=made["patch_mask"].shape[1],
            num_latents=keep.shape[1],
            config=self.targets,
            rarity=rarity[seen] if rarity is not None else None,
        )
        first = int((~seen).sum())  # tokens before the first page that is taken
        index = (keep & torch.from_numpy(found.mask)).flatten().nonzero()[:, 0]
        return Sample(
            **made,
            latent_idx=index,
            positions=torch.from_numpy(found.positions).flatten()[index] + first,
            members=_moved(torch.from_numpy(found.members), first).flatten(0, 1)[index],
            packed=_moved(torch.from_numpy(found.packed), first).flatten(0, 1)[index],
        )

    def _pointed(self, made: dict[str, Any], strips: Strips, dropped: int) -> Sample:
        """Latents that are pointed at tokens: the resampler's configuration says which."""
        window = made["window"]
        rarity = self._rarity(window, self.parts.config.resampler.choice)  # type: ignore[union-attr]
        glances = self.parts.glances(strips, window.offsets, rarity=rarity)[dropped:]
        index = glances.mask.flatten().nonzero()[:, 0]
        members = glances.members.flatten(0, 1)[index]
        return Sample(
            **made,
            latent_idx=index,
            positions=glances.positions.flatten()[index],
            members=members[:, :1],
            packed=members[:, 1:],
            glances=glances,
        )

    def _rarity(self, window: Window, choice: str) -> NDArray[np.float32] | None:
        """Of the context's tokens, where the choice asks for it."""
        if choice != "rare":
            return None
        if self.counts is None:
            raise ConfigError("choice='rare' needs token counts; choose 'runs'.")
        ids = torch.from_numpy(window.ids[1 : 1 + len(window.offsets)])
        rarity: NDArray[np.float32] = self.counts.importance(ids).numpy()
        return rarity


def _moved(members: Tensor, by: int) -> Tensor:
    """Indices moved on; -1 stays."""
    return torch.where(members >= 0, members + by, -1)


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainBatch:
    """B samples side by side.

    Attributes:
        ids: int64 [B, 1 + C + T].
        context: C.
        pixels: uint8 [sum(P), H, W], page after page of all samples.
        patch_mask: bool [sum(P), L].
        page_counts: int64 [B].
        latent_idx: int64 [B, M], among the sum(P) N latents of all pages; 0 at padding.
        mask: bool [B, M], True = a latent.
        positions: float32 [B, M].
        members, packed: int64 [B, M, K] and [B, M, Q], -1 = none; None without targets.
        keys: of the windows.
        glances: of all pages, their members among the B C context tokens; None if the resampler
            needs none.
    """

    ids: Tensor
    context: int
    pixels: Tensor
    patch_mask: Tensor
    page_counts: Tensor
    latent_idx: Tensor
    mask: Tensor
    positions: Tensor
    members: Tensor | None
    packed: Tensor | None
    keys: tuple[str, ...]
    glances: Glances | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device) -> TrainBatch:
        """The same on another device."""
        moved: dict[str, Any] = {
            name: value.to(device) if isinstance(value, Tensor | Glances) else value
            for name, value in vars(self).items()
        }
        return TrainBatch(**moved)


def collate(samples: Sequence[Sample], *, context: int, num_latents: int) -> TrainBatch:
    """Samples -> a batch; rows are padded to the most latents.

    Args:
        samples: B of them.
        context: C.
        num_latents: N of a page.
    """
    longest = max(1, max(len(sample.latent_idx) for sample in samples))
    starts = np.cumsum([0, *(len(sample.pixels) for sample in samples)])

    def padded(parts: Sequence[Tensor], value: int = 0) -> Tensor:
        return torch.stack(
            [
                F.pad(part, (0, 0) * (part.ndim - 1) + (0, longest - len(part)), value=value)
                for part in parts
            ]
        )

    def optional(parts: Sequence[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        if len(there) < len(parts):
            return None
        widest = max(part.shape[1] for part in there)
        return padded([F.pad(p, (0, widest - p.shape[1]), value=-1) for p in there], value=-1)

    glances = [s.glances for s in samples if s.glances is not None]
    return TrainBatch(
        ids=torch.from_numpy(np.stack([sample.window.ids for sample in samples])),
        context=context,
        pixels=torch.cat([sample.pixels for sample in samples]),
        patch_mask=torch.cat([sample.patch_mask for sample in samples]),
        page_counts=torch.tensor([len(sample.pixels) for sample in samples]),
        latent_idx=padded(
            [s.latent_idx + int(at) * num_latents for s, at in zip(samples, starts, strict=False)]
        ),
        mask=padded([torch.ones_like(sample.latent_idx) for sample in samples]).bool(),
        positions=padded([sample.positions for sample in samples]),
        members=optional([sample.members for sample in samples]),
        packed=optional([sample.packed for sample in samples]),
        keys=tuple(sample.window.key for sample in samples),
        glances=stack_glances(glances) if glances else None,
    )
