"""What is set and recorded on a GPU, as far as a machine without one can tell."""

from __future__ import annotations

import types

import pytest
from lazily import lazy

from harness.errors import UsageError
from harness.models.devices import memory_bytes, resolve_device

torch = lazy("torch")
cuda = lazy("harness.models.cuda")


@pytest.fixture
def switches():
    """Torch's switches, put back afterwards."""
    backends = torch.backends.cuda
    before = backends.cudnn_sdp_enabled()
    products = backends.matmul.allow_bf16_reduced_precision_reduction
    halves = backends.matmul.allow_fp16_reduced_precision_reduction
    yield backends
    backends.enable_cudnn_sdp(before)
    backends.matmul.allow_bf16_reduced_precision_reduction = products
    backends.matmul.allow_fp16_reduced_precision_reduction = halves


def test_a_gpu_is_set_up_before_a_model_loads(switches, monkeypatch):
    """No attention by cuDNN, sums in float32, segments that grow, and the device as the current one."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    cuda.prepare_cuda("cuda:1,cuda:2")
    assert chosen == [torch.device("cuda:1")]
    assert not switches.matmul.allow_bf16_reduced_precision_reduction
    assert cuda.os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert cuda.cuda_versions()["attention"] == "flash efficient math"
    switches.enable_cudnn_sdp(True)
    assert "cudnn" in cuda.cuda_versions()["attention"]
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "backend:native")
    cuda.prepare_cuda("cuda:1")
    assert cuda.os.environ["PYTORCH_ALLOC_CONF"] == "backend:native"


def test_driver_and_clocks_are_what_nvidia_smi_says(tmp_path, monkeypatch):
    """Of the device that the process uses, by its own name; nothing where the program is missing or fails."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid="ab-12"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda.cuda_state("cuda:0") == {}
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\n[ "$1" = --id=GPU-ab-12 ] && echo "580.1, 1755 MHz, 1980 MHz, 2619 MHz, 2619 MHz"\n')
    program.chmod(0o755)
    assert cuda.cuda_state("cuda:0,cuda:1") == {
        "driver": "580.1",
        "clocks": "SM 1755 MHz of 1980 MHz, memory 2619 MHz of 2619 MHz",
    }
    program.write_text("#!/bin/sh\nexit 9\n")
    assert cuda.cuda_state("cuda:0") == {}


def test_the_memory_of_loading_is_taken_apart(monkeypatch):
    """Summed over all GPUs; what answering takes is measured anew. A CPU has no such figure."""
    held = [7, 5]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda index: held[index])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 10)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda index: held.__setitem__(index, 1))
    assert cuda.forget_load_peak("cpu") == 0
    assert cuda.forget_load_peak("cuda:0,cuda:1") == 12
    assert cuda.device_memory() == (2, 20)


def test_several_gpus_hold_one_model(monkeypatch):
    """All, or those named; each has to be there, and a CPU is none of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr("harness.models.devices._cuda_properties", lambda _: (80, 9, 0))
    assert resolve_device("cuda:all") == "cuda:0,cuda:1,cuda:2"
    assert resolve_device("cuda:2, cuda:0,cuda:2") == "cuda:2,cuda:0"
    assert memory_bytes("cuda:2,cuda:0") == 160
    with pytest.raises(UsageError, match=r"cuda:3.*is not there"):
        resolve_device("cuda:0,cuda:3")
    with pytest.raises(UsageError, match="only CUDA devices hold one model together"):
        resolve_device("cuda:0,cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:all") == "cuda:0"
