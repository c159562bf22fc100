"""What the baseline's answers give as drafts for a candidate's, by kind of question, and what divergence costs.

    python scripts/bench_guided.py [--threads 1] [--turns 3] [--out results/engine]

Each candidate (the baseline's weights rounded to 8 and to 4 bits) answers in four ways in turn: alone; with drafts;
with divergence and drafts in one pass; and as the baseline that leaves traces.
Processor seconds, because they do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_engine_cases import fewshot, generation, haystack, questions
from bench_engine_sides import GREEDY, NO_PROOF, measured, models_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.engines.transformers.divergence import Comparer, Recorder
from harness.engines.transformers.engine import HFEngine
from harness.models.smollm2 import smollm2_checkpoint
from harness.records import Generation, Item


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--texts", type=int, default=12, help="questions of each kind")
    parser.add_argument("--tokens", type=int, default=96, help="longest answer")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, help="folder to also write guided.json to")
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder that holds gsm8k/test.jsonl, if any")
    return parser.parse_args(argv)


def engine(model: Any, tokenizer: Any) -> HFEngine:
    """Return an engine on the CPU."""
    return HFEngine(model, tokenizer, NO_PROOF, device="cpu")


def ways(baseline: Any, candidate: Any, tokenizer: Any, items: Sequence[Item]) -> dict[str, Callable[[], Any]]:
    """Return the ways in which a candidate can answer."""
    first, recorder = engine(baseline, tokenizer), Recorder()
    said = {one.item_id: one for one in first.answer(items, GREEDY, observer=recorder)}
    drafts = {name: one.token_ids for name, one in said.items() if isinstance(one, Generation)}

    def alone(given: Any, *, compare: bool) -> dict[str, Any]:
        mine = engine(candidate, tokenizer)
        watch = Comparer(recorder.traces, first.head, mine.head) if compare else None
        return {one.item_id: one for one in mine.answer(items, GREEDY, drafts=given, observer=watch)}

    return {
        "alone": lambda: alone({}, compare=False),
        "drafts": lambda: alone(drafts, compare=False),
        "divergence with drafts": lambda: alone({}, compare=True),
        "baseline with traces": lambda: {
            one.item_id: one for one in engine(candidate, tokenizer).answer(items, GREEDY, observer=Recorder())
        },
    }


def agreement(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the share of a candidate's tokens that come before it parts from the baseline."""
    same = total = 0
    for name, mine in one.items():
        pairs = list(zip(mine.token_ids, other[name].token_ids, strict=False))
        same += next((at for at, (a, b) in enumerate(pairs) if a != b), len(pairs))
        total += len(mine.token_ids)
    return same / max(1, total)


def measure(baseline: Any, candidate: Any, tokenizer: Any, items: Sequence[Item], turns: int) -> dict[str, Any]:
    """Run every way in turn, and give its processor time as a share of that of answering alone."""
    how = ways(baseline, candidate, tokenizer, items)
    took: dict[str, list[float]] = {name: [] for name in how}
    answers: dict[str, dict[str, Any]] = {}
    for turn in range(turns):
        for name in list(how)[:: 1 if turn % 2 == 0 else -1]:
            cost = measured(how[name], "cpu")
            took[name].append(cost.cpu_seconds)
            answers[name] = cost.answers
    said = {one.item_id: one for one in engine(baseline, tokenizer).answer(items, GREEDY)}
    middle = {name: statistics.median(values) for name, values in took.items()}
    return {
        "items": len(items),
        "agreement": round(agreement(answers["alone"], said), 3),
        "same_answers": sum(answers["drafts"][name].text == one.text for name, one in answers["alone"].items()),
        "seconds": {name: [round(value, 2) for value in values] for name, values in took.items()},
        "share": {name: round(value / middle["alone"], 3) for name, value in middle.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the measurement."""
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    folder = str(smollm2_checkpoint())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, args.dtype)).eval()
    baseline, eight, _, four = models_of(model, 4)
    asked = questions(args.texts, args.data)
    slices = {
        "chat": generation(asked, tokenizer, args.tokens),
        "few-shot": fewshot(asked[: args.texts // 2], args.tokens),
        "haystack": haystack(1, tokenizer, tokens=1500),
    }
    found = {}
    for name, items in slices.items():
        for bits, candidate in (("8 bits", eight), ("4 bits", four)):
            found[f"{name}, {bits}"] = one = measure(baseline, candidate, tokenizer, items, args.turns)
            shares = ", ".join(f"{way} {share:.2f}" for way, share in one["share"].items())
            print(
                f"{name}, {bits}: {one['agreement']:.0%} of tokens before they part; {one['same_answers']} of "
                f"{one['items']} answers as alone; {shares}",
                flush=True,
            )
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "guided.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
