"""How far a candidate's next-token distribution is from the baseline's, by slice, stratum and token position.

An explanation and an alarm: no verdict reads any of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from harness.judge.verdicts import Judgement
from harness.records import Item
from harness.report.evidence import DivergenceRow, Evidence
from harness.report.section import Block, Cell, Chart, Line, Row, Section, names, numbers, strata, texts
from harness.report.words import number_text, points, score
from harness.stats.divergence import Divergence, summarise

__all__ = ["BLOCKS", "divergence", "divergence_rows"]

_EVERYTHING = "all"  # a slice's strata taken together
_DRAWN = 12  # pictures at most: the slices with the largest divergence
_STARTS = (0, 1, 4, 16, 64, 256, 1024, 4096)
"""First token of each bucket of positions: divergence grows with the answer, and most of it early on."""
_BUCKETS = {
    **{str(start) if end == start + 1 else f"{start}-{end - 1}": (start, end) for start, end in pairwise(_STARTS)},
    f"{_STARTS[-1]} and on": (_STARTS[-1], None),
}

_Place = tuple[str, str, str]  # slice, stratum, bucket of positions; empty over all positions


def divergence_rows(
    items: Sequence[Item], found: Mapping[str, Sequence[Divergence]], *, control: str
) -> tuple[DivergenceRow, ...]:
    """Return the rows of every variant in `found`; `control` names the A/A pass, whose mean KL each row repeats."""
    by_id, clusters = {item.id: item for item in items}, {item.id: item.cluster for item in items}
    parts = {name: _parts(by_id, some) for name, some in found.items()}
    order = {place: number for number, place in enumerate(_places(items))}
    noise = {place: summarise(some).kl for place, some in parts.get(control, {}).items()}
    return tuple(
        DivergenceRow(name, *place, summarise(mine[place], clusters), noise.get(place))
        for name, mine in parts.items()
        for place in sorted(mine, key=order.__getitem__)
    )


def _places(items: Sequence[Item]) -> Iterator[_Place]:
    """Yield every place in the order of the items: a slice's strata, the slice, the slice by positions."""
    for name in dict.fromkeys(item.slice for item in items):
        inside = dict.fromkeys(item.stratum for item in items if item.slice == name)
        yield from ((name, stratum, "") for stratum in inside if stratum != _EVERYTHING)
        yield from ((name, _EVERYTHING, bucket) for bucket in ("", *_BUCKETS))


def _parts(items: Mapping[str, Item], found: Sequence[Divergence]) -> dict[_Place, list[Divergence]]:
    """Deal divergences out; the tokens of choices stand in no order, so only free text is dealt out by position."""
    parts: dict[_Place, list[Divergence]] = defaultdict(list)
    for one in found:
        item = items[one.item_id]
        for stratum in {item.stratum, _EVERYTHING}:
            parts[item.slice, stratum, ""].append(one)
        for bucket, (start, end) in _BUCKETS.items() if item.kind == "generate" else ():
            if len(one.kl) > start:
                columns = ("kl", "reverse_kl", "same_top", "baseline_logprob", "candidate_logprob")
                part = replace(one, **{name: getattr(one, name)[start:end] for name in columns})
                parts[item.slice, _EVERYTHING, bucket].append(part)
    return parts


def divergence(rows: Sequence[DivergenceRow], baseline: str) -> Section:
    """Return the divergence of each slice, stratum and position, drawn by position."""
    token = f"probability of {baseline}'s token"
    columns = names("slice", "candidate") + strata("stratum") + texts("positions")
    columns += numbers("KL, nats/token", "A/A noise", "reverse KL", "same top token", token, "tokens")
    charts = _charts(rows)
    note = (
        f"Mean KL divergence from {baseline}: an alarm and an explanation, never a pass. Choices have no token "
        "positions; they are in the table alone."
    )
    if (more := len(charts) - _DRAWN) > 0:
        note += f" Drawn are the {_DRAWN} slices with the largest; {more} more are in the table."
    folded = "divergence by slice, stratum and position"
    cells = tuple(map(_row, rows))
    return Section("Divergence", columns, cells, (), note, folded, charts=charts[:_DRAWN], y="nats per token")


def _row(one: DivergenceRow) -> Row:
    kl, kl_error, noise, reverse = (
        number_text(value, ".3g")
        for value in (one.summary.kl, one.summary.kl_error, one.control_kl, one.summary.reverse_kl)
    )
    top, error = f"{score(one.summary.same_top)} %", score(one.summary.same_top_error)
    first = Cell(kl, note="" if kl_error == "-" else f"± {kl_error}")
    same = Cell(top, note="" if error == "-" else f"± {error}")
    change, tokens = points(one.summary.probability_change), f"{one.summary.tokens:,}"
    return one.slice, one.candidate, one.stratum, one.position or "all", first, noise, reverse, same, change, tokens


def _charts(rows: Sequence[DivergenceRow]) -> tuple[Chart, ...]:
    """Return a picture per slice that has positions, the one with the largest divergence first."""
    candidates = [*dict.fromkeys(one.candidate for one in rows)]
    made = []
    for label in dict.fromkeys(one.slice for one in rows if one.position):
        own = [one for one in rows if one.slice == label and one.position]
        lines = tuple(Line(name, tuple(_means([r for r in own if r.candidate == name]))) for name in candidates)
        made.append(Chart(label, "token position", lines))
    made.sort(key=lambda one: -max((y for line in one.lines for _, y in line.points), default=0.0))
    return tuple(made)


def _means(rows: Sequence[DivergenceRow]) -> Iterator[tuple[str, float]]:
    """Yield the mean by position, over strata by their tokens if a slice's own rows are not there."""
    whole = [one for one in rows if one.stratum == _EVERYTHING] or rows
    for position in dict.fromkeys(one.position for one in whole):
        part = [one for one in whole if one.position == position]
        if tokens := sum(one.summary.tokens for one in part):
            yield position, max(math.fsum(one.summary.tokens * one.summary.kl for one in part) / tokens, 0.0)


def _divergence(judgement: Judgement, evidence: Evidence) -> list[Section]:
    return [divergence(evidence.divergence, judgement.baseline)] if evidence.divergence else []


BLOCKS = (Block("divergence", "Divergence", _divergence, {"page": 70}, "", "Not measured in this run."),)
