"""Which attention, which dtype, and whether to compile, on this device: what docs/engine.md's choices rest on.

    python scripts/bench_device.py [--device cuda] [--threads 1] [--out results/engine]

Two passes of SmolLM2-135M: reading (4 sequences of 512 tokens) and writing (one token for each of 16 rows on top of
384), in every combination that runs here. Milliseconds are medians of several passes; what torch.compile spends until
both passes are steady stands beside them, in seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from harness.engines.transformers.cache import SlotCache
from harness.engines.transformers.model import LanguageModel
from harness.engines.transformers.probe import probed
from harness.models.smollm2 import smollm2_checkpoint

ROWS, TOKENS = 4, 512
SLOTS, BEHIND = 16, 384


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path, help="folder to also write device-DEVICE.json to")
    return parser.parse_args(argv)


def seconds(run: Callable[[], Any], device: str) -> float:
    """Time one call; processor time on a CPU, so that a busy machine counts less."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    began = clock()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - began


def passes(model: LanguageModel) -> dict[str, Callable[[], Any]]:
    """Return the two passes."""
    draw = torch.Generator().manual_seed(0)
    ids = model.tensor(torch.randint(100, 40000, (ROWS, TOKENS), generator=draw))
    cache = model.new_cache()
    model.forward(ids[:1, :BEHIND], cache=cache)
    room = SlotCache(model, SLOTS, BEHIND + 64)
    for _ in range(SLOTS):
        room.copy_prompt(cache, 0, np.arange(BEHIND))

    def write() -> Any:
        return model.head.rounded(room.step([7] * SLOTS, [BEHIND] * SLOTS))

    return {"read": lambda: model.head.rounded(model.forward(ids)[:, -1]), "write": write}


def measure(attention: str, dtype: str, args: argparse.Namespace, *, compiled: bool) -> dict[str, Any]:
    """Measure one combination."""
    folder = str(smollm2_checkpoint())
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation=attention)
    model = probed(loaded.to(args.device), args.device)
    if compiled:
        loaded.model.forward = torch.compile(loaded.model.forward, dynamic=True)
    run, warm = passes(model), time.perf_counter()
    for one in [*run.values()] * 2:
        one()
    warm = time.perf_counter() - warm
    found: dict[str, Any] = {"attention": attention, "dtype": dtype, "compiled": compiled}
    for name, one in run.items():
        found[f"{name}_ms"] = round(1e3 * statistics.median(seconds(one, args.device) for _ in range(args.passes)), 1)
    found["until_steady_s"] = round(warm, 1)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement."""
    args = arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    found = []
    print("attention  dtype     compiled  read ms  write ms  until steady s")
    for compiled in (False,) if args.no_compile else (False, True):
        for attention in ("sdpa", "eager"):
            for dtype in ("float32", "bfloat16"):
                if compiled and attention == "eager":
                    continue
                one = measure(attention, dtype, args, compiled=compiled)
                found.append(one)
                print(
                    f"{attention:<10} {dtype:<9} {one['compiled']!s:<8} {one['read_ms']:>8} {one['write_ms']:>9} "
                    f"{one['until_steady_s']:>15}",
                    flush=True,
                )
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"device-{args.device.partition(':')[0]}.json"
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
