"""How much a candidate thinks and writes next to the baseline: ratios with limits, and verdicts under tolerances.

Pass: the upper limit is below the tolerance, at level alpha. Fail: the ratio is shown to be above it, after Holm over
the candidate's gated quantities at this family's part of alpha. A quantity without a tolerance has limits and no
verdict, and a tolerance for which nothing was measured is not judged. It knows answers and rules, not what becomes of a
verdict.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness import stats
from harness.judge.rules import Rules
from harness.judge.summaries import Quantity
from harness.records import Generation, Item, Scored
from harness.stats.ratio import Ratio, ratio

__all__ = ["judged_quantities"]

Answer = tuple[float, ...]
"""Characters thought, tokens written, and score of one item: means over its samples."""
Measured = tuple[Quantity, Ratio | None]


def judged_quantities(
    items: Sequence[Item], baseline: Iterable[Scored], candidate: Iterable[Scored], rules: Rules
) -> tuple[Quantity, ...]:
    """Return every quantity of a candidate, stratum by stratum; only those that a tolerance or a thought asks for."""
    before, after = _answers(baseline), _answers(candidate)
    strata: dict[tuple[str, str], list[Item]] = defaultdict(list)
    for item in items:
        if item.kind == "generate" and item.id in before and item.id in after:
            strata[item.slice, item.stratum].append(item)
    found = [one for place, own in strata.items() for one in _stratum(place, own, before, after, rules)]
    gated = [at for at, (one, _) in enumerate(found) if one.tolerance is not None]
    raw = [_p_high(*found[at]) for at in gated]
    adjusted = dict(zip(gated, stats.holm(raw), strict=True))
    judged = [
        _with_verdict(one, known, min(float(adjusted[at]) * rules.families, 1.0), rules) if at in adjusted else one
        for at, (one, known) in enumerate(found)
    ]
    return (*judged, *_never_measured(items, judged, rules))


def _never_measured(items: Sequence[Item], judged: Sequence[Quantity], rules: Rules) -> Iterable[Quantity]:
    """Return a quantity that is not judged for each tolerance that no answer of a gating stratum was held to."""
    held = {one.kind for one in judged if one.tolerance is not None}
    gates = any(rules.gating(item.slice, item.stratum) for item in items)
    for kind, tolerance in rules.policy.quantities.items() if gates else ():
        if kind not in held:
            why = "a tolerance was declared, and no answer in a gating stratum was measured for it"
            yield Quantity("all", "all", kind, 0, None, None, None, None, None, tolerance, "not_judged", why)


def _answers(scored: Iterable[Scored]) -> Mapping[str, Answer]:
    found: dict[str, list[Answer]] = defaultdict(list)
    for one in scored:
        if isinstance(one.response, Generation) and one.score is not None and one.length is not None:
            found[one.item_id].append((one.metrics.get("thinking_characters", 0.0), float(one.length), one.score))
    return {
        name: tuple(math.fsum(column) / len(own) for column in zip(*own, strict=True)) for name, own in found.items()
    }


def _stratum(
    place: tuple[str, str],
    items: Sequence[Item],
    before: Mapping[str, Answer],
    after: Mapping[str, Answer],
    rules: Rules,
) -> Iterable[Measured]:
    thought, tokens, right = zip(*(before[item.id] for item in items), strict=True)
    thought_now, tokens_now, right_now = zip(*(after[item.id] for item in items), strict=True)
    each, clusters = (1.0,) * len(items), [item.cluster for item in items]
    for kind, was, now in (
        ("thought_length", (thought, each), (thought_now, each)),
        ("tokens_per_solved", (tokens, right), (tokens_now, right_now)),
    ):
        tolerance = rules.policy.quantities.get(kind) if rules.gating(*place) else None
        thinks = any(thought) or any(thought_now)
        if not thinks and (tolerance is None or kind == "thought_length"):
            continue
        known = ratio([now[0], was[1]], [was[0], now[1]], clusters)
        plain = Quantity(*place, kind, len(items), _over(*was), _over(*now), None, None, None, tolerance)
        if known is not None:
            low, high = known.limit(rules.policy.alpha), known.limit(1 - rules.policy.alpha)
            plain = replace(plain, ratio=known.value, low=low, high=high)
        yield plain, known


def _over(above: Sequence[float], below: Sequence[float]) -> float | None:
    return math.fsum(above) / math.fsum(below) if math.fsum(below) > 0 else None


def _p_high(one: Quantity, known: Ratio | None) -> float:
    return 1.0 if known is None or one.tolerance is None else known.p_high(one.tolerance)


def _with_verdict(one: Quantity, known: Ratio | None, adjusted: float, rules: Rules) -> Quantity:
    if known is None or one.high is None or one.tolerance is None:
        why = "a total is 0 on one side, or all items share one source: there is no ratio"
        return replace(one, verdict="not_judged", reason=why)
    told = f"{known.value:.2f} times the baseline's ({one.low:.2f} to {one.high:.2f}), tolerated {one.tolerance:g}"
    if adjusted < rules.policy.alpha:
        return replace(one, verdict="fail", reason=told)
    return (
        replace(one, verdict="pass") if one.high < one.tolerance else replace(one, verdict="inconclusive", reason=told)
    )
