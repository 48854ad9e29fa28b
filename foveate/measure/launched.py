"""The processes of `accelerate launch`, for work that is shared out by number."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from foveate.errors import InputError

__all__ = ["Launched"]

# The first process waits for the slowest one; collective calls give up after minutes by default.
PATIENCE = timedelta(days=7)


class Launched:
    """Which of the launched processes this is; alone, everything is a no-op.

    Args:
        cpu: do not use a GPU to talk.

    Raises:
        InputError: several processes were launched, and accelerate is not installed.
    """

    def __init__(self, *, cpu: bool) -> None:
        self._state: Any = None
        # What accelerate and torchrun tell their processes; alone there is no need to import it.
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            try:
                from accelerate import PartialState
            except ImportError as error:
                raise InputError(
                    "several processes need the package accelerate; install it with "
                    "pip install accelerate, or give each one a --share."
                ) from error
            self._state = PartialState(cpu=cpu, timeout=PATIENCE)

    @property
    def index(self) -> int:
        return int(self._state.process_index) if self._state else 0

    @property
    def count(self) -> int:
        return int(self._state.num_processes) if self._state else 1

    @property
    def is_main(self) -> bool:
        return self.index == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self._state:
            self._state.wait_for_everyone()

    def close(self) -> None:
        """Leave the group."""
        if self._state:
            self._state.destroy_process_group()
