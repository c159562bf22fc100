"""report.html: one self-contained page that opens from disk and asks the network for nothing.

Puts `harness.report.page` and the charts into the template under templates/. Every text that the template writes
passes through `sanitize.visible` and then through HTML escaping, by the environment and not by the author's
care; the page's own policy lets no script run but its own. This module computes no figure.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import count
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from harness.judge.verdicts import CandidateVerdict, Judgement, Verdict
from harness.report import charts, choices, costs, flips, page, tail, words
from harness.report.diff import split_at_difference
from harness.report.evidence import Evidence
from harness.report.room import PAGE_BYTES, share_room
from harness.report.routing import plans
from harness.report.sanitize import clip, one_line, visible
from harness.report.traffic import measured, shares

__all__ = ["SIDE_FILE", "Page", "html_report"]

SIDE_FILE = "report-flips.json"
"""Holds the flips that the page has no room for."""

_LONGEST = 20_000
_MOST_RATES = 200
_OPEN: tuple[Verdict, ...] = ("fail", "inconclusive", "no_signal", "not_judged")
"""Verdicts of gated rates that do not pass, in the order in which they matter."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is to be written."""

    html: str
    """The page."""
    beside: str | None
    """The side file's JSON, None where everything fits the page."""


def html_report(judgement: Judgement, evidence: Evidence, text_bytes: int = PAGE_BYTES) -> Page:
    """Give the page. `text_bytes` is the room for answers inside it: tail events, examples and flips."""
    texts = share_room(evidence, _failing(judgement), text_bytes)
    keys = (f"chart-{number}" for number in count(1))
    script = _file("report.js")
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            judgement=judgement,
            evidence=evidence,
            judged=[one for one in judgement.candidates if one.strata],
            css=Markup(_file("report.css")),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            flips_json=Markup(flips.page_json(texts.inside)),  # noqa: S704 - page_json leaves no HTML in it
            texts=texts,
            side_file=SIDE_FILE,
            tail_kinds=tail.kind_rows(judgement),
            tail_open=[row for verdict in _OPEN for row in tail.gated(judgement, verdict)],
            tail_passed=tail.gated(judgement, "pass"),
            most_rates=_MOST_RATES,
            matrix=page.matrix(judgement),
            shares=shares(judgement),
            measured=measured(judgement, evidence),
            plans=plans(judgement, evidence),
            facts=words.flat({**judgement.provenance, **evidence.provenance}),
            floor=words.floor(judgement),
            spent=words.spent(judgement, evidence),
            cost_rows=costs.rows_of(judgement, evidence),
            beside=lambda name: one_line(costs.beside(judgement, evidence, name)),
            choices=choices.choice_rows(judgement),
            **_pictures(judgement, evidence, keys),
        )
    )
    return Page(html, flips.page_json(texts.beside) if texts.beside else None)


def _failing(judgement: Judgement) -> set[tuple[str, str, str]]:
    return {
        (one_line(candidate.name), one_line(one.slice), one_line(one.stratum))
        for candidate in judgement.candidates
        for one in words.chosen(candidate, "fail")
    }


def _pictures(judgement: Judgement, evidence: Evidence, keys: Iterator[str]) -> dict[str, Any]:
    """Draw every picture, each with what its table needs."""
    return {
        "forests": [_forest(one, keys) for one in judgement.candidates if one.strata],
        "heats": [
            (grid, _svg(charts.heat(grid.cells, grid.axes, key=next(keys), title=grid.title)))
            for grid in page.grids(judgement)
        ],
        "cliffs": [
            (group, _svg(charts.cliff(group.curves, judgement.baseline, key=next(keys), title=group.title)))
            for group in page.cliff_groups(judgement)
        ],
        "averages": [
            _svg(charts.averages(judgement.candidates, key=next(keys), narrow=narrow)) for narrow in (False, True)
        ]
        if any(one.averages for one in judgement.candidates)
        else None,
        "divergences": [
            (label, rows, _divergence(label, series, next(keys)))
            for label, series, rows in page.divergence_groups(evidence)
        ],
        "frontiers": [_frontier(one, next(keys)) for one in page.cost_points(judgement, evidence)],
    }


def _forest(candidate: CandidateVerdict, keys: Iterator[str]) -> tuple[CandidateVerdict, int, list[Markup]]:
    """Draw a forest plot for a desk and one for a phone."""
    rows, left_out = page.forest_rows(candidate, charts.MOST_ROWS)
    pictures = [_svg(charts.forest(candidate, rows, next(keys), narrow=narrow)) for narrow in (False, True)]
    return candidate, left_out, pictures


def _frontier(cost: page.CostPoint, key: str) -> Markup:
    title = f"Average change against {cost.measure}"
    return _svg(charts.frontier(cost.points, key=key, axis=cost.measure, title=title))


def _divergence(label: str, series: Mapping[str, Sequence[tuple[str, float]]], key: str) -> Markup | None:
    """Draw divergence by position; choices have none."""
    if not any(series.values()):
        return None
    return _svg(charts.divergence(series, key=key, title=f"Divergence in {label}"))


def _svg(text: str) -> Markup:
    return Markup(text)  # noqa: S704 - svg.py escapes every label


def _file(name: str) -> str:
    return resources.files("harness.report").joinpath("templates", name).read_text(encoding="utf-8")


def _shown(value: object) -> object:
    """Make what a template expression gives harmless: jinja2 calls this for each, before it escapes."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(clip(value, _LONGEST))


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        loader=FunctionLoader(_file),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "points": words.points,
        "score": words.score,
        "percent": words.percent,
        "nats": words.nats,
        "word": words.word,
        "interval": words.interval,
        "bytes": costs.bytes_text,
        "short_name": words.short_name,
        "place_of": words.place,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }
    environment.globals |= {
        "symbols": words.SYMBOLS,
        "words": words,
        "tail": tail,
        "split": split_at_difference,
        "meaning": words.exit_meaning,
        "headings": costs.HEADINGS,
        "choice_headings": choices.CHOICE_HEADINGS,
        "choice_note": choices.CHOICE_NOTE,
        "choice_title": choices.CHOICE_TITLE,
    }
    return environment
