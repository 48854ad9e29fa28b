"""Some rows of attention, read from q and k inside any attention kernel.

Asking a model for its attention maps forces the eager kernel and an S x S matrix in every layer.
Here q and k of one module are looked at on their way to the kernel that the model was using: while
the module runs, transformers' table of kernels hands out that kernel with a reader in front. Names
and configurations stay as they are, because models decide by them (sparse attention, for one, asks
whether it runs on "sdpa" before it applies its mask).
"""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from foveate.core.layout import PAD
from foveate.core.precision import full_precision
from foveate.models.hook import hook_after, hook_before
from foveate.models.key_sizes import sizes_of

_CHUNK = 64  # rows computed at a time: [B, H, 64, L] is all that ever exists of the map

Kernel = Callable[..., tuple[Tensor, Tensor | None]]


class Probe(ABC):
    """Looks at q and k of one attention module, which goes on with the kernel it was using.

    Any number of threads may call the module; what a probe reads in one call belongs to the thread
    of that call.

    Args:
        module: attention module of a transformers model.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._handles = [
            hook_before(module, self._enter),
            hook_after(module, self._leave, always=True),
        ]

    @property
    def wants(self) -> bool:
        """Whether the next call is to be read."""
        return True

    @abstractmethod
    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        """Called with q [B, H, Q, D], k [B, H_kv, L, D], the mask and the kernel's keywords."""

    def attend(
        self,
        kernel: Kernel,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Any,
        *args: Any,
        **settings: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """What the module gets for its call of the kernel; here: what the kernel gives."""
        with torch.no_grad(), full_precision(query.device):
            self.read(query, key, mask, **settings)
        return kernel(self.module, query, key, value, mask, *args, **settings)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        _IN_FLIGHT.enter(self if self.wants else None)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        _IN_FLIGHT.leave()


class _InFlight(threading.local):
    """Probes whose modules run in this thread, outermost first."""

    _lock = threading.Lock()
    _count = 0  # over all threads

    def __init__(self) -> None:
        self.probes: list[Probe | None] = []

    def enter(self, probe: Probe | None) -> None:
        self.probes.append(probe)
        with _InFlight._lock:
            _InFlight._count += 1
            if _InFlight._count == 1:
                ALL_ATTENTION_FUNCTIONS.__dict__["get_interface"] = _read_in_front

    def leave(self) -> None:
        if not self.probes:
            return  # its hook was put on while the module ran
        self.probes.pop()
        with _InFlight._lock:
            _InFlight._count -= 1
            if _InFlight._count == 0:
                ALL_ATTENTION_FUNCTIONS.__dict__.pop("get_interface", None)


_IN_FLIGHT = _InFlight()


def _read_in_front(name: str, default: Kernel) -> Kernel:
    """What transformers' table would give, with this thread's probes in front of it."""
    table = ALL_ATTENTION_FUNCTIONS
    kernel: Kernel = type(table).get_interface(table, name, default)
    for probe in _IN_FLIGHT.probes:  # the first that was put on stands next to the kernel
        if probe is not None:
            kernel = functools.partial(_probed, probe, kernel)
    return kernel


def _probed(
    probe: Probe,
    kernel: Kernel,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if module is probe.module and probe.wants:
        return probe.attend(kernel, query, key, value, attention_mask, *args, **kwargs)
    return kernel(module, query, key, value, attention_mask, *args, **kwargs)


class WantedRows(threading.local):
    """Rows of attention that a thread's pass asks for, and what was read.

    Attributes:
        wanted: [B] column of the query among the new tokens, whose row is kept for each head.
        wanted_text: [B, T] columns whose rows are kept as means over heads; PAD for none.
        wants_keys: whether the keys of the new tokens are kept.
        row: [B, H, new tokens] float32.
        text_rows: [B, T, new tokens] float32; zero where there was none.
        keys: [B, new tokens, H_kv * D].
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop what was read and what was asked for."""
        self.wanted: Tensor | None = None
        self.wanted_text: Tensor | None = None
        self.wants_keys = False
        self.row: Tensor | None = None
        self.text_rows: Tensor | None = None
        self.keys: Tensor | None = None
        self.seen: Tensor | None = None


class Enough(Exception):  # noqa: N818
    """Queries and keys are known; the rest of the layer need not run."""


class RowRecorder(Probe):
    """Reads attention rows of one decoder layer while some are wanted.

    Attributes:
        here: what this thread's pass wants and has read.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.here = WantedRows()

    @property
    def wants(self) -> bool:
        here = self.here
        return here.wanted is not None or here.wanted_text is not None or here.wants_keys

    def look(self, layer: Callable[[], Any], wanted: Tensor, seen: Tensor) -> Tensor | None:
        """A row of the attention that a layer would have, without running more of it than that.

        Args:
            layer: runs the layer with this recorder's module in it, without a cache.
            wanted: [B] column of the query.
            seen: [B, L] bool, columns that are tokens.

        Returns:
            [B, H, L] float32; None where the layer attends in a way that is not seen here.
        """
        here = self.here
        before = (here.wanted, here.wanted_text, here.wants_keys)
        here.wanted, here.wanted_text, here.wants_keys = wanted, None, False
        here.seen = seen
        try:
            with torch.no_grad():
                layer()
        except Enough:
            pass
        finally:
            here.seen = None
            here.wanted, here.wanted_text, here.wants_keys = before
        row, here.row = here.row, None
        return row

    def read(self, query: Tensor, key: Tensor, mask: Any, **settings: Any) -> None:
        here = self.here
        mask = mask if here.seen is None else here.seen.to(query.device)
        of_logits = {k: settings.get(k) for k in ("scaling", "sliding_window", "softcap")}
        sizes = sizes_of(mask)
        of_logits["log_sizes"] = sizes.log_sizes if sizes is not None else None
        if here.wanted is not None:
            rows = attention_rows(query, key, mask, here.wanted[:, None], **of_logits)
            here.row = rows[:, :, 0]
        if here.wanted_text is not None:
            parts = [
                attention_rows(query, key, mask, part, **of_logits).mean(dim=1)
                for part in here.wanted_text.split(_CHUNK, dim=1)
            ]
            rows = torch.cat(parts, dim=1)
            empty = (here.wanted_text == PAD).to(rows.device)
            here.text_rows = rows.masked_fill(empty.unsqueeze(-1), 0.0)
        if here.wants_keys:
            here.keys = key[:, :, -query.shape[2] :].transpose(1, 2).flatten(2)
        here.wanted = here.wanted_text = None
        here.wants_keys = False
        if here.seen is not None:
            raise Enough


def attention_rows(
    query: Tensor,
    key: Tensor,
    attention_mask: Any,
    wanted: Tensor,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    log_sizes: Tensor | None = None,
) -> Tensor:
    """Softmax attention of the queries `wanted` over all keys, restricted to the new tokens.

    Args:
        query: [B, H, Q, D] after rotary embedding.
        key: [B, H_kv, L, D], the Q new keys last; grouped heads are expanded.
        attention_mask: None (causal), 2-D [B, L] (flash), or 4-D [B, 1 or H, Q, L] bool or
            additive.
        wanted: [B, T] indices of queries among the Q; PAD gives a row without meaning.
        scaling: factor on the logits, default D ** -0.5.
        sliding_window: keys further back than this are masked where the mask is not 4-D.
        softcap: cap * tanh(logits / cap), if the model has it.
        log_sizes: [B, L], added to the logits of keys that count several times.

    Returns:
        [B, H, T, Q] float32, the part of each row that falls on the new tokens. Sums to at most 1.
    """
    batch, heads, num_queries, dim = query.shape
    num_keys, num_rows = key.shape[2], wanted.shape[1]
    wanted = wanted.to(query.device).clamp_min(0)
    index = wanted[:, None, :, None].expand(-1, heads, -1, dim)
    chosen = query.gather(2, index).float()  # [B, H, T, D]
    grouped = chosen.reshape(batch, key.shape[1], -1, dim)  # [B, H_kv, group * T, D]
    logits = (grouped @ key.float().transpose(-1, -2)).view(batch, heads, num_rows, num_keys)
    logits = logits * (scaling if scaling is not None else dim**-0.5)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        mask = attention_mask.expand(batch, -1, -1, -1)[..., :num_keys]
        rows = wanted[:, None, :, None].expand(-1, mask.shape[1], -1, num_keys)
        mask = mask.gather(2, rows)  # [B, 1 or H, T, L]
        if mask.dtype == torch.bool:
            logits = logits.masked_fill(~mask, float("-inf"))
        else:
            logits = logits + mask.float()
    else:
        place = torch.arange(num_keys, device=query.device)
        own = wanted[..., None] + (num_keys - num_queries)  # [B, T, 1]
        seen = place <= own
        if sliding_window is not None:
            seen &= place > own - sliding_window
        if isinstance(attention_mask, Tensor):
            seen &= attention_mask.bool()[:, None]
        logits = logits.masked_fill(~seen[:, None], float("-inf"))
    if log_sizes is not None:
        logits = logits + log_sizes.to(logits.device)[:, None, None]
    return logits.softmax(dim=-1)[..., num_keys - num_queries :]
