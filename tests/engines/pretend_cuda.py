"""Pretend CUDA devices on a machine without one: real values on the CPU, a GPU's rules about where tensors are.

Every tensor that claims to be on `cuda:N` wraps one on the CPU. Operations on tensors of two devices raise, as a GPU's
would; copies between host and device, waits for a value and the shapes of attention are counted. Nothing is timed.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Any, Self
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

COPIES = {"_to_copy", "copy_", "to"}
WAITS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2", "unique_dim"}
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
HOST = torch.device("cpu")


class PretendTensor(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> Self:
        """Wrap a tensor on the CPU."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what the devices in use do; there is no such tensor without them."""
        with _active():
            return func(*args, **(kwargs or {}))

    def tolist(self) -> Any:
        """One copy to the host."""
        _active().counts["d2h"] += 1
        return self.inner.tolist()

    def copy_(self, source: torch.Tensor, non_blocking: bool = False) -> PretendTensor:
        """Copy values from the host or a device."""
        inner = source.inner if isinstance(source, PretendTensor) else source
        if source.device != self.device:
            _active().counts["d2d" if isinstance(source, PretendTensor) else "h2d"] += 1
        self.inner.copy_(inner)
        return self

    def item(self) -> Any:
        """Wait for a number."""
        _active().counts["sync"] += 1
        return self.inner.item()

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __index__(self) -> int:
        return int(self.item())

    def __getitem__(self, index: Any) -> PretendTensor:
        """Index: lists and host tensors are copied first."""
        return _wrapped(self.inner[_host_index(index)], self.device)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Assign: host values are copied first."""
        _active().same_device(self, value)
        self.inner[_host_index(index)] = value.inner if isinstance(value, PretendTensor) else value

    def contiguous(self, *_: Any, **__: Any) -> torch.Tensor:
        """Return itself if it is."""
        return self if self.inner.is_contiguous() else _wrapped(self.inner.contiguous(), self.device)


_DEVICES: list[PretendDevices] = []


def _active() -> PretendDevices:
    if not _DEVICES:
        raise RuntimeError("a pretend tensor is used outside of `pretend_cuda`")
    return _DEVICES[-1]


def _wrapped(inner: Any, device: torch.device) -> Any:
    return PretendTensor(inner, device) if type(inner) is torch.Tensor else inner


def _host_index(index: Any) -> Any:
    """Return an index for the inner tensor, and count what a GPU copies or waits for to use it."""

    def plain(part: Any) -> Any:
        if isinstance(part, PretendTensor):
            _active().counts["sync"] += part.dtype == torch.bool
            return part.inner
        if isinstance(part, list) or (isinstance(part, torch.Tensor) and part.dim()):
            _active().counts["h2d"] += 1
        return part

    return tuple(plain(part) for part in index) if isinstance(index, tuple) else plain(index)


class PretendDevices(TorchDispatchMode):
    """Some pretend GPUs, and what they counted."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: collections.Counter[str] = collections.Counter()
        self.attention: set[tuple[torch.Size, torch.Size]] = set()
        """Shapes of queries and keys in passes with a mask."""

    def same_device(self, *tensors: Any) -> None:
        """Raise as CUDA does if tensors are on two devices; a number on the host goes with any."""
        found = {one.device for one in tensors if isinstance(one, torch.Tensor) and (one.dim() or one.device != HOST)}
        if len(found) > 1:
            where = " and ".join(sorted(map(str, found)))
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {where}!")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the CPU if a GPU would."""
        kwargs, name = dict(kwargs or {}), func._overloadpacket.__name__
        flat = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        named = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.device)]
        given = kwargs.get("device")
        wanted = torch.device(given) if isinstance(given, str) else next(iter(named), None)
        device = self._counted(name, func, args, flat, wanted)

        def host(one: Any) -> Any:
            if isinstance(one, PretendTensor):
                return one.inner
            return HOST if isinstance(one, torch.device) and one.type == "cuda" else one

        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        out = func(*tree_map(host, args), **tree_map(host, kwargs))
        if name == "copy_" or (name.endswith("_") and not name.endswith("__") and isinstance(args[0], torch.Tensor)):
            return args[0]
        if isinstance(kwargs.get("out"), PretendTensor):
            return kwargs["out"]
        return out if device == HOST else tree_map(lambda one: _wrapped(one, device), out)

    def _counted(self, name: str, func: Any, args: Any, flat: list[Any], wanted: torch.device | None) -> torch.device:
        """Count what an operation costs, refuse what a GPU refuses, and return where its result is."""
        there = [one for one in flat if isinstance(one, PretendTensor)]
        if name in COPIES:
            source = args[1] if name == "copy_" else args[0]
            target = args[0].device if name == "copy_" else (wanted or source.device)
            kinds = {("cpu", "cuda"): "h2d", ("cuda", "cpu"): "d2h", ("cuda", "cuda"): "d2d"}
            if source.device != target:
                self.counts[kinds[source.device.type, target.type]] += 1
            return target
        if name in INDEXED and there:
            indices = [one for one in args[1] if one is not None]
            self.counts["sync"] += any(one.dtype in (torch.bool, torch.uint8) for one in indices)
            self.counts["h2d"] += sum(not isinstance(one, PretendTensor) for one in indices)
            self.same_device(args[0], *args[2:3], *(one for one in indices if isinstance(one, PretendTensor)))
        else:
            self.same_device(*flat)
        self.counts["sync"] += name in WAITS and bool(there)
        if "attention" in name and there:
            mask = [one for one in (*args[3:4],) if isinstance(one, torch.Tensor)]
            if mask:
                self.attention.add((args[0].shape, args[1].shape))
        return wanted or (there[0].device if there else HOST)


@contextlib.contextmanager
def pretend_cuda() -> Iterator[PretendDevices]:
    """Have pretend GPUs for a while."""
    made, tensor = PretendDevices(), torch.tensor
    torch._C._ensureCUDADeviceGuardSet()  # what FakeTensorMode calls to speak of devices that are not there

    def on_device(data: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
        """`torch.tensor`, which asks CUDA itself before any operation is dispatched."""
        place = torch.device(device) if device is not None else HOST
        if place.type != "cuda":
            return tensor(data, device=device, **more)
        made.counts["h2d"] += 1
        with _disable_current_modes():
            return PretendTensor(tensor(data, **more), place)

    _DEVICES.append(made)
    memory = {name: lambda *_: 0 for name in ("max_memory_allocated", "max_memory_reserved", "empty_cache")}
    try:
        with (
            mock.patch.multiple(torch.cuda, _lazy_init=lambda: None, device_count=lambda: 2, **memory),
            mock.patch.object(torch, "tensor", on_device),
            made,
        ):
            yield made
    finally:
        _DEVICES.pop()


def place(model: Any, devices: dict[str, str]) -> Any:
    """Move a model's modules, by the beginning of their names, to pretend devices; the longest name decides."""

    def device(name: str) -> torch.device:
        fits = [prefix for prefix in devices if name == prefix or name.startswith(prefix + ".") or not prefix]
        return torch.device(devices[max(fits, key=len)])

    for path, module in model.named_modules():
        for kind in (module._parameters, module._buffers):
            for name, one in kind.items():
                if one is not None:
                    kind[name] = PretendTensor(one.data, device(f"{path}.{name}" if path else name))
    return model
