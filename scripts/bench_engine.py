"""How much faster our engine answers than lm_eval's `hf` model: same model, items, dtype, device and threads.

    python scripts/bench_engine.py [--quick] [--json] [--out results/engine]

The cases: (a) four-choice items with contexts of 500 tokens, (b) eight questions on one text of 2,000 tokens, (c) word
problems answered in free text, without examples and after eight of them, (d) a baseline and three candidates with
divergence, against four lm_eval runs. Both sides run in turn in one process; lm_eval at the batch size at which it is
fastest here, found by trying. Ratios are medians over the turns with smallest and largest beside them. Answers are
compared.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from bench_engine_cases import SIZES, Case, cases
from bench_engine_report import markdown, table
from bench_engine_sides import (
    Cost,
    best_batch,
    differences,
    measured,
    models_of,
    ours,
    peak_of_device,
    rates,
    spread,
    theirs,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.records import Item

STARTS = {"choices": (1, 16), "haystack": (1, 8), "generation": (16, 64), "fewshot": (8, 64)}
"""Where the search for lm_eval's best batch size begins, on a CPU and on a GPU."""
LARGEST = 256


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer items, shorter answers, two turns")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--out", type=Path, help="folder to also write the table to, as DEVICE.json and DEVICE.md")
    parser.add_argument("--model", help="a checkpoint folder; SmolLM2-135M-Instruct unless given")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--turns", type=int, help="how often each side runs (2 with --quick, else 3)")
    parser.add_argument("--cases", nargs="+", choices=(*STARTS, "whole"))
    parser.add_argument("--batch-size", type=int, help="lm_eval's, instead of the fastest found by trying")
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument(
        "--data", type=Path, default=default, help="folder that holds gsm8k/test.jsonl, if there is one"
    )
    return parser.parse_args(argv)


def turns(args: argparse.Namespace) -> int:
    """Return how often each side runs."""
    return args.turns or (2 if args.quick else 3)


def tried(name: str, items: Sequence[Item], model: Any, tokenizer: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Find lm_eval's best batch size for a kind of questions."""
    if args.batch_size:
        return {"best": args.batch_size, "seconds": {}}
    start = STARTS[name][args.device.startswith("cuda")]
    own = [one for one in items if one.slice == name]
    rows = sum(len(one.choices) or 1 for one in own)
    most = 1 << (min(rows, LARGEST) - 1).bit_length()
    best, took = best_batch(
        lambda size: theirs([model], tokenizer, own, {name: size}), min(start, most), most, args.device
    )
    return {"best": best, "seconds": {str(size): round(seconds, 2) for size, seconds in took.items()}}


def compare(
    case: Case, models: Sequence[Any], tokenizer: Any, args: argparse.Namespace, sizes: dict[str, Any]
) -> dict[str, Any]:
    """Run both sides of a case in turn. `sizes` holds the batch sizes tried so far."""
    items, asked = case["items"], models[: case["models"]]
    for name in dict.fromkeys(one.slice for one in items):
        if name not in sizes:
            sizes[name] = tried(name, items, models[0], tokenizer, args)
    best = {name: sizes[name]["best"] for name in dict.fromkeys(one.slice for one in items)}
    measured(lambda: ours(asked[:1], tokenizer, items[:1], args.device), args.device)
    sides = {
        "ours": lambda: ours(asked, tokenizer, items, args.device),
        "lm_eval": lambda: theirs(asked, tokenizer, items, best),
    }
    costs: dict[str, list[Cost]] = {"ours": [], "lm_eval": []}
    for turn in range(turns(args)):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            costs[name].append(measured(sides[name], args.device))
    found = result(case, costs) | rates(asked[0], tokenizer, items, args.device)
    return found | {"lm_eval_batch_size": best, "lm_eval_tried": {name: sizes[name]["seconds"] for name in best}}


def result(case: Case, costs: dict[str, list[Cost]]) -> dict[str, Any]:
    """Put the turns of a case together."""
    mine, other = costs["ours"], costs["lm_eval"]
    ratio, low, high = spread([two.seconds / one.seconds for one, two in zip(mine, other, strict=True)])
    return {
        "name": case["name"],
        "ratio": round(ratio, 3),
        "ratio_low": round(low, 3),
        "ratio_high": round(high, 3),
        "cpu_time_ratio": round(
            spread([two.cpu_seconds / one.cpu_seconds for one, two in zip(mine, other, strict=True)])[0], 3
        ),
        "ours_seconds": [round(one.seconds, 3) for one in mine],
        "lm_eval_seconds": [round(one.seconds, 3) for one in other],
        "ours_peak_bytes": max(one.peak_bytes for one in mine),
        "lm_eval_peak_bytes": max(one.peak_bytes for one in other),
        **differences(mine[0].answers, other[0].answers),
    }


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def surroundings(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Say where this was measured."""
    cuda = args.device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else f"{processor()}, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "dtype": args.dtype,
        "model": Path(args.model).name,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lm_eval": lm_eval.__version__,
        "command": shlex.join(["python", "scripts/bench_engine.py", *args.given]),
        "turns": turns(args),
        "cpus": os.cpu_count(),
        "peak_flops": peak_of_device(args.device, getattr(torch, args.dtype)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    began = time.perf_counter()
    args = arguments(argv)
    args.given = sys.argv[1:] if argv is None else list(argv)
    args.dtype = args.dtype or ("bfloat16" if args.device.startswith("cuda") else "float32")
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.model:
        from harness.models.smollm2 import smollm2_checkpoint

        args.model = str(smollm2_checkpoint())
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device).eval()
    report = surroundings(args, model)
    size = SIZES["quick" if args.quick else args.device.partition(":")[0]]
    wanted = [one for one in cases(tokenizer, args.data, size) if not args.cases or one["name"] in args.cases]
    models = models_of(model, max(case["models"] for case in wanted))
    report["cases"] = []
    gc.freeze()  # what is loaded stays: collecting before each run looks at the rest alone
    for case in measured_cases(wanted, models, tokenizer, args, report["peak_flops"]):
        report["cases"].append(case)
        report["minutes"] = round((time.perf_counter() - began) / 60, 1)
        if args.out:  # after every case: who has to stop it keeps what there is
            write(args.out / args.device.partition(":")[0], report)
    print(json.dumps(report) if args.json else table(report))
    return 0


def measured_cases(
    wanted: Sequence[Case], models: Sequence[Any], tokenizer: Any, args: argparse.Namespace, peak: float
) -> Iterator[dict[str, Any]]:
    """Measure case after case."""
    named = models[0].named_parameters()
    body = sum(weight.numel() for name, weight in named if "embed" not in name and "head" not in name)
    sizes: dict[str, Any] = {}
    for case in wanted:
        print(f"{case['name']}: {len(case['items'])} items ...", file=sys.stderr, flush=True)
        one = compare(case, models, tokenizer, args, sizes)
        speed = one.get("prefill_tokens_per_second", 0.0)
        one["prefill_share_of_peak"] = round(2 * body * speed / peak, 4)
        print(f"{case['name']}: {one['ratio']} times faster", file=sys.stderr, flush=True)
        yield one


def write(path: Path, report: dict[str, Any]) -> None:
    """Write the report beside each other as JSON and as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
