"""Devices, and what a CPU worker does with memory that it frees."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest
from lazily import lazy

from harness.errors import UsageError
from harness.models.devices import (
    bfloat16_speedup,
    keep_freed_memory,
    memory_bytes,
    native_dtype,
    resolve_device,
    settle_threads,
    usable_cpus,
)

torch = lazy("torch")

KEEPS = """
import sys
from pathlib import Path
from harness.models.devices import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
block = bytearray(b"x" * (256 << 20))
del block
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and asks glibc")
def test_freed_memory_stays_with_the_process():
    """A large block that is freed goes back to the system, unless the process was told to keep such blocks."""
    left = {}
    for word in ("keep", "return"):
        done = subprocess.run(
            [sys.executable, "-c", KEEPS, word], capture_output=True, text=True, check=True, timeout=60
        )
        left[word] = int(done.stdout)
    assert left["keep"] > 200 << 20 > left["return"] + (100 << 20)


def test_keeping_needs_no_glibc(monkeypatch):
    """Where the C library is another one nothing happens."""
    monkeypatch.setattr("ctypes.CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    keep_freed_memory()


@pytest.mark.parametrize(("name", "said"), [("warp", "is not a device"), ("cuda:99", "is not there")])
def test_a_device_that_is_not_there_is_said(name, said):
    """A name that torch does not know, and a CUDA device that it does not see, each name the key and the remedy."""
    with pytest.raises(UsageError, match=f"execution.device: '{name}' {said}.*write auto"):
        resolve_device(name)


def test_the_memory_of_this_machine_is_what_others_say():
    """All of it, whatever is free."""
    assert memory_bytes("cpu") == psutil.virtual_memory().total


def test_a_gpu_is_asked_by_another_process():
    """Its memory, without a CUDA context in this one; nothing where there is no such device."""
    held = torch.cuda.is_initialized()
    assert memory_bytes("cuda:99") == 0
    if torch.cuda.is_available():
        assert memory_bytes("cuda:0") > 1 << 30
    assert torch.cuda.is_initialized() == held


def cgroups(root, lines, **files):
    """A root of a file system that holds the cgroups of a process: path below sys/fs/cgroup to content."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("\n".join(lines) + "\n")
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("max", "cpu.max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def many_cpus(monkeypatch):
    """A machine with 64 CPUs, as far as its affinity tells."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(64)), raising=False)


@pytest.mark.parametrize(
    ("lines", "files", "cpus"),
    [
        (["0::/"], {"max": "200000 100000"}, 2),
        (["0::/job/step"], {"job__step__max": "max 100000", "job__max": "350000 100000"}, 4),
        (["0::/job"], {"job__max": "50000 100000"}, 1),
        (["0::/job"], {"job__max": "max 100000"}, 64),
        ([], {}, 64),
    ],
)
def test_a_cpu_quota_bounds_the_cpus(tmp_path, many_cpus, lines, files, cpus):
    """cpu.max of the process's cgroup or of a parent of it, in whole CPUs, rounded up, and at least one."""
    assert usable_cpus(cgroups(tmp_path, lines, **files)) == cpus


def test_a_cpu_quota_of_the_first_version_bounds_them_too(tmp_path, many_cpus):
    """cpu.cfs_quota_us over cpu.cfs_period_us of the cpu controller; -1 is no quota; other controllers are not read."""
    root = cgroups(tmp_path, ["5:memory:/box", "4:cpu,cpuacct:/box"])
    folder = root / "sys/fs/cgroup/cpu,cpuacct/box"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cpus(root) == 64
    (folder / "cpu.cfs_quota_us").write_text("250000\n")
    assert usable_cpus(root) == 3


@pytest.fixture
def threads():
    """Torch's threads: two, and put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("given", "tokenizers"), [(None, "1"), ("5", "5")])
def test_a_quota_bounds_what_libraries_start(many_cpus, threads, monkeypatch, given, tokenizers):
    """On 64 cores with a quota of 1 torch has one thread, and so have the tokenizers, unless their variable is set."""
    monkeypatch.setattr("harness.models.devices.usable_cpus", lambda: 1)
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # put back whatever comes
        monkeypatch.delenv(name)
    if given:
        monkeypatch.setenv("RAYON_NUM_THREADS", given)
    assert settle_threads("float32") == ""
    assert (torch.get_num_threads(), os.environ["RAYON_NUM_THREADS"]) == (1, tokenizers)


def test_threads_are_settled_by_what_is_faster_now(threads, monkeypatch):
    """All of them where they are faster than one, one where they are not; a number that is asked for stays."""
    monkeypatch.setattr("harness.models.devices.usable_cpus", lambda: 2)
    for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    for all_take, expected in ((0.6, 2), (1.5, 1)):
        spent = iter([1.0, all_take])
        monkeypatch.setattr("timeit.Timer.autorange", lambda _timer, spent=spent: (1, next(spent)))
        said = settle_threads("float32")
        assert torch.get_num_threads() == expected
        assert ("one of 2" in said) is (expected == 1)
    settle_threads("float32", 3)
    assert torch.get_num_threads() == 3


def test_the_native_dtype_is_the_one_that_is_faster(monkeypatch):
    """bfloat16 if its products are faster than float32's, with the factor; here one of the two is measured."""
    for speedup, dtype in ((0.1, "float32"), (3.5, "bfloat16")):
        monkeypatch.setattr("harness.models.devices.bfloat16_speedup", lambda speedup=speedup: speedup)
        assert native_dtype("cpu")[0] == dtype
        assert f"{speedup:g} times" in native_dtype("cpu")[1]
    monkeypatch.undo()
    assert bfloat16_speedup() > 0
    for capability, dtype in (((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")):
        monkeypatch.setattr("harness.models.devices._cuda_properties", lambda _device, own=capability: (1 << 34, *own))
        assert native_dtype("cuda:0")[0] == dtype
