"""The device of a run, the dtype that it computes natively, and the CPU threads that this process may use."""

import contextlib
import ctypes
import functools
import math
import os
import subprocess
import sys
import time
import timeit
from pathlib import Path

from harness.errors import UsageError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of mallopt(3)
BFLOAT16_CAPABILITY = (8, 0)  # CUDA compute capability from which tensor cores multiply bfloat16
SLOW_CALL = 0.2  # seconds of one product after which no more of them are timed
THREADS_GAIN = 1.1  # all threads are kept if they are at least this many times as fast as one


def resolve_device(name: str) -> str:
    """Give ``cpu``, ``cuda:N`` or what else torch was asked for; ``auto`` is the first CUDA device, else the CPU.

    Several for one model are ``cuda:0,cuda:1`` or ``cuda:all``. Raises UsageError where torch cannot see a device.
    """
    import torch

    if name == "cuda:all" and torch.cuda.device_count() > 0:
        name = ",".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    if "," in name:
        several = dict.fromkeys(resolve_device(one.strip()) for one in name.split(","))
        if not all(one.startswith("cuda") for one in several):
            raise UsageError(f"execution.device: {name!r}: only CUDA devices hold one model together")
        return ",".join(several)
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"execution.device: {name!r} is not a device: write auto, cpu, cuda:1 or cuda:all") from error
    if device.type != "cuda":
        return str(device)
    count, index = torch.cuda.device_count() if torch.cuda.is_available() else 0, device.index or 0
    if index >= count:
        built = f"torch {torch.__version__} sees {count} CUDA device(s)"
        raise UsageError(f"execution.device: {name!r} is not there: {built}; write auto or cpu, or look at nvidia-smi")
    return f"cuda:{index}"


def memory_bytes(device: str) -> int:
    """The total memory of a resolved device in bytes, used or free; 0 if it cannot be found out."""
    if device.startswith("cuda"):
        return sum(_cuda_properties(one)[0] for one in device.split(","))
    import psutil

    return int(psutil.virtual_memory().total)


@functools.cache
def _cuda_properties(device: str) -> tuple[int, int, int]:
    """Memory in bytes, major and minor compute capability of a GPU; zeros if it does not answer."""
    # Asked in another process: one that asks keeps a part of the memory, or all others out, until it ends.
    code = f"import torch; p = torch.cuda.get_device_properties({device!r}); print(p.total_memory, p.major, p.minor)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    memory, major, minor = map(int, asked.stdout.split() if asked.returncode == 0 else (0, 0, 0))
    return memory, major, minor


def native_dtype(device: str) -> tuple[str, str]:
    """The dtype that a resolved device computes natively, ``bfloat16`` or ``float32``, and the reason in words."""
    if device.startswith("cuda"):
        capability = min(_cuda_properties(one)[1:] for one in device.split(","))
        fast = capability >= BFLOAT16_CAPABILITY
        reason = f"compute capability {capability[0]}.{capability[1]} is {'at least' if fast else 'below'} 8.0"
    else:  # timed: flags, the build of torch and environment variables decide together what its kernels reach
        fast = (speedup := bfloat16_speedup()) > 1.0
        reason = f"bfloat16 products are {speedup:.2g} times as fast as float32 ones on this CPU"
    return "bfloat16" if fast else "float32", reason


@functools.cache
def bfloat16_speedup() -> float:
    """How many times as fast as in float32 a [256, 576] x [576, 1536] product is in bfloat16 on this CPU."""
    import torch

    def fastest(dtype: torch.dtype) -> float:
        left, right = torch.ones(256, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
        timer = timeit.Timer(lambda: left @ right, timer=time.thread_time)
        first = timer.timeit(1)  # processor time of one thread: other processes do not decide it
        return first if first > SLOW_CALL else min(first, *timer.repeat(4, number=1))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fastest(torch.float32) / fastest(torch.bfloat16)
    finally:
        torch.set_num_threads(threads)


def cpuinfo() -> dict[str, str]:
    """Return what Linux says of the first processor; empty elsewhere."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    return found


def usable_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: its affinity, and no more than its cgroups' CPU quota (v2 and v1), at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _cpu_quotas(root))]))


def _cpu_quotas(root: Path) -> list[float]:
    """The CPU quotas, in CPUs, of the cgroups of this process and of their parents (man 7 cgroups)."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in filter(None, lines):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        for name in {controllers, "cpu", "cpu,cpuacct"} if controllers else {""}:
            found += [quota for part in (own, *own.parents) for quota in _quota(root / "sys/fs/cgroup" / name / part)]
    return found


def _quota(cgroup: Path) -> list[float]:
    """The quota of one cgroup in CPUs; empty if it has none or is not mounted here."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (float(word) for name in names for word in (cgroup / name).read_text().split())
            return [quota / period] if quota > 0 and period > 0 else []
    return []


def settle_threads(dtype: str, asked: int | None = None) -> str:
    """Set torch's CPU threads: as many as asked for, else all that may be used or one; say in words if it is one.

    Next to another busy process all are slower than one: a second of products of a decoding step's shape decides.
    """
    import torch

    if asked is not None:
        torch.set_num_threads(asked)
        return ""
    cpus = usable_cpus()
    if hasattr(os, "sched_getaffinity") and cpus < len(os.sched_getaffinity(0)):
        # OpenMP respects the affinity by itself; a quota it does not know, and starts a thread for each core.
        for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
            os.environ.setdefault(name, str(cpus))
    most = min(cpus, torch.get_num_threads())
    torch.set_num_threads(most)
    if most == 1:
        return ""
    kind, seconds = getattr(torch, dtype), {}
    left, right = torch.ones(16, 1024, dtype=kind), torch.ones(1024, 2048, dtype=kind)
    for threads in (1, most):
        torch.set_num_threads(threads)
        timer = timeit.Timer(lambda: left @ right)
        timer.timeit(1)
        calls, spent = timer.autorange()  # a fifth of a second, or one call: waiting counts
        seconds[threads] = spent / calls
    gain = seconds[1] / seconds[most]
    if gain >= THREADS_GAIN:
        return ""
    torch.set_num_threads(1)
    return f"one of {most} usable CPU threads is used: all were {gain:.2g} times as fast as one when it was loaded"


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library is glibc: pages fetched anew are cleared first."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
