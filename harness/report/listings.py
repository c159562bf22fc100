"""What is printed before a run: its plan, the baseline's signal, the slices that ship."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.config.fields import suggestion
from harness.errors import UsageError
from harness.judge.signals import Signal
from harness.report.sanitize import one_line, visible
from harness.report.words import bytes_text, levels_of, number_text, percent, score, short_name
from harness.run.plan import Plan
from harness.run.planning import design_of, event_power, layered_route
from harness.stats.plan import Route, routes
from harness.store.units import idle_share
from harness.suite import code as slices_code
from harness.suite.catalogue import SliceInfo, catalogue

_routes_of = cache(routes)
_MOST_IDLE = 0.1  # from which share of idle GPU time on the plan names a remedy
_REMEDY = "smaller work units (execution.unit_items, unit_tokens) or fewer looks make it less"


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print one line of text from outside."""
    console.print(one_line(text), style=style or None, markup=False, soft_wrap=True)


def print_table(console: Console, rows: Iterable[Sequence[str | Text]], *headings: str) -> None:
    """Print a table; headings of figures, which are aligned right, begin with ``>``. Bold rows have one cell."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading.lstrip(">"), justify="right" if heading.startswith(">") else "left", overflow="fold")
    for row in rows:
        cells = (cell if isinstance(cell, Text) else Text(one_line(cell)) for cell in row)
        table.add_row(*cells, style="bold" if len(row) == 1 else None)
    console.print(table)


def plan_json(plan: Plan, rate: float | None = None) -> dict[str, Any]:
    """Return the plan as one JSON object. rate: items an hour in one pass, if known."""
    experiment = plan.experiment
    baseline, *candidates = (one.name for one in experiment.variants)
    variants = [baseline, *(["control"] if experiment.execution.control else []), *candidates]
    prompt, output = sum(row.prompt_tokens for row in plan.power), sum(row.output_tokens for row in plan.power)
    shares = {str(n): idle_share(plan.units, n, experiment.sampling.samples) for n in (2, 4, 8, 16, 32)}
    found = {**plan.record(), **slices_code.record(plan.items), "variants": variants, "missing": dict(plan.missing)}
    found |= {"prompt_tokens_per_variant": prompt, "output_tokens_per_variant_at_most": output}
    found |= {"tokens_at_most": (prompt + output) * len(variants), "looks": experiment.execution.looks}
    found |= {"idle_share": {count: round(share, 3) for count, share in shares.items()}, "notes": list(plan.notes)}
    found |= {"traces": asdict(plan.tracing), "power": [asdict(row) for row in plan.power]}
    routes = [asdict(one) | {"hours": _hours(plan, one.expected, rate, one.pool)} for one in _routes(plan)]
    return found | {"routes": routes, "tail_events": [asdict(row) for row in event_power(experiment, plan.items)]}


def print_plan(plan: Plan, console: Console, rate: float | None = None) -> None:
    """Print the plan. rate: items an hour in one pass, if known."""
    found = plan_json(plan, rate)
    for line in _summary(plan, found):
        print_line(console, line)
    headings = ("stratum", ">items", ">expected", ">passes", ">finds a drop of", ">items to pass", "decides")
    print_table(console, _power(plan), *headings)
    rows = []
    for row in found["tail_events"]:
        needed, decides = f"{row['needed']}", "yes" if row["can_pass"] else "never: too few"
        place, kinds = f"{row['slice']}/{row['stratum']}", ", ".join(row["kinds"])
        rows.append((place, kinds, f"{row['items']}", f"{row['tolerance']:.2%}", needed, decides))
    if rows:
        print_line(console, "tail events that gate:")
        print_table(console, rows, "stratum", "kinds", ">items", ">tolerance", ">needed without an event", "can pass")
    if found["routes"]:
        _print_routes(plan, console, rate)


def _summary(plan: Plan, found: Mapping[str, Any]) -> Iterator[str]:
    experiment, policy, passes = plan.experiment, plan.experiment.policy, found["variants"]
    prompt, output = found["prompt_tokens_per_variant"], found["output_tokens_per_variant_at_most"]
    share = experiment.execution.control
    asked = len(passes) - (0.0 if isinstance(share, bool) else 1.0 - share)
    work = f"{len(plan.items)} items in {len(plan.power)} strata, {len(plan.units)} work units"
    yield f"{experiment.name}: {work}, {len(passes)} passes ({', '.join(passes)}) on {plan.device}"
    cost = f"cost per pass: {prompt:,} prompt tokens and at most {output:,} output tokens"
    yield f"{cost}; {round((prompt + output) * asked):,} in all, before shared prefixes and early stopping"
    yield from plan.notes
    if count := sum(map(slices_code.runs_code, plan.items)):
        yield f"the answers to {count} items will be executed, which needs `quantcliff run {slices_code.FLAG}`"
        for name, one in found["generated_code"].items():
            layers = ", ".join(one["layers"])
            yield f"{name} is sandboxed by {layers}; network: {one['network']}; files: {one['files']}"
    if traced := plan.tracing.tokens:
        begin = f"divergence (execution.divergence): the first {traced} tokens of each answer"
        yield f"{begin} are traced, at most {bytes_text(plan.tracing.bytes)} on disk until the run ends"
    shares = ", ".join(f"{share:.0%} of {count}" for count, share in found["idle_share"].items())
    remedy = f": {_REMEDY}" if max(found["idle_share"].values()) > _MOST_IDLE else ""
    yield f"GPUs that share the work (--shard), expected idle time: {shares}{remedy}"
    yield from (f"{name} will not be judged: {reason}" for name, reason in plan.missing.items())
    yield f"power at {policy.discordance:.0%} flips (policy.discordance), alpha {policy.alpha:g}, 80 % power:"


def _power(plan: Plan) -> Iterator[Sequence[str]]:
    before = None
    for row in plan.power:
        levels = levels_of(row.stratum)
        split = f" by {', '.join(levels)}" if levels else ""
        if (head := f"{row.slice}{split}, margin {score(row.margin)}") != before:
            yield (head,)
            before = head
        name = f"  {', '.join(levels.values()) or row.stratum}"
        items = f"{row.items}" if row.clusters == row.items else f"{row.items} in {row.clusters} clusters"
        decides = ("yes" if row.can_pass else "never: too few") if row.gating else "no"
        passes, needed = percent(row.pass_power), number_text(row.items_for_pass, ",d")
        yield name, items, f"{row.expected_items:,}", passes, score(row.detectable_drop), needed, decides


def _routes(plan: Plan) -> list[Route]:
    design = design_of(plan.experiment, plan.power)
    if design is None:
        return []
    found = _routes_of(design)
    layered = layered_route(plan.experiment, plan.items, replace(design, looks=1)) if found else None
    return [*found, *([layered] if layered else [])]


def _hours(plan: Plan, items: int, rate: float | None, pool: int | None = None) -> float | None:
    share = float(plan.experiment.execution.control)
    return None if rate is None else ((pool or items) + items * (len(plan.experiment.variants) - 1 + share)) / rate


def _print_routes(plan: Plan, console: Console, rate: float | None) -> None:
    found = _routes(plan)
    strata = len(found[0].design.margins)
    text = f"routes: items that pass an unchanged candidate in all {strata} gating strata with 80 % at once:"
    print_line(console, text)
    rows = []
    for one in found:
        ends = one.largest, one.expected
        took = (f"{_hours(plan, items, rate, one.pool):.1f}" for items in ends if rate)
        low, high = (score(end(one.design.margins)) for end in (min, max))
        own = f"no stratum drops by {low if low == high else f'{low} to {high}'}"
        own += "" if one.design.pooled is None else f", the mean not by {score(one.design.pooled)}"
        rows.append((_route_name(one), own, *(f"{items:,}" for items in ends), *took))
    hours = (">hours at most", ">expected") if rate else ()
    print_table(console, rows, "route", "a pass promises", ">items at most", ">expected", *hours)
    if not rate:
        text = "--rate N gives hours: items an hour in one pass, 3,600 times the items/s of `quantcliff status RUN`"
        print_line(console, text)
    pooled = plan.experiment.policy.pooled_margin
    found = [one for one in found if one.pool is None]  # layers cost the baseline more than they save others, mostly
    fitting = [one for one in found if (one.design.pooled is None) is (pooled is None)] or found
    least, best = (min(some, key=lambda one: one.expected) for some in (fitting, found))
    largest = found[0].largest
    text = f"recommended: {_route_name(least)}, expected to take {least.expected / largest:.0%} of {largest:,} items"
    more = f"; {best.expected / largest:.0%} with {_settings(best)}" if best is not least else ""
    print_line(console, f"{text}, by {_settings(least)}{more}")


def _route_name(one: Route) -> str:
    if one.pool is not None:
        return f"layers by confidence (the baseline: {one.pool:,})"
    name = "each stratum" if one.design.pooled is None else "pooled"
    return f"{name}, {one.design.looks} looks" if one.design.looks > 1 else name


def _settings(one: Route) -> str:
    pooled, looks = one.design.pooled, one.design.looks
    parts = [] if pooled is None else [f"pooled_margin: {pooled:g}, margins: {{'*': {max(one.design.margins):g}}}"]
    parts += [f"spending: {one.design.spending}"] if looks > 1 else []
    settings = f"policy: {{{', '.join(parts)}}}"
    return f"{settings} and execution: {{looks: {looks}}}" if looks > 1 else settings


def signals_json(found: Sequence[Signal]) -> dict[str, Any]:
    """Return one JSON object: every stratum, and whether each gating one can show damage."""
    return {"signal": not blind_gating(found), "strata": [asdict(one) for one in found]}


def blind_gating(found: Sequence[Signal]) -> list[Signal]:
    """Return the gating strata in which damage could not be seen."""
    return [one for one in found if one.gating and one.blind]


def print_signals(found: Sequence[Signal], console: Console, *, name: str, baseline: str) -> None:
    """Print a row per stratum, then why some have no signal."""
    print_line(console, f"{name}: signal of {baseline}", "bold")
    rows: list[Sequence[str | Text]] = []
    for one in found:
        word = f"{'none' if one.blind else 'yes'}{'' if one.gating else ', advisory'}"
        means = score(one.baseline_mean), score(one.chance), percent(one.choice_probability)
        signal = Text(word, style="bold red" if one.blind else "")
        rows.append((f"{one.slice}/{short_name(one.stratum)}", str(one.items), *means, str(one.right), signal))
    print_table(console, rows, "stratum", ">items", ">score", ">chance", ">P(right)", ">right", "signal")
    for one in found:
        for sentence in (*one.blind, *one.notes):
            print_line(console, f"{one.slice}/{one.stratum}: {sentence}")
    blind = blind_gating(found)
    last = f"{len(blind)} gating strata cannot show damage" if blind else "every gating stratum can show damage"
    print_line(console, f"{last} (of {sum(one.gating for one in found)})", "bold")


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
    return {"slices": [asdict(info) for info in _chosen(name)]}


def print_slices(name: str | None, console: Console) -> None:
    """Print every slice, or one."""
    for info in _chosen(name):
        print_line(console, f"{info.name}: {info.title}", "bold")
        print_line(console, f"  {info.why}")
        for axis in info.axes:
            ordered = ", ordered" if axis.ordered else ""
            splits = ", splits into strata" if axis.name in info.split_by else ""
            print_line(console, f"  axis {axis.name}{ordered}{splits}: {', '.join(map(str, axis.levels))}")
        print_line(console, f"  tasks: {', '.join(info.tasks)}")
        print_line(console, "  a real item of each task:")
        for line in info.example.splitlines():
            console.print(f"    {visible(line)}", markup=False, soft_wrap=True)
        console.print()
