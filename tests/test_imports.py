"""Two halves on shared ground: one rule per room, and no arrow runs back up."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "foveate"
FILES = sorted(PACKAGE.rglob("*.py"))

# Room -> the rooms it uses, listed from the ground up: a room may use only rooms above its line
# here. A room is a folder; in the two halves, one of their folders, or a file beside them. A line
# permits what the code uses and no more. GROUND stands under everything.
RULES: dict[str, str] = {
    # Shared ground.
    "assets": "",
    "core": "",
    "image_file": "",
    "jsonl_file": "",
    "toml_file": "",
    "tasks": "image_file jsonl_file",
    "text_image": "",
    "measure": "core",
    "draw": "core",
    "models": "assets core image_file",
    # Carve: fewer visual tokens.
    "carve/definition": "core",
    "carve/needs": "core",
    "carve/method": "core carve/definition carve/needs",
    "carve/registry": "carve/definition carve/method",
    "carve/tower_method": "core carve/method",
    "carve/frame_method": "core carve/method",
    "carve/methods": "core carve/needs carve/method carve/tower_method carve/frame_method",
    "carve/composed": "core carve/method carve/registry",
    "carve/stack": "core carve/composed carve/method carve/frame_method",
    "carve/text_share": "core carve/composed carve/needs carve/method carve/frame_method",
    "carve/spec": "core carve/method carve/registry carve/stack carve/text_share",
    "carve/two_stage": "core carve/composed carve/frame_method carve/needs carve/method carve/spec",
    "carve": "carve/methods carve/stack carve/text_share carve/two_stage",
    "carve/tower": "core models carve/needs carve/method carve/tower_method",
    "carve/engine": "core models carve/needs carve/method carve/tower",
    "carve/check": "assets models carve/method carve/methods carve/engine",
    "carve/profile": "toml_file carve/method carve/registry",
    "carve/attach": "core models carve/method carve/spec carve/profile carve/engine carve/check",
    "carve/answerer": "core models carve/method carve/engine carve/check",
    "carve/pages": "assets core tasks text_image models carve/method carve/methods carve/spec "
    "carve/attach",
    "carve/compare": "core tasks measure models carve/method carve/spec carve/engine "
    "carve/answerer",
    "carve/tune": "core tasks measure models carve/method carve/spec carve/compare",
    # Vist: far text as latents.
    "vist/sizes": "",
    "vist/config": "vist/sizes",
    "vist/checkpoint": "core vist/sizes vist/config",
    "vist/encoder": "text_image models",
    "vist/latents": "text_image vist/sizes vist/config",
    "vist/fusion": "core models vist/config vist/latents",
    "vist/forms": "core models vist/latents vist/fusion",
    "vist/parts": "core text_image vist/config vist/latents vist/fusion",
    "vist/index_file": "core vist/latents",
    "vist/fixation": "models text_image vist/latents vist/fusion",
    "vist/run": "assets core text_image models vist/sizes vist/config vist/checkpoint vist/encoder "
    "vist/latents vist/fusion vist/forms vist/index_file vist/parts vist/fixation",
    "vist/train": "assets jsonl_file text_image draw models vist/config vist/checkpoint "
    "vist/encoder vist/latents vist/fusion vist/parts vist/run",
    "vist/cepe": "core text_image models vist/sizes vist/config vist/checkpoint vist/latents "
    "vist/fusion vist/parts vist/run vist/train",
    "vist/eval": "tasks measure text_image models vist/encoder vist/latents vist/fusion "
    "vist/fixation vist/run",
    # Where both are put to work.
    "vllm": "core measure carve/composed carve/needs carve/method carve/frame_method "
    "carve/registry carve/spec",
    "__init__": "core tasks models carve/method carve/registry carve/methods carve/stack "
    "carve/text_share carve/two_stage carve/profile carve/engine carve/attach carve/pages vist/run",
    "jobs": "assets core image_file jsonl_file measure models carve/method carve/profile "
    "carve/spec carve/answerer vllm __init__",
    "app": "assets core image_file tasks text_image draw models carve/method carve/registry "
    "carve/methods carve/profile carve/spec carve/engine carve/attach carve/answerer "
    "carve/compare vist/encoder vist/fixation vist/run",
    "cli": "assets core image_file tasks text_image measure draw models carve/method "
    "carve/registry carve/spec carve/profile carve/engine carve/check carve/pages carve/compare "
    "carve/tune vist/parts "
    "vist/encoder vist/run vist/train vist/cepe vist/eval vist/index_file vllm __init__ jobs app",
    "__main__": "cli",
}
GROUND = ("errors", "files", "tensor_file", "version")


@functools.cache
def imported(path: Path) -> list[str]:
    """Every module a file names in an import, also inside functions and for type checkers."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` names the module.
            names += [
                f"{node.module}.{alias.name}"
                if _is_module(f"{node.module}.{alias.name}")
                else node.module
                for alias in node.names
            ]
    return names


def _is_module(name: str) -> bool:
    place = PACKAGE.parent / name.replace(".", "/")
    return place.with_suffix(".py").exists() or (place / "__init__.py").exists()


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def module_of(path: Path) -> str:
    parts = ["foveate", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    return "/".join(parts[:2] if parts[0] in ("carve", "vist") else parts[:1])


def rooms_used() -> dict[str, dict[str, list[str]]]:
    """Room -> the rooms it uses -> the files that do."""
    used: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in FILES:
        here = room_of(module_of(path))
        for name in imported(path):
            if name.split(".")[0] == "foveate" and room_of(name) not in (here, *GROUND):
                used[here][room_of(name)].append(name_of(path))
    return used


USED = rooms_used()


def is_script(path: Path) -> bool:
    return 'if __name__ == "__main__"' in path.read_text()


def test_every_room_has_a_rule() -> None:
    # The face of Vist defines nothing, and that of Carve has the built-in methods defined.
    rooms = {room_of(module_of(path)) for path in FILES} - {*GROUND, "vist"}
    assert rooms == set(RULES)


@pytest.mark.parametrize("room", RULES)
def test_a_room_uses_what_its_rule_says(room: str) -> None:
    assert {name: USED[room][name] for name in USED[room] if name not in RULES[room].split()} == {}
    assert set(RULES[room].split()) == set(USED[room]), "the rule permits more than the code uses"


def test_no_arrow_runs_back_up() -> None:
    floors = list(RULES)
    back = {(a, b) for a in floors for b in RULES[a].split() if floors.index(b) >= floors.index(a)}
    assert back == set()


def test_the_two_halves_do_not_know_each_other() -> None:
    between = {(a, b) for a in USED for b in USED[a] if {a[:5], b[:5]} == {"carve", "vist/"}}
    assert between == set()


def test_no_files_import_each_other_in_a_circle() -> None:
    arrows = {
        module_of(path): {n for n in imported(path) if n.split(".")[0] == "foveate"}
        for path in FILES
    }
    rest = {module for module in arrows if module != "foveate"}
    while gone := {m for m in rest if not arrows[m] & (rest - {m})}:
        rest -= gone
    while gone := {m for m in rest if not any(m in arrows[other] for other in rest - {m})}:
        rest -= gone
    assert rest == set()


@pytest.mark.parametrize(
    "room", ["core", "carve/method", "carve/methods", "carve/registry", "text_image", "tasks"]
)
def test_pure_rooms_know_no_model_library(room: str) -> None:
    files = [path for path in FILES if room_of(module_of(path)) == room]
    assert files
    for path in files:
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & {"transformers", "tokenizers"}, name_of(path)


@pytest.mark.parametrize(
    ("library", "users"),
    [
        ("lmms_eval", {"jobs/lmms_eval.py"}),
        ("gradio", {"app/page.py", "app/serve.py"}),
    ],
)
def test_only_its_adapter_imports(library: str, users: set[str]) -> None:
    found = {name_of(p) for p in FILES if library in {n.split(".")[0] for n in imported(p)}}
    assert found == users


def test_only_its_folder_and_an_engine_of_jobs_import_vllm() -> None:
    users = [p for p in FILES if any(n.split(".")[0] == "vllm" for n in imported(p))]
    others = {name_of(path) for path in users if path.parent != PACKAGE / "vllm"}
    assert len(users) > 1
    assert others == {"jobs/vllm_answerer.py"}


def test_importing_foveate_is_light_and_silent() -> None:
    code = "import sys, foveate; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if not name_of(p).startswith("cli/") and not is_script(p)],
    ids=name_of,
)
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not calls
