"""`foveate compare`: methods and budgets on a data set, with controls and intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from typer.core import TyperCommand

from foveate.cli.console import err, out, print_json, progress_bar
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.hf.load import VisionLanguageModel
    from foveate.measure.comparison import CompareSettings, Comparison, Row
    from foveate.measure.quality import Interval
    from foveate.tasks.question import Question

LISTS = ("--keep", "--methods")
COLUMNS = ("accuracy %", "minus full", "prefill", "FLOPs", "KV")


class ListOptions(TyperCommand):
    """Lets `--keep 50% 25%` stand for `--keep 50% --keep 25%`; `--keep 50%,25%` works too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, expand_lists(args))


def expand_lists(args: list[str]) -> list[str]:
    """Repeat the options in LISTS before each of their values."""
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
        for value in filter(None, arg.split(",")):
            expanded += [option, value]
            has_value = True
    return expanded[:-1]


def compare(
    data: Annotated[
        str, typer.Option(help="easy-vqa, reading, or a .jsonl file or folder.")
    ] = "reading",
    methods: Annotated[
        list[str] | None,
        typer.Option(help="Methods, see `foveate methods`; random and uniform always run."),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Budgets, e.g. 50% 25% 12.5%, or counts such as 64.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Questions to ask.")] = 400,
    output: Annotated[
        Path, typer.Option(help="Folder for compare.json, answers.jsonl and compare.png.")
    ] = Path("out"),
    model: Annotated[
        str | None, typer.Option(help="Local folder or hub id; default: the embedded model.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Questions per batch.")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 16,
    rounds: Annotated[int, typer.Option(help="Timing rounds; 0 measures no time.")] = 7,
    seed: Annotated[int, typer.Option(help="Of random pruning and of the intervals.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Compare methods and budgets on a data set, with random, uniform and blind beside them."""
    with err.status("Loading the libraries"):
        from foveate.cli.model import load_model
        from foveate.core.budget import parse_budget
        from foveate.measure.comparison import CompareSettings
        from foveate.tasks.named import load_questions

    settings = CompareSettings(
        methods=tuple(methods or ("tokencarve", "fastv", "divprune")),
        budgets=tuple(parse_budget(text) for text in keep or ("50%", "25%", "12.5%")),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        rounds=rounds,
        seed=seed,
    )
    with err.status("Reading the questions"):
        questions = load_questions(data, limit=limit)
    vlm = load_model(model, device=device)
    result = run_comparison(vlm, questions, settings, data)
    files = write_comparison(result, output)
    if as_json:
        print_json(result.to_dict())
        return
    out.print(comparison_table(result))
    for file in files:
        out.print(str(file), style="dim", soft_wrap=True)


def run_comparison(
    vlm: VisionLanguageModel, questions: list[Question], settings: CompareSettings, data: str
) -> Comparison:
    """`measure.compare.compare` with a progress bar."""
    from foveate.measure.compare import compare as run

    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        return run(vlm, questions, settings, data=data, progress=show)


def comparison_table(result: Comparison) -> Table:
    """The rows as people read them; every ratio is against the full run of the same process."""
    facts = result.manifest
    table = Table(
        title="{data}: {num_questions} questions on {num_images} images".format(**facts),
        title_justify="left",
        title_style="bold",
        caption="full: no compression; blind: no image, what can be guessed; [..]: 95 % interval\n"
        "prefill (measured), FLOPs (arithmetic) and KV cache: ratios to the full run",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("method", no_wrap=True)  # fits 80 columns with the widest numbers
    for name in ("kept", *COLUMNS):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in result.rows:
        if previous is not None and row.method != previous:
            table.add_row()
        previous = row.method
        table.add_row(*_cells(row))
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        f"{row.kept_tokens:.0f} ({100 * row.kept_share:.3g}%)",
        _interval(row.accuracy),
        _interval(row.difference, signed=True) if row.difference else "",
        f"{row.prefill.decoder.value:.2f}" if row.prefill else "",
        f"{row.flops_ratio:.2f}" if row.flops_ratio is not None else "",
        f"{row.kv_ratio:.2f}" if row.kv_ratio is not None else "",
    )


def _interval(interval: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return rf"{value:{sign}.1f} \[{low:{sign}.0f}, {high:{sign}.0f}]"


def comparison_markdown(result: Comparison) -> str:
    """The same rows as a Markdown page, with the manifest below."""
    facts = result.manifest
    head = ("method", "kept", *COLUMNS)
    lines = [
        "# {data}: {num_questions} questions on {num_images} images".format(**facts),
        "",
        "full: no compression; blind: no image, what can be guessed; brackets: 95 % interval, "
        "bootstrapped over images. prefill (measured), FLOPs (arithmetic) and KV cache are ratios "
        "to the full run of the same process.",
        "",
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(_cells(row))} |".replace("\\[", "[") for row in result.rows),
        "",
        "![accuracy against kept tokens](compare.png)",
        "",
        "```json",
        json.dumps(facts, indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def write_comparison(result: Comparison, folder: Path) -> list[Path]:
    """compare.json, compare.md, answers.jsonl and compare.png in `folder`."""
    from foveate.draw.accuracy_plot import Point, draw_accuracy

    def point(row: Row) -> Point:
        return Point(method=row.method, kept_share=row.kept_share, **row.accuracy.to_dict())

    files = [
        folder / name for name in ("compare.json", "answers.jsonl", "compare.png", "compare.md")
    ]
    facts = result.manifest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files[0].write_text(json.dumps(result.to_dict(), indent=2) + "\n")
        files[1].write_text("".join(json.dumps(answer) + "\n" for answer in result.answers()))
        draw_accuracy(
            [point(row) for row in result.rows[1:-1]],
            full=point(result.rows[0]),
            blind=point(result.rows[-1]),
            title=f"{facts['model']} on {facts['data']}, {facts['num_questions']} questions",
            path=files[2],
        )
        files[3].write_text(comparison_markdown(result))
    except OSError as error:
        raise InputError(f"results cannot be written to {str(folder)!r}: {error}.") from error
    return files
