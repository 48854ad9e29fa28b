"""Where cases run: a folder with small models, which are loaded once and not for every case.

What is replaced, because it is not what is tried here: weights are loaded once (a wrong name or a
broken folder is loaded for real); evaluations, training, the demo and the two servers stop where
their models would load, after all their options and files were read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.assets import EMBEDDED, vist_path
from foveate.cli import console
from foveate.cli.main import app
from foveate.errors import InputError
from foveate.models.load import load_vlm
from foveate.vist.run.vist import Vist
from tests.cli.tiny_vist_folder import save_tiny_vist
from tests.cli.vlm_folder import save_tiny_vlm
from tests.fuzz.cases import Case

TEMPLATE = (
    "{% for message in messages %}Q: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}A: {% endif %}"
)
NO_JSON = ("serve", "train")
STOPPED = "the models would be loaded now."
OLD = {"old.png": b"an old picture", "old.jsonl": b"old answers"}


class World:
    """Runs cases and says what is wrong with what they did."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.model = save_tiny_vlm(folder / "tiny-vlm")
        self.vist = save_tiny_vist(folder / "tiny-vist")
        self._stub(patch)

    def _stub(self, patch: pytest.MonkeyPatch) -> None:
        vlm, vist = load_vlm(self.model), Vist.from_pretrained(self.vist)
        vist.tokenizer.chat_template = TEMPLATE
        real = Vist.from_pretrained

        def one_vlm(name: Any, **more: Any) -> Any:
            known = name == EMBEDDED or str(name) == str(self.model)
            return (
                vlm
                if known and more.get("device") in ("cpu", "auto", None)
                else load_vlm(self.model if known else name, **more)
            )

        def one_vist(name: Any, **more: Any) -> Any:
            known = str(name) in (str(vist_path()), str(self.vist))
            plain = more.get("device") in (None, "cpu") and more.get("base") is None
            return vist if known and plain else real(self.vist if known else name, **more)

        def stop(*given: Any, **more: Any) -> NoReturn:
            raise InputError(STOPPED)

        def served(*given: Any) -> NoReturn:
            raise SystemExit(0)

        patch.setattr("foveate.models.load.load_vlm", one_vlm)
        patch.setattr("foveate.carve.pages.reader.load_vlm", one_vlm)
        patch.setattr("foveate.jobs.batch_answerer.load_vlm", one_vlm)
        patch.setattr(Vist, "from_pretrained", staticmethod(one_vist))
        patch.setattr("foveate.cli.eval_options.load_subjects", stop)
        patch.setattr("foveate.cli.train._run", lambda *given, **more: None)
        patch.setattr("foveate.cli.demo.load_model", stop)
        patch.setattr("foveate.carve.check.check.check", stop)
        patch.setattr("foveate.cli.play.load_models", stop)
        found = types.SimpleNamespace(find_spec=lambda name: object())
        patch.setattr("foveate.cli.play.importlib", types.SimpleNamespace(util=found))
        patch.setattr("foveate.vllm.command.check_installed", lambda environment: None)
        patch.setattr("os.execv", served)

    def run(self, case: Case) -> None:
        """Run a case in a folder of its own; AssertionError says what is wrong."""
        home = self.folder / "case"
        shutil.rmtree(home, ignore_errors=True)
        for name, data in {**case.files, **OLD}.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
        (home / "loop").symlink_to("loop")
        os.mkfifo(home / "pipe")
        named = {"MODEL": str(self.model), "VIST": str(self.vist)}
        arguments = [named.get(word, word) for word in case.arguments]
        widths = [(one, one._width) for one in (console.out, console.err)]
        folder = contextlib.chdir(home) if hasattr(contextlib, "chdir") else _chdir(home)
        with folder, _ended(home / "pipe"):
            for one, _ in widths:
                one._width = case.columns
            try:
                runner = CliRunner(charset=case.charset)
                result = runner.invoke(app, arguments, input=case.stdin)
            finally:
                for one, width in widths:
                    one._width = width
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self._check_streams(case, result)
        self._check_files(home, result)

    def _check_streams(self, case: Case, result: Any) -> None:
        code, err = result.exit_code, result.stderr
        allowed = (0, 1, 2) if case.arguments[0] == "check" else (0, 2)
        assert code in allowed, (code, err)
        assert "Traceback" not in err
        if code == 2:
            assert err.strip(), "a mistake without a word"
            last = [line for line in err.splitlines() if line.startswith("foveate: ")]
            assert len(last) == 1 or "Usage:" in err, err
        elif code == 0 and "--json" in case.arguments and case.arguments[0] not in NO_JSON:
            json.loads(result.stdout or "null")

    def _check_files(self, home: Path, result: Any) -> None:
        for path in home.rglob("*"):
            assert not path.name.endswith(".draft"), f"{path.name} was left behind"
            if path.is_symlink() or not path.is_file() or str(path.name) in ("image.png",):
                continue
            data = path.read_bytes()
            if data == OLD.get(path.name) or path.parent.name == "broken":
                continue
            if path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
            elif path.suffix == ".json":
                json.loads(data)
        for name, data in OLD.items():
            whole = (home / name).read_bytes()
            assert whole == data or result.exit_code == 0, f"{name} was replaced by a failure"


@contextlib.contextmanager
def _ended(pipe: Path) -> Iterator[None]:
    """A silent program at the other end of a pipe: who opens it reads its end, without a wait."""
    is_over = threading.Event()

    def end() -> None:
        while not is_over.is_set():
            os.close(os.open(pipe, os.O_WRONLY))  # waits for a reader

    program = threading.Thread(target=end, daemon=True)
    program.start()
    try:
        yield
    finally:
        is_over.set()
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # lets the program go
        program.join()
        os.close(reader)


@contextlib.contextmanager
def _chdir(folder: Path) -> Any:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
