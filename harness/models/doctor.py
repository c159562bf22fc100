"""What there is on this machine to run quantcliff with: ``quantcliff doctor``."""

import importlib
import platform
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.methods import METHODS, PACKAGES
from harness.config.schema import Quantization, Variant
from harness.errors import QuantcliffError
from harness.models.backends import MethodStatus, installed_version, method_status
from harness.models.devices import cpuinfo, native_dtype, usable_cpus

_OTHERS = ("lm_eval", "datasets")
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "amx_tile", "asimd", "bf16", "i8mm")
_AS_ROUNDED = frozenset({"gptq", "awq", "compressed-tensors"})  # stored with the weights of `rounded_model`
_NOT_SQUARE = frozenset({"torchao-float8-dynamic"})  # torchao 0.18 takes a 128 by 128 weight's scale for a block's
_STORED = 0.05  # a stored format must give what is stored; a method that quantizes here rounds, up to `Method.rounding`


@dataclass(frozen=True, slots=True)
class Proved:
    """What came of really loading and running a tiny model by one method."""

    method: str
    works: bool  # whether it ran, quantized something and answered what it should
    seconds: float  # from folder to logits
    kernel: str = ""  # what did the work, empty where nothing was loaded
    bits_per_weight: float = 0.0  # stored bits per weight, scales included
    error: float | None = None  # norm of its logits' difference from the reference's over the reference's norm
    reason: str = ""  # why it does not work, empty where it does


@dataclass(frozen=True, slots=True)
class Report:
    """The machine, as quantcliff sees it."""

    python: str
    platform: str
    packages: dict[str, str]  # distribution to version, empty where it is not installed
    device: str
    device_name: str
    capability: str  # CUDA compute capability, empty on a CPU
    cuda: str  # the CUDA version that torch was built for, empty for a CPU build or without torch
    memory_bytes: int  # the device's whole memory; the machine's for a CPU
    free_bytes: int
    cpus: int  # CPUs that this process may use: by its affinity and its cgroup's quota
    dtype: str  # what ``execution.dtype: auto`` means here, with the reason; empty without torch
    cpu_flags: tuple[str, ...]  # instruction sets that the CPU kernels look for
    methods: tuple[MethodStatus, ...]  # every method, in the order of the config
    proved: tuple[Proved, ...]  # what running them showed; empty unless asked for


def examine(
    device: str = "auto", *, prove: Collection[str] = (), progress: Callable[[str], None] = lambda _: None
) -> Report:
    """Examine the machine as `device` sees it (``auto``: CUDA, else the CPU); methods to `prove` run a tiny model."""
    torch: Any = importlib.import_module("torch") if installed_version("torch") else None
    if device == "auto":
        device = "cuda" if torch and torch.cuda.is_available() else "cpu"
    methods, cpu = tuple(method_status(device)), cpuinfo()
    has = (cpu.get("flags") or cpu.get("Features", "")).split()
    name, capability = cpu.get("model name") or platform.processor() or platform.machine(), ""
    whole = free = 0
    if torch and device.startswith("cuda") and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(device)
        name, capability = properties.name, f"{properties.major}.{properties.minor}"
        free, whole = torch.cuda.mem_get_info(device)
    elif installed_version("psutil"):
        import psutil

        whole, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    return Report(
        platform.python_version(),
        f"{platform.system()} {platform.release()} {platform.machine()}",
        {one: installed_version(one) for one in ("quantcliff", *(own.name for own in PACKAGES), *_OTHERS)},
        *(device, name, capability, (torch and torch.version.cuda) or "", whole, free, usable_cpus()),
        *("{}: {}".format(*native_dtype(device)) if torch else "", tuple(one for one in _FLAGS if one in has), methods),
        proved=tuple(_prove_all([one for one in methods if one.method in prove], device, progress)),
    )


def _prove_all(methods: Sequence[MethodStatus], device: str, say: Callable[[str], None]) -> Iterator[Proved]:
    able = [status.method for status in methods if status.works and not METHODS[status.method].alias_of]
    if not able:
        return
    from harness.models.doctor_models import plain_model, rounded_model
    from harness.models.quiet import quiet

    with tempfile.TemporaryDirectory(prefix="quantcliff-doctor-") as place:
        folders = {name: Path(place) / name for name in ("plain", "rounded", "wide")}
        for folder in folders.values():
            folder.mkdir()
        with quiet():
            rounded_model(plain_model(folders["plain"]), folders["rounded"])
            plain_model(folders["wide"], head_dim=64)
        references = {name: _logits(folder, "none", device)[0] for name, folder in folders.items()}
        for method in able:
            say(f"trying {method}")
            yield _prove_one(method, Path(place), device, references)


def _prove_one(method: str, root: Path, device: str, references: dict[str, Any]) -> Proved:
    """Load a method from the plain model, or from the same weights stored in its format, and compare its logits."""
    from harness.models.doctor_models import FORMATS
    from harness.models.quiet import quiet

    started, source = time.perf_counter(), "wide" if method in _NOT_SQUARE else "plain"
    folder = root / source
    try:
        if method in FORMATS:
            folder = root / method
            folder.mkdir()
            with quiet():
                FORMATS[method](root / "plain", folder)
        logits, proof = _logits(folder, method, device)
    except Exception as error:  # noqa: BLE001  # a kernel that refuses the device raises whatever it likes
        reason = str(error) if isinstance(error, QuantcliffError) else f"{type(error).__name__}: {error}"
        return Proved(method, works=False, seconds=time.perf_counter() - started, reason=reason)
    reference = references["rounded" if method in _AS_ROUNDED else source]
    distance = float((logits - reference).norm() / reference.norm())
    bound, reason = _STORED if method in FORMATS else METHODS[method].rounding, ""
    if method != "none" and proof.quantized_modules == 0:
        reason = "it loaded without an error and quantized nothing"
    elif not distance <= bound:
        reason = f"it answers {distance:.3f} away from the reference, and {bound:g} is the most that rounding explains"
    spent = time.perf_counter() - started
    return Proved(method, not reason, spent, proof.kernel, proof.bits_per_weight, distance, reason)


def _logits(folder: Path, method: str, device: str) -> tuple[Any, Any]:
    """Logits in float32 on the CPU for 64 fixed tokens, and the proof of what gave them."""
    import torch

    from harness.models.loading import load

    variant = Variant(name="doctor", model=str(folder), quantization=Quantization(method=method))
    loaded = load(variant, folder, device=device, dtype="bfloat16")
    tokens = torch.randint(0, 256, (1, 64), generator=torch.Generator().manual_seed(0)).to(loaded.model.device)
    with torch.no_grad():
        return loaded.model(tokens).logits.float().cpu(), loaded.proof


def describe(report: Report) -> str:
    """The report as plain text for a terminal."""
    gib, capability = 1 << 30, f", compute capability {report.capability}" if report.capability else ""
    told = {"whole": report.memory_bytes / gib, "free": report.free_bytes / gib, "capability": capability}
    told |= {"packages": ", ".join(f"{name} {version}" for name, version in report.packages.items() if version)}
    told |= {"flags": " ".join(report.cpu_flags) or "no instruction sets of note"}
    told |= {"dtype": report.dtype or "unknown without torch", "cuda": report.cuda or "this torch is built without it"}
    template = Path(__file__).with_name("doctor.txt").read_text("utf-8")
    lines = [line.format(report=report, **told) for line in template.splitlines()]
    width = max(len(status.method) for status in report.methods)
    proved = {result.method: result for result in report.proved}
    for status in report.methods:
        result = proved.get(status.method)
        words = [result.reason if result and result.reason else status.reason, status.install]
        if result and result.works:
            words.insert(0, f"{result.kernel}, {result.bits_per_weight:.2f} bits, error {result.error:.3f}")
        works = "yes" if (result or status).works else "no "
        lines.append(f"  {works}  {status.method:{width}}  {'; '.join(filter(None, words))}".rstrip())
    return "\n".join(lines)
