"""`foveate tune`: the cheapest setting that is proven to lose no more than allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foveate.cli.compare_run import parts_folder
from foveate.cli.console import err, out, progress_of, show_results
from foveate.cli.options import AsJson, Device, MaxNewTokens, as_share
from foveate.cli.tune_output import DONE, tune_table, write_tuned
from foveate.errors import FoveateError, InputError

if TYPE_CHECKING:
    from foveate.models.vlm import VisionLanguageModel

PARTS = "tune-parts"
NOTHING_IS_SAFE = 3


def tune(
    data: Annotated[
        str,
        typer.Option(
            help="Your questions: a .jsonl file or folder, hub:OWNER/NAME[:SPLIT[:CONFIG]], "
            "reading or easy-vqa."
        ),
    ],
    max_loss: Annotated[str, typer.Option(help="Allowed loss, e.g. 1% (a point of accuracy).")],
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="Local folder or hub id; default: the embedded model."
        ),
    ] = None,
    confidence: Annotated[str, typer.Option(help="With which it is proven.")] = "95%",
    cost: Annotated[
        str,
        typer.Option(help="What is to be cheap: flops, kv, tokens, or prefill (measured)."),
    ] = "flops",
    by: Annotated[
        str,
        typer.Option(
            help="What is lost: accuracy; agreement with the full model's answers, or their "
            "likelihood, which need no answers in the data. Default: accuracy where all have some."
        ),
    ] = "",
    claim: Annotated[
        str,
        typer.Option(
            help="population: images like these, each drawn independently; file: these questions."
        ),
    ] = "population",
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Methods to try, as for `foveate compare`; default: six good ones."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Budgets to try each at; default: 75% to 12.5%.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Questions to read.")] = 2000,
    columns: Annotated[
        str,
        typer.Option(help="Of hub: data, e.g. image=picture,question=q,answers=label,kind=type."),
    ] = "",
    per_image: Annotated[
        int, typer.Option(help="At most so many questions of an image; 0 for all.")
    ] = 0,
    explore: Annotated[
        int, typer.Option(help="Images that only drop settings; 0 for a tenth.")
    ] = 0,
    output: Annotated[
        Path, typer.Option(help="Folder for profile.toml, tune.json and tune.png.")
    ] = Path("out/tune"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what OUTPUT/tune-parts holds.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 16,
    max_new_tokens: MaxNewTokens = 16,
    rounds: Annotated[int, typer.Option(help="Timing rounds of --cost prefill.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the drawing and of random methods.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the cheapest setting that provably loses no more than allowed, and write it down.

    Exit code 3 where nothing is safe at this loss; there is no profile then.
    """
    with err.status("Loading the libraries"):
        from foveate.carve.tune.settings import TuneSettings
        from foveate.carve.tune.tune import check_questions
        from foveate.carve.tune.tune import tune as search
        from foveate.cli.model import load_model
        from foveate.core.budget import parse_budget
        from foveate.measure.parts import Parts
        from foveate.tasks.hub import Columns
        from foveate.tasks.named import DATASETS, load_questions
        from foveate.tasks.question import NO_ANSWER

    wanted: dict[str, Any] = {
        "max_loss": _share(max_loss, "--max-loss"),
        "confidence": _share(confidence, "--confidence"),
        "cost": cost,
        "claim": claim,
        "per_image": per_image,
        "explore": explore,
        "max_new_tokens": max_new_tokens,
        "batch_size": batch_size,
        "rounds": rounds,
        "seed": seed,
    }
    if by:
        wanted["by"] = by
    if methods:
        wanted["methods"] = tuple(methods)
    if keep:
        wanted["budgets"] = tuple(map(parse_budget, keep))
    settings = TuneSettings(**wanted)
    with err.status("Reading the questions"):
        # One more than asked for tells whether there are more.
        most = limit if limit < 1 or data in DATASETS else limit + 1
        questions = load_questions(
            data, limit=most, columns=Columns.parse(columns), needs_answers=False
        )
    if len(questions) > max(limit, 0):
        questions = questions[:limit]
        if claim == "file":
            raise InputError(
                f"the data has more than the {limit} questions of --limit, and --claim file is "
                "about all of them; raise --limit, or cut the file."
            )
        err.print(
            f"Only the first {limit} questions are read; where their order is not random, shuffle "
            "the data, or raise --limit.",
            soft_wrap=True,
        )
    if not by and all(NO_ANSWER in question.answers for question in questions):
        settings = TuneSettings(**wanted, by="agreement")
        err.print("No line has answers, so agreement with the full model's own is counted.")
    check_questions(questions, settings)
    folder = parts_folder(output, resume=resume, parts=PARTS, done=DONE)
    vlm = load_model(model, device=device)
    left_out: dict[str, str] = {}
    if not methods:
        left_out = unfit(vlm, settings.methods)
        fit = tuple(name for name in settings.methods if name not in left_out)
        settings = TuneSettings(**{**wanted, "by": settings.by, "methods": fit})
    for name, reason in left_out.items():
        err.print(f"Left out: {name}: {reason}", markup=False, soft_wrap=True)
    with progress_of() as progress:
        tuned = search(
            vlm,
            questions,
            settings,
            data=data,
            left_out=left_out,
            progress=progress,
            parts=Parts(folder=folder),
        )
    files = write_tuned(tuned, vlm, output)
    show_results(tuned.to_dict(), [tune_table(tuned)], files, as_json=as_json)
    if not as_json:
        out.print(tuned.sentence, soft_wrap=True, markup=False, style="bold")
    if tuned.chosen is None:
        raise typer.Exit(NOTHING_IS_SAFE)


def unfit(vlm: VisionLanguageModel, methods: Sequence[str]) -> dict[str, str]:
    """Of the default methods those that the model cannot take, with the reason."""
    import foveate

    found = {}
    for name in methods:
        try:
            foveate.attach(vlm.model, name, keep=0.5).detach()
        except FoveateError as error:
            found[name] = str(error)
    if len(found) == len(methods):
        raise InputError(
            f"the model takes none of the default methods ({next(iter(found.values()))}); name "
            "others with --methods."
        )
    return found


def _share(text: str, option: str) -> float:
    """ "1%" or "0.01"."""
    try:
        return as_share(text)
    except ValueError:
        raise InputError(f"{option} got {text!r}; write a share such as 1% or 0.01.") from None
