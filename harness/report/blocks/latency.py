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

Groups = Mapping[tuple[str, str, str], Mapping[str, Sequence[Mapping[str, Any]]]]
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


def latency_rows(run: RunRecord, variants: Sequence[str]) -> tuple[LatencyRow, ...]:
    """Return the figures of the whole run and of its strata, the variants next to each other; none without streams."""
    places = {item.id: (item.slice, item.stratum) for item in run.items}
    groups: dict[tuple[str, str, str], dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for name in variants:
        for line in run.directory.request_times(name) if name != CONTROL else ():
            for place in (("", ""), places.get(line["item"])):
                if place is not None:
                    groups[*place, _condition(line)][name].append(line)
    return tuple(_rows(groups))


def _latency(_: Judgement, evidence: Evidence) -> Iterator[Section]:
    """Yield the table of the whole run, and that of its strata."""
    rows = [(one.variant, one.stratum, one.figure, f"{one.n:,}", one.median, one.p95) for one in evidence.latency]
    figures = numbers("n", "median", "95th percentile")
    yield Section(
        "Times and lengths of streamed answers",
        names("variant") + texts("figure") + figures,
        tuple((name, *rest) for name, stratum, *rest in rows if not stratum),
        note=_NOTE,
    )
    yield Section(
        "Times and lengths by stratum",
        names("variant") + strata("stratum") + texts("figure") + figures,
        tuple(row for row in rows if row[1]),
        folded="times and lengths by stratum",
        formats=("markdown", "page"),
    )


def _condition(line: Mapping[str, Any]) -> str:
    if line["state"] != "warm":
        return "after its start" if line["state"] == "start" else "after idle time"
    return {"uncached": _WARM, "cached": "known prompt"}.get(line["cache"], "prompt perhaps known")


def _rows(groups: Groups) -> Iterator[LatencyRow]:
    """Yield a row per stratum, condition, figure and variant; lengths are the same under every condition."""
    for place in dict.fromkeys(key[:2] for key in groups):
        for condition in (one for one in _CONDITIONS if (*place, one) in groups):
            for figure in _FIGURES if condition == _WARM else ("first",):
                for name, lines in groups[*place, condition].items():
                    values = [line[figure] for line in lines if line[figure] is not None]
                    if any(values):
                        median, p95 = (_quantile(values, share) for share in (0.5, 0.95))
                        stratum = ", ".join(one for one in place if one not in {"", "all"})
                        words = f"{_FIGURES[figure]}, {condition}"
                        yield LatencyRow(name, stratum, words, len(values), median, p95)


def _quantile(values: Sequence[float], share: float) -> str:
    """Return a quantile with its limits; "?" for one that so few values do not have."""
    import numpy as np
    from scipy import stats

    limits: Any = stats.quantile_test(values, p=share).confidence_interval(0.95)
    low, high = ("?" if math.isnan(one) else f"{one:.3g}" for one in (limits.low, limits.high))
    return f"{np.quantile(values, share):.3g} ({low} to {high})"


BLOCKS = (Block("times", "Times and lengths", _latency, {"terminal": 75, "markdown": 78, "page": 105}, "Times"),)
