"""Pictures that commands write: what a run kept, drawn on its images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from foveate.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from foveate.carve.engine.run import Run
    from foveate.models.vlm import VisionLanguageModel

__all__ = ["check_picture", "draw_run", "picture_format", "save_picture"]


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


def check_picture(path: Path) -> None:
    """Raise InputError, before any work, where a picture could not be written."""
    from foveate.files import check_writable

    picture_format(path)
    check_writable(path)


def picture_format(path: Path) -> str:
    """What Pillow calls the format of a file's name. Raises InputError where it knows none."""
    from PIL import Image

    name = Image.registered_extensions().get(path.suffix.lower())
    if name is None or name not in Image.SAVE:
        raise InputError(f"picture {str(path)!r} has no name of a picture; use a .png.")
    return name


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all, making its folder.

    Raises:
        InputError: that is impossible.
    """
    from foveate.files import replacing

    name = picture_format(path)
    try:
        with replacing(path) as file:
            picture.save(file, format=name)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"picture {str(path)!r} cannot be written ({reason}).") from error
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"picture {str(path)!r} cannot be written as {name} ({error}); use a .png."
        ) from error
