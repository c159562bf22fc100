"""What is printed before a run: its plan, the baseline's signal, the slices that ship.

Costs are counted in tokens, as seconds would be a guess.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.config.fields import suggestion
from harness.errors import UsageError
from harness.judge.signals import Signal
from harness.report.costs import bytes_text
from harness.report.sanitize import one_line, visible
from harness.report.words import axes_and_levels, percent, points, score, short_name
from harness.run.planning import design_of
from harness.run.planning_events import event_power
from harness.stats.plan import Route, routes
from harness.store.units import idle_share
from harness.suite import code as slices_code
from harness.suite.catalogue import SliceInfo, catalogue

if TYPE_CHECKING:
    from harness.run.plan import Plan
    from harness.run.planning import Power

__all__ = [
    "blind_gating", "plan_json", "print_plan", "print_signals", "print_slices", "signals_json", "slices_json",
]  # fmt: skip

MOST_IDLE = 0.1
"""From which share of idle GPU time on the plan names a remedy."""
REMEDY = "smaller work units (execution.unit_items, unit_tokens) or fewer looks make it less"


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(one_line(text), style=style or None, markup=False, soft_wrap=True)


def plan_json(plan: Plan, rate: float | None = None) -> dict[str, Any]:
    """Return the plan as one JSON object. rate: items an hour and pass, if known."""
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
        "idle_share": {str(count): share for count, share in _idle(plan).items()},
        "notes": list(plan.notes),
        "traces": dataclasses.asdict(plan.tracing),
        "power": [dataclasses.asdict(row) for row in plan.power],
        "routes": [dataclasses.asdict(one) | {"hours": _hours(plan, one.expected, rate)} for one in _routes(plan)],
        "tail_events": [dataclasses.asdict(row) for row in event_power(plan.experiment, plan.items)],
    }


def _passes(plan: Plan) -> list[str]:
    control = ["control"] if plan.experiment.execution.control else []
    baseline, *candidates = [one.name for one in plan.experiment.variants]
    return [baseline, *control, *candidates]


def _tokens(plan: Plan) -> tuple[int, int]:
    return sum(row.prompt_tokens for row in plan.power), sum(row.output_tokens for row in plan.power)


def print_plan(plan: Plan, console: Console, rate: float | None = None) -> None:
    """Print the plan. rate: items an hour and pass, if known."""
    prompt, output = _tokens(plan)
    passes = _passes(plan)
    share = plan.experiment.execution.control
    saved = 0.0 if isinstance(share, bool) else 1.0 - share
    text = (
        f"{plan.experiment.name}: {len(plan.items)} items in {len(plan.power)} strata, {len(plan.units)} work units, "
        f"{len(passes)} passes ({', '.join(passes)}) on {plan.device}"
    )
    _print(console, text)
    _print(
        console,
        f"cost per pass: {prompt:,} prompt tokens and at most {output:,} output tokens; "
        f"{round((prompt + output) * (len(passes) - saved)):,} in all, before shared prefixes and early stopping",
    )
    for line in (*plan.notes, *_code(plan)):
        _print(console, line)
    if plan.tracing.tokens:
        _print(console, _divergence(plan))
    idle = _idle(plan)
    shares = ", ".join(f"{share:.0%} of {count}" for count, share in idle.items())
    remedy = f": {REMEDY}" if max(idle.values()) > MOST_IDLE else ""
    _print(console, f"GPUs that share the work (--shard), expected idle time: {shares}{remedy}")
    for name, reason in plan.missing.items():
        _print(console, f"{name} will not be judged: {reason}")
    policy = plan.experiment.policy
    flips = f"{policy.discordance:.0%} flips (policy.discordance)"
    _print(console, f"power at {flips}, alpha {policy.alpha:g}, 80 % power:")
    console.print(_power(plan))
    _print_events(plan, console)
    _print_routes(plan, console, rate)


def _routes(plan: Plan) -> list[Route]:
    design = design_of(plan.experiment, plan.power)
    return [] if design is None else routes(design)


def _hours(plan: Plan, items: int, rate: float | None) -> float | None:
    """Return the hours that so many items take in all passes."""
    share = float(plan.experiment.execution.control)
    return None if rate is None else items * (len(plan.experiment.variants) + share) / rate


def _print_routes(plan: Plan, console: Console, rate: float | None) -> None:
    """Print what each route to a verdict takes, and which takes least."""
    found, policy = _routes(plan), plan.experiment.policy
    if not found:
        return
    strata = len(found[0].design.margins)
    _print(console, f"routes: items that pass an unchanged candidate in all {strata} gating strata with 80 % at once:")
    table = Table("route", "a pass promises", box=None, pad_edge=False)
    for heading in ("items at most", "expected", *(("hours at most", "expected") if rate else ())):
        table.add_column(heading, justify="right")
    for one in found:
        hours = [f"{_hours(plan, items, rate):.1f}" for items in (one.largest, one.expected)] if rate else []
        table.add_row(_route_name(one), _promise(one), f"{one.largest:,}", f"{one.expected:,}", *hours)
    console.print(table)
    if not rate:
        _print(console, "--rate N gives hours: items an hour and pass, as an earlier run's report shows them")
    _print(console, _recommended(found, policy.pooled_margin))


def _recommended(found: Sequence[Route], pooled: float | None) -> str:
    """Return which route takes least for the promise that the config makes, and how to set it."""
    fitting = [one for one in found if (one.design.pooled is None) is (pooled is None)] or found
    least = min(fitting, key=lambda one: one.expected)
    share = least.expected / found[0].largest
    text = f"recommended: {_route_name(least)}, expected to take {share:.0%} of {found[0].largest:,} items"
    best = min(found, key=lambda one: one.expected)
    more = f"; {best.expected / found[0].largest:.0%} with {_settings(best)}" if best is not least else ""
    return f"{text}, by {_settings(least)}{more}"


def _route_name(one: Route) -> str:
    name = "each stratum" if one.design.pooled is None else "pooled"
    return f"{name}, {one.design.looks} looks" if one.design.looks > 1 else name


def _promise(one: Route) -> str:
    low, high = (points(end(one.design.margins), sign=False) for end in (min, max))
    own = f"no stratum drops by {low if low == high else f'{low} to {high}'}"
    return own if one.design.pooled is None else f"{own}, the mean not by {points(one.design.pooled, sign=False)}"


def _settings(one: Route) -> str:
    """Return the settings of a route, as a config says them."""
    pooled, looks = one.design.pooled, one.design.looks
    own = f"margins: {{'*': {max(one.design.margins):g}}}"
    parts = [f"pooled_margin: {pooled:g}, {own}"] if pooled is not None else []
    if looks > 1:
        parts.append(f"spending: {one.design.spending}")
    settings = f"policy: {{{', '.join(parts)}}}"
    return f"{settings} and execution: {{looks: {looks}}}" if looks > 1 else settings


def _idle(plan: Plan) -> dict[int, float]:
    """Return the share of GPU time that is expected to be idle, for some numbers of shards."""
    samples = plan.experiment.sampling.samples
    return {count: round(idle_share(plan.units, count, samples), 3) for count in (2, 4, 8, 16, 32)}


def _divergence(plan: Plan) -> str:
    """Return what divergence is measured with, and what that takes."""
    begin = f"divergence (execution.divergence): the first {plan.tracing.tokens} tokens of each answer"
    return f"{begin} are traced, at most {bytes_text(plan.tracing.bytes)} on disk until the run ends"


def _print_events(plan: Plan, console: Console) -> None:
    """Print which strata have a tolerance of tail events, and whether their items suffice."""
    rows = event_power(plan.experiment, plan.items)
    if not rows:
        return
    table = Table("stratum", "kinds", box=None, pad_edge=False)
    for heading in ("items", "tolerance", "needed without an event"):
        table.add_column(heading, justify="right")
    table.add_column("can pass")
    for row in rows:
        cells = (one_line(f"{row.slice}/{row.stratum}"), ", ".join(row.kinds), f"{row.items}", f"{row.tolerance:.2%}")
        table.add_row(*cells, f"{row.needed}", "yes" if row.can_pass else "never: too few")
    console.print("tail events that gate:")
    console.print(table)


def _code(plan: Plan) -> list[str]:
    """Return how many answers will be executed, in which sandbox, and the flag that allows it."""
    count = sum(1 for item in plan.items if slices_code.runs_code(item))
    if not count:
        return []
    shut = [
        f"{name} is sandboxed by {', '.join(one['layers'])}; network: {one['network']}; files: {one['files']}"
        for name, one in slices_code.record(plan.items)["generated_code"].items()
    ]
    return [f"the answers to {count} items will be executed, which needs `quantcliff run {slices_code.FLAG}`", *shut]


def _power(plan: Plan) -> Table:
    """One row per stratum, under a line per slice."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stratum", overflow="fold")
    for heading in ("items", "expected", "passes", "finds a drop of", "items to pass"):
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
            f"{row.expected_items:,}",
            percent(row.pass_power),
            points(row.detectable_drop, sign=False),
            "-" if row.items_for_pass is None else f"{row.items_for_pass:,}",
            _decides(row),
        )
    return table


def _items(row: Power) -> str:
    """Return how many items there are, and of how many clusters if they share some."""
    return f"{row.items}" if row.clusters == row.items else f"{row.items} in {row.clusters} clusters"


def _decides(row: Power) -> str:
    if row.gating:
        return "yes" if row.can_pass else "never: too few"
    return "no"


def signals_json(found: Sequence[Signal]) -> dict[str, Any]:
    """Return one JSON object: every stratum, and whether each gating one can show damage."""
    return {"signal": not blind_gating(found), "strata": [dataclasses.asdict(one) for one in found]}


def blind_gating(found: Sequence[Signal]) -> list[Signal]:
    """Return the gating strata in which damage could not be seen."""
    return [one for one in found if one.gating and one.blind]


def print_signals(found: Sequence[Signal], console: Console, *, name: str, baseline: str) -> None:
    """Print a row per stratum, then why some have no signal."""
    _print(console, f"{name}: signal of {baseline}", "bold")
    table = Table(box=None, pad_edge=False)
    table.add_column("stratum", overflow="fold")
    for heading in ("items", "score", "chance", "P(right)", "right"):
        table.add_column(heading, justify="right")
    table.add_column("signal")
    for one in found:
        probability = "-" if one.choice_probability is None else percent(one.choice_probability)
        word = "none" if one.blind else "yes"
        table.add_row(
            Text(one_line(f"{one.slice}/{short_name(one.stratum)}")),
            str(one.items),
            score(one.baseline_mean),
            score(one.chance),
            probability,
            str(one.right),
            Text(word if one.gating else f"{word}, advisory", style="bold red" if one.blind else ""),
        )
    console.print(table)
    for one in found:
        for sentence in (*one.blind, *one.notes):
            _print(console, f"{one.slice}/{one.stratum}: {sentence}")
    blind = blind_gating(found)
    last = f"{len(blind)} gating strata cannot show damage" if blind else "every gating stratum can show damage"
    _print(console, f"{last} (of {sum(one.gating for one in found)})", "bold")


def _chosen(name: str | None) -> list[SliceInfo]:
    """Return the slices asked for. Raises UsageError if there is no such slice."""
    known = {info.name: info for info in catalogue()}
    if name is None:
        return list(known.values())
    if name not in known:
        raise UsageError(f"{name!r} is not a slice that ships.{suggestion(name, frozenset(known))}")
    return [known[name]]


def slices_json(name: str | None) -> dict[str, Any]:
    """Return one JSON object with everything the descriptions say."""
    return {"slices": [dataclasses.asdict(info) for info in _chosen(name)]}


def print_slices(name: str | None, console: Console) -> None:
    """Print every slice, or one."""
    for info in _chosen(name):
        _print(console, f"{info.name}: {info.title}", "bold")
        _print(console, f"  {info.why}")
        for axis in info.axes:
            splits = ", splits into strata" if axis.name in info.split_by else ""
            ordered = ", ordered" if axis.ordered else ""
            levels = ", ".join(str(level) for level in axis.levels)
            _print(console, f"  axis {axis.name}{ordered}{splits}: {levels}")
        _print(console, f"  tasks: {', '.join(info.tasks)}")
        _print(console, "  a real item of each task:")
        for line in info.example.splitlines():
            console.print(f"    {visible(line)}", markup=False, soft_wrap=True)
        console.print()
