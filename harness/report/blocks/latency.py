"""Times and lengths of streamed answers: their median and their 95th percentile, by variant and stratum.

The control is left out: it is asked at another concurrency, which changes every time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.judge.verdicts import Judgement
from harness.report.evidence import Evidence, LatencyRow
from harness.report.section import Block, Section, names, numbers, strata, texts
from harness.store.record import CONTROL, RunRecord

__all__ = ["BLOCKS", "latency_rows"]

_Lines = dict[str, list[Mapping[str, Any]]]
_FIGURES = {
    "first": "s to the first token",
    "per_token": "s per further token",
    "longest_gap": "s in the longest gap",
    "output_tokens": "tokens",
    "preamble": "tokens before the right answer",
    "reasoning": "tokens of reasoning",
}
_WARM = "new prompt"
_CONDITIONS = (_WARM, "known prompt", "prompt perhaps known", "after its start", "after idle time")
_NOTE = (
    "Seconds as the client saw them, with as many requests in flight as the config says. Limits (95 %) are order "
    "statistics, exact for independent answers, which answers in flight together are not quite. 'New prompt': a warm "
    "server that did not know the prompt, which is what a tolerance is held against."
)


def latency_rows(run: RunRecord, variants: Sequence[str]) -> Iterator[LatencyRow]:
    """Yield the figures of the whole run and of its strata, the variants next to each other; none without streams.

    A row per stratum, condition, figure and variant; lengths are the same under every condition.
    """
    groups = _groups(run, variants)
    for place in dict.fromkeys(key[:2] for key in groups):
        for condition in (one for one in _CONDITIONS if (*place, one) in groups):
            for figure in _FIGURES if condition == _WARM else ("first",):
                for name, lines in groups[*place, condition].items():
                    values = [line[figure] for line in lines if line[figure] is not None]
                    if any(values):
                        stratum = ", ".join(one for one in place if one not in {"", "all"})
                        what, ends = f"{_FIGURES[figure]}, {condition}", (_quantile(values, q) for q in (0.5, 0.95))
                        yield LatencyRow(name, stratum, what, len(values), *ends)


def _groups(run: RunRecord, variants: Sequence[str]) -> Mapping[tuple[str, str, str], _Lines]:
    """Return slice, stratum (both empty for the whole run) and condition to the lines of each variant."""
    places = {item.id: (item.slice, item.stratum) for item in run.items}
    groups: dict[tuple[str, str, str], _Lines] = defaultdict(lambda: defaultdict(list))
    for name in variants:
        for line in run.directory.request_times(name) if name != CONTROL else ():
            for place in (("", ""), places.get(line["item"])):
                if place is not None:
                    groups[*place, _condition(line)][name].append(line)
    return groups


def _condition(line: Mapping[str, Any]) -> str:
    if line["state"] != "warm":
        return "after its start" if line["state"] == "start" else "after idle time"
    return {"uncached": _WARM, "cached": "known prompt"}.get(line["cache"], "prompt perhaps known")


def _quantile(values: Sequence[float], share: float) -> str:
    """Return a quantile with its limits; "?" for one that so few values do not have."""
    import numpy as np
    from scipy import stats

    limits: Any = stats.quantile_test(values, p=share).confidence_interval(0.95)
    low, high = ("?" if math.isnan(one) else f"{one:.3g}" for one in (limits.low, limits.high))
    return f"{np.quantile(values, share):.3g} ({low} to {high})"


def _latency(_: Judgement, evidence: Evidence) -> Iterator[Section]:
    """Yield the table of the whole run, and that of its strata."""
    rows = [(one.variant, one.stratum, one.figure, f"{one.n:,}", one.median, one.p95) for one in evidence.latency]
    head, figures = names("variant"), texts("figure") + numbers("n", "median", "95th percentile")
    whole = tuple((name, *rest) for name, stratum, *rest in rows if not stratum)
    yield Section("Times and lengths of streamed answers", head + figures, whole, note=_NOTE)
    columns, own = head + strata("stratum") + figures, tuple(row for row in rows if row[1])
    title, folded = "Times and lengths by stratum", "times and lengths by stratum"
    yield Section(title, columns, own, folded=folded, formats=("markdown", "page"))


BLOCKS = (Block("times", "Times and lengths", _latency, {"terminal": 75, "markdown": 78, "page": 105}, "Times"),)
