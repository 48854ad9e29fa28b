"""Milliseconds on a device: of whole calls and of one module in them; peak memory; launches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

MIB = 2**20


class Clock:
    """Times calls: on a GPU by events and with the device idle before and after.

    Args:
        device: on which the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_cuda = device.type == "cuda"

    def wait(self) -> None:
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def mark(self) -> Any:
        """A point in the device's own order of work; see `between`."""
        if not self.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        """Milliseconds from one mark to another, both passed by now."""
        return float(first.elapsed_time(second)) if self.is_cuda else 1e3 * (second - first)

    def call(self, work: Callable[[], object]) -> tuple[float, float, float]:
        """One call: milliseconds of wall time, of the device by events, and MiB above before."""
        self.wait()
        before = self._memory(reset=True)
        first, started = self.mark(), time.perf_counter()
        work()
        second = self.mark()
        self.wait()
        wall = 1e3 * (time.perf_counter() - started)
        return wall, self.between(first, second), (self._memory() - before) / MIB

    def _memory(self, *, reset: bool = False) -> int:
        if not self.is_cuda:
            return 0
        if reset:
            torch.cuda.reset_peak_memory_stats(self.device)
            return int(torch.cuda.memory_allocated(self.device))
        return int(torch.cuda.max_memory_allocated(self.device))

    def device_ms(self, work: Callable[[], object], *, rounds: int) -> dict[str, Any]:
        """Events around `rounds` calls after one that is not counted, with peak memory."""
        work()
        calls = [self.call(work) for _ in range(rounds)]
        found = {"device_ms": spread([device for _, device, _ in calls]), "rounds": rounds}
        return found | self.peak([mib for *_, mib in calls])

    def peak(self, mib: Sequence[float]) -> dict[str, float]:
        """The largest of several peaks, as a row's field; nothing where memory is not counted."""
        return {"peak_mib": max(mib)} if self.is_cuda else {}

    def launches(self, work: Callable[[], object]) -> dict[str, Any]:
        """What one call asks of the device: kernels and their milliseconds; operators on a CPU."""
        from torch.profiler import ProfilerActivity, profile

        work()
        self.wait()
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.is_cuda else [])]
        with profile(activities=kinds) as profiled:
            work()
            self.wait()
        events = profiled.events()
        if not self.is_cuda:
            return {"operators": sum(event.cpu_parent is None for event in events)}
        kernels = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
        waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
        return {
            "kernels": len(kernels),
            "kernels_ms": sum(kernel.device_time for kernel in kernels) / 1e3,
            "waits": sum(event.name in waits for event in events),
        }


class ModuleClock:
    """Milliseconds of one module's forward passes, by marks in two hooks."""

    def __init__(self, module: torch.nn.Module, clock: Clock) -> None:
        self._clock = clock
        self._marks: list[Any] = []
        self._handles = [
            module.register_forward_pre_hook(self._mark),
            module.register_forward_hook(self._mark),
        ]

    def _mark(self, *_: object) -> None:
        self._marks.append(self._clock.mark())

    def take(self) -> float:
        """Of all passes since the last time; the device must be idle."""
        marks, self._marks = self._marks, []
        return sum(map(self._clock.between, marks[::2], marks[1::2]))

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of several rounds with the smallest and the largest."""
    return {"value": statistics.median(values), "low": min(values), "high": max(values)}
