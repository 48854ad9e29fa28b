"""The cost table and the reduced scale that is really run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from benchmarks.vist_cost.arithmetic import PIECES
from benchmarks.vist_cost.probe import ProbeArms
from benchmarks.vist_cost.table import CostSettings, evaluate_cost
from foveate.errors import InputError


@dataclass
class FakeProbe:
    ran: list[tuple[str, int]] = field(default_factory=list)

    def run(self, arm: str, total: int, split: tuple[int, int], new_tokens: int) -> int:
        self.ran.append((arm, total))
        assert sum(split) == total
        return 0

    def peak(self, arm: str, total: int, split: tuple[int, int], new_tokens: int) -> int:
        return {"raw": 400, "cepe": 200}.get(arm, 100)


def test_table() -> None:
    probe = FakeProbe()
    settings = CostSettings(totals=(4096, 16384), count=False, measured=(64,), rounds=2)
    result = evaluate_cost(settings, probe=probe)
    rows = {(r["arm"], r["total"], r["tokens_per_image"]): r for r in result.rows if "flops" in r}
    assert len(rows) == 2 * (3 + 2 * 2)
    vist = rows["vist", 16384, 146.0]
    assert vist["paper_tflops"] == 19.52
    assert rows["vist", 16384, 187.0]["paper_tflops"] is None
    assert vist["entries"] == 98 * 64
    assert vist["flops"] == sum(vist["flops_parts"].values())
    assert vist["memory_eager"] == vist["memory_lines"]["peak"]
    cepe = rows["cepe", 16384, None]
    assert cepe["flops_vs_cepe"] == cepe["memory_vs_cepe"] == 0
    assert vist["flops_vs_cepe"] == pytest.approx(vist["flops"] / cepe["flops"] - 1)
    real = {r["arm"]: r for r in result.rows if r.get("scale") == "reduced"}
    assert set(real) == set(PIECES)
    assert real["vist"]["memory_vs_cepe"] == -0.5
    assert real["vist"]["memory_vs_raw"] == -0.75
    # one warm-up and two rounds of every arm
    assert len(probe.ran) == 3 * len(PIECES)
    page = result.markdown()
    assert "where the paper reports -16 % and -50 %: vist, 146 a strip: FLOPs +24%" in page
    assert "## 16,384 tokens: TFLOPs" in page
    assert "## 16,384 tokens: peak memory, GB" in page
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(InputError, match="pass count="):
        evaluate_cost(CostSettings(totals=(1024,)))
    with pytest.raises(InputError, match="pass probe="):
        evaluate_cost(CostSettings(totals=(1024,), count=False, measured=(64,)))
    with pytest.raises(InputError, match="unknown arms x"):
        CostSettings(arms=("x",))


@pytest.fixture(scope="module")
def probe() -> ProbeArms:
    return ProbeArms()


@pytest.mark.parametrize("arm", PIECES)
def test_every_arm_runs(probe: ProbeArms, arm: str) -> None:
    entries = probe.run(arm, 400, (200, 200), 2)
    text = "".join(f" {word}" for word in probe._order[:200])
    assert len(probe.tokenizer(text)["input_ids"]) == 200
    assert entries == {"raw": 0, "cepe": 200}.get(arm, 64 if arm == "cepe-resampled" else 128)


def test_an_unknown_arm(probe: ProbeArms) -> None:
    with pytest.raises(InputError, match="unknown arm 'x'; choose from raw, vist"):
        probe.run("x", 8, (4, 4), 1)


def test_added_bytes() -> None:
    """In a process of its own, as the probe runs: another test's freed memory would be reused."""
    code = (
        "import torch; from benchmarks.vist_cost.probe import added_bytes\n"
        "print(added_bytes(lambda: torch.ones(16_000_000)), added_bytes(lambda: None))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added, idle = map(int, done.stdout.split())
    assert added >= 60e6
    assert idle < 20e6


def test_peak_of_a_process() -> None:
    assert ProbeArms.peak("raw", 64, (32, 32), 1) >= 0


def test_a_process_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(InputError, match="measuring the memory of vist failed: no message"):
        ProbeArms.peak("vist", 64, (32, 32), 1)
