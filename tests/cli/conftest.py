"""One tiny checkpoint on disk and a way to run commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.cli.batch_case import batch_command, batch_input, batch_whole, half_done
from tests.cli.vlm_folder import save_tiny_vlm

__all__ = ["batch_command", "batch_input", "batch_whole", "half_done"]  # fixtures

Foveate = Callable[..., Result]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "broken"))


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def foveate() -> Foveate:
    """Run the command line as a user does; an unexpected exception fails the test."""
    from foveate.cli.main import app

    def run(*arguments: object, ok: bool = True, code: int | None = None) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        as_expected = (result.exit_code == 0) is ok if code is None else result.exit_code == code
        assert as_expected, (result.exit_code, result.stdout, result.stderr)
        return result

    return run
