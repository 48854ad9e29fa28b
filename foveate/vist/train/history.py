"""What happened, step by step: a JSONL file, a picture of the losses, TensorBoard if wished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.draw.loss_plot import draw_losses
from foveate.errors import InputError
from foveate.files import write_text

__all__ = ["History", "read_history"]

FILE, PICTURE = "history.jsonl", "loss.png"


class History:
    """Writes a run's records.

    Args:
        folder: of the run.
        title: of the picture.
        first_step: step the run (re)starts at; later records of an interrupted run are dropped.
        plot_every: steps between pictures.
        tensorboard: also write TensorBoard's files, below `folder`/tensorboard.

    Raises:
        InputError: TensorBoard is wished for and not installed.
    """

    def __init__(
        self, folder: Path, *, title: str, first_step: int, plot_every: int, tensorboard: bool
    ) -> None:
        self.path, self.picture, self.title = folder / FILE, folder / PICTURE, title
        self.plot_every = plot_every
        self.records = [r for r in read_history(folder) if r["step"] <= first_step]
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        write_text(self.path, lines)
        self._board = _board(folder / "tensorboard") if tensorboard else None

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one step."""
        self.records.append(dict(record))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, record["step"])
        if record["step"] % self.plot_every == 0:
            self.draw()

    def draw(self) -> None:
        """Write the picture of all losses so far."""
        if self.records:
            draw_losses(self.records, title=self.title, path=self.picture)

    def close(self) -> None:
        """Write the last picture, and let go of TensorBoard."""
        self.draw()
        if self._board is not None:
            self._board.close()


def read_history(folder: str | Path) -> list[dict[str, Any]]:
    """All records of a run, oldest first; a last line cut off by a crash is left out.

    Raises:
        InputError: a line that others follow is damaged; the file would lose them all.
    """
    path = Path(folder) / FILE
    if not path.exists():
        return []
    records = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise InputError(
                f"line {number} of {path} is damaged ({error}); mend or delete that line, or start "
                "in another folder."
            ) from error
    return records


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "run.tensorboard needs the package tensorboard; pip install tensorboard, or set "
            "run.tensorboard=false (history.jsonl and loss.png are written anyway)."
        ) from error
    return SummaryWriter(str(folder))
