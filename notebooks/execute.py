"""Runs the notebooks in Jupyter and saves what they show: python notebooks/execute.py

What changes from run to run (times, messages of libraries, metadata) is not saved.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
SECONDS = 120  # for a cell


def execute(path: Path) -> None:
    """Run one notebook and write it back."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _outputs(cell.outputs)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def _outputs(found: list[Any]) -> list[Any]:
    """What is worth keeping: all that was printed in one piece, pictures in few colours."""
    printed = "".join(out["text"] for out in found if out.get("name") == "stdout")
    kept = [nbformat.v4.new_output("stream", name="stdout", text=printed)] if printed else []
    for out in found:
        if out.output_type == "execute_result":
            picture = out.data.get("image/png")
            data = {"text/plain": out.data["text/plain"]}
            if picture is not None:
                data["image/png"] = _smaller(picture)
            kept.append(nbformat.v4.new_output("display_data", data=data))
    return kept


def _smaller(picture: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(picture))) as full:
        few = full.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    for found in sorted(FOLDER.glob("*.ipynb")):
        execute(found)
