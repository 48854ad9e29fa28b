"""Pictures that commands write: what a run kept, drawn on its images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from foveate.carve.engine.run import Run
    from foveate.models.vlm import VisionLanguageModel

__all__ = ["draw_run", "save_picture"]


def draw_run(
    vlm: VisionLanguageModel, run: Run, images: list[Image.Image], sample: int, title: str
) -> Image.Image:
    """Pictures of all images of one sample of the run's last prefill, side by side."""
    from foveate.draw.overlay import draw_plan, side_by_side
    from foveate.models.view import seen_box

    plans = [entry for entry in run.plans if entry.span.sample == sample]
    if len(plans) != len(images):
        raise InputError(
            f"the model made {len(plans)} token groups of {len(images)} images, so they cannot be "
            "drawn; leave out --overlay."
        )
    return side_by_side(
        [
            draw_plan(
                image,
                entry.plan,
                num_tokens=entry.span.num_tokens,
                grid=entry.span.grid,
                seen=seen_box(vlm.processor, image.size),
                title=title,
            )
            for image, entry in zip(images, plans, strict=True)
        ]
    )


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture, making its folder; InputError where that is impossible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"picture {str(path)!r} cannot be written ({error}); use a .png."
        ) from error
