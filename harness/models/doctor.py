"""What there is on this machine to run quantcliff with: ``quantcliff doctor``.

`examine` reports the device, the memory, the packages and every quantization method with the reason why it does not
work here; with `prove` it quantizes and runs a tiny model by each that should. It changes nothing and knows no config.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.methods import METHODS, PACKAGES
from harness.config.schema import Quantization, Variant
from harness.errors import QuantcliffError
from harness.models.backends import MethodStatus, installed_version, method_status
from harness.models.devices import native_dtype, usable_cpus
from harness.records import to_json

__all__ = ["Proved", "Report", "describe", "examine", "print_report", "to_json"]

_OTHERS = ("lm_eval", "datasets")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "amx_tile", "asimd", "bf16", "i8mm")
_AS_ROUNDED = frozenset({"gptq", "awq", "compressed-tensors"})  # stored with the weights of `rounded_model`

# A stored format must give what is stored; a method that quantizes here rounds, up to `Method.rounding`.
_STORED = 0.05


@dataclass(frozen=True, slots=True)
class Proved:
    """What came of really loading and running a tiny model by one method."""

    method: str
    """A name of `harness.config.methods.METHODS`."""
    works: bool
    """Whether it ran, quantized something and answered what it should."""
    seconds: float
    """From folder to logits."""
    kernel: str = ""
    """What did the work, empty where nothing was loaded."""
    bits_per_weight: float = 0.0
    """Stored bits per weight, scales included."""
    error: float | None = None
    """Norm of the difference of its logits from the reference over the norm of the reference; None without logits."""
    reason: str = ""
    """Why it does not work, empty where it does."""


@dataclass(frozen=True, slots=True)
class Report:
    """The machine, as quantcliff sees it."""

    python: str
    """Version of Python."""
    platform: str
    """Operating system and processor architecture."""
    packages: dict[str, str]
    """Distribution to version, empty where it is not installed."""
    device: str
    """The device examined."""
    device_name: str
    """What the device calls itself."""
    capability: str
    """CUDA compute capability, empty on a CPU."""
    cuda: str
    """The CUDA version that torch was built for, empty for a CPU build or without torch."""
    memory_bytes: int
    """The device's whole memory; the machine's for a CPU."""
    free_bytes: int
    """What is free of it now."""
    cpus: int
    """CPUs that this process may use: by its affinity and its cgroup's quota."""
    dtype: str
    """What ``execution.dtype: auto`` means here, with the reason; empty without torch."""
    cpu_flags: tuple[str, ...]
    """Instruction sets that the CPU kernels look for."""
    methods: tuple[MethodStatus, ...]
    """Every method, in the order of the config."""
    proved: tuple[Proved, ...]
    """What running them showed; empty unless asked for."""


def examine(device: str = "auto", *, prove: bool = False, progress: Callable[[str], None] | None = None) -> Report:
    """Examine the machine as `device` sees it (``auto``: the first CUDA device, else the CPU).

    With `prove`, every method that should work quantizes and runs a tiny random model: some seconds each, and a minute
    once where a library compiles itself; `progress` is called with a sentence before each. Raises nothing for what is
    missing: that is what the report says.
    """
    device = _device(device)
    methods = tuple(method_status(device))
    name, capability, cuda, memory, free = _hardware(device)
    return Report(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages={name: installed_version(name) for name in ("quantcliff", *(one.name for one in PACKAGES), *_OTHERS)},
        device=device,
        device_name=name,
        capability=capability,
        cuda=cuda,
        memory_bytes=memory,
        free_bytes=free,
        cpus=usable_cpus(),
        dtype="{}: {}".format(*native_dtype(device)) if installed_version("torch") else "",
        cpu_flags=_cpu_flags(),
        methods=methods,
        proved=_prove_all(methods, device, progress or (lambda _sentence: None)) if prove else (),
    )


def _device(device: str) -> str:
    if device != "auto":
        return device
    if not installed_version("torch"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _hardware(device: str) -> tuple[str, str, str, int, int]:
    """Name, capability, CUDA version, memory and free memory of a device."""
    cuda = ""
    if installed_version("torch"):
        import torch

        cuda = torch.version.cuda or ""
        if device.startswith("cuda") and torch.cuda.is_available():
            properties = torch.cuda.get_device_properties(device)
            free, whole = torch.cuda.mem_get_info(device)
            return properties.name, f"{properties.major}.{properties.minor}", cuda, whole, free
    whole, free = _machine_memory()
    return _cpu_name(), "", cuda, whole, free


def _machine_memory() -> tuple[int, int]:
    if not installed_version("psutil"):
        return 0, 0
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def _cpuinfo() -> str:
    """What Linux says of its processor, empty elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.is_file() else ""


def _cpu_name() -> str:
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _cpu_flags() -> tuple[str, ...]:
    for line in _cpuinfo().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            has = set(value.split())
            return tuple(flag for flag in _FLAGS if flag in has)
    return ()


def _prove_all(methods: tuple[MethodStatus, ...], device: str, say: Callable[[str], None]) -> tuple[Proved, ...]:
    """Run every method that should work on tiny models in a folder that goes afterwards."""
    from harness.models.doctor_models import plain_model, rounded_model
    from harness.models.quiet import quiet

    able = [status.method for status in methods if status.works and not METHODS[status.method].alias_of]
    if "none" not in able:
        return ()
    with tempfile.TemporaryDirectory(prefix="quantcliff-doctor-") as place:
        root = Path(place)
        for name in ("plain", "rounded"):
            (root / name).mkdir()
        with quiet():
            rounded_model(plain_model(root / "plain"), root / "rounded")
        references = {name: _logits(root / name, "none", device)[0] for name in ("plain", "rounded")}
        results = []
        for method in able:
            say(f"trying {method}")
            results.append(_prove_one(method, root, device, references))
    return tuple(results)


def _prove_one(method: str, root: Path, device: str, references: dict[str, Any]) -> Proved:
    started = time.perf_counter()
    try:
        folder = _in_format(method, root)
        logits, proof = _logits(folder, method, device)
    except QuantcliffError as error:
        return Proved(method, works=False, seconds=time.perf_counter() - started, reason=str(error))
    reference = references["rounded" if folder.name in _AS_ROUNDED else "plain"]
    distance = float((logits - reference).norm() / reference.norm())
    reason = _wrong(
        method, distance, proof.quantized_modules, _STORED if folder.name == method else METHODS[method].rounding
    )
    return Proved(
        method=method,
        works=not reason,
        kernel=proof.kernel,
        bits_per_weight=proof.bits_per_weight,
        error=distance,
        seconds=time.perf_counter() - started,
        reason=reason,
    )


def _in_format(method: str, root: Path) -> Path:
    """The folder to load `method` from: the plain model, or the same weights stored in the method's format."""
    from harness.models.doctor_models import FORMATS
    from harness.models.quiet import quiet

    if method not in FORMATS:
        return root / "plain"
    folder = root / method
    folder.mkdir()
    with quiet():
        FORMATS[method](root / "plain", folder)
    return folder


def _logits(folder: Path, method: str, device: str) -> tuple[Any, Any]:
    """Logits in float32 on the CPU for 64 fixed tokens, and the proof of what gave them."""
    import torch

    from harness.models.loading import load

    variant = Variant(name="doctor", model=str(folder), quantization=Quantization(method=method))
    loaded = load(variant, folder, device=device, dtype="bfloat16")
    tokens = torch.randint(0, 256, (1, 64), generator=torch.Generator().manual_seed(0)).to(loaded.model.device)
    with torch.no_grad():
        return loaded.model(tokens).logits.float().cpu(), loaded.proof


def _wrong(method: str, error: float, quantized: int, bound: float) -> str:
    """What is wrong with an answer, empty where nothing."""
    if method != "none" and quantized == 0:
        return "it loaded without an error and quantized nothing"
    if not error <= bound:
        return f"it answers {error:.3f} away from the reference, and {bound:g} is the most that rounding explains"
    return ""


def describe(report: Report) -> str:
    """The report as plain text for a terminal."""
    installed = ", ".join(f"{name} {version}" for name, version in report.packages.items() if version)
    gib = 1 << 30
    lines = [
        f"Python      {report.python} on {report.platform}",
        f"device      {report.device}: {report.device_name}"
        + (f", compute capability {report.capability}" if report.capability else ""),
        f"memory      {report.memory_bytes / gib:.1f} GiB, {report.free_bytes / gib:.1f} GiB free",
        f"CPU         {report.cpus} usable; {' '.join(report.cpu_flags) or 'no instruction sets of note'}",
        f"dtype       auto is {report.dtype or 'unknown without torch'}",
        f"CUDA        {report.cuda or 'this torch is built without it'}",
        f"packages    {installed}",
        "",
        *_method_lines(report),
    ]
    return "\n".join(lines)


def print_report(report: Report, console: Any) -> None:
    """Print the report on a rich console, each line as it is."""
    console.print(describe(report), markup=False, highlight=False, soft_wrap=True)


def _method_lines(report: Report) -> list[str]:
    width = max(len(status.method) for status in report.methods)
    proved = {result.method: result for result in report.proved}
    lines = ["methods"]
    for status in report.methods:
        result = proved.get(status.method)
        works = result.works if result else status.works
        words = [result.reason if result and result.reason else status.reason, status.install]
        if result and result.works:
            words.insert(0, f"{result.kernel}, {result.bits_per_weight:.2f} bits, error {result.error:.3f}")
        lines.append(
            f"  {'yes' if works else 'no ':3}  {status.method:{width}}  {'; '.join(filter(None, words))}".rstrip()
        )
    return lines
