"""The process that runs GPTQModel, ``python -m harness.models.checkpoints_worker FD``, and the check of what it saved.

Reads the task as JSON from standard input and writes progress, a sentence to a line, to the file descriptor FD. Before
saving, it records what every linear module answers; `compare_answers` asks the saved model the same.
"""

import contextlib
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from harness.models.audit import linear_modules

_TOKENS = 16  # of the first calibration text
_ROUNDING = 2.0**-9  # relative rounding of a bfloat16 number
_MODULE_ROUNDINGS = 3  # in a linear module: of the scales, of the weights they give, and of the answer
_LAYER_ROUNDINGS = 12  # in a layer: two norms, four matrices, attention, activation, product, residuals
_MARGIN = 4  # roundings are not quite independent: so many times their expected size is allowed


def main(descriptor: int) -> None:
    """Do the task on standard input."""
    task, news = json.load(sys.stdin), os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
    say = functools.partial(print, file=news)
    say("loading the model")  # the libraries take seconds to import
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    from gptqmodel.quantization import FORMAT, METHOD

    awq = task["method"] == "awq"
    kind = {"method": METHOD.AWQ if awq else METHOD.GPTQ, "format": FORMAT.GEMM if awq else FORMAT.GPTQ}
    size = {"bits": task["bits"], "group_size": task["group_size"]}
    config = QuantizeConfig(**size, **kind, desc_act=False, offload_to_disk=False)
    model = GPTQModel.load(task["source"], config, device=task["device"])
    layers = model.model.config.get_text_config().num_hidden_layers

    def count(layer_idx: int, submodule_finalized: bool) -> None:  # noqa: FBT001 - as GPTQModel calls it
        if submodule_finalized:
            say(f"layer {layer_idx + 1} of {layers}")

    model.layer_callback = count
    kernel = {"backend": BACKEND.AWQ_TORCH} if awq and task["device"].startswith("cpu") else {}
    model.quantize(task["texts"], batch_size=1, **kernel)
    say("recording its answers")
    _record_answers(model, task)
    say("saving")  # changes the model in memory, so its answers are recorded before
    model.save(task["out"])


def _record_answers(quantized: Any, task: dict[str, Any]) -> None:
    """Write what every linear module receives and answers for the first calibration tokens, and the logits."""
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
    save_file(recorded, task["answers"])


@contextlib.contextmanager
def _zeros_as_kernels_read_them(model: Any) -> Iterator[None]:
    """Within it, GPTQ zero points are stored as the kernel reads them; on disk and after packing they are one less."""
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    later = (one for one in model.modules() if getattr(one, "REQUIRES_FORMAT_V2", False) and one.qzero_format() == 1)
    packed = [(module, module.qzeros.data.clone()) for module in later]
    for module, _ in packed:
        convert_gptq_v1_to_v2_format_module(module, bits=module.bits, pack_dtype=module.pack_dtype)
    try:
        yield
    finally:
        for module, zeros in packed:
            module.qzeros.data.copy_(zeros)
            module.qzero_format(format=1)


def compare_answers(model: Any, recorded: Path) -> str:
    """Say which module of `model` answers the recorded input differently, and by how much; empty if none does."""
    tensors, modules = load_file(recorded), dict(linear_modules(model))
    names = [key.removesuffix(":in") for key in tensors if key.endswith(":in")]
    if absent := [name for name in names if name not in modules]:
        return f"{absent[0]} is not there any more"
    with torch.no_grad():
        for name in names:
            output = modules[name](tensors[f"{name}:in"].to(model.device, model.dtype))
            if found := _difference(name, output, tensors[f"{name}:out"], _MODULE_ROUNDINGS):
                return found
        logits = model(tensors["tokens"].to(model.device), use_cache=False).logits
    layers = model.config.get_text_config().num_hidden_layers
    return _difference("the model's logits", logits, tensors["logits"], _LAYER_ROUNDINGS * layers)


def _difference(what: str, answer: Any, expected: Any, roundings: int) -> str:
    """Compare by the norm of the difference; both sides round, so their errors add up as squares."""
    expected = expected.float()
    distance = float((answer.cpu().float() - expected).norm() / expected.norm().clamp(min=1e-9))
    bound = _MARGIN * _ROUNDING * math.sqrt(2 * roundings)
    found = f"{what} is {distance:.3g} away from what it was before saving; rounding explains {bound:.2g} at most"
    return "" if distance <= bound else found


if __name__ == "__main__":
    main(int(sys.argv[1]))
