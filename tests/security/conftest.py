"""The checkpoint, the job and the way to run commands of the command line's own tests."""

from __future__ import annotations

from tests.cli.conftest import batch_command, batch_input, checkpoint, foveate, picture

__all__ = ["batch_command", "batch_input", "checkpoint", "foveate", "picture"]  # fixtures
