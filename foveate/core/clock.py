"""Seconds spent on a device, read when somebody asks: asking a GPU at once would wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Adds up stretches of time: wall time, or the device's own between two events on CUDA."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count the time in here.

        Args:
            device: that works in here.
        """
        if device.type != "cuda":
            started = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - started
            return
        stream = torch.cuda.current_stream(device)
        event: Any = torch.cuda.Event
        begin, end = event(enable_timing=True), event(enable_timing=True)
        begin.record(stream)
        yield
        end.record(stream)
        self._events.append((begin, end))

    @property
    def seconds(self) -> float:
        """All stretches so far; waits for the device if it is not through them."""
        while self._events:
            begin, end = self._events[-1]
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
            self._events.pop()
        return self._seconds

    def __getstate__(self) -> dict[str, Any]:
        return {"_seconds": self.seconds, "_events": []}


class Seconds:
    """A dataclass field that is given a number or a Clock, and gives a number."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, report: object, owner: type | None = None) -> float:
        value = report.__dict__[self._name] if report is not None else 0.0
        return value.seconds if isinstance(value, Clock) else float(value)

    def __set__(self, report: object, value: float | Clock) -> None:
        report.__dict__[self._name] = value
