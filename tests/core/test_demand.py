"""What a method would need is told, and refused, before it starts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

import foveate
from foveate.core import demand
from foveate.core.demand import Demand, check_demand, free_bytes
from foveate.core.plan import KeepPlan
from foveate.core.visual import VisualTokens
from foveate.errors import MethodError

CPU = torch.device("cpu")
SIZES = {"method": "tokencarve", "num_images": 2, "num_tokens": 16384, "device": CPU}


def test_too_long_says_how_long_and_what_else() -> None:
    needed = Demand(what="a big eigh", bytes=3 * 10**9, seconds=17.2, instead="use 'auto'")
    with pytest.raises(
        MethodError,
        match=r"tokencarve needs a big eigh for 2 images of 16,384 tokens: about 17 s each on one "
        r"CPU core and 3\.0 GB in all, above the limit of 15 s; use 'auto'\.",
    ):
        check_demand(needed, **SIZES)  # type: ignore[arg-type]


def test_too_large_says_how_large_and_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = Demand(what="its kernel", bytes=3 * 10**9)
    monkeypatch.setattr(demand, "free_bytes", lambda device: 2 * 10**9)
    with pytest.raises(MethodError, match=r"3\.0 GB, and 2\.0 GB are free on cpu; send fewer"):
        check_demand(needed, **SIZES)  # type: ignore[arg-type]
    monkeypatch.setattr(demand, "free_bytes", lambda device: None)
    check_demand(needed, **SIZES)  # type: ignore[arg-type]


def test_free_memory_of_this_machine() -> None:
    free = free_bytes(CPU)
    assert free is None or 2**20 < free < 2**50
    assert free_bytes(torch.device("meta")) is None


def test_select_asks_before_plan_starts() -> None:
    """With the method's own plan as the control: it never runs."""

    @dataclass(frozen=True, kw_only=True)
    class Hungry(foveate.METHODS["divprune"]):  # type: ignore[misc, name-defined]
        name = "hungry"

        def demand(self, num_images: int, num_tokens: int, width: int, keep: int) -> Demand:
            return Demand(what="patience", seconds=float(num_images * num_tokens * width * keep))

        def plan(self, visual: VisualTokens, keep: int) -> KeepPlan:
            started.append(visual.num_tokens)
            return super().plan(visual, keep)  # type: ignore[no-any-return]

    foveate.METHODS.pop("hungry")
    started: list[int] = []
    method = Hungry(keep_tokens=2)
    method.select(VisualTokens(hidden=torch.randn(1, 3, 2)), 2)  # 12 s
    with pytest.raises(MethodError, match="hungry needs patience for 1 image of 4 tokens"):
        method.select(VisualTokens(hidden=torch.randn(1, 4, 2)), 2)
    assert started == [3]


@pytest.mark.parametrize(
    ("num_tokens", "width", "form", "refused"),
    [
        (576, 4096, "exact", False),
        (4096, 3584, "exact", False),
        (16384, 3584, "exact", True),
        (16384, 3584, "auto", False),
        (16384, 3584, "subspace", False),
        (16384, 3584, "norm", False),
        (16384, 1024, "exact", False),
    ],
)
def test_exact_information_of_many_tokens_is_refused(
    num_tokens: int, width: int, form: str, refused: bool
) -> None:
    method = foveate.method("tokencarve", keep_ratio=0.25, information_score=form)
    needed = method.demand(1, num_tokens, width, num_tokens // 4)
    assert (needed.seconds > demand.LONGEST_SECONDS) == refused
    if refused:
        hidden = torch.zeros(1, 1, 1).expand(1, num_tokens, width)  # no memory of its own
        message = r"float64 eigendecomposition of 3584 x 3584 .* use information_score='auto'"
        with pytest.raises(MethodError, match=message):
            method.select(VisualTokens(hidden=hidden), num_tokens // 4)


MEASURE = """
import json, re, sys, time, torch, foveate
from pathlib import Path
from foveate.core.visual import VisualTokens

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def image(n, d):
    mask = torch.ones(1, 4, dtype=torch.bool)
    return VisualTokens(
        hidden=torch.randn(1, n, d), text=torch.randn(1, 4, d), text_mask=mask,
        foresight=torch.rand(1, n),
        attention=torch.rand(1, 2, n), serials=(0,), vision_attention=torch.rand(1, n),
        vision_features=torch.randn(1, n, d),
    )

torch.set_num_threads(1)
method = foveate.method(**json.loads(sys.argv[1]), keep_ratio=0.25)
n, d = map(int, sys.argv[2:])
method.select(image(64, d), 16)
visual = image(n, d)
Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
before, started = peak(), time.thread_time()
method.select(visual, n // 4)
took, held, told = time.thread_time() - started, peak() - before, method.demand(1, n, d, n // 4)
print(took, held, told.seconds, told.bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"name": "tokencarve", "information_score": "exact"}, (1200, 1600)),
        ({"name": "tokencarve", "information_score": "exact"}, (3000, 1000)),
        ({"name": "foveacarve"}, (2500, 1000)),
        ({"name": "cdpruner"}, (2500, 1000)),
        ({"name": "mmtok"}, (2500, 1000)),
        ({"name": "scope"}, (2500, 1000)),
    ],
)
def test_estimates(settings: dict[str, str], shape: tuple[int, int]) -> None:
    """Bytes to within a factor of two; seconds are those of some core, so not to be held to."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(settings), *map(str, shape)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, held, told_seconds, told_bytes = map(float, done.stdout.split())
    assert 0.5 < told_bytes / held < 2
    assert not told_seconds or 0.1 < told_seconds / seconds < 10
