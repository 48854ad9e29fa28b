"""`foveate demo`: real images, answers from a fraction of the tokens, and what that saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from foveate.cli.compare_output import comparison_table, write_comparison
from foveate.cli.compare_run import run_comparison
from foveate.cli.console import err, out, print_table
from foveate.cli.demo_reading import show_far_reading
from foveate.cli.method import build_method
from foveate.cli.model import load_model
from foveate.cli.options import Keep, Model
from foveate.cli.pictures import draw_run, save_picture

if TYPE_CHECKING:
    from foveate.carve.compare.comparison import Comparison
    from foveate.models.vlm import VisionLanguageModel
    from foveate.tasks.question import Question

METHOD, OURS = "tokencarve", "foveacarve"
# One question of each kind is shown: the first of that kind in the held-out data, not a chosen one.
SHOWN_KINDS = (
    "easy_vqa/shape",
    "easy_vqa/colour",
    "one_hop/price",
    "one_hop/colour",
    "two_hop/under",
    "two_hop/price_above",
)
DRAWN_KINDS = ("one_hop/price", "two_hop/under")


def demo(
    keep: Keep = "25%",
    limit: Annotated[int, typer.Option(help="Reading questions to compare on.")] = 100,
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    model: Model = None,
) -> None:
    """Watch a vision-language model answer from a fraction of its visual tokens."""
    with err.status("Loading the libraries"):
        import torch

        from foveate.carve.compare.comparison import CompareSettings
        from foveate.tasks.named import load_questions

    method = build_method(METHOD, keep)
    with err.status("Reading the held-out questions"):
        # easy-VQA is one large shape per image, which any method keeps: half as many will do.
        limits = {"easy-vqa": max(1, limit // 2), "reading": limit}
        data = {name: load_questions(name, limit=n) for name, n in limits.items()}
        shown = _first_of_kinds([*data["easy-vqa"], *data["reading"]])
    if model is None:
        # So small a model gains little from a second thread, and on a busy machine threads that
        # wait for each other take several times as long.
        torch.set_num_threads(1)
    vlm = load_model(model)
    millions = sum(parameter.numel() for parameter in vlm.model.parameters()) / 1e6
    out.print(
        f"[bold]1. The same questions, with all visual tokens and with {method.budget}[/bold]\n"
        f"   A {vlm.family.title} model of {millions:.1f} M parameters; held-out images.\n"
    )
    _show_answers(vlm, shown, keep, output)
    out.print("\n[bold]2. Beside our own method and the controls[/bold]\n")
    settings = CompareSettings(
        methods=(METHOD, OURS), budgets=(method.budget,), rounds=3, max_new_tokens=8
    )
    for name, questions in data.items():
        result = run_comparison(vlm, questions, settings, name)
        write_comparison(result, output / f"compare-{name}")
        out.print(comparison_table(result))
        out.print(f"{_verdict(result)}\n")
    if model is None:
        show_far_reading()
    out.print(
        "[bold]Your own image[/bold]\n"
        f'   foveate ask IMAGE... "QUESTION" --keep {keep} --overlay out/mine.png\n'
        "   --model takes any supported checkpoint; `foveate models` lists the families."
    )


def _first_of_kinds(questions: list[Question]) -> list[Question]:
    first: dict[str, Question] = {}
    for question in questions:
        first.setdefault(question.kind, question)
    found = [first[kind] for kind in SHOWN_KINDS if kind in first]
    return found or questions[:6]


def _show_answers(
    vlm: VisionLanguageModel, questions: list[Question], keep: str, output: Path
) -> None:
    """Answers as a table, then the report and the picture of two of them."""
    import foveate
    from foveate.draw.overlay import side_by_side
    from foveate.measure.quality import exact_match

    method = build_method(METHOD, keep)
    with err.status("Answering"):
        inputs = vlm.inputs([q.question for q in questions], [q.image for q in questions])
        full = vlm.answer(inputs, max_new_tokens=8)
        with foveate.attach(vlm.model, method) as run:
            carved = vlm.answer(inputs, max_new_tokens=8)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("question", no_wrap=True)
    for column in ("true answer", "all tokens", f"{method.budget}"):
        table.add_column(column, no_wrap=True, max_width=14)
    for question, first, second in zip(questions, full, carved, strict=True):
        marked = (
            f"[{'green' if exact_match(said, question.answers) else 'red'}]{said}[/]"
            for said in (first, second)
        )
        table.add_row(question.question, question.answers[0], *marked)
    print_table(table)
    drawn = [i for i, q in enumerate(questions) if q.kind in DRAWN_KINDS] or [0]
    pictures = [
        draw_run(
            vlm,
            run,
            [questions[i].image],
            i,
            title=f'"{questions[i].question}" all tokens: {full[i]}; {method.budget}: {carved[i]}',
        )
        for i in drawn
    ]
    path = output / "demo.png"
    save_picture(side_by_side(pictures), path)
    with foveate.attach(vlm.model, method) as run:
        last = questions[drawn[-1]]
        vlm.answer(vlm.inputs(last.question, last.image), max_new_tokens=8)
    assert run.report is not None
    out.print(f'Report for "{last.question}"', markup=False, soft_wrap=True)
    out.print(str(run.report), markup=False, soft_wrap=True)
    out.print(f"picture        {path}", markup=False, soft_wrap=True)


def _verdict(result: Comparison) -> str:
    """What the rows say about the method against each control, whichever way it goes."""
    from foveate.carve.compare.comparison import CONTROLS
    from foveate.measure.quality import paired_difference

    rows = {row.method: row for row in result.rows}
    own = rows[METHOD]
    images = [question.image_id for question in result.questions]
    parts = []
    for control in CONTROLS:
        gap = paired_difference(own.correct, rows[control].correct, images)
        clear = gap.low > 0 or gap.high < 0
        word = ("better" if gap.value > 0 else "worse") if clear else "no clear difference"
        parts.append(
            f"against {control} {100 * gap.value:+.1f} points "
            rf"\[{100 * gap.low:+.0f}, {100 * gap.high:+.0f}] ({word})"
        )
    return f"{METHOD} {', '.join(parts)}."
