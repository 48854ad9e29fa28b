"""A method in a package of its own: the one of docs/add-a-method.md, installed by pip."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import foveate
from foveate.app.carve import Carver
from foveate.assets import vlm_path
from foveate.carve.registry import all_methods, broken_packages, find_method, origin
from foveate.carve.spec import method_class, parse_method
from foveate.cli.main import app
from foveate.core.budget import Budget
from foveate.errors import BudgetError, MethodError
from foveate.jobs.answerer_settings import AnswererSettings
from foveate.models.load import load_vlm
from foveate.tasks.named import load_questions
from foveate.vllm.settings import method_of, servable_methods

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "foveate_norm:LargestNorm"
QUARTER = Budget(keep_ratio=0.25)


def run_foveate(*arguments: object) -> Result:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.exception, done.stderr)
    return done


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the documentation's package is installed in."""
    page = (ROOT / "docs" / "add-a-method.md").read_text()
    method, test = re.findall(r"```python\n(.*?)```", page, re.S)
    (project,) = re.findall(r"```toml\n(.*?)```", page, re.S)
    source = tmp_path_factory.mktemp("foveate-norm")
    (source / "foveate_norm.py").write_text(method)
    (source / "test_norm.py").write_text(test)
    (source / "pyproject.toml").write_text(project)
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index"]
    subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--target", str(target), str(source)],
        check=True,
        capture_output=True,
    )
    (target / "test_norm.py").write_text(test)
    return target


@pytest.fixture
def installed(package: Path, own_methods: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(package)
    yield package
    sys.modules.pop("foveate_norm", None)


def stranger(folder: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with one file and one method, as pip leaves it."""
    (folder / f"{name}.py").write_text(code)
    about = folder / f"{name}-2.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.1\n")
    (about / "entry_points.txt").write_text(f"[foveate.methods]\nodd = {name}:Odd\n")
    monkeypatch.syspath_prepend(folder)


# --- by name and by address ---


def test_the_name_and_the_address_are_the_same_class(installed: Path) -> None:
    assert "norm" not in foveate.METHODS
    by_name = parse_method("norm(keep_first=3)", QUARTER)
    assert "norm" in foveate.METHODS
    assert parse_method(f"{ADDRESS}(keep_first=3)", QUARTER) == by_name
    assert str(by_name) == "norm(keep=25%, keep_first=3)"
    assert origin(type(by_name)) == "foveate-norm 1.0"
    assert origin(foveate.FastV) == "foveate"
    assert foveate.method("norm", keep_tokens=4) == type(by_name)(keep_tokens=4)
    assert method_class(f" {ADDRESS} ") is type(by_name)
    assert method_class(f"{ADDRESS}(keep_first=3)") is None


@pytest.mark.parametrize("name", ["norm", ADDRESS])
def test_stacks(installed: Path, name: str) -> None:
    stack = parse_method(f"{name}(keep_first=3):50%+fastv(prune_layer=5)", QUARTER)
    assert isinstance(stack, foveate.Stack)
    norm = find_method(name)
    assert stack.stages == (
        norm.from_dict({"keep_ratio": 0.5, "keep_first": 3}),
        foveate.FastV(keep_ratio=0.25, prune_layer=5),
    )
    assert parse_method(f"{name}:50%(keep_first=3)+fastv(prune_layer=5)", QUARTER) == stack
    again = json.loads(json.dumps(stack.to_dict()))
    assert again["stages"][0]["name"] == ADDRESS
    assert foveate.method(**again) == stack


def test_everywhere_a_method_is_written(installed: Path) -> None:
    norm = find_method("norm")
    given = {"pretrained": "embedded", "method": ADDRESS, "keep_tokens": 9, "keep_first": 3}
    assert AnswererSettings.of(given).method == norm.from_dict({"keep_tokens": 9, "keep_first": 3})
    for name in ("norm", ADDRESS):
        served = method_of({"foveate": {"method": f"{name}(keep_first=3)", "keep_tokens": 9}})
        assert served is not None
        assert served.to_dict() == {**served.to_dict(), "name": ADDRESS, "prune_layer": 0}
    assert "norm" in servable_methods()


def test_the_playground_offers_it(installed: Path) -> None:
    carver = Carver(load_vlm(vlm_path()), [f"{ADDRESS}(keep_first=3)"])
    assert carver.methods[-1] == f"{ADDRESS}(keep_first=3)"
    assert "norm" in carver.methods
    question = load_questions("reading", limit=1)[0]
    made = carver.carve(question.image, question.question, carver.methods[-1], 0.5)
    assert str(made.method) == "norm(keep=50%, keep_first=3)"
    assert next(carver.agreement(made)).probability > 0
    with pytest.raises(MethodError, match="unknown method 'nerm'"):
        Carver(carver.vlm, ["nerm"])


@pytest.mark.parametrize("name", ["norm", ADDRESS])
def test_attach(installed: Path, name: str) -> None:
    vlm = load_vlm(vlm_path())
    with foveate.attach(vlm.model, f"{name}(prune_layer=3)", keep="25%") as run:
        assert run.method == find_method(name).from_dict({"keep_ratio": 0.25, "prune_layer": 3})


def test_ask_and_compare_and_methods(installed: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    load_questions("reading", limit=1)[0].image.save(picture)
    asked = [
        json.loads(
            run_foveate("ask", picture, "what is the price of tea ?", "--method", name, "--keep",
                        "25%", "--json").stdout
        )
        for name in ("norm(keep_first=3)", f"{ADDRESS}(keep_first=3)")
    ]  # fmt: skip
    assert asked[0]["answer_compressed"] == asked[1]["answer_compressed"]
    assert asked[1]["report"]["method"] == "norm(keep=25%, keep_first=3)"
    stack = f"{ADDRESS}(keep_first=3):50%+fastv(prune_layer=5)"
    options = ("--limit", "4", "--rounds", "0", "--keep", "25%", "--output", tmp_path, "--json")
    rows = json.loads(run_foveate("compare", "--methods", "norm", stack, *options).stdout)["rows"]
    assert {"norm", stack} < {row["method"] for row in rows}
    listed = {entry["name"]: entry for entry in json.loads(run_foveate("methods", "--json").stdout)}
    assert listed["norm"]["origin"] == "foveate-norm 1.0"
    assert "from foveate-norm 1.0" in run_foveate("methods").stdout


def test_other_processes_find_it(installed: Path) -> None:
    made = parse_method(f"{ADDRESS}(keep_first=3)", QUARTER)
    assert pickle.loads(pickle.dumps(made)) == made  # how Ray sends it
    code = f"import foveate; print(foveate.method(**{made.to_dict()!r}))"
    path = os.pathsep.join((str(installed), str(ROOT)))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.stdout.strip() == str(made), done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_norm.py"],
        cwd=installed, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout


# --- what is wrong with a package, and with an address ---


@pytest.mark.usefixtures("own_methods")
@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nowhere", r"'nowhere' cannot be imported|No module named 'nowhere'"),
        ("raise RuntimeError('broken')", r"RuntimeError: broken"),
        ("class Odd: pass", r"not a subclass of foveate.Method"),
        ("x = 1", r"is nothing; write package.module:Class"),
        ("from foveate import FastV as Odd", r"has the name 'fastv'; its entry point has to have"),
        ("from foveate import FastV\nclass Odd(FastV):\n    pass", r"has not a name of its own"),
        ("from foveate import Method\nclass Odd(Method):\n    name = 'odd'", r"not a plan of its"),
        ("from foveate import FastV\nclass Odd(FastV):\n    name = 'tome'",
         r"has the name 'tome', which foveate.carve.methods.tome.ToMe has"),
        ("from foveate import FastV\nclass Odd(FastV):\n    name = 'odd'\n1 / 0", r"ZeroDivision"),
    ],
)  # fmt: skip
def test_a_broken_package_is_named_and_breaks_nothing_else(
    code: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger(tmp_path, "stranger", code, monkeypatch)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    assert parse_method("fastv", QUARTER) == foveate.FastV(keep_ratio=0.25)
    assert "odd" not in all_methods()
    (sentence,) = broken_packages()
    assert sentence.startswith("The method 'odd' of the package stranger 2.1 cannot be used: ")
    assert re.search(words, sentence)
    with pytest.raises(MethodError, match=r"unknown method 'odd'; choose .* package stranger 2.1"):
        parse_method("odd", QUARTER)
    done = run_foveate("methods", "--json")
    assert "stranger 2.1 cannot be used" in done.stderr
    assert "fastv" in {entry["name"] for entry in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nowhere.at_all:Odd", r"the module 'nowhere.at_all' cannot be imported \(ModuleNotFound"),
        ("json:Odd", r"'json:Odd' is nothing; write package.module:Class"),
        ("json:JSONEncoder", r"not a subclass of foveate.Method"),
        ("foveate.carve.method:Method", r"has not a plan of its own"),
    ],
)
def test_an_address_with_no_method(text: str, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        parse_method(text, QUARTER)


def test_a_word_behind_a_method_is_still_no_budget() -> None:
    with pytest.raises(BudgetError, match="budget 'half' is not a count or a share"):
        parse_method("fastv:half+tokencarve", QUARTER)
