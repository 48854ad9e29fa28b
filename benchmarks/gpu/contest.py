"""Methods against the plain model in interleaved rounds: prefill, generation, memory, cache."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import foveate
from benchmarks.gpu.clock import Clock, ModuleClock, spread
from benchmarks.gpu.flash_of_torch import use_flash, use_sdpa
from benchmarks.gpu.rows import Rows
from foveate.measure.timing import interleaved, ratio_of_medians

PLAIN = "plain"
MOST_ROUNDS = 3  # of generating
ATTENTION: dict[str, Callable[[Any], None]] = {
    "sdpa": use_sdpa,
    "flash": use_flash,
    "eager": lambda model: model.set_attn_implementation("eager"),
}


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A method, or None for the plain model, with an attention kernel.

    Args:
        around: what holds during its calls only.
    """

    method: foveate.Method | None = None
    attention: str = "sdpa"
    around: Callable[[], AbstractContextManager[None]] = nullcontext


class Contest:
    """One model and one prompt, on which methods are measured.

    Args:
        rows: where results go.
        clock: of the device.
        where: fields that every row of it has.
    """

    def __init__(
        self, rows: Rows, clock: Clock, where: dict[str, Any], model: Any, inputs: dict[str, Any]
    ) -> None:
        self._rows, self._clock, self._where = rows, clock, where
        self._model, self._inputs = model, inputs
        base = model.base_model
        self._tower_module = getattr(base, "vision_tower", None) or base.visual

    def run(
        self,
        contenders: Mapping[str, Contender],
        *,
        rounds: int,
        generating: Sequence[str] = (),
        new_tokens: int = 64,
    ) -> None:
        """Add rows of prefill, then of generation, for each contender; ratios are to the first.

        Args:
            generating: those that also generate `new_tokens` tokens, the first among them.
        """
        label = ", ".join(map(str, self._where.values()))
        if not self._rows.has_time(label, seconds=5):
            return
        tower = ModuleClock(self._tower_module, self._clock)
        try:
            entrants = self._warmed_up(contenders, tower, label)
            one_round = sum(entrant.forget() for entrant in entrants.values())
            first = entrants.get(next(iter(contenders)))
            if first is None or not self._rows.has_time(label, seconds=2 + rounds * one_round):
                return
            interleaved({n: e.prefill for n, e in entrants.items()}, rounds=rounds, warmup=0)
            for name, entrant in entrants.items():
                self._add("prefill", name, entrant.row(first))
            chosen = {name: entrants[name] for name in generating if name in entrants}
            with self._rows.noting(f"{label}: generating"):
                self._generate(chosen, label, new_tokens, min(rounds, MOST_ROUNDS))
        finally:
            tower.close()

    def _warmed_up(
        self, contenders: Mapping[str, Contender], tower: ModuleClock, label: str
    ) -> dict[str, _Entrant]:
        """Those that came through one prefill; what the others said is noted."""
        entrants = {}
        for name, contender in contenders.items():
            with self._rows.noting(f"{label}: {name}"):
                entrant = _Entrant(self, contender, tower)
                entrant.prefill()
                entrants[name] = entrant
        return entrants

    def _generate(
        self, entrants: Mapping[str, _Entrant], label: str, new_tokens: int, rounds: int
    ) -> None:
        """Add a row for each; ratios are to the first."""
        work = {name: partial(entrant.generate, new_tokens) for name, entrant in entrants.items()}
        one_round = sum(seconds() for seconds in work.values())
        enough = self._rows.has_time(f"{label}: generating", seconds=2 + rounds * one_round)
        if not work or not enough:
            return
        seconds = interleaved(work, rounds=rounds, warmup=0)
        plain = next(iter(seconds.values()))
        for name, own in seconds.items():
            whole = spread([1e3 * value for value in own])
            prefill = statistics.median(entrants[name].wall)
            self._add(
                "generation",
                name,
                {
                    "attention": entrants[name].attention,
                    "new_tokens": new_tokens,
                    "rounds": rounds,
                    "generate_ms": whole,
                    "token_ms": (whole["value"] - prefill) / max(1, new_tokens - 1),
                    "generate_ratio": ratio_of_medians(own, plain).to_dict(),
                },
            )

    def _add(self, what: str, name: str, facts: dict[str, Any]) -> None:
        self._rows.add({"what": what, **self._where, "method": name, **facts})

    def launches(self, contenders: Mapping[str, Contender]) -> None:
        """Add a row of what a prefill and a decoded token ask of the device."""
        for name, contender in contenders.items():
            label = ", ".join(map(str, ("launches", *self._where.values(), name)))
            if not self._rows.has_time(label, seconds=10):
                continue
            with self._rows.noting(label):
                entrant = _Entrant(self, contender, None)
                prefill = entrant.counted(new_tokens=1)
                several = entrant.counted(new_tokens=5)
                token = {key: (several[key] - prefill[key]) / 4 for key in prefill}
                self._add("launches", name, {"prefill": prefill, "token": token})


class _Entrant:
    """A contender on the way: one run, and what its rounds showed."""

    def __init__(self, contest: Contest, contender: Contender, tower: ModuleClock | None) -> None:
        self._model, self._inputs = contest._model, contest._inputs
        self._clock, self._tower = contest._clock, tower
        self._around, method = contender.around, contender.method
        self.attention = contender.attention
        self._run = foveate.Run(self._model, method) if method is not None else None
        self._setting = str(method) if method is not None else ""
        self.wall: list[float] = []
        self._device: list[float] = []
        self._tower_ms: list[float] = []
        self._peaks: list[float] = []
        self._kv_bytes = 0
        self._is_finite = False

    def prefill(self) -> float:
        """Seconds of one prefill; everything else that it shows is kept."""
        held: list[Any] = []

        def work() -> None:
            held.append(self._model(**self._inputs, use_cache=True, logits_to_keep=1))

        wall, device, mib = self._call(work)
        self.wall.append(wall)
        self._device.append(device)
        self._peaks.append(mib)
        if self._tower is not None:
            self._tower_ms.append(self._tower.take())
        self._kv_bytes = _kv_bytes(held[0].past_key_values)
        self._is_finite = bool(held[0].logits.isfinite().all())
        return wall / 1e3

    def generate(self, new_tokens: int) -> float:
        """Seconds of one generation."""
        wall, *_ = self._call(partial(self._generate, new_tokens))
        if self._tower is not None:
            self._tower.take()
        return wall / 1e3

    def _generate(self, new_tokens: int) -> None:
        count = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        self._model.generate(**self._inputs, **count, do_sample=False)

    def counted(self, *, new_tokens: int) -> dict[str, Any]:
        ATTENTION[self.attention](self._model)
        with torch.no_grad(), self._around(), self._run or nullcontext():
            return self._clock.launches(partial(self._generate, new_tokens))

    def _call(self, work: Callable[[], None]) -> tuple[float, float, float]:
        ATTENTION[self.attention](self._model)
        with torch.no_grad(), self._around(), self._run or nullcontext():
            return self._clock.call(work)

    def forget(self) -> float:
        """Drop the rounds so far; their seconds."""
        seconds = sum(self.wall) / 1e3
        for values in (self.wall, self._device, self._tower_ms, self._peaks):
            values.clear()
        return seconds

    def row(self, plain: _Entrant) -> dict[str, Any]:
        """What was found, against the plain model in the same rounds."""
        row: dict[str, Any] = {
            "attention": self.attention,
            "rounds": len(self.wall),
            "prefill_ms": spread(self.wall),
            "device_ms": spread(self._device),
            "prefill_ratio": ratio_of_medians(self.wall, plain.wall).to_dict(),
            "tower_ms": spread(self._tower_ms),
            "tower_share": statistics.median(self._tower_ms) / statistics.median(self._device),
            "kv_bytes": self._kv_bytes,
            "kv_ratio": self._kv_bytes / plain._kv_bytes,
            "finite": self._is_finite,
            **self._clock.peak(self._peaks),
        }
        report = self._run.report if self._run is not None else None
        if self._run is None or report is None:
            return row
        selected = [1e3 * r.select_seconds for r in self._run.reports[-len(self.wall) :]]
        return row | {
            "setting": self._setting,
            "kept": report.kept,
            "of": report.before,
            "average_tokens": report.average_tokens,
            "select_ms": spread(selected),
            "select_share": statistics.median(selected) / statistics.median(plain.wall),
        }


def _kv_bytes(cache: Any) -> int:
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
