"""What quantcliff sets on a GPU, and what it records of one: kernels, driver, clocks, memory. Knows no models."""

import os
import subprocess
from collections.abc import Callable
from typing import Any

import torch


def prepare_cuda(device: str) -> None:
    """Set what a process needs on a GPU, before it loads a model (docs/engine.md says why)."""
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.cuda.set_device(torch.device(device.partition(",")[0]))  # the first of several


def cuda_versions() -> dict[str, str]:
    """Return what decides, besides torch, which kernels run: CUDA, cuDNN, and the kernels that attention may take."""
    cuda: Any = torch.backends.cuda  # torch's own types leave these out
    cudnn: Any = torch.backends.cudnn
    kernels = {"flash": "flash", "efficient": "mem_efficient", "cudnn": "cudnn", "math": "math"}
    allowed = (short for short, name in kernels.items() if getattr(cuda, f"{name}_sdp_enabled")())
    return {"cuda": torch.version.cuda or "", "cudnn": str(cudnn.version() or ""), "attention": " ".join(allowed)}


def cuda_state(device: str) -> dict[str, str]:
    """Return the driver's version and the clocks of a GPU now, as nvidia-smi reports them; nothing without it."""
    uuid = getattr(torch.cuda.get_device_properties(device.partition(",")[0]), "uuid", "")
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem"
    command = ["nvidia-smi", f"--id=GPU-{uuid}", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        driver, sm, most, memory, most_memory = (word.strip() for word in asked.stdout.strip().split(","))
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return {"driver": driver, "clocks": f"SM {sm} of {most}, memory {memory} of {most_memory}"}


def forget_load_peak(device: str) -> int:
    """Return the most GPU memory that loading took, and start a new measurement; 0 on a CPU."""
    if not device.startswith("cuda"):
        return 0
    peak = _of_all_gpus(torch.cuda.max_memory_allocated)
    _of_all_gpus(torch.cuda.reset_peak_memory_stats)
    return peak


def device_memory() -> tuple[int, int]:
    """Return the most GPU memory of this process's tensors, and of what it reserved for them, over all GPUs."""
    return _of_all_gpus(torch.cuda.max_memory_allocated), _of_all_gpus(torch.cuda.max_memory_reserved)


def _of_all_gpus(measure: Callable[[int], int | None]) -> int:
    return sum(measure(index) or 0 for index in range(torch.cuda.device_count()))
