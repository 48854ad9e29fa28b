"""What far demonstrations teach in each form of a memory, on the sets where raw text helps.

`python -m benchmarks.vist_forms_icl --data icl --vist FOLDER` writes docs/results/vist-forms-icl.md
and .json. Every answer is kept in a file beside (`--answers`), and a run goes on from it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import write_results
from foveate.assets import vist_path
from foveate.measure.manifest import manifest
from foveate.measure.quality import Interval, macro_mean
from foveate.tasks.icl import Demonstration, IclSet, load_icl_sets, shuffle_labels
from foveate.vist.eval.context import FarContext, Score, Subject, best_option
from foveate.vist.eval.form_subject import FormSubject
from foveate.vist.eval.subjects import RawSubject
from foveate.vist.fixation.lexical import Bm25
from foveate.vist.run.vist import Vist

# Raw demonstrations help the embedded model here; on the other five hardly.
HELPED = ("dbpedia", "trec_fine", "nlu_scenario", "trec_coarse", "clinc150", "banking77")
FAR, NEAR = 18, 2
ARMS = {
    "none": "no far demonstrations",
    "raw": "all of them as raw text",
    "bm25": "the whole ones nearest to the question by BM25, raw, in a third of the entries",
    "latents": "latents of the drawn text",
    "carved, untrained": "all tokens below the cut, a third above, no LoRA",
    "carved": "the same with the LoRA trained on episodes",
}
SHUFFLED = " (shuffled)"


class Arms:
    """Who answers in an arm, and with what far text.

    Args:
        vist: with both forms.
    """

    def __init__(self, vist: Vist) -> None:
        self.vist = vist
        self.raw = RawSubject(vist.model, vist.tokenizer, kept=2)

    @cached_property
    def latents(self) -> FormSubject:
        """Reads latents."""
        return FormSubject(self.vist, "latents")

    def carved(self, *, is_trained: bool) -> FormSubject:
        """Reads carved memories, with the LoRA or without it."""
        if is_trained:
            return FormSubject(self.vist, "carved")
        plain = Vist(
            self.vist.model, self.vist.tokenizer, self.vist.encoder, self.vist.config,
            self.vist.parts,
        )  # fmt: skip
        return _Without(plain, "carved")

    def subject(self, arm: str) -> Subject:
        """Of an arm."""
        if arm in ("none", "raw", "bm25"):
            return self.raw
        if arm == "latents":
            return self.latents
        return self.carved(is_trained=arm == "carved")


class _Without(FormSubject):
    """Carved memories without the LoRA that was trained for them."""

    def _prefix(self, far: FarContext, raw_length: int) -> Any:
        parts = self.vist.parts
        lora, parts.carved = parts.carved, None
        try:
            return super()._prefix(far, raw_length)
        finally:
            parts.carved = lora


def far_text(subject: Subject, data: IclSet, shown: Sequence[Demonstration]) -> FarContext:
    """Demonstrations with a blank line after each."""
    raw: Any = subject
    return FarContext(source=raw.encode("".join(f"{data.shown(d)}\n\n" for d in shown)))


def nearest(
    raw: RawSubject, data: IclSet, far: Sequence[Demonstration], asked: str, budget: int
) -> FarContext | None:
    """The whole demonstrations that share most with a question, in their order."""
    scores = Bm25([demonstration.text for demonstration in far]).scores(asked)
    chosen: list[int] = []
    left = budget
    for place in (-scores).argsort(kind="stable").tolist():
        size = len(raw.encode(f"{data.shown(far[place])}\n\n"))
        if size <= left:
            chosen.append(place)
            left -= size
    return far_text(raw, data, [far[i] for i in sorted(chosen)]) if chosen else None


def answer_all(
    arms: Arms, sets: Sequence[IclSet], seeds: Sequence[int], items: int, names: Sequence[str],
    answers: Path,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row for every set, seed and arm: entries, and whether each item was right."""
    lines = answers.read_text().splitlines() if answers.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["set"], row["seed"], row["arm"]) for row in rows}
    for seed in seeds:
        for data in sets:
            shown = data.demonstrations(FAR + NEAR, seed)
            for name in names:
                if (data.name, seed, name) in done:
                    continue
                row = _one(arms, data, shown, seed, items, name)
                rows.append(row)
                with answers.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    return rows


def _one(
    arms: Arms, data: IclSet, shown: Sequence[Demonstration], seed: int, items: int, name: str
) -> dict[str, Any]:
    arm = name.removesuffix(SHUFFLED)
    subject = arms.subject(arm)
    far = list(shown[:FAR])
    if name.endswith(SHUFFLED):
        far = shuffle_labels(far)
    whole = far_text(arms.raw, data, far)
    near = "".join(f"{data.shown(example)}\n\n" for example in shown[FAR:])
    options = [f" {option}" for option in data.options]
    right, nats, entries, said = [], [], [], []
    for item in data.questions(items, seed):
        view: FarContext | None = whole
        if arm == "none":
            view = None
        elif arm == "bm25":
            view = nearest(arms.raw, data, far, item.text, round(len(whole.ids) / 3))
        scores = subject.option_nll(view, near + data.template.asked(item.text), options)
        label = data.labels[best_option(scores, "mean")]
        said.append(label)
        right.append(label == item.label)
        nats.append(missed(scores, data.labels.index(item.label)))
        entries.append(subject.num_entries(view) if view is not None else 0)
    return {
        "set": data.name, "seed": seed, "arm": name, "tokens": len(whole.ids),
        "entries": sum(entries) / len(entries), "right": right, "nats": nats, "said": said,
    }  # fmt: skip


def missed(scores: Sequence[Score], gold: int) -> float:
    """-log of the right label's share among all labels, by their whole likelihoods, in nats."""
    logits = torch.tensor([-score.nats for score in scores], dtype=torch.float64)
    return -float(logits.log_softmax(0)[gold])


def whole(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of the sets and seeds in which every arm has answered."""
    there: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        there.setdefault((row["set"], row["seed"]), set()).add(row["arm"])
    return [row for row in rows if set(names) <= there[row["set"], row["seed"]]]


def table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Markdown, and the same as data."""
    lines = [
        "| arm | entries, % of the tokens | right, % | minus none | true minus shuffled | nats of "
        "the label | less than none | less than shuffled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    data: dict[str, Any] = {}
    for name in (n for n in names if not n.endswith(SHUFFLED)):
        own = [row for row in rows if row["arm"] == name]
        share = sum(r["entries"] for r in own) / sum(r["tokens"] for r in own)
        others = ("", "none" if name != "none" else None,
                  name + SHUFFLED if name + SHUFFLED in names else None)  # fmt: skip
        cells = {
            (what, other): None if other is None else mean(rows, name, other, what)
            for what in ("right", "nats")
            for other in others
        }
        data[name] = {"entries": share} | {
            f"{what}, less {other}" if other else what: vars(cell)
            for (what, other), cell in cells.items()
            if cell is not None
        }
        shown = [_shown(what, other, cell) for (what, other), cell in cells.items()]
        lines.append(f"| {name} | {100 * share:.0f} | {' | '.join(shown)} |")
    return lines, data


def _shown(what: str, other: str | None, cell: Interval | None) -> str:
    if cell is None:
        return ""
    if what == "right":
        return f"{100 * cell.value:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    if other:  # fewer nats are better: show what was saved
        return f"{-cell.value:.2f} [{-cell.high:.2f}, {-cell.low:.2f}]"
    return f"{cell.value:.2f} [{cell.low:.2f}, {cell.high:.2f}]"


def mean(
    rows: Sequence[dict[str, Any]], name: str, other: str = "", what: str = "right"
) -> Interval:
    """Of the sets' means, less another arm's where one is given."""
    groups: dict[str, tuple[list[float], list[str]]] = {}
    base = {(r["set"], r["seed"]): r[what] for r in rows if r["arm"] == other}
    for row in rows:
        if row["arm"] == name:
            values, clusters = groups.setdefault(row["set"], ([], []))
            less = base.get((row["set"], row["seed"]), [0] * len(row[what]))
            values += [float(a) - float(b) for a, b in zip(row[what], less, strict=True)]
            clusters += [f"{row['seed']}-{i}" for i in range(len(row[what]))]
    return macro_mean(list(groups.values()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of labelled sets")
    parser.add_argument("--vist", default=str(vist_path()))
    parser.add_argument("--sets", default=",".join(HELPED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--items", type=int, default=20, help="of each set and seed")
    parser.add_argument("--arms", nargs="+", default=None)
    parser.add_argument("--answers", type=Path, default=Path("out/vist-forms-icl.jsonl"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--answered", action="store_true", help="the page of what is in the file")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    controlled = ("raw", "carved")
    names = options.arms or [*ARMS, *(f"{arm}{SHUFFLED}" for arm in controlled)]
    facts = manifest(seed=0, seeds=options.seeds, items=options.items)
    if options.answered:
        rows = [json.loads(line) for line in options.answers.read_text().splitlines()]
    else:
        vist = Vist.from_pretrained(options.vist)
        vist.model.to(torch.bfloat16)
        sets = load_icl_sets(options.data, options.sets.split(","))
        options.answers.parent.mkdir(parents=True, exist_ok=True)
        rows = answer_all(Arms(vist), sets, options.seeds, options.items, names, options.answers)
    rows = whole(rows, names)
    lines, data = table(rows, names)
    counts = Counter(row["set"] for row in rows if row["arm"] == names[0])
    what = (
        f"{FAR} far and {NEAR} raw demonstrations, {options.items} items of "
        f"{', '.join(f'{name} ({n} seeds)' for name, n in counts.items())}; sets weigh the same. "
        "The label with the best mean log-likelihood is the answer; nats of the label: -log of the "
        "right label's share among all, which says more than few right answers can. Brackets: 95 % "
        "interval over items. Shuffled: the far demonstrations have each other's labels, so true "
        "minus shuffled is what the mapping from text to label gives. SmolLM2-135M in bfloat16."
        "\n\n"
        + "\n".join(f"- **{name}**: {about}." for name, about in ARMS.items() if name in names)
    )
    write_results(
        "vist-forms-icl",
        "What far demonstrations teach, form by form",
        what,
        lines,
        {"arms": data, "rows": rows, "manifest": facts},
    )


if __name__ == "__main__":
    main()
