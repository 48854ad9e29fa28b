"""Time on a device is read when somebody asks, not when it passes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from foveate.core.clock import Clock
from foveate.core.report import Report


class Event:
    """Stands for torch.cuda.Event: the stream's time is how many were recorded so far."""

    recorded = 0
    waited = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        Event.recorded += 1
        self.at = Event.recorded

    def synchronize(self) -> None:
        Event.waited += 1

    def elapsed_time(self, end: Event) -> float:
        return 1000.0 * (end.at - self.at)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    Event.recorded = Event.waited = 0
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return torch.device("cuda")


def test_nobody_waits_until_the_report_is_asked(cuda: torch.device) -> None:
    clock = Clock()
    for _ in range(2):
        with clock.running(cuda):
            pass
    report = Report(method="fastv", fired=True, select_seconds=clock)
    assert Event.waited == 0
    assert report.select_seconds == 2.0
    assert report.to_dict()["select_seconds"] == 2.0
    assert Event.waited == 2, "events that were read are not read again"


def test_wall_time_elsewhere() -> None:
    clock = Clock()
    with clock.running(torch.device("cpu")):
        sum(range(1000))
    first = clock.seconds
    with clock.running(torch.device("cpu")):
        sum(range(1000))
    assert 0 < first < clock.seconds


def test_a_report_is_given_a_number_or_a_clock(cuda: torch.device) -> None:
    clock = Clock()
    with clock.running(cuda):
        pass
    given: Any = clock
    assert Report(method="m", fired=True, select_seconds=0.5).select_seconds == 0.5
    assert Report(method="m", fired=True).select_seconds == 0.0
    report = Report(method="m", fired=True, select_seconds=given)
    assert copy.deepcopy(report) == report == Report(method="m", fired=True, select_seconds=1.0)
    assert report != Report(method="m", fired=True, select_seconds=2.0)
