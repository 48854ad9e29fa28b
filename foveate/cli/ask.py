"""`foveate ask`: one question about your images, answered with and without compression."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    asked,
)
from foveate.cli.pictures import check_picture, draw_run, save_picture
from foveate.errors import InputError
from foveate.files import is_file

if TYPE_CHECKING:
    from foveate.core.report import Report
    from foveate.models.vlm import VisionLanguageModel


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
    question = asked(question)
    from foveate.image_file import open_image

    images = [open_image(path) for path in paths]
    if overlay is not None:
        check_picture(overlay)
    from foveate.cli.method import build_method, check_profile, profile_instead
    from foveate.cli.model import check_fits_embedded, load_model

    chosen = profile_instead(context, profile, "method", "keep", "prune_layer")
    compressor = chosen.method if chosen else build_method(method, keep, prune_layer=prune_layer)
    check_fits_embedded(model, compressor)
    vlm = load_model(model, device=device)
    check_profile(chosen, vlm)
    import foveate

    with err.status("Answering"):
        inputs = vlm.inputs(question, images)
        full = vlm.answer(inputs, max_new_tokens=max_new_tokens)[0]
        with foveate.attach(vlm.model, compressor) as run:
            carved = vlm.answer(inputs, max_new_tokens=max_new_tokens)[0]
    unknown = vlm.unknown_words(question)
    assert run.report is not None
    if as_json:
        result: dict[str, Any] = {
            "question": question,
            "model": vlm.name,
            "family": vlm.family.title,
            "answer": full,
            "answer_compressed": carved,
            "unknown_words": unknown,
            "caution": vlm.caution,
            "report": run.report.to_dict(),
            "overlay": str(overlay) if overlay is not None else None,
        }
        print_json(result)
    else:
        _show(vlm, unknown, (full, carved), str(compressor), run.report)
    if overlay is not None:  # last: the answers are out, should the disk be full
        title = f'"{question}" {compressor}: {carved}'
        save_picture(draw_run(vlm, run, images, 0, title), overlay)
        if not as_json:
            out.print(f"picture        {overlay}", soft_wrap=True, markup=False)


def _show(
    vlm: VisionLanguageModel,
    unknown: list[str],
    answers: tuple[str, str],
    method: str,
    report: Report,
) -> None:
    """Both answers, what the model does not know, and the report."""
    if unknown:
        words = f"The model does not know: {', '.join(unknown)}; its answer may be meaningless."
        out.print(words, style="yellow", markup=False, soft_wrap=True)
    labels = ("all visual tokens", method)
    for label, said in zip(labels, answers, strict=True):
        out.print(f"{label:<{max(map(len, labels))}}  ", style="bold", markup=False, end="")
        out.print(said or "(nothing)", markup=False, soft_wrap=True)
    if vlm.caution:
        out.print(vlm.caution, style="yellow", markup=False, soft_wrap=True)
    out.print()
    out.print(str(report), soft_wrap=True, markup=False)
