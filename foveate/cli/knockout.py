"""`foveate knockout`: in which decoder layers a model's questions read their images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from foveate.cli.console import err, out, print_json, progress_of, titled_table
from foveate.cli.options import AsJson, Device, Model
from foveate.errors import InputError

BAR = 30  # characters of the longest bar


def knockout(
    data: Annotated[
        str,
        typer.Option(
            help="easy-vqa, reading, a .jsonl file or folder, or hub:OWNER/NAME[:SPLIT[:CONFIG]]; "
            "answers are not looked at."
        ),
    ] = "reading",
    limit: Annotated[int, typer.Option(help="Questions to ask; a few dozen do.")] = 32,
    columns: Annotated[
        str,
        typer.Option(help="Of hub: data, e.g. image=picture,question=q,answers=label,kind=type."),
    ] = "",
    model: Model = None,
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 8,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure in which layers a model's questions read, and set FoveaCarve's look depth by it.

    Text is kept from seeing the image in one layer at a time; the more the answer's first token
    changes, the more is read there. No labels, one forward pass a layer.
    """
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size} is below 1; raise it.")
    with err.status("Loading the libraries"):
        from foveate.carve.compare.knockout import look_depth, reading_curve
        from foveate.cli.model import load_model
        from foveate.tasks.hub import Columns
        from foveate.tasks.named import load_questions

    with err.status("Reading the questions"):
        questions = load_questions(data, limit=limit, columns=Columns.parse(columns))
    vlm = load_model(model, device=device)

    def prompts() -> Iterator[dict[str, Any]]:
        with progress_of() as told:
            for start in range(0, len(questions), batch_size):
                batch = questions[start : start + batch_size]
                yield vlm.inputs([q.question for q in batch], [q.image for q in batch])
                told("Asking, blind layer by layer", start + len(batch), len(questions))

    curve = reading_curve(vlm.model, prompts())
    depth = look_depth(curve)
    if as_json:
        print_json(
            {
                "model": vlm.name,
                "data": data,
                "questions": len(questions),
                "nats": list(curve),
                "look_depth": depth,
                "method": _method(depth),
            }
        )
        return
    table = titled_table(f"What {len(questions)} questions of {data} read in {vlm.name}")
    for heading, side in (("layer", "right"), ("depth", "right"), ("nats", "right"), ("", "left")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    for index, value in enumerate(curve):
        bar = "#" * round(BAR * value / (max(curve) or 1.0))
        table.add_row(str(index), f"{index / len(curve):.3f}", f"{value:.3f}", bar)
    out.print(table)
    out.print(f"It reads most in layer {depth * len(curve):.0f}: --method '{_method(depth)}'")


def _method(depth: float) -> str:
    """FoveaCarve as it is typed."""
    return f"foveacarve(look_depth={depth:g})"
