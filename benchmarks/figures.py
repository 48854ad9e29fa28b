"""Figures of the documentation, made by the package itself on the embedded models.

python -m benchmarks.figures [FOLDER]     (default docs/images)
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import foveate
from foveate.app.carve import Carver, Carving
from foveate.app.examples import image_examples
from foveate.assets import vist_path
from foveate.draw.agreement_plot import BudgetPoint, agreement_plot
from foveate.draw.palette import KEPT, MERGED
from foveate.draw.token_map import token_map
from foveate.models.token_offsets import tokenise
from foveate.text_image.render import Renderer, Strips
from foveate.vist.latents.memory import Memory
from foveate.vist.run.document_reader import DocumentReader
from foveate.vist.run.vist import Vist

FOLDER = Path("docs/images")
EXAMPLE, KEEP = 2, 0.5
COLUMN = 512  # px of a strip that stand in one line of the figure


def draw_kept(carving: Carving, path: Path) -> None:
    """What became of each token."""
    svg = token_map(
        carving.image,
        carving.plan,
        num_tokens=carving.span.num_tokens,
        grid=carving.span.grid,
        seen=carving.seen,
    )
    path.write_text(svg + "\n", encoding="utf-8")


def draw_agreement(carver: Carver, carving: Carving, path: Path) -> None:
    """The same question at all budgets."""
    points = [
        BudgetPoint(keep_ratio=p.keep_ratio, probability=p.probability, is_same=p.is_same)
        for p in carver.agreement(carving)
    ]
    path.write_text(agreement_plot(points, chosen=KEEP) + "\n", encoding="utf-8")


def draw_scores(carving: Carving, path: Path) -> None:
    """The scores behind the decision, on the token grid, and what came of them."""
    from matplotlib.figure import Figure

    (step,) = carving.steps
    assert carving.plan is not None
    assert carving.span.grid is not None
    ranks = {name: 1 - (rank - 1) / (len(rank) - 1) for name, rank in step.ranks.items()}
    figure = Figure(figsize=(10.5, 2.9), dpi=110, layout="constrained")
    axes = figure.subplots(1, 2 + len(ranks))
    axes[0].imshow(carving.image)
    axes[0].set_title("the image", fontsize=10)
    for place, (name, rank) in zip(axes[1:-1], ranks.items(), strict=True):
        place.imshow(rank.view(carving.span.grid), cmap="viridis", vmin=0, vmax=1)
        place.set_title(f"{name}, by rank", fontsize=10)
    colours = np.array([(222, 226, 230), MERGED, KEPT], dtype=np.uint8)
    axes[-1].imshow(colours[carving.plan.status()[0].view(carving.span.grid).numpy()])
    axes[-1].set_title("kept, merged, dropped", fontsize=10)
    for place in axes:
        place.set_xticks([])
        place.set_yticks([])
    figure.savefig(path, metadata={"Software": None})


def draw_strip(strips: Strips, memory: Memory, offsets: np.ndarray, path: Path) -> None:
    """The first strip in lines, with a mark below the place of every latent."""
    pixels = np.repeat(strips.pixels[0][..., None], 3, axis=2)
    height, width = pixels.shape[:2]
    strip = Image.new("RGB", (width, height + 6), "white")
    strip.paste(Image.fromarray(pixels), (0, 0))
    draw = ImageDraw.Draw(strip)
    for position in memory.positions.round().long().tolist():
        char = int(offsets[min(position, len(offsets) - 1), 0])
        if strips.char_page[char] == 0:
            x = int(strips.char_left[char] + strips.char_right[char]) // 2
            draw.polygon([(x - 3, height + 5), (x + 3, height + 5), (x, height)], fill=MERGED)
    lines = [strip.crop((x, 0, x + COLUMN, height + 6)) for x in range(0, width, COLUMN)]
    sheet = Image.new("RGB", (COLUMN, (height + 10) * len(lines)), "white")
    for number, line in enumerate(lines):
        sheet.paste(line, (0, number * (height + 10)))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(path)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    carver = Carver(foveate.load_vlm("embedded"))
    example = image_examples()[EXAMPLE]
    carving = carver.carve(example.image, example.question, "tokencarve", KEEP)
    draw_kept(carving, folder / "kept.svg")
    draw_scores(carving, folder / "scores.png")
    draw_agreement(carver, carving, folder / "agreement.svg")
    vist = Vist.from_pretrained(vist_path())
    text = (vist_path() / "README.md").read_text(encoding="utf-8")
    far = DocumentReader(vist, recent=128).split(text).far
    draw_strip(
        Renderer(vist.encoder.style).render(far),
        vist.read(far),
        tokenise(vist.tokenizer, far).offsets,
        folder / "strip.png",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
