"""The process that runs GPTQModel: ``python -m harness.models.checkpoints_worker FD``.

Reads the task as JSON from standard input. Writes progress, a sentence to a line, to the file descriptor FD; whatever
the libraries print goes to standard output and error. Called by `harness.models.checkpoints` alone, which has checked
the task.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["main"]

_TOKENS = 16  # of the first calibration text


def main(descriptor: int) -> None:
    """Do the task on standard input."""
    task = json.load(sys.stdin)
    with os.fdopen(descriptor, "w", buffering=1, encoding="utf-8") as news:
        _quantize(task, lambda sentence: print(sentence, file=news))


def _quantize(task: dict[str, Any], say: Callable[[str], None]) -> None:
    say("loading the model")
    from gptqmodel import BACKEND, GPTQModel

    model = GPTQModel.load(task["source"], _config(task), device=task["device"])
    layers = model.model.config.get_text_config().num_hidden_layers

    def count(layer_idx: int, submodule_finalized: bool) -> None:  # noqa: FBT001 - as GPTQModel calls it
        if submodule_finalized:
            say(f"layer {layer_idx + 1} of {layers}")

    model.layer_callback = count
    on_cpu = task["device"].startswith("cpu")
    kernel = {"backend": BACKEND.AWQ_TORCH} if task["method"] == "awq" and on_cpu else {}
    model.quantize(task["texts"], batch_size=1, **kernel)
    say("recording its answers")
    _record_answers(model, Path(task["answers"]), task)
    say("saving")  # changes the model in memory, so its answers are recorded before
    model.save(task["out"])


def _record_answers(quantized: Any, out: Path, task: dict[str, Any]) -> None:
    """Write what every linear module receives and answers for the first calibration tokens, and the logits."""
    import torch
    from safetensors.torch import save_file

    from harness.models.audit import linear_modules

    model = quantized.model.to(task["device"])
    tokens = quantized.tokenizer(task["texts"][0], return_tensors="pt")["input_ids"][:, :_TOKENS]
    recorded = {"tokens": tokens}

    def record(name: str) -> Callable[..., None]:
        def hook(_module: Any, arguments: tuple[Any, ...], output: Any) -> None:
            recorded[f"{name}:in"] = arguments[0].detach().to("cpu", copy=True).contiguous()
            recorded[f"{name}:out"] = output.detach().to("cpu", copy=True).contiguous()

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in linear_modules(model)]
    with torch.no_grad(), _zeros_as_kernels_read_them(model):
        recorded["logits"] = model(tokens.to(task["device"]), use_cache=False).logits.cpu()
    for hook in hooks:
        hook.remove()
    save_file(recorded, out)


@contextlib.contextmanager
def _zeros_as_kernels_read_them(model: Any) -> Iterator[None]:
    """Within it, GPTQ zero points are stored as the kernel reads them; on disk and after packing they are one less."""
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    packed = [
        (module, module.qzeros.data.clone())
        for module in model.modules()
        if getattr(module, "REQUIRES_FORMAT_V2", False) and module.qzero_format() == 1
    ]
    for module, _ in packed:
        convert_gptq_v1_to_v2_format_module(module, bits=module.bits, pack_dtype=module.pack_dtype)
    try:
        yield
    finally:
        for module, zeros in packed:
            module.qzeros.data.copy_(zeros)
            module.qzero_format(format=1)


def _config(task: dict[str, Any]) -> Any:
    from gptqmodel import QuantizeConfig
    from gptqmodel.quantization import FORMAT, METHOD

    kind = (METHOD.AWQ, FORMAT.GEMM) if task["method"] == "awq" else (METHOD.GPTQ, FORMAT.GPTQ)
    return QuantizeConfig(
        bits=task["bits"],
        group_size=task["group_size"],
        desc_act=False,
        method=kind[0],
        format=kind[1],
        offload_to_disk=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
