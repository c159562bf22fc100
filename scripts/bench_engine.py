"""How much faster our engine answers than lm_eval's `hf` model: same model, items, dtype, device and threads.

    python scripts/bench_engine.py [--quick] [--json]

Four cases: (a) four-choice items with contexts of 500 tokens, (b) eight questions on one text of 2,000 tokens, (c) word
problems answered in free text, (d) a baseline and three candidates with divergence, against four lm_eval runs. Both
sides run in turn in one process; lm_eval at the batch size at which it is fastest here, found by trying. Ratios are
medians over the turns with smallest and largest beside them. Answers are compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from bench_engine_cases import Case, cases
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

SIZES = (1, 2, 4, 8, 16, 32, 64)
QUICK_SIZES = (1, 4, 16)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer items, shorter answers, two turns")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--output", type=Path, help="also write the JSON object to this file")
    parser.add_argument("--model", help="a checkpoint folder; SmolLM2-135M-Instruct unless given")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--turns", type=int, help="how often each side runs (2 with --quick, else 3)")
    parser.add_argument("--cases", nargs="+", choices=("choices", "haystack", "generation", "whole"))
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="what lm_eval is tried at")
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument(
        "--data", type=Path, default=default, help="folder that holds gsm8k/test.jsonl, if there is one"
    )
    return parser.parse_args(argv)


def compare(case: Case, models: Sequence[Any], tokenizer: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Run both sides of a case in turn."""
    items, asked = case["items"], models[: case["models"]]
    sizes = args.batch_sizes or (QUICK_SIZES if args.quick else SIZES)
    size, tried = best_batch(lambda batch: theirs(asked[:1], tokenizer, items, batch), sizes, args.device)
    measured(lambda: ours(asked[:1], tokenizer, items[:1], args.device), args.device)
    sides = {
        "ours": lambda: ours(asked, tokenizer, items, args.device),
        "lm_eval": lambda: theirs(asked, tokenizer, items, size),
    }
    costs: dict[str, list[Cost]] = {"ours": [], "lm_eval": []}
    for turn in range(args.turns or (2 if args.quick else 3)):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            costs[name].append(measured(sides[name], args.device))
    return result(case, costs, size, tried) | rates(asked[0], tokenizer, items, args.device)


def result(case: Case, costs: dict[str, list[Cost]], size: int, tried: dict[int, float]) -> dict[str, Any]:
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
        "lm_eval_batch_size": size,
        "lm_eval_batch_sizes_tried": {str(batch): round(took, 3) for batch, took in tried.items()},
        "ours_peak_bytes": max(one.peak_bytes for one in mine),
        "lm_eval_peak_bytes": max(one.peak_bytes for one in other),
        **differences(mine[0].answers, other[0].answers),
    }


def surroundings(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Say where this was measured."""
    cuda = args.device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "device": name,
        "dtype": args.dtype,
        "model": Path(args.model).name,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peak_flops": peak_of_device(args.device, getattr(torch, args.dtype)),
    }


def table(report: dict[str, Any]) -> str:
    """Give the report as lines to read."""
    lines = [
        (
            f"{report['model']} in {report['dtype']} on {report['device']}, "
            f"peak {report['peak_flops'] / 1e9:,.0f} GFLOP/s measured"
        ),
        (
            f"{'case':<11} {'ratio':>6} {'(low-high)':>13} {'ours s':>8} {'lm_eval s':>9} {'batch':>5} "
            f"{'same':>9} {'gap':>8} {'prefill/s':>9} {'decode/s':>8} {'of peak':>7} {'MiB':>10}"
        ),
    ]
    for case in report["cases"]:
        between = f"({case['ratio_low']:.2f}-{case['ratio_high']:.2f})"
        memory = f"{case['ours_peak_bytes'] >> 20}/{case['lm_eval_peak_bytes'] >> 20}"
        lines.append(
            f"{case['name']:<11} {case['ratio']:>5.2f}x {between:>13} {min(case['ours_seconds']):>8.2f} "
            f"{min(case['lm_eval_seconds']):>9.2f} {case['lm_eval_batch_size']:>5} "
            f"{case['same_answers']:>4}/{case['items']:<4} {case['largest_logprob_gap']:>8.1e} "
            f"{case.get('prefill_tokens_per_second', 0):>9,.0f} {case.get('decode_tokens_per_second', 0):>8,.0f} "
            f"{case['prefill_share_of_peak']:>7.0%} {memory:>10}"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    args = arguments(argv)
    args.dtype = args.dtype or ("bfloat16" if args.device.startswith("cuda") else "float32")
    if args.threads:
        torch.set_num_threads(args.threads)
    if not args.model:
        from harness.smollm2 import smollm2_checkpoint

        args.model = str(smollm2_checkpoint())
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).to(args.device).eval()
    report = surroundings(args, model)
    wanted = [
        one for one in cases(tokenizer, args.data, quick=args.quick) if not args.cases or one["name"] in args.cases
    ]
    models = models_of(model, max(case["models"] for case in wanted))
    body = sum(
        weight.numel() for name, weight in model.named_parameters() if "embed" not in name and "head" not in name
    )
    report["cases"] = []
    for case in wanted:
        print(f"{case['name']}: {len(case['items'])} items ...", file=sys.stderr, flush=True)
        found = compare(case, models, tokenizer, args)
        speed = found.get("prefill_tokens_per_second", 0.0)
        found["prefill_share_of_peak"] = round(2 * body * speed / report["peak_flops"], 4)
        report["cases"].append(found)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report) if args.json else table(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
