"""Text read as carved pages: what the embedded model answers, and what it costs.

Fact sheets of held-out facts of the reading world, one and two pages long, shown in the model's
own page style to the unmodified model. Beside the methods: all visual tokens, random and uniform
choice, the text as text, no text at all, exact strings beside the pages, and pages in the plain
style made for other models. `python -m benchmarks.pages` writes docs/results/pages.json and
pages.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import foveate
from benchmarks.results import write_results
from foveate.assets import EMBEDDED
from foveate.carve.method import Method
from foveate.carve.pages.defaults import PageDefaults
from foveate.carve.pages.exact import ExactRules
from foveate.carve.pages.fact_sheet import PER_PAGE, FactSheetLayout, fact_sheet
from foveate.carve.pages.layout import Layout, TextLayout
from foveate.carve.pages.plan import text_prompt
from foveate.carve.pages.reader import PageReader
from foveate.carve.pages.report import PageCost
from foveate.measure.manifest import manifest
from foveate.measure.quality import Interval, accuracy, exact_match, paired_difference
from foveate.measure.timing import interleaved, ratio_of_medians, wall_seconds
from foveate.models.vlm import VisionLanguageModel
from foveate.tasks.reading import SEEDS, Asked, page_at, questions_about
from foveate.tasks.reading_page import GROUNDS, SIZE, Cell, visible_colours

SEED = 0
SPLIT = "test"
# Questions that a list of facts answers, wherever its lines stand.
KINDS = (
    "one_hop/price",
    "one_hop/stock",
    "one_hop/costs",
    "one_hop/colour",
    "one_hop/exists",
    "two_hop/costs_stock",
    "two_hop/costs_colour",
)
BUDGETS = (0.25, 0.125)
METHODS = ("tokencarve", "fastv", "divprune", "random", "uniform")
PRUNE_LAYER = PageDefaults.of(EMBEDDED).prune_layer
NONE = ExactRules(kinds=())
BATCH = 12
MAX_NEW_TOKENS = 4
COUNTED = ("text_tokens", "visual_tokens", "kept_tokens", "exact_tokens", "page_tokens")


@dataclass(frozen=True)
class Document:
    """A fact sheet and questions about it."""

    name: str
    text: str
    questions: tuple[Asked, ...]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to read; `road` is pages, text or blind."""

    name: str
    keep: str = ""
    road: str = "pages"
    method: Method = field(default_factory=foveate.NoOp)
    rules: ExactRules = NONE
    layout: Layout = field(default_factory=FactSheetLayout)


def documents(count: int, pages: int, per_document: int) -> Iterator[Document]:
    """One page: the facts of a held-out page. More: full pages, facts drawn from several.

    A word, price or stock occurs once in a document, so every question has one answer.
    """
    seed, index = SEEDS[SPLIT], 0
    light = visible_colours(GROUNDS[0])
    while count:
        first, facts, seen = index, list[Cell](), set[str]()
        while index == first or (pages > 1 and len(facts) < pages * PER_PAGE):
            for cell in page_at(seed, index).cells:
                own = _own(cell)
                if cell.word and not own & seen and (pages == 1 or cell.colour in light):
                    facts.append(cell)
                    seen |= own
            index += 1
        facts = facts[: pages * PER_PAGE]
        if sum(cell.kind == "item" for cell in facts) < 5:
            continue
        world = dataclasses.replace(page_at(seed, first), cells=tuple(facts))
        rng = random.Random(f"pages/{pages}/{first}")
        asked = questions_about(world, rng, per_document, kinds=KINDS)
        yield Document(f"{pages}-{first}", fact_sheet(facts), tuple(asked))
        count -= 1


def _own(cell: Cell) -> set[str]:
    """What no other fact of a document may share."""
    numbers = {f"price {cell.price}", f"stock {cell.stock}"} if cell.kind == "item" else set()
    return {cell.word} | numbers


def ways(with_all: bool) -> list[Way]:
    """All of them, or the few that the two-page table has."""
    plain = TextLayout(width=SIZE, height=SIZE)
    full = [Way(name="pages, all visual tokens", keep="100 %")]
    rest = [Way(name="text as text", road="text"), Way(name="no text", road="blind")]
    budgets = BUDGETS if with_all else BUDGETS[:1]
    carved = [
        Way(name=name, keep=f"{100 * keep:g} %", method=carving(name, keep))
        for name in METHODS
        for keep in budgets
    ]
    if not with_all:
        return [*full, *carved, *rest]
    numbers = ExactRules(kinds=("number",))
    return [
        *full,
        *carved,
        Way(name="all visual tokens + exact numbers", keep="100 %", rules=numbers),
        Way(
            name="tokencarve + exact numbers",
            keep="25 %",
            rules=numbers,
            method=carving("tokencarve", 0.25),
        ),
        Way(name="plain pages, all visual tokens", keep="100 %", layout=plain),
        *rest,
    ]


def carving(name: str, keep: float) -> Method:
    """Every method before the same layer, so that equal budgets are equal costs."""
    settings: dict[str, Any] = {"seed": SEED} if name == "random" else {}
    return foveate.method(name, keep_ratio=keep, prune_layer=PRUNE_LAYER, **settings)


@dataclass(frozen=True)
class Prompts:
    """What all ways that differ in carving only share."""

    asked: list[tuple[Document, Asked]]
    batches: list[dict[str, Any]]
    costs: list[PageCost]
    num_pages: list[int]


def prepare(vlm: VisionLanguageModel, way: Way, sheets: Sequence[Document]) -> Prompts:
    """Prompts of a way to read, in batches, and its price in tokens without carving."""
    reader = PageReader(vlm, method=foveate.NoOp(), rules=way.rules, layout=way.layout)
    asked, contents, pictures = [], [], []
    costs, num_pages = [], []
    for sheet in sheets:
        before, images = "", ()
        if way.road == "pages":
            plan = reader.plan(sheet.text, sheet.questions[0].text, max_new_tokens=MAX_NEW_TOKENS)
            costs.append(plan.cost)
            num_pages.append(len(plan.pages))
            before = f"{plan.exact.text}\n\n" if plan.exact.text else ""
            images = plan.pages.images
        elif way.road == "text":
            before = text_prompt(sheet.text, "")
        for question in sheet.questions:
            asked.append((sheet, question))
            contents.append(before + question.text)
            pictures.append(images)
    batches = [
        vlm.inputs(contents[i : i + BATCH], pictures[i : i + BATCH])
        for i in range(0, len(asked), BATCH)
    ]
    return Prompts(asked, batches, costs, num_pages)


def measure(vlm: VisionLanguageModel, way: Way, prompts: Prompts) -> dict[str, Any]:
    """Answers of one way to read, and its mean price in tokens."""
    said: list[str] = []
    with foveate.attach(vlm.model, way.method):  # one run, so that random never repeats a choice
        for inputs in prompts.batches:
            said += vlm.answer(inputs, max_new_tokens=MAX_NEW_TOKENS)
    correct = [
        exact_match(answer, [question.answer])
        for answer, (_, question) in zip(said, prompts.asked, strict=True)
    ]
    costs = [
        dataclasses.replace(
            cost, kept_tokens=pages * way.method.budget.count(cost.visual_tokens // pages)
        )
        for cost, pages in zip(prompts.costs, prompts.num_pages, strict=True)
    ]
    names = [sheet.name for sheet, _ in prompts.asked]
    row: dict[str, Any] = {
        "arm": way.name,
        "keep": way.keep,
        "correct": correct,
        "documents": names,
        "accuracy": accuracy(correct, names, seed=SEED),
        "tokens": None,
    }
    if costs:
        row["tokens"] = {name: mean(getattr(cost, name) for cost in costs) for name in COUNTED}
        # The cache is compact: every layer holds the prompt as it is after carving.
        row["kv_ratio"] = mean(
            (cost.question_tokens + cost.page_tokens) / (cost.question_tokens + cost.text_tokens)
            for cost in costs
        )
        row["pays"] = mean(cost.pays for cost in costs)
    return row


def table_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Markdown lines; every difference is to all visual tokens on the same questions."""
    full = rows[0]
    lines = [
        "| reading | keep | correct % (95 %) | minus all tokens | tokens as pages | as text | "
        "pays | KV / text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        gap = paired_difference(row["correct"], full["correct"], row["documents"], seed=SEED)
        row["difference"] = gap
        tokens = row["tokens"]
        lines.append(
            f"| {row['arm']} | {row['keep']} | {shown(row['accuracy'])} | "
            f"{shown(gap, sign='+') if row is not full else ''} | "
            + (
                f"{tokens['page_tokens']:.0f} | {tokens['text_tokens']:.0f} | "
                f"{100 * row['pays']:.0f} % | {row['kv_ratio']:.2f} |"
                if tokens
                else "| | | |"
            )
        )
    return lines


def shown(interval: Interval, sign: str = "") -> str:
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:{sign}.1f} ({low:{sign}.0f} to {high:{sign}.0f})"


def times(vlm: VisionLanguageModel, sheet: Document, rounds: int) -> dict[str, Any]:
    """Seconds from text to answer, drawing and vision tower included, against the text as text."""
    question = sheet.questions[0].text
    readers = {
        "all visual tokens": PageReader(
            vlm, method=foveate.NoOp(), rules=NONE, layout=FactSheetLayout()
        ),
        "tokencarve 25 %": PageReader(
            vlm, method=carving("tokencarve", 0.25), rules=NONE, layout=FactSheetLayout()
        ),
    }

    def pages(reader: PageReader) -> None:
        images = reader.layout_for(sheet.text).lay_out(sheet.text).images
        inputs = vlm.inputs(question, images)
        with foveate.attach(vlm.model, reader.method):
            vlm.answer(inputs, max_new_tokens=MAX_NEW_TOKENS)

    def text() -> None:
        inputs = vlm.inputs(text_prompt(sheet.text, question))
        vlm.answer(inputs, max_new_tokens=MAX_NEW_TOKENS)

    work = {name: partial(pages, reader) for name, reader in readers.items()}
    seconds = interleaved(
        {**{name: partial(wall_seconds, do) for name, do in work.items()},
         "text": partial(wall_seconds, text)},
        rounds=rounds,
    )  # fmt: skip
    return {name: ratio_of_medians(seconds[name], seconds["text"]).to_dict() for name in work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=110, help="of one page")
    parser.add_argument("--long-documents", type=int, default=30, help="of two pages")
    parser.add_argument("--questions", type=int, default=2, help="per document")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.time()

    vlm = foveate.load_vlm(EMBEDDED)
    data: dict[str, Any] = {}
    table: list[str] = []
    sets = ((1, arguments.documents), (2, arguments.long_documents))
    with Progress(console=Console(stderr=True)) as progress:
        for pages, count in sets:
            sheets = list(documents(count, pages, arguments.questions))
            todo = ways(with_all=pages == 1)
            task = progress.add_task(f"{pages} page", total=len(todo))
            rows, shared = [], {}
            for way in todo:
                key = (way.road, way.rules, str(way.layout.to_dict()))
                if key not in shared:
                    shared[key] = prepare(vlm, way, sheets)
                rows.append(measure(vlm, way, shared[key]))
                progress.advance(task)
            asked = len(rows[0]["correct"])
            title = f"{count} documents of {pages} page{'s' * (pages > 1)}, {asked} questions"
            table += ["", f"## {title}", "", *table_of(rows)]
            data[f"{pages}_page"] = {"documents": count, "questions": asked, "rows": rows}
    data["time_ratio_to_text"] = times(vlm, next(documents(1, 1, 1)), arguments.rounds)
    table += ["", "## Time from text to answer, against the text as text", ""]
    table += ["| pages | ratio (95 %) |", "|---|---|"]
    for name, ratio in data["time_ratio_to_text"].items():
        table.append(
            f"| {name} | {ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}) |"
        )
    data["manifest"] = manifest(
        seed=SEED,
        rounds=arguments.rounds,
        model="embedded",
        weights=vlm.weights,
        split=SPLIT,
        prune_layer=PRUNE_LAYER,
        minutes=round((time.time() - started) / 60),
    )
    for name in [name for name in data if name.endswith("_page")]:
        for row in data[name]["rows"]:
            row.update({key: row[key].to_dict() for key in ("accuracy", "difference")})
            row["num_correct"] = sum(row.pop("correct"))
            del row["documents"]
    write_results(
        "pages",
        "Text read as carved pages by the embedded model",
        "Fact sheets of held-out pages of the reading world, shown as pages to the embedded model, "
        "which was trained on such pages and on no text but short questions. Exact match; the 95 % "
        "interval resamples documents. Tokens are means per document, without the question, "
        "counted by the model's tokenizer and image processor; `pays` is the share of documents "
        "whose pages cost fewer tokens than the text, which `foveate pages` asks before it "
        "renders. `KV / text` is the KV cache after prefill against the text as text. All methods "
        f"prune before layer {PRUNE_LAYER} of 8.",
        table,
        data,
    )


if __name__ == "__main__":
    main()
