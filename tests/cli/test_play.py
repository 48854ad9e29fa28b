"""`foveate play` refuses what cannot be, with a sentence."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.cli.conftest import Foveate


def test_without_gradio(foveate: Foveate, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *args: Any) -> Any:
        return None if name == "gradio" else find(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    done = foveate("play", ok=False)
    assert done.exit_code == 2
    assert "needs Gradio, which is not installed; run `make play` in a clone, or pip install" in (
        done.stderr
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--port", "70000"], "port 70000 does not exist; choose 1 to 65535"),
        (["--max-upload", "0"], "file_bytes=0 is below 1"),
        (["--max-upload", "nan"], "--max-upload nan is no size"),
        (["--max-pixels", "inf"], "--max-pixels inf is no size"),
        (["no-such-folder/model"], "model 'no-such-folder/model'"),
        (["--vist", "no-such-folder"], "no-such-folder"),
    ],
)
def test_bad_options(
    foveate: Foveate, monkeypatch: pytest.MonkeyPatch, options: list[str], sentence: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: find("json" if name == "gradio" else name, *a)
    )
    done = foveate("play", *options, ok=False)
    assert done.exit_code == 2
    assert sentence in done.stderr
