"""docs/serving.md: its commands are taken, its tables are those of the code."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from foveate.core.budget import Budget, parse_budget
from foveate.vllm.budgets import budgets_asked
from foveate.vllm.command import serve_command
from foveate.vllm.config_hook import FAMILIES
from foveate.vllm.settings import method_of, servable_methods
from tests.docs.test_examples import python_blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S) for line in block.splitlines()
]


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.S | re.M)
    assert found
    return found[1]


def test_five_lines_lead_to_a_server() -> None:
    block = re.findall(r"```bash\n(.*?)```", PAGE, re.S)[0]
    assert len(block.splitlines()) == 5
    assert "pip install '.[vllm]'" in block


def test_the_serve_command_is_taken() -> None:
    (line,) = [line for line in COMMANDS if line.startswith("foveate serve")]
    _, _, model, flag, keep, *options = shlex.split(line)
    assert flag == "--keep"
    made = serve_command(model, "tokencarve", parse_budget(keep), options)
    assert made[-1] == json.dumps({"foveate": {"method": "tokencarve", "keep_ratio": 0.25}})


def test_every_configuration_on_the_page_is_taken() -> None:
    entries = re.findall(r'\{"foveate": \{.*?\}\}', PAGE)
    assert len(entries) >= 3
    for entry in entries:
        method = method_of(json.loads(entry))
        assert method is not None
        assert method.name == "tokencarve"


def test_the_request_on_the_page_is_taken() -> None:
    (block,) = python_blocks("docs/serving.md")
    client = MagicMock()
    exec(block, {"client": client})
    (sent,) = client.chat.completions.create.call_args_list
    asked = sent.kwargs["extra_body"]["mm_processor_kwargs"]["foveate"]
    tenth = Budget(keep_ratio=0.1)
    assert budgets_asked(asked, 2) == ([tenth, tenth], tenth)


@pytest.mark.parametrize("spec", re.findall(r"`\"?(tokencarve\(.*?\))\"?`", PAGE))
def test_every_setting_on_the_page_is_taken(spec: str) -> None:
    assert method_of({"foveate": {"method": spec, "keep_ratio": 0.5}})


def test_the_methods_are_those_that_are_servable() -> None:
    rows = re.findall(r"^\| (`.*?) \|", section("Methods"), re.M)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(servable_methods())


def test_the_families_are_those_that_are_served() -> None:
    rows = re.findall(r"^\| (.*?) \| (original|renumbered) \| ?(.*?) ?\|", section("Models"), re.M)
    assert [(title, positions) for title, positions, _ in rows] == [
        (family.title, family.positions) for family in FAMILIES.values()
    ]
    for (_, _, videos), family in zip(rows, FAMILIES.values(), strict=True):
        assert ("as wholes" in videos) == ("video" in family.modalities)


def test_the_counters_are_those_of_the_code() -> None:
    source = (ROOT / "foveate" / "vllm" / "metrics.py").read_text()
    names = re.findall(r'Counter\("(\w+)"', source)
    assert re.findall(r"`(foveate_\w+)_total`", section("Metrics")) == names


def test_the_throughput_is_that_of_its_file() -> None:
    row = json.loads((ROOT / "docs" / "results" / "vllm-throughput.json").read_text())["rows"][0]
    ratio = row["throughput_ratio"]
    quoted = (
        f"{ratio['value']:.2f} times as many requests a second ({ratio['low']:.2f}-"
        f"{ratio['high']:.2f})"
    )
    assert quoted in re.sub(r"\s+", " ", section("Speed"))
