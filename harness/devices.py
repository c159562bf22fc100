"""Which device a run is on: resolved once, and the same for every variant.

Knows what torch can see, and nothing of models.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
import sys

from harness.errors import UsageError

__all__ = ["keep_freed_memory", "memory_bytes", "resolve_device"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt(3)


def resolve_device(name: str) -> str:
    """Give ``cpu``, ``cuda:N`` or what else torch was asked for; ``auto`` is the first CUDA device, else the CPU.

    Raises UsageError where torch cannot see that device.
    """
    import torch

    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"execution.device: {name!r} is not a device: write auto, cpu, cuda or cuda:1") from error
    if device.type != "cuda":
        return str(device)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        built = f"torch {torch.__version__} sees {count} CUDA device(s)"
        raise UsageError(f"execution.device: {name!r} is not there: {built}; write auto or cpu, or look at nvidia-smi")
    return f"cuda:{index}"


def memory_bytes(device: str) -> int:
    """Give how much memory a resolved device has, in bytes, whatever uses it now; 0 where that cannot be found out.

    A GPU is asked by a process of its own: who asks holds a part of its memory until it ends, and where a device takes
    one process at a time, nobody else gets in.
    """
    if device.startswith("cuda"):
        code = f"import torch; print(torch.cuda.get_device_properties({device!r}).total_memory)"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        return int(asked.stdout) if asked.returncode == 0 else 0
    import psutil

    return int(psutil.virtual_memory().total)


def keep_freed_memory() -> None:
    """Let this process keep what it frees instead of handing it back to the system, where the C library is glibc.

    A pass on a CPU makes and frees megabytes at every operation; fetched from the system anew, every page of them is
    cleared first. Done in a process that ends with its variant, once the model is loaded.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
