"""`foveate compare`: methods and budgets on a data set, with controls and intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from foveate.cli.compare_output import comparison_table, write_comparison
from foveate.cli.compare_run import launched_on, parts_folder, run_comparison, run_share
from foveate.cli.console import err, show_results
from foveate.cli.eval_options import share_of
from foveate.cli.options import AsJson, Device, MaxNewTokens, Model, Profile, Share, random_seed
from foveate.errors import InputError

LISTS = ("--keep", "--methods")
TRAINED_ON = ("reading", "easy-vqa")  # data whose kind the embedded model knows


class ListOptions(TyperCommand):
    """Lets `--keep 50% 25%` stand for `--keep 50% --keep 25%`; `--keep 50%,25%` works too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, expand_lists(args))


def expand_lists(args: list[str]) -> list[str]:
    """Repeat the options in LISTS before each of their values; commas in brackets stay."""
    from foveate.carve.spec import split_outside

    expanded: list[str] = []
    option, has_value = "", True
    for arg in [*args, "--"]:
        if arg.startswith("--"):
            if option and not has_value:
                raise InputError(f"{option} got no value; write e.g. --keep 50% 25%.")
            option, _, arg = arg.partition("=") if arg.split("=")[0] in LISTS else ("", "", arg)
            has_value = False
        if not option:
            expanded.append(arg)
            continue
        for value in filter(None, split_outside(arg, ",")):
            expanded += [option, value]
            has_value = True
    return expanded[:-1]


def compare(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="easy-vqa, reading, a .jsonl file or folder, or hub:OWNER/NAME[:SPLIT[:CONFIG]]."
        ),
    ] = "reading",
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="See `foveate methods`, or package.module:Class; settings in brackets, stages "
            "joined by +, e.g. 'visionzip:50%+tokencarve(attention_weight=0.3)'. random and "
            "uniform always run."
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            help="Budgets, e.g. 50% 25% 12.5%, counts such as 64, or information=95%, see "
            "`foveate ask`."
        ),
    ] = None,
    profile: Profile = None,
    against: Annotated[
        str, typer.Option(help="A method to compare the others with, budget by budget.")
    ] = "",
    limit: Annotated[int, typer.Option(help="Questions to ask.")] = 400,
    columns: Annotated[
        str,
        typer.Option(help="Of hub: data, e.g. image=picture,question=q,answers=label,kind=type."),
    ] = "",
    output: Annotated[
        Path,
        typer.Option(help="Folder for compare.json, compare.md, compare.png and answers.jsonl."),
    ] = Path("out"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what OUTPUT/compare-parts holds.")
    ] = False,
    share: Share = "0/1",
    answers: Annotated[
        bool, typer.Option("--answers", help="Write what every method said to answers.jsonl.")
    ] = False,
    model: Model = None,
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 16,
    max_new_tokens: MaxNewTokens = 16,
    rounds: Annotated[int, typer.Option(help="Timing rounds; 0 measures no time.")] = 7,
    seed: Annotated[
        int, typer.Option(help="Of random pruning and of the intervals.", callback=random_seed)
    ] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Compare methods and budgets on a data set, with random, uniform and blind beside them.

    Under `accelerate launch -m foveate compare ...` the processes share the questions.
    """
    with err.status("Loading the libraries"):
        from foveate.carve.compare.comparison import CompareSettings
        from foveate.cli.method import check_profile, profile_instead
        from foveate.cli.model import load_model
        from foveate.core.budget import parse_budget
        from foveate.tasks.hub import Columns
        from foveate.tasks.named import load_questions

    chosen = profile_instead(context, profile, "methods", "keep")
    if chosen is None:
        methods = methods or ["tokencarve", "fastv", "divprune"]
        budgets = tuple(parse_budget(text) for text in keep or ("50%", "25%", "12.5%"))
    else:
        budgets = (chosen.method.budget,)
    settings = CompareSettings(
        methods=tuple(methods or ()),
        budgets=budgets,
        given=chosen.method if chosen else None,
        against=against,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        rounds=rounds,
        seed=seed,
    )
    own = share_of(share)
    processes = launched_on(device)
    if processes.count > 1:
        if own != (0, 1):
            raise InputError("--share is for processes that you start yourself; leave it out here.")
        own = (processes.index, processes.count)
    is_part = own[1] > 1
    with err.status("Reading the questions"):
        questions = load_questions(data, limit=limit, columns=Columns.parse(columns))
    # A share cannot tell its fellows' parts from old ones, so it never empties the folder.
    keeps = resume or (is_part and processes.count == 1)
    if processes.is_main:
        folder = parts_folder(output, resume=keeps)
    processes.wait()
    folder = parts_folder(output, resume=True)
    vlm = load_model(model, device=device)
    check_profile(chosen, vlm)
    if is_part:
        run_share(vlm, questions, settings, data, folder=folder, share=own)
        processes.wait()
        if processes.count == 1:
            err.print("This share is done; run the same with --resume when all are, for the table.")
    if processes.is_main and (processes.count > 1 or not is_part):
        result = run_comparison(vlm, questions, settings, data, folder=folder)
        files = write_comparison(result, output, answers=answers)
        caution = vlm.caution if data not in TRAINED_ON else ""
        facts = {**result.to_dict(), **({"caution": caution} if caution else {})}
        show_results(facts, [comparison_table(result)], files, as_json=as_json)
        if caution:
            err.print(caution, style="yellow", markup=False, soft_wrap=True)
    processes.close()
