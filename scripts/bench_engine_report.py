"""The engine's benchmark as a table: for the terminal, and as Markdown for the repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LABELS = {
    "choices": "(a) four choices, 500-token contexts",
    "haystack": "(b) 8 questions on one 2,000-token text",
    "generation": "(c) GSM8K, no examples, chat template",
    "fewshot": "(c) GSM8K as lm_eval's gsm8k_cot, 8 examples",
    "whole": "(d) baseline and 3 candidates with divergence",
}
TARGETS = {"choices": 4.0, "haystack": 6.0, "generation": 2.0, "fewshot": 2.0, "whole": 3.5}

HEADINGS = (
    "case",
    "times faster",
    "low to high",
    "ours, s",
    "lm_eval, s",
    "its batch",
    "same answers",
    "largest gap",
    "prefill/s",
    "decode/s",
    "of peak",
    "MiB, ours / lm_eval",
)


def _middle(values: Sequence[float]) -> str:
    """Return median and extremes."""
    ordered = sorted(values)
    half = len(ordered) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    return f"{median:.1f} ({ordered[0]:.1f}-{ordered[-1]:.1f})"


def _rate(value: float | None) -> str:
    return "-" if not value else f"{value:,.0f}"


def cells(case: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a case's row."""
    batches = case["lm_eval_batch_size"]
    return (
        LABELS[case["name"]],
        f"{case['ratio']:.2f}",
        f"{case['ratio_low']:.2f} to {case['ratio_high']:.2f}",
        _middle(case["ours_seconds"]),
        _middle(case["lm_eval_seconds"]),
        "/".join(str(size) for size in dict.fromkeys(batches.values())),
        f"{case['same_answers']} of {case['items']}",
        f"{case['largest_logprob_gap']:.0e}" if case["largest_logprob_gap"] is not None else "-",
        _rate(case.get("prefill_tokens_per_second")),
        _rate(case.get("decode_tokens_per_second")),
        f"{case['prefill_share_of_peak']:.0%}",
        f"{case['ours_peak_bytes'] >> 20} / {case['lm_eval_peak_bytes'] >> 20}",
    )


def summary(report: Mapping[str, Any]) -> str:
    """Return what was measured where."""
    return (
        f"{report['model']} ({report['parameters'] / 1e6:.0f} million parameters) in {report['dtype']} on "
        f"{report['device']}; large matrix product {report['peak_flops'] / 1e9:,.0f} GFLOP/s; torch {report['torch']}, "
        f"transformers {report['transformers']}, lm_eval {report['lm_eval']}; {report['minutes']:.0f} minutes in all"
    )


def table(report: Mapping[str, Any]) -> str:
    """Return the report as lines to read."""
    rows = [HEADINGS, *(cells(case) for case in report["cases"])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join([summary(report), *lines])


ABOUT = (
    "Both sides ran in turn in one process: same model, items, dtype, device and threads. lm_eval ran at the batch "
    "size at which it is fastest here, found by trying for each kind of question. Times and ratios are medians over "
    "{turns} turns, with the smallest and largest beside them. Prefill and decode are tokens per second of our passes, "
    "`of peak` is the prefill's share of the matrix product's speed, and memory is what came on top of the loaded "
    "models. The largest gap is between log-probabilities of choices."
)


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a Markdown page."""
    told = [
        f"- {LABELS[case['name']]}: {case['ratio']:.2f} against a target of {TARGETS[case['name']]:g}"
        for case in report["cases"]
    ]
    below = sum(case["ratio"] < TARGETS[case["name"]] for case in report["cases"])
    lines = [
        "# The engine against lm_eval's `hf` model",
        f"`{report['command']}`",
        f"{summary(report)}.",
        ABOUT.format(turns=report["turns"]),
        "\n".join(
            [
                "| " + " | ".join(HEADINGS) + " |",
                "|---" + "|---:" * (len(HEADINGS) - 1) + "|",
                *("| " + " | ".join(cells(case)) + " |" for case in report["cases"]),
            ]
        ),
        f"{below} of {len(told)} are below their target." if below else "Every target is reached.",
        "\n".join(told),
    ]
    return "\n\n".join(lines) + "\n"
