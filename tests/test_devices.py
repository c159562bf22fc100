"""Devices, and what a CPU worker does with memory that it frees."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest
from lazily import lazy

from harness.devices import keep_freed_memory, memory_bytes, resolve_device
from harness.errors import UsageError

torch = lazy("torch")

KEEPS = """
import sys
from pathlib import Path
from harness.devices import keep_freed_memory

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
