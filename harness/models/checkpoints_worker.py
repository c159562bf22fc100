"""The process that runs GPTQModel: ``python -m harness.models.checkpoints_worker FD``.

Reads the task as JSON from standard input. Writes progress, a sentence to a line, to the file descriptor FD; whatever
the libraries print goes to standard output and error. Called by `harness.models.checkpoints` alone, which has checked
the task.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["main"]


def main(descriptor: int) -> None:
    """Do the task on standard input."""
    task = json.load(sys.stdin)
    with os.fdopen(descriptor, "w", buffering=1, encoding="utf-8") as news:
        _quantize(task, lambda sentence: print(sentence, file=news))


def _quantize(task: dict[str, Any], say: Callable[[str], None]) -> None:
    from gptqmodel import BACKEND, GPTQModel

    say("loading the model")
    model = GPTQModel.load(task["source"], _config(task), device=task["device"])
    layers = model.model.config.get_text_config().num_hidden_layers

    def count(layer_idx: int, submodule_finalized: bool) -> None:  # noqa: FBT001 - as GPTQModel calls it
        if submodule_finalized:
            say(f"layer {layer_idx + 1} of {layers}")

    model.layer_callback = count
    on_cpu = task["device"].startswith("cpu")
    kernel = {"backend": BACKEND.AWQ_TORCH} if task["method"] == "awq" and on_cpu else {}
    model.quantize(task["texts"], batch_size=1, **kernel)
    say("saving")
    model.save(task["out"])


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
