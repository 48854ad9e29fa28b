"""Write questions of foveate as a local lmms-eval task, to check the harness and the plugin.

`python -m benchmarks.lmms_eval_task --data reading --limit 60 --out out/lmms` writes a folder with
the pictures, a JSONL file that `foveate compare --data` reads as well, and two tasks over it:
`foveate_reading` (free answers, exact match by lmms-eval's own metric) and
`foveate_reading_options` (the likeliest of four answers; needs `--force_simple`).
`docs/reproduce.md` shows how to run them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from foveate.tasks.named import load_questions
from foveate.tasks.question import Question

MAX_NEW_TOKENS = 16
NUM_OPTIONS = 4
# Both read the pictures and options through functions of a module beside them.
COMMON = """\
dataset_path: json
dataset_kwargs:
  data_files:
    test: questions.jsonl
test_split: test
doc_to_visual: !function pictures.doc_to_visual
doc_to_text: question
"""
FREE = """\
task: {name}
{common}\
doc_to_target: answer
output_type: generate_until
generation_kwargs:
  max_new_tokens: {max_new_tokens}
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
"""
OPTIONS = """\
task: {name}_options
{common}\
doc_to_target: option
doc_to_choice: options
output_type: multiple_choice
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
PICTURES = '''\
"""Pictures of a local task: lie beside this file."""

from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent


def doc_to_visual(doc):
    with Image.open(FOLDER / doc["image"]) as image:
        return [image.convert("RGB")]
'''


def write_task(questions: Sequence[Question], name: str, folder: Path) -> None:
    """Write pictures, questions and the two tasks into a folder, which may exist.

    Args:
        questions: with one accepted answer each, as lmms-eval's exact match wants it.
        name: of the data; tasks are called foveate_NAME and foveate_NAME_options.
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    every = sorted({question.answers[0] for question in questions})
    lines = []
    for question in questions:
        picture = folder / f"{question.image_id.replace('/', '-')}.png"
        if not picture.exists():
            question.image.save(picture)
        (answer,) = question.answers
        options = options_for(question, every)
        row = {
            "image": picture.name,
            "question": question.question,
            "answers": [answer],
            "kind": question.kind,
            "id": question.id,
            "answer": answer,
            "options": options,
            "option": options.index(answer),
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = f"foveate_{name.replace('-', '_')}"
    facts = {"name": task, "common": COMMON, "max_new_tokens": MAX_NEW_TOKENS}
    (folder / f"{task}.yaml").write_text(FREE.format(**facts))
    (folder / f"{task}_options.yaml").write_text(OPTIONS.format(**facts))
    (folder / "pictures.py").write_text(PICTURES)


def options_for(question: Question, every: Sequence[str]) -> list[str]:
    """The right answer among others, always the same for one question."""
    (answer,) = question.answers
    rng = random.Random(question.id)
    others = [other for other in every if other != answer]
    options = [answer, *rng.sample(others, min(NUM_OPTIONS - 1, len(others)))]
    rng.shuffle(options)
    return options


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="reading", help="reading or easy-vqa")
    parser.add_argument("--limit", type=int, default=60, help="number of questions")
    parser.add_argument("--out", type=Path, default=Path("out/lmms"), help="folder")
    arguments = parser.parse_args()
    questions = load_questions(arguments.data, limit=arguments.limit)
    write_task(questions, arguments.data, arguments.out)
    print(f"{len(questions)} questions in {arguments.out}")


if __name__ == "__main__":
    main()
