"""The plan as a person or a program reads it: the work, its cost, and what its items can decide.

Costs are counted in tokens: a guess at seconds that looks like a measurement helps nobody.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from harness.report.costs import bytes_text
from harness.report.sanitize import one_line
from harness.report.words import axes_and_levels, points
from harness.run.planning_events import event_power
from harness.suite import code as slices_code

if TYPE_CHECKING:
    from harness.run.plan import Plan
    from harness.run.planning import Power

__all__ = ["plan_json", "print_plan"]


def plan_json(plan: Plan) -> dict[str, Any]:
    """Give the plan as one JSON object."""
    variants = _passes(plan)
    prompt, output = _tokens(plan)
    return {
        **plan.record(),
        **slices_code.record(plan.items),
        "variants": variants,
        "missing": dict(plan.missing),
        "prompt_tokens_per_variant": prompt,
        "output_tokens_per_variant_at_most": output,
        "tokens_at_most": (prompt + output) * len(variants),
        "looks": plan.experiment.execution.looks,
        "notes": list(plan.notes),
        "traces": dataclasses.asdict(plan.tracing),
        "power": [dataclasses.asdict(row) for row in plan.power],
        "tail_events": [dataclasses.asdict(row) for row in event_power(plan.experiment, plan.items)],
    }


def _passes(plan: Plan) -> list[str]:
    control = ["control"] if plan.experiment.execution.control else []
    baseline, *candidates = [one.name for one in plan.experiment.variants]
    return [baseline, *control, *candidates]


def _tokens(plan: Plan) -> tuple[int, int]:
    return sum(row.prompt_tokens for row in plan.power), sum(row.output_tokens for row in plan.power)


def print_plan(plan: Plan, console: Console) -> None:
    """Print the plan."""
    prompt, output = _tokens(plan)
    passes = _passes(plan)
    share = plan.experiment.execution.control
    saved = 0.0 if isinstance(share, bool) else 1.0 - share
    text = (
        f"{plan.experiment.name}: {len(plan.items)} items in {len(plan.power)} strata, {len(plan.units)} work units, "
        f"{len(passes)} passes ({', '.join(passes)}) on {plan.device}"
    )
    console.print(one_line(text), markup=False, soft_wrap=True)
    console.print(
        f"cost per pass: {prompt:,} prompt tokens and at most {output:,} output tokens; "
        f"{round((prompt + output) * (len(passes) - saved)):,} in all, before shared prefixes and early stopping",
        markup=False,
        soft_wrap=True,
    )
    for line in (*plan.notes, *_code(plan)):
        console.print(one_line(line), markup=False, soft_wrap=True)
    if plan.tracing.tokens:
        console.print(_divergence(plan), markup=False, soft_wrap=True)
    for name, reason in plan.missing.items():
        console.print(one_line(f"{name} will not be judged: {reason}"), markup=False, soft_wrap=True)
    policy = plan.experiment.policy
    console.print(
        f"power at {policy.discordance:.0%} flips (policy.discordance), alpha {policy.alpha:g}, 80 % power:",
        markup=False,
        soft_wrap=True,
    )
    console.print(_power(plan))
    _print_events(plan, console)


def _divergence(plan: Plan) -> str:
    """Say what divergence is measured with, and what that takes."""
    begin = f"divergence (execution.divergence): the first {plan.tracing.tokens} tokens of each answer"
    return f"{begin} are traced, at most {bytes_text(plan.tracing.bytes)} on disk until the run ends"


def _print_events(plan: Plan, console: Console) -> None:
    """Say which strata are held to a tolerance of tail events, and whether their items can show it."""
    rows = event_power(plan.experiment, plan.items)
    if not rows:
        return
    table = Table("stratum", "kinds", box=None, pad_edge=False)
    for heading in ("items", "tolerance", "needed without an event"):
        table.add_column(heading, justify="right")
    table.add_column("can pass")
    for row in rows:
        told = (one_line(f"{row.slice}/{row.stratum}"), ", ".join(row.kinds), f"{row.items}", f"{row.tolerance:.2%}")
        table.add_row(*told, f"{row.needed}", "yes" if row.can_pass else "never: too few")
    console.print("tail events that gate:")
    console.print(table)


def _code(plan: Plan) -> list[str]:
    """Say which items' answers will be run, under which isolation, and what must be given for it."""
    count = sum(1 for item in plan.items if slices_code.runs_code(item))
    if not count:
        return []
    shut = [
        f"{name} is shut away by {', '.join(one['layers'])}; network: {one['network']}; files: {one['files']}"
        for name, one in slices_code.record(plan.items)["generated_code"].items()
    ]
    return [f"the answers to {count} items will be run: give `quantcliff run {slices_code.FLAG}`", *shut]


def _power(plan: Plan) -> Table:
    """One row per stratum, under a line per slice."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stratum", overflow="fold")
    for heading in ("items", "finds a drop of", "items to pass"):
        table.add_column(heading, justify="right")
    table.add_column("decides")
    before = None
    for row in plan.power:
        axes, levels = axes_and_levels(row.stratum)
        split = f" by {', '.join(axes)}" if axes else ""
        head = f"{row.slice}{split}, margin {points(row.margin, sign=False)}"
        if head != before:
            table.add_row(one_line(head), style="bold")
            before = head
        table.add_row(
            one_line(f"  {', '.join(levels) or row.stratum}"),
            _items(row),
            points(row.detectable_drop, sign=False),
            "-" if row.items_for_pass is None else f"{row.items_for_pass:,}",
            _decides(row),
        )
    return table


def _items(row: Power) -> str:
    """Say how many items there are, and of how many sources where they share some."""
    return f"{row.items}" if row.clusters == row.items else f"{row.items} of {row.clusters} sources"


def _decides(row: Power) -> str:
    if row.gating:
        return "yes" if row.can_pass else "never: too few"
    return "no"
