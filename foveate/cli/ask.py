"""`foveate ask`: one question about your images, answered with and without compression."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.cli.console import err, out, print_json
from foveate.cli.options import (
    AsJson,
    Device,
    Keep,
    MaxNewTokens,
    Method,
    Model,
    Profile,
    PruneLayer,
)
from foveate.cli.pictures import draw_run, save_picture
from foveate.errors import InputError
from foveate.files import is_file


def ask(
    context: typer.Context,
    items: Annotated[
        list[str],
        typer.Argument(metavar='IMAGE... "QUESTION"', help="Image files, then the question."),
    ],
    model: Model = None,
    method: Method = "tokencarve",
    keep: Keep = "25%",
    prune_layer: PruneLayer = None,
    profile: Profile = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Write a picture of the kept, merged and dropped tokens.")
    ] = None,
    max_new_tokens: MaxNewTokens = 32,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Answer a question about images with all visual tokens, and with a fraction of them."""
    if len(items) < 2:
        raise InputError(
            f"got {len(items)} argument; give at least one image and, last, the question in quotes."
        )
    *paths, question = items
    if is_file(question):
        raise InputError(f"the last argument, {question!r}, is a file; put the question last.")
    from foveate.image_file import open_image

    images = [open_image(path) for path in paths]
    from foveate.cli.method import build_method, check_profile, profile_instead
    from foveate.cli.model import load_model

    chosen = profile_instead(context, profile, "method", "keep", "prune_layer")
    compressor = chosen.method if chosen else build_method(method, keep, prune_layer=prune_layer)
    vlm = load_model(model, device=device)
    check_profile(chosen, vlm)
    import foveate

    with err.status("Answering"):
        inputs = vlm.inputs(question, images)
        full = vlm.answer(inputs, max_new_tokens=max_new_tokens)[0]
        with foveate.attach(vlm.model, compressor) as run:
            carved = vlm.answer(inputs, max_new_tokens=max_new_tokens)[0]
    unknown = vlm.unknown_words(question)
    if overlay is not None:
        title = f'"{question}" {compressor}: {carved}'
        save_picture(draw_run(vlm, run, images, 0, title), overlay)
    assert run.report is not None
    if as_json:
        result: dict[str, Any] = {
            "question": question,
            "model": vlm.name,
            "family": vlm.family.title,
            "answer": full,
            "answer_compressed": carved,
            "unknown_words": unknown,
            "report": run.report.to_dict(),
            "overlay": str(overlay) if overlay is not None else None,
        }
        print_json(result)
        return
    if unknown:
        out.print(
            f"[yellow]The model does not know: {', '.join(unknown)}; its answer may be "
            "meaningless.[/yellow]"
        )
    labels = ("all visual tokens", str(compressor))
    for label, said in zip(labels, (full, carved), strict=True):
        out.print(f"{label:<{max(map(len, labels))}}  ", style="bold", markup=False, end="")
        out.print(said or "(nothing)", markup=False, soft_wrap=True)
    out.print()
    out.print(str(run.report), soft_wrap=True, markup=False)
    if overlay is not None:
        out.print(f"picture        {overlay}", soft_wrap=True, markup=False)
