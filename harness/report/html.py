"""report.html: one self-contained page that opens from disk and asks the network for nothing.

Puts sections into the templates under templates/. Every text that a template writes passes through `sanitize.visible`
and then through HTML escaping, by the environment and not by the author's care; the page's own policy lets no script
run but its own. This module computes no figure.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from harness.judge.summaries import TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement
from harness.report import charts, costs, flips, tail, words
from harness.report.blocks import filled
from harness.report.blocks.measured import control_sentence
from harness.report.diff import split_at_difference
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line, visible
from harness.report.section import Block, Section, as_cell

__all__ = ["SIDE_FILE", "Page", "html_report", "render"]

SIDE_FILE = "report-flips.json"
"""Holds the flips that do not fit the page."""

_LONGEST = 20_000
_MOST_ROWS = 400
_LEAST_REACH = 0.1
_WORST_FIRST: tuple[Verdict, ...] = ("fail", "inconclusive", "not_judged", "pass", "no_signal")
_HEAT = ((-0.2, "heat-n4 strong"), (-0.1, "heat-n3 strong"), (-0.05, "heat-n2"), (-0.02, "heat-n1"))


@dataclass(frozen=True, slots=True)
class Page:
    """What is to be written."""

    html: str
    """The page."""
    side_file: str | None
    """The side file's JSON, None if everything fits the page."""


def html_report(judgement: Judgement, evidence: Evidence, text_bytes: int = flips.PAGE_BYTES) -> Page:
    """Return the page. `text_bytes`: how much of it answers may take."""
    texts = flips.page_texts(evidence, _failing(judgement), text_bytes)
    html = render(
        "report.html.j2",
        filled("page", judgement, evidence),
        judgement.baseline,
        judgement=judgement,
        evidence=evidence,
        flips_json=Markup(flips.page_json(texts.inside)),  # noqa: S704 - page_json leaves no HTML in it
        texts=texts,
        side_file=SIDE_FILE,
        noise=control_sentence(judgement),
        cost_of=lambda name: one_line(costs.relative_cost(judgement, evidence, name)),
    )
    return Page(html, flips.page_json(texts.left_over) if texts.left_over else None)


def render(template: str, blocks: Sequence[tuple[Block, list[Section]]], baseline: str, **more: Any) -> str:
    """Return a page of these blocks. baseline: the name that charts draw as such."""
    script = _file("report.js")
    shown = [(block, sections) for block, sections in blocks if sections or block.absent or block.key == "flips"]
    return (
        _environment()
        .get_template(template)
        .render(
            css=Markup(_file("report.css")),  # noqa: S704 - our own file
            script=Markup(script),  # noqa: S704 - our own file
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            blocks=shown,
            base=baseline,
            marks={block.key: _worst(sections) for block, sections in shown},
            draw=partial(_drawn, charts.draw, base=baseline),
            legend=partial(_drawn, charts.legend, base=baseline),
            **more,
        )
    )


def _failing(judgement: Judgement) -> set[tuple[str, str, str]]:
    return {
        (one_line(candidate.name), one_line(one.slice), one_line(one.stratum))
        for candidate in judgement.candidates
        for one in words.strata_with(candidate, "fail")
    }


def _worst(sections: Sequence[Section]) -> Verdict | None:
    """Return the worst verdict in a block's tables, for the contents; None if they hold none."""
    cells = (as_cell(cell).verdict for section in sections for row in section.rows for cell in row)
    found = {one for one in cells if one is not None}
    return next((one for one in _WORST_FIRST if one in found), None)


def _drawn(function: Any, *arguments: Any, base: str) -> list[tuple[str, Markup]]:
    return [(name, Markup(svg)) for name, svg in function(*arguments, base=base)]  # noqa: S704 - charts.py escapes


def _reach(section: Section) -> float:
    """Return where the drawings of a section's changes end: past the largest change and margin."""
    drawn = (as_cell(cell).interval for row in (*section.rows, *section.quiet) for cell in row)
    ends = [abs(end) for one in drawn if one is not None for end in (one.delta, one.margin or 0.0)]
    return max([_LEAST_REACH, *(1.15 * end for end in ends)])


def _strip(interval: Any, reach: float, verdict: Verdict | None) -> Markup:
    return Markup(charts.strip(interval, reach, verdict or "series-0"))  # noqa: S704 - figures alone


def _heat(delta: float) -> str:
    """Return the classes of a change: four steps of loss, none within two points, two of gain."""
    for line, name in _HEAT:
        if delta <= line:
            return name
    if delta < 0.02:  # noqa: PLR2004 - two points, the mirror of the first step of loss
        return "heat-0"
    return "heat-p1" if delta < 0.1 else "heat-p2 strong"  # noqa: PLR2004 - ten points


def _rates(candidate: CandidateVerdict, *verdicts: Verdict) -> list[TailRate]:
    return [one for _, one in tail.gated([candidate], *verdicts)]


def _file(name: str) -> str:
    return resources.files("harness.report").joinpath("templates", name).read_text(encoding="utf-8")


def _harmless(value: object) -> object:
    """Make what a template expression gives harmless: jinja2 calls this for each, before it escapes."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(clip(value, _LONGEST))


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        loader=FunctionLoader(_file),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "points": words.points,
        "score": words.score,
        "word": words.word,
        "interval": words.interval,
        "readable": words.readable,
        "as_cell": as_cell,
        "heat": _heat,
        "reach": _reach,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }
    known: dict[str, Any] = {"symbols": words.SYMBOLS, "words": words, "tail": tail, "most_rows": _MOST_ROWS}
    environment.globals |= known | {"rates_of": _rates, "split": split_at_difference, "strip": _strip}
    return environment
