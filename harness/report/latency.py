"""Times and lengths of streamed answers: their median and their 95th percentile, by variant and stratum.

The control is left out: it is asked at another concurrency, which changes every time.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.report.section import Row, Section, names, numbers, strata, texts
from harness.store.record import CONTROL, RunRecord

__all__ = ["latency_sections"]

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


def latency_sections(run: RunRecord, variants: Sequence[str]) -> tuple[Section, ...]:
    """Return the tables of the whole run and of its strata, the variants next to each other; none without streams."""
    places = {item.id: (item.slice, item.stratum) for item in run.items}
    groups: dict[tuple[str, str, str], dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for name in variants:
        for line in run.directory.request_times(name) if name != CONTROL else ():
            for place in (("", ""), places.get(line["item"])):
                if place is not None:
                    groups[*place, _condition(line)][name].append(line)
    if not groups:
        return ()
    whole, by_stratum = ({key: own for key, own in groups.items() if bool(key[0]) == part} for part in (False, True))
    figures, where = numbers("n", "median", "95th percentile"), strata("stratum")
    return (
        Section(
            "Times and lengths of streamed answers",
            names("variant") + texts("figure") + figures,
            tuple((name, *rest) for name, _, *rest in _rows(whole)),
            note=_NOTE,
        ),
        Section(
            "Times and lengths by stratum",
            names("variant") + where + texts("figure") + figures,
            tuple(_rows(by_stratum)),
            folded="times and lengths by stratum",
        ),
    )


def _condition(line: Mapping[str, Any]) -> str:
    if line["state"] != "warm":
        return "after its start" if line["state"] == "start" else "after idle time"
    return {"uncached": _WARM, "cached": "known prompt"}.get(line["cache"], "prompt perhaps known")


def _rows(groups: Groups) -> Iterator[Row]:
    """Yield a row per stratum, condition, figure and variant; lengths are the same under every condition."""
    for place in dict.fromkeys(key[:2] for key in groups):
        for condition in (one for one in _CONDITIONS if (*place, one) in groups):
            for figure in _FIGURES if condition == _WARM else ("first",):
                for name, lines in groups[*place, condition].items():
                    values = [line[figure] for line in lines if line[figure] is not None]
                    if any(values):
                        words = f"{_FIGURES[figure]}, {condition}", f"{len(values):,}"
                        shares = (_quantile(values, share) for share in (0.5, 0.95))
                        yield name, ", ".join(one for one in place if one not in {"", "all"}), *words, *shares


def _quantile(values: Sequence[float], share: float) -> str:
    """Return a quantile with its limits; "?" for one that so few values do not have."""
    import numpy as np
    from scipy import stats

    limits: Any = stats.quantile_test(values, p=share).confidence_interval(0.95)
    low, high = ("?" if math.isnan(one) else f"{one:.3g}" for one in (limits.low, limits.high))
    return f"{np.quantile(values, share):.3g} ({low} to {high})"
