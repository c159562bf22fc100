"""Which quantization methods work here, and in one sentence why another does not."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.config.methods import METHODS, RUNTIME, Package
from harness.errors import BackendMissing


@dataclass(frozen=True, slots=True)
class MethodStatus:
    """Whether one method works on a device here."""

    method: str  # a name of `harness.config.methods.METHODS`
    works: bool  # whether everything that it needs is there
    reason: str  # what is missing, or, where it works, what a reader should know of it here (may be empty)
    install: str  # the command that would install what is missing, empty where no installation helps


def batch_invariant(method: str) -> bool:
    """Whether an answer is the same whatever else is in its batch, up to rounding; taken to be if it is not known."""
    return method not in METHODS or METHODS[method].batch_invariant


def installed_version(distribution: str) -> str:
    """The version of an installed distribution, empty where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def method_status(device: str) -> list[MethodStatus]:
    """The status of every method on `device` (``cpu``, ``cuda``, ``cuda:1``), in the order of `METHODS`."""
    found = [(method, *_obstacle(method, device, prequantized=False)) for method in METHODS]
    return [MethodStatus(name, not reason, reason or METHODS[name].remark, install) for name, reason, install in found]


def require(method: str, device: str, *, prequantized: bool = False) -> None:
    """Raise `BackendMissing` where `method` cannot work on `device` here; weights that lie `prequantized` need less."""
    reason, install = _obstacle(method, device, prequantized=prequantized)
    if reason:
        raise BackendMissing("; ".join(filter(None, (f"{method} does not work here: {reason}", install))))


def _obstacle(method: str, device: str, *, prequantized: bool) -> tuple[str, str]:
    """Say why a method does not work here, and the command that would help; two empty texts if it works."""
    needs = METHODS[method]
    unpacked = method == "fp8" and prequantized and device.startswith("cpu")  # decompressed by transformers alone
    if missing := _missing(RUNTIME):
        return missing, "pip install 'quantcliff[run]'"
    if lacks := _device_lacks(device, None if unpacked else needs.capability):
        return lacks, ""
    if missing := "" if unpacked else _missing(needs.packages):
        wanted = needs.extra if "[" in needs.extra else f"quantcliff[{needs.extra}]"
        return missing, f"pip install '{wanted}'"
    # Asked without torch, this says what is installed; whoever loads or proves a method has loaded torch.
    known = "torch" in sys.modules
    if known and method == "torchao-int8-dynamic" and device == "cpu" and not _int8_products_are_exact():
        return "this processor's product of two 8-bit matrices saturates: its sums are wrong by up to a quarter", ""
    return "", ""


@functools.cache
def _int8_products_are_exact() -> bool:
    """Whether torch multiplies large 8-bit numbers right: without VNNI some kernels saturate at 16 bits."""
    import torch

    large = torch.full((32, 64), 127, dtype=torch.int8)
    product = torch._int_mm(large, large.T)  # noqa: SLF001 - what torchao itself calls
    return bool((product == 64 * 127 * 127).all())


def _missing(packages: tuple[Package, ...]) -> str:
    for package in packages:
        version = installed_version(package.name)
        if not version or importlib.util.find_spec(package.module.partition(".")[0]) is None:
            return f"the package {package.name} is not installed"
        if _numbers(version) < _numbers(package.lowest):
            return f"the package {package.name} is {version}, and {package.lowest} or newer is needed"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """The leading release numbers: ``2.13.0+cpu`` is (2, 13, 0)."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _device_lacks(device: str, capability: tuple[int, int] | None) -> str:
    needed = ".".join(map(str, capability or ()))
    if not device.startswith("cuda"):
        said = f"it needs a CUDA device of compute capability {needed} or higher, and this is {device}"
        return said if capability else ""
    import torch

    if not torch.cuda.is_available():
        return f"{device} was asked for and torch {torch.__version__} finds no CUDA device"
    have = torch.cuda.get_device_capability(device.partition(",")[0])
    if capability and have < capability:
        return f"it needs CUDA compute capability {needed}, and {device} has {have[0]}.{have[1]}"
    return ""


def release_quanto_lock(lock: Path | None = None) -> None:
    """Remove the lock of quanto's C++ extension that a killed process left: it would be waited for without end."""
    import psutil

    found = importlib.util.find_spec("optimum.quanto")
    if lock is None and found is not None and found.origin is not None:
        lock = Path(found.origin).parent / "library" / "extensions" / "cpp" / "build" / "lock"
    if lock is None or not lock.exists():
        return
    wanted = str(lock.resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # it ended, or belongs to another user
            if any(file.path == wanted for file in process.open_files()):
                return
    lock.unlink(missing_ok=True)
