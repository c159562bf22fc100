"""How far a candidate's next-token distribution is from the baseline's, by slice, stratum and position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.judge.verdicts import Judgement
from harness.report import words
from harness.report.divergence_evidence import EVERYTHING
from harness.report.evidence import DivergenceRow, Evidence
from harness.report.section import Block, Cell, Chart, Line, Row, Section, names, numbers, strata, texts
from harness.report.words import points, score

__all__ = ["BLOCKS", "divergence"]

_DRAWN = 12
"""Pictures at most: the slices with the largest divergence."""


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
    more = len(charts) - _DRAWN
    note += f" Drawn are the {_DRAWN} slices with the largest; {more} more are in the table." if more > 0 else ""
    cells = tuple(map(_row, rows))
    folded = "divergence by slice, stratum and position"
    return Section("Divergence", columns, cells, (), note, folded, charts=charts[:_DRAWN], y="nats per token")


def _row(one: DivergenceRow) -> Row:
    def within(figure: str, error: str) -> Cell:
        return Cell(figure, note="" if error == "-" else f"± {error}")

    return (
        one.slice,
        one.candidate,
        one.stratum,
        one.position or "all",
        within(words.nats(one.summary.kl), words.nats(one.summary.kl_error)),
        words.nats(one.control_kl),
        words.nats(one.summary.reverse_kl),
        within(f"{score(one.summary.same_top)} %", score(one.summary.same_top_error)),
        points(one.summary.probability_change),
        f"{one.summary.tokens:,}",
    )


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
    whole = [one for one in rows if one.stratum == EVERYTHING] or rows
    for position in dict.fromkeys(one.position for one in whole):
        part = [one for one in whole if one.position == position]
        if tokens := sum(one.summary.tokens for one in part):
            yield position, max(math.fsum(one.summary.tokens * one.summary.kl for one in part) / tokens, 0.0)


def _divergence(judgement: Judgement, evidence: Evidence) -> Iterator[Section]:
    if evidence.divergence:
        yield divergence(evidence.divergence, judgement.baseline)


BLOCKS = (Block("divergence", "Divergence", _divergence, {"page": 70}, "", "Not measured in this run."),)
