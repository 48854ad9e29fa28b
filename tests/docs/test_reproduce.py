"""The commands of docs/reproduce.md: their settings are read, and their tasks exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from foveate.carve.method import METHODS
from foveate.jobs.answerer_settings import AnswererSettings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reproduce.md").read_text()
BLOCKS = re.findall(r"```(?:bash|console)\n(.*?)```", PAGE, re.S)


def arms(block: str) -> list[str]:
    """What `$arm` goes through in a block."""
    budgets = re.search(r"for keep in (.*?);", block)
    methods = re.search(r"for method in (.*?);", block)
    pattern = re.search(r'ARMS="\$ARMS \$method,(\w+)=\$keep"', block)
    assert budgets
    assert methods
    assert pattern
    return ["noop"] + [
        f"{method},{pattern[1]}={keep}"
        for keep in budgets[1].split()
        for method in methods[1].split()
    ]


def model_args() -> list[str]:
    found = []
    for block in BLOCKS:
        for given in re.findall(r"--model_args (\S+)", block):
            if "$arm" not in given:
                found.append(given)
                continue
            for model in re.findall(r"for model in (.*?);", block)[0].split():
                found += [given.replace("$model", model).replace("$arm", a) for a in arms(block)]
    return found


@pytest.mark.parametrize("given", sorted(set(model_args())))
def test_settings_are_read(given: str) -> None:
    pairs = dict(pair.split("=", 1) for pair in given.split(","))
    numbers = {
        key: float(value) if "." in value else int(value)
        for key, value in pairs.items()
        if re.fullmatch(r"[\d.]+", value)
    }
    settings = AnswererSettings.of({**pairs, **numbers})
    assert settings.batch_size > 1
    assert settings.dtype in ("auto", "float16", "bfloat16")


def test_the_commands_cover_what_the_page_is_about() -> None:
    given = model_args()
    for model in ("llava-1.5-7b", "llava-1.5-13b"):
        for keep in (192, 128, 64):
            wanted = [a for a in given if model in a and f"keep_tokens={keep}" in a]
            assert len([a for a in wanted if "method=tokencarve" in a]) >= 1
            assert {"random", "uniform", "resize"} <= {
                m for a in wanted for m in METHODS if f"method={m}," in a
            }
    for model in ("2.5-VL-3B", "2.5-VL-7B"):
        for keep in ("0.25", "0.10"):
            assert any(model in a and f"method=tokencarve,keep_ratio={keep}" in a for a in given)
        assert any(model in a and "method=noop" in a for a in given)


def task_names() -> set[str]:
    named = re.findall(r"TASKS=(\S+)", PAGE) + re.findall(r"--tasks (\S+)", PAGE)
    return {task for names in named for task in names.split(",") if not task.startswith("$")}


def test_tasks_are_those_of_the_installed_lmms_eval() -> None:
    if importlib.util.find_spec("lmms_eval") is None:
        pytest.skip("lmms-eval is not installed: make test-lmms")
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    known = TaskManager(include_path=str(ROOT / "benchmarks" / "lmms_tasks"))
    in_text = {"seedbench_ppl", "vqav2_val", "seedbench", "mmbench_cn_dev", "mmbench_en_dev"}
    ours = {task for task in task_names() if task.startswith("foveate_")}
    missing = [t for t in (task_names() | in_text) - ours if t not in known.all_tasks]
    assert not missing

    # The task of ours differs from lmms-eval's by the OCR tokens alone.
    own = load_yaml_config(known.task_index["textvqa_val_ocr"]["yaml_path"])
    theirs = load_yaml_config(known.task_index["textvqa_val"]["yaml_path"])
    for key in ("dataset_path", "test_split", "output_type", "doc_to_target"):
        assert own[key] == theirs[key]
    doc = {"question": "what brand is it?", "ocr_tokens": ["ACME", "12"]}
    form = own["lmms_eval_specific_kwargs"]["default"]
    assert own["doc_to_text"](doc, form) == (
        "What brand is it?\nReference OCR token: ACME, 12\n"
        "Answer the question using a single word or phrase."
    )
    assert {**form, "ocr": False} == theirs["lmms_eval_specific_kwargs"]["default"]
    graded = own["process_results"]({"answers": ["acme"] * 10, "question_id": 1}, ["ACME"])
    assert graded == {"exact_match": 1.0}
