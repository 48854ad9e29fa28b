"""A device that is pretended on a CPU, to count launches and what makes the host wait for it.

Tensors that stand on the pretended device are wrappers: the numbers are in a CPU tensor inside,
and every operation on one is seen here. So what is counted is what a real device would be asked,
whether a value is read back by `int()`, `bool()`, `tolist()`, a boolean index or a copy. Tensors
that the host makes for itself are not wrapped and cost nothing.

Seen: operations on device tensors, one launch each (views are free, and so are bare allocations);
scalar reads; copies in both directions, unless a copy to the device is `non_blocking`; operations
whose result's size depends on values. An operation over tensors of both places fails, as on a real
device. Not seen: how many kernels a real backend takes for one operation (attention, a sort or a
decomposition count as one here), waits inside a library, and explicit synchronisation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

aten: Any = torch.ops.aten

# A type that this build of torch has no backend for and does not try to start.
DEVICE = torch.device("xla", 0)

TO_HOST = "a copy to the host"
TO_DEVICE = "a copy to the device that is waited for"

# The host has to know a value, or how many there are, before it can go on.
_READS = {
    aten._local_scalar_dense.default: "a scalar read",
    aten.equal.default: "equal",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
}
_PYTHON_READS = {
    Tensor.tolist: TO_HOST,
    Tensor.cpu: TO_HOST,
    Tensor.numpy: TO_HOST,
    Tensor.item: "a scalar read",
    Tensor.__int__: "a scalar read",
    Tensor.__bool__: "a scalar read",
    Tensor.__float__: "a scalar read",
    Tensor.__index__: "a scalar read",
}
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
_ALLOCATING = (aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default)
# A buffer that CUDA kernels allocate and nobody fills.
_FREE = (*_ALLOCATING, aten.new_empty.default, aten.lift_fresh.default, aten.detach.default)


class OnDevice(Tensor):
    """A tensor on the pretended device.

    Args:
        inner: what it holds, on the CPU.
    """

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {}, Counts())


class Counts:
    """What was asked of the device.

    Attributes:
        launches: operations that a device runs, by name.
        waits: operations that make the host wait for it, by kind.
    """

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    @property
    def num_launches(self) -> int:
        return self.launches.total()

    @property
    def num_waits(self) -> int:
        return self.waits.total()


class _Counting(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {}, self._counts)


class _Python(TorchFunctionMode):
    """What does not come down as the operation that a real device would be asked for.

    Attention is one operation, as the kernels of real devices make it. Brackets, `~` and what
    gives numbers to Python look for a backend before they dispatch, so they are read off here.
    """

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            if isinstance(args[0] if args else kwargs["query"], OnDevice):
                self._counts.launches["scaled_dot_product_attention"] += 1
                args, kwargs = tree_map(_inner, (args, kwargs))
                return OnDevice(func(*args, **kwargs))
        elif func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], OnDevice):
            self._count_brackets(*args[1:])
            found = func(*tree_map(_inner, args))
            return OnDevice(found) if isinstance(found, Tensor) else found
        elif func in _PYTHON_READS and isinstance(args[0], OnDevice):
            self._counts.waits[_PYTHON_READS[func]] += 1
            return func(args[0].inner, *args[1:], **kwargs)
        elif func is Tensor.nonzero and isinstance(args[0], OnDevice):
            self._counts.waits["nonzero"] += 1
            self._counts.launches["nonzero"] += 1
            return tree_map(OnDevice, func(args[0].inner, **kwargs))
        elif func is Tensor.__invert__:
            return torch.bitwise_not(*args)
        elif func is Tensor.contiguous and isinstance(args[0], OnDevice):
            is_done = args[0].is_contiguous()
            return args[0] if is_done else args[0].clone(memory_format=torch.contiguous_format)
        return func(*args, **kwargs)

    def _count_brackets(self, index: Any, *written: Any) -> None:
        parts = index if isinstance(index, tuple) else (index,)
        is_fill = len(parts) == 1 and bool(written) and not isinstance(written[0], Tensor)
        tensors = [part for part in parts if isinstance(part, (Tensor, list))]
        for part in tensors:
            if not isinstance(part, OnDevice):
                self._counts.waits[TO_DEVICE] += 1
            elif part.ndim == 0 and not part.dtype.is_floating_point:
                self._counts.waits["a scalar read"] += 1
            elif part.dtype == torch.bool and not is_fill:
                self._counts.waits["a boolean index"] += 1
        if tensors or written:
            self._counts.launches["index_put" if written else "index"] += 1


def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], counts: Counts) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    ours = [value for value in flat if isinstance(value, OnDevice)]
    target = kwargs.get("device")
    is_for_device = target is not None and torch.device(target).type == DEVICE.type
    if not ours and not is_for_device:
        return func(*args, **kwargs)
    if func in (aten._to_copy.default, aten.copy_.default):
        to_device = is_for_device or (target is None and isinstance(args[0], OnDevice))
        source = args[0] if func is aten._to_copy.default else args[1]
        _count_copy(counts, source, to_device, kwargs, args)
    else:
        _check_one_place(func, flat, ours)
        _count(counts, func, args)
    inner_args, inner_kwargs = tree_unflatten([_on_cpu(_inner(value)) for value in flat], spec)
    out = func(*inner_args, **inner_kwargs)
    if func is aten._to_copy.default and target is not None and not is_for_device:
        return out
    if func is aten.equal.default:
        return out
    # In place: the same object goes back.
    written = [
        value
        for value, argument in zip(args, func._schema.arguments, strict=False)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    if written and func._schema.returns and isinstance(out, Tensor):
        return written[0]
    return tree_map(lambda value: OnDevice(value) if type(value) is Tensor else value, out)


def _count(counts: Counts, func: Any, args: tuple[Any, ...]) -> None:
    name = func.overloadpacket.__name__
    if func in _READS:
        counts.waits[_READS[func]] += 1
    elif func in _INDEXING and any(
        isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    ):
        counts.waits["a boolean index"] += 1
    returns = func._schema.returns
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
    if not is_view and func not in _FREE:
        counts.launches[name] += 1


def _count_copy(
    counts: Counts, source: Any, to_device: bool, kwargs: Mapping[str, Any], args: tuple[Any, ...]
) -> None:
    if not source.numel():
        return
    was_there = isinstance(source, OnDevice)
    counts.launches["copy"] += 1
    is_free = kwargs.get("non_blocking", False) or (len(args) > 2 and bool(args[2]))
    if was_there and not to_device:
        counts.waits[TO_HOST] += 1
    elif to_device and not was_there and not is_free:
        counts.waits[TO_DEVICE] += 1


def _check_one_place(func: Any, flat: list[Any], ours: list[OnDevice]) -> None:
    """Raise RuntimeError where tensors of host and device meet, but for single numbers."""
    strangers = [
        value
        for value in flat
        if isinstance(value, Tensor) and not isinstance(value, OnDevice) and value.ndim
    ]
    if ours and strangers:
        raise RuntimeError(
            f"{func} got tensors of the device and of the host "
            f"({', '.join(str(tuple(value.shape)) for value in strangers)})."
        )


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def _on_cpu(value: Any) -> Any:
    is_ours = isinstance(value, torch.device) and value.type == DEVICE.type
    return torch.device("cpu") if is_ours else value


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what is asked of the pretended device in here; needed to run anything on it."""
    counts = Counts()
    before = torch._C._only_lift_cpu_tensors()
    # So that torch.tensor(..., device=...) comes here with its copy.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Counting(counts), _Python(counts):
            yield counts
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def move(value: Any) -> Any:
    """A tensor, or a dict of such, on the pretended device. Their numbers are shared."""
    if isinstance(value, dict):
        return {name: move(entry) for name, entry in value.items()}
    return OnDevice(value) if isinstance(value, Tensor) else value


def move_model(model: nn.Module) -> nn.Module:
    """Put a model's parameters and buffers on the pretended device, in place."""
    for module in model.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                moved = OnDevice(weight.detach())
                module._parameters[name] = nn.Parameter(moved, requires_grad=False)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = OnDevice(buffer)
    return model
