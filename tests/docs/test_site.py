"""The documentation site: its pages exist, their examples run, their commands are real."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from foveate.carve.method import METHODS
from foveate.cli.main import app
from tests.docs.test_examples import ROOT, python_blocks
from tests.wheel import needs_smollm2

DOCS = ROOT / "docs"
PAGES = sorted(str(p.relative_to(ROOT)) for p in DOCS.rglob("*.md") if "results" not in p.parts)
# Pages whose blocks run as they stand, one after the other.
PLAIN = ("docs/quick-start.md", "docs/how-carving-works.md", "docs/choosing.md")
LAUNCHED = re.compile(r"^accelerate launch .*?-m (?=foveate )", re.M)
COMMANDS = sorted(
    {
        line.split("  #")[0].rstrip(" &")
        for page in [*PAGES, "README.md"]
        for block in re.findall(r"```(?:bash|console)?\n(.*?)```", (ROOT / page).read_text(), re.S)
        for line in LAUNCHED.sub("", block.replace("\\\n", " ")).splitlines()
        if line.startswith("foveate ")
    }
)
EVERYWHERE = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "foveate").rglob("README.md")]
MODULES = sorted(
    {
        name
        for page in EVERYWHERE
        for name in re.findall(r"python -m ((?:foveate|benchmarks)[\w.]*\w)", page.read_text())
    }
)


class _Settings(yaml.SafeLoader):
    """mkdocs.yml, whatever tags its extensions use."""


def settings() -> dict[str, Any]:
    return dict(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Settings))


def pages_of(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in pages_of(entry)]


@pytest.fixture(scope="module")
def site_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_check", DOCS / "site_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_navigation_is_complete() -> None:
    named = pages_of(settings()["nav"])
    written = {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md") if "results" not in p.parts}
    assert len(set(named)) == len(named)
    assert set(named) - {"results/README.md"} <= written
    # Serving joins by itself, see docs/site_hooks.py.
    assert written - set(named) <= {"serving.md"}


def test_the_reference_has_every_method() -> None:
    page = (DOCS / "api" / "methods.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: (\S+)", page, re.M))
    homes = {f"{cls.__module__}.{cls.__name__}" for name, cls in METHODS.items() if name != "noop"}
    assert homes <= named


@pytest.mark.parametrize("page", sorted(p.name for p in (DOCS / "api").glob("*.md")))
def test_what_the_reference_names_exists(page: str) -> None:
    names = re.findall(r"^::: (\S+)", (DOCS / "api" / page).read_text(encoding="utf-8"), re.M)
    assert names
    for name in names:
        thing = pkgutil.resolve_name(name)
        assert thing.__doc__


def test_nothing_is_fetched() -> None:
    assert settings()["theme"]["font"] is False
    assert settings()["strict"] is True
    assert not {"repo_url", "extra_css", "extra_javascript"} & set(settings())


@pytest.mark.parametrize("page", PLAIN)
def test_examples_run(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    blocks = python_blocks(page)
    assert blocks
    for block in blocks:
        exec(block, names)
    shown = capsys.readouterr().out
    if page == "docs/quick-start.md":
        assert "196 -> 49 kept" in shown
        assert names["picture"].width > 380
    elif page == "docs/how-carving-works.md":
        assert "(1, 16, 8) -> (1, 6, 8)" in shown
        assert names["plan"].num_kept == 6
    else:
        found = dict(line.split() for line in shown.splitlines())
        assert list(found) == ["tokencarve", "fastv", "random"]
        assert int(found["tokencarve"].rstrip("%")) <= 75


@needs_smollm2
def test_the_example_of_reading_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = python_blocks("docs/how-vist-works.md")
    names: dict[str, Any] = {}
    exec(block, names)
    shown = capsys.readouterr().out
    memory = names["memory"]
    assert f"{memory.num_tokens} tokens -> {memory.num_latents} latents" in shown
    assert memory.num_latents < memory.num_tokens / 2.5
    assert all(names[way] for way in ("compressed", "absent", "full"))


def test_every_python_block_is_run_by_a_test() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "docs").glob("test_*.py"))
    with_python = [page for page in PAGES if python_blocks(page)]
    assert set(PLAIN) <= set(with_python)
    assert [page for page in with_python if f'"{page}"' not in tests] == []


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_exist(line: str) -> None:
    command: Any = typer.main.get_command(app)
    words = [word for word in shlex.split(line)[1:] if word not in (";", "wait")]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0).rstrip(";")]
    known = {name for option in command.params for name in option.opts}
    given = {word.split("=")[0] for word in words if word.startswith("--")}
    if command.context_settings.get("ignore_unknown_options"):  # the rest is another program's
        assert given & known
    else:
        assert given - {"--help"} <= known


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_are_run_exist(name: str) -> None:
    assert importlib.util.find_spec(name) is not None


# --- the link check itself ---


def write(folder: Path, **pages: str) -> None:
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>")


def test_a_sound_site_has_no_problems(site_check: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, a='<a href="b.html#there">b</a> <a href="https://example.org">x</a>',
          b='<h2 id="there">b</h2><a href="#there">up</a>')  # fmt: skip
    assert site_check.problems(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('<a href="c.html">c</a>', "a.html links to c.html, which does not exist."),
        ('<img src="c.png">', "a.html links to c.png, which does not exist."),
        ('<a href="#no">c</a>', "a.html links to #no, and that page has no such anchor."),
        ('<script src="https://cdn.example.org/x.js"></script>',
         "a.html loads https://cdn.example.org/x.js from another host."),
        ('<link rel="stylesheet" href="//fonts.example.org/x.css">',
         "a.html loads //fonts.example.org/x.css from another host."),
    ],
)  # fmt: skip
def test_what_is_broken_is_named(
    site_check: ModuleType, tmp_path: Path, body: str, sentence: str
) -> None:
    write(tmp_path, a=body)
    assert site_check.problems(tmp_path) == [sentence]


def test_an_empty_site_is_a_problem(site_check: ModuleType, tmp_path: Path) -> None:
    assert site_check.problems(tmp_path) == [f"{tmp_path} has no pages."]
