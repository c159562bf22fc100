"""Rates of tail events, and ratios of thought and tokens, under the tolerances that were declared.

Pass: the upper limit lies below the tolerance, at level alpha, wherever it gates (an intersection-union test, no
correction). Fail: the lower limit lies above it, after Holm over what the candidate's tolerances of this family gate,
at the family's part of alpha; the scores' family has another part. A tolerance that measured nothing is not judged.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from harness import stats
from harness.judge.rules import Place, Rules, by_stratum
from harness.judge.summaries import Quantity, TailRate, Verdict
from harness.judge.tail_counts import BLOW_UP, Cell
from harness.records import LATENCY_KINDS, Generation, Item, Scored
from harness.stats.events import EventRate, event_rate, items_to_decide_rate
from harness.stats.ratio import Ratio, ratio

ALLOW_ONE_SIDED = 0.01  # share of a stratum's items that one side alone may have answered


def judge_rates(cells: Sequence[Cell], rules: Rules) -> tuple[TailRate, ...]:
    """Return the rate, limits and verdict of every cell, and of every kind that a tolerance names and nothing shows."""
    alpha, tolerances = rules.policy.alpha, [rules.tolerance(one.slice, one.stratum, one.kind) for one in cells]
    found = [
        event_rate(one.events, one.clusters, alpha=alpha, gates=tolerance is not None) if one.items else None
        for one, tolerance in zip(cells, tolerances, strict=True)
    ]
    counted = list(zip(cells, found, tolerances, strict=True))
    p_high = {
        at: 1.0 if rate is None else rate.p_high(tolerance)
        for at, (cell, rate, tolerance) in enumerate(counted)
        if tolerance is not None and not _unjudged(cell) and not cell.unasked
    }
    adjusted, strictest = _adjusted(p_high, rules), alpha / rules.families / max(len(p_high), 1)
    rates = []
    for at, (cell, known, tolerance) in enumerate(counted):
        n, events = len(cell.items), sum(cell.events)
        share, low, high = (None, None, None) if known is None else (known.rate, known.low, known.high)
        own = None if known is None or cell.kind == BLOW_UP else sum(cell.baseline) / n
        plain = TailRate(cell.slice, cell.stratum, cell.kind, events, n, share, low, high, tolerance, None, own)
        if tolerance is not None:
            p = adjusted.get(at, 1.0)
            verdict, reason, more = _judged(cell, known, tolerance, p, alpha, strictest)
            plain = replace(plain, verdict=verdict, p_adjusted=p, reason=reason, items_to_decide=more)
        rates.append(plain)
    why = "a tolerance was declared, and no answer was looked at for it"
    for name, slice_rules in rules.slices.items():
        for kind, tolerance in (slice_rules.tail_events or {}).items():
            if not any(one.slice == name and kind in (one.kind, "*") for one in rates):
                empty = TailRate(name, "all", kind, 0, 0, None, None, None, tolerance, "not_judged", None, 1.0)
                rates.append(replace(empty, reason=why))
    return tuple(rates)


def _adjusted(p_values: Mapping[int, float], rules: Rules) -> dict[int, float]:
    """Return p-values after Holm within a family of tests, and Bonferroni over the families."""
    adjusted = zip(p_values, stats.holm(list(p_values.values())), strict=True)
    return {at: min(float(p) * rules.families, 1.0) for at, p in adjusted}


def _unjudged(cell: Cell) -> str:
    """Return why nothing can be said of a cell; empty if something can."""
    if cell.unseen:
        return f"{cell.unseen} of its items were answered before tail events were recorded: run them again"
    asked = len(cell.items) + cell.one_sided
    if cell.one_sided > math.ceil(ALLOW_ONE_SIDED * asked):
        return f"{cell.one_sided} of {asked} items have an answer on one side only"
    if cell.items:
        return ""
    if cell.kind in LATENCY_KINDS:
        return "none of its answers was timed on both sides, by a warm server to which the prompt was new"
    return "none of its items was answered by both sides"


def _judged(  # noqa: PLR0911 - one return per verdict
    cell: Cell, rate: EventRate | None, tolerance: float, p: float, alpha: float, strictest: float
) -> tuple[Verdict, str, int | None]:
    """Return verdict, reason, and how many more items would decide. p: of 'at most the tolerance', adjusted."""
    why = _unjudged(cell)
    if why or rate is None:
        return "not_judged", why, None
    limit = f"{100.0 * tolerance:.3g} %"
    told = f"{rate.events} of {rate.n} against a tolerance of {limit}"
    if cell.unasked:
        why = f"{cell.unasked} items were skipped by early stopping, so the remaining ones are a biased sample"
        return "inconclusive", f"{told}; {why}", None
    if p < alpha:
        return "fail", told, None
    if event_rate([not shown for shown in cell.baseline], cell.clusters, alpha=alpha).low <= tolerance:
        shown = f"the baseline's own answers show it in {sum(cell.baseline)} of {rate.n}"
        return "no_signal", f"{shown}, so not enough are left for more than {limit} to be seen", None
    if 2 * rate.n < cell.asked:  # as of scores: what is left is another stratum
        return "inconclusive", f"{told}; only {rate.n} of its {cell.asked} items could be looked at on both sides", None
    # An item with an answer on one side only may have been an event, as it may have been lost: see `decisions`.
    events, sources = [True] * cell.one_sided, [f"\0{at}" for at in range(cell.one_sided)]
    worst = event_rate([*cell.events, *events], [*cell.clusters, *sources], alpha=alpha, gates=True)
    if max(rate.high, worst.high) < tolerance:
        return "pass", "", None
    if rate.high < tolerance:
        why = f"it passes only if the {cell.one_sided} items with an answer on one side only were no events"
        return "inconclusive", why, None
    more = items_to_decide_rate(rate, tolerance, alpha, strictest)
    what = "no number of items is sure to decide it" if more is None else f"about {more} more items would decide it"
    return "inconclusive", f"{told}: the rate may be up to {100.0 * rate.high:.2g} %; {what}", more


def unmatched_tolerances(rates: Sequence[TailRate], rules: Rules) -> list[str]:
    """Return a sentence for each of the policy's tolerances that applies to no answer."""
    own = {name for name, one in rules.slices.items() if one.tail_events is not None}
    held = {one.kind for one in rates if one.tolerance is not None and one.slice not in own}
    unheld = [kind for kind in rules.policy.tail_events if not (held if kind == "*" else kind in held)]
    return [f"the tolerance for tail events of kind {kind!r} applies to no answer and has no effect" for kind in unheld]


Answer = tuple[float, float, float]  # characters thought, tokens written, and score of one item: means over its samples


def judged_quantities(
    items: Sequence[Item], baseline: Iterable[Scored], candidate: Iterable[Scored], rules: Rules
) -> tuple[Quantity, ...]:
    """Return every quantity of a candidate, stratum by stratum; only those that a tolerance or a thought asks for."""
    before, after = _answers(baseline), _answers(candidate)
    asked = [one for one in items if one.kind == "generate" and (one.id in before or one.id in after)]
    found = [one for place, own in by_stratum(asked).items() for one in _compared(place, own, before, after, rules)]
    judged = [one for one, _ in found]
    for at, p in _adjusted({at: p for at, (_, p) in enumerate(found) if p is not None}, rules).items():
        judged[at] = _with_verdict(judged[at], p, rules.policy.alpha)
    held = {one.kind for one in judged if one.tolerance is not None}
    if any(rules.gating(item.slice, item.stratum) for item in items):
        why = "a tolerance was declared, and no answer in a gating stratum was measured for it"
        judged += [
            Quantity("all", "all", kind, 0, None, None, None, None, None, tolerance, "not_judged", why)
            for kind, tolerance in rules.policy.quantities.items()
            if kind not in held
        ]
    return tuple(judged)


def _answers(scored: Iterable[Scored]) -> dict[str, Answer]:
    found: dict[str, list[Answer]] = defaultdict(list)
    for one in scored:
        if isinstance(one.response, Generation) and one.score is not None and one.length is not None:
            found[one.item_id].append((one.metrics.get("thinking_characters", 0.0), float(one.length), one.score))
    means = {name: [math.fsum(column) / len(own) for column in zip(*own, strict=True)] for name, own in found.items()}
    return {name: (thought, tokens, score) for name, (thought, tokens, score) in means.items()}


def _compared(
    place: Place, asked: Sequence[Item], before: Mapping[str, Answer], after: Mapping[str, Answer], rules: Rules
) -> Iterable[tuple[Quantity, float | None]]:
    """Give each quantity, the ratio of one total over another on both sides, with the p of 'at most its tolerance'."""
    if not (items := [item for item in asked if item.id in before and item.id in after]):
        return
    thought, tokens, right = zip(*(before[item.id] for item in items), strict=True)
    thought_now, tokens_now, right_now = zip(*(after[item.id] for item in items), strict=True)
    each, clusters = (1.0,) * len(items), [item.cluster for item in items]
    thinks = any(thought) or any(thought_now)
    lengths, costs = ((thought, each), (thought_now, each)), ((tokens, right), (tokens_now, right_now))
    for kind, was, now in (("thought_length", *lengths), ("tokens_per_solved", *costs)):
        tolerance = rules.policy.quantities.get(kind) if rules.gating(*place) else None
        if not thinks and (tolerance is None or kind == "thought_length"):
            continue
        plain = Quantity(*place, kind, len(items), _over(*was), _over(*now), None, None, None, tolerance)
        known = ratio([now[0], was[1]], [was[0], now[1]], clusters)
        if known is not None:
            low, high = known.limit(rules.policy.alpha), known.limit(1 - rules.policy.alpha)
            plain = replace(plain, ratio=known.value, low=low, high=high)
            worst = max(item.max_tokens for item in items) * len(items) / max(math.fsum(tokens_now), 1.0)
            sources = clusters + [item.cluster for item in asked if item not in items]
            if tolerance and high < tolerance and not _shown(known, tolerance, worst, sources, rules.policy.alpha):
                plain = replace(plain, reason="; too few answers to rule out some up to the token limit")
        yield plain, None if tolerance is None else 1.0 if known is None else known.p_high(tolerance)


def _shown(known: Ratio, tolerance: float, worst: float, sources: Sequence[str], alpha: float) -> bool:
    """Whether the tests of graded scores show it too: they heed a few long answers that went unseen.

    worst: what one at the token limit moves the ratio by. sources: of the items of `known`, then of those that one side
    alone answered, which count as such answers.
    """
    gains = math.log(tolerance / known.value) - known.moves
    every = np.append(gains / max(worst, float(np.abs(gains).max())), np.full(len(sources) - gains.size, -1.0))
    return stats.paired_test(every, np.array(sources), margin=0.0, alpha=alpha, graded=True).p_pass < alpha


def _over(above: Sequence[float], below: Sequence[float]) -> float | None:
    return math.fsum(above) / math.fsum(below) if math.fsum(below) > 0 else None


def _with_verdict(one: Quantity, adjusted: float, alpha: float) -> Quantity:
    if one.high is None or one.tolerance is None:
        why = "a total is 0 on one side, or all items share one source: there is no ratio"
        return replace(one, verdict="not_judged", reason=why)
    if adjusted >= alpha and one.high < one.tolerance and not one.reason:
        return replace(one, verdict="pass")
    told = f"{one.ratio:.2f} times the baseline's ({one.low:.2f} to {one.high:.2f}), tolerated {one.tolerance:g}"
    return replace(one, verdict="fail" if adjusted < alpha else "inconclusive", reason=told + one.reason)
