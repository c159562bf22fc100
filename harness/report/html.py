"""report.html: one self-contained page that opens from disk and asks the network for nothing.

Puts sections and charts into the template under templates/. Every text that the template writes passes through
`sanitize.visible` and then through HTML escaping, by the environment and not by the author's care; the page's own
policy lets no script run but its own. This module computes no figure.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import count
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from harness.judge.summaries import TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement
from harness.report import charts, costs, flips, page, sections, tail, words
from harness.report.diff import split_at_difference
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line, visible
from harness.report.section import Section, as_cell
from harness.report.traffic import measured, shares_section

__all__ = ["SIDE_FILE", "Page", "html_report"]

SIDE_FILE = "report-flips.json"
"""Holds the flips that do not fit the page."""

_LONGEST = 20_000
_MOST_ROWS = 400
_ALARM = "an alarm and an explanation, never a pass."


@dataclass(frozen=True, slots=True)
class Page:
    """What is to be written."""

    html: str
    """The page."""
    side_file: str | None
    """The side file's JSON, None if everything fits the page."""


@dataclass(frozen=True, slots=True)
class Part:
    """A section on the page, with its pictures."""

    section: Section
    """Title, notes, sentences and table."""
    figures: Sequence[tuple[tuple[Markup, ...], str]] = ()
    """Pictures, one for desks and one for phones if they differ, each with its caption."""
    titled: bool = True
    """Whether the section's title is shown."""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading on the page with its parts."""

    key: str
    """Its anchor."""
    link: str
    """Its name in the navigation."""
    title: str
    """Its heading."""
    parts: Sequence[Part] = ()
    """In order."""
    note: str = ""
    """A sentence under the heading."""
    absent: str = ""
    """What is said if there are no parts."""


def html_report(judgement: Judgement, evidence: Evidence, text_bytes: int = flips.PAGE_BYTES) -> Page:
    """Return the page. `text_bytes`: how much of it answers may take: tail events, examples and flips."""
    texts = flips.page_texts(evidence, _failing(judgement), text_bytes)
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
            matrix=page.matrix(judgement),
            shares=Part(shares_section(judgement), titled=False),
            plans=costs.plans(judgement, evidence),
            noise=sections.control_sentence(judgement),
            cost_of=lambda name: one_line(costs.relative_cost(judgement, evidence, name)),
            blocks=_blocks(judgement, evidence),
        )
    )
    return Page(html, flips.page_json(texts.left_over) if texts.left_over else None)


def _failing(judgement: Judgement) -> set[tuple[str, str, str]]:
    return {
        (one_line(candidate.name), one_line(one.slice), one_line(one.stratum))
        for candidate in judgement.candidates
        for one in words.strata_with(candidate, "fail")
    }


def _blocks(judgement: Judgement, evidence: Evidence) -> list[Block]:
    """Return everything under the matrix, in the page's order."""
    drawn = _drawn_blocks(judgement, evidence)
    spent = sections.answers_spent(judgement, evidence)
    asked = f"{spent[0]:,} answers of the {spent[1]:,} that the fixed plan asks for." if spent else ""
    scoring = _present(Part(sections.scoring_notes(evidence), titled=False))
    power = _present(Part(sections.power(evidence), titled=False))
    noise = _present(Part(sections.control_noise(judgement), titled=False))
    facts = _present(Part(sections.provenance(judgement, evidence, policy=True), titled=False))
    times = _present(*map(Part, evidence.latency))
    how = "; ".join(measured(judgement, evidence))
    return [
        *(drawn[key] for key in ("forest", "heat", "cliffs", "averages")),
        Block("tail", "Tail", "Tail events", _tail(judgement), "", "No answer was checked for tail events."),
        drawn["divergence"],
        Block("flips", "Flips", "Flips: what changed, answer by answer"),
        *([Block("scoring", "Scoring", "Thinking and limits of scoring", scoring)] if scoring else []),
        drawn["cost"],
        *([Block("times", "Times", "Times and lengths", times)] if times else []),
        Block("power", "Power", "Power and items asked", power, asked, "No power table came with this comparison."),
        Block("noise", "A/A noise", "A/A noise", noise, "", "Not measured: a difference may be noise of batching."),
        Block("provenance", "Provenance", "How it was measured", facts, how, "The comparison came without provenance."),
    ]


def _present(*parts: Part) -> list[Part]:
    return [part for part in parts if part.section or part.figures]


def _tail(judgement: Judgement) -> list[Part]:
    kinds = Part(tail.kinds_section(judgement, all_kinds=True)[0], titled=False)
    rates = (Part(tail.rates_section(judgement, passed=passed)) for passed in (False, True))
    return _present(kinds, *rates)


def _drawn_blocks(judgement: Judgement, evidence: Evidence) -> dict[str, Block]:
    """Return the blocks with pictures, by key: drawing them is most of a page's time."""
    keys = (f"chart-{number}" for number in count(1))
    forests = [_forest(one, keys) for one in judgement.candidates if one.strata]
    heat = [_heat(grid, next(keys)) for grid in page.grids(judgement)]
    cliffs = [_cliff(group, judgement.baseline, next(keys)) for group in page.cliff_groups(judgement)]
    means, diverged = _averages(judgement, keys), _divergences(judgement, evidence, keys)
    frontiers = [_frontier(one, next(keys)) for one in costs.cost_points(judgement, evidence)]
    cost = _present(
        Part(costs.cost_section(judgement, evidence), frontiers, titled=False),
        Part(costs.proof_section(evidence), titled=False),
    )
    same, no_change = "The matrix holds the same figures." if forests else "", "No stratum has a change to draw."
    no_axis = "No slice has an ordered axis, such as context tokens or hops, with at least two levels."
    made = (
        Block("forest", "Forest", "Change against the margin", forests, same, no_change),
        Block("heat", "Heat maps", "Along two axes", heat, "", "No slice is split along two axes."),
        Block("cliffs", "Cliffs", "Where it falls off", cliffs, "", no_axis),
        Block("averages", "Averages", "The average and the worst stratum", means, "", "No averages were computed."),
        Block("divergence", "Divergence", "Divergence", diverged, "", "Not measured in this run."),
        Block("cost", "Cost", "Quality against cost", cost, "", "No cost was measured."),
    )
    return {block.key: block for block in made}


def _heat(grid: page.Grid, key: str) -> Part:
    picture = _svg(charts.heat(grid.cells, grid.axes, key=key, title=grid.title))
    return Part(sections.grid(grid), [(picture, f"Change in points over {grid.axes[0]} and {grid.axes[1]}.")])


def _cliff(group: page.CliffGroup, baseline: str, key: str) -> Part:
    picture = _svg(charts.cliff(group.curves, baseline, key=key, title=group.title))
    caption = f"Mean score along {group.axis}; the dotted line is the score that the effective level is stated for."
    return Part(sections.cliff(group, baseline), [(picture, caption)])


def _frontier(cost: costs.CostPoint, key: str) -> tuple[tuple[Markup, ...], str]:
    picture = charts.frontier(cost.points, key=key, axis=cost.measure, title=f"Average change against {cost.measure}")
    return _svg(picture), "Filled markers are on the frontier: no other variant is both cheaper and better."


def _averages(judgement: Judgement, keys: Iterator[str]) -> list[Part]:
    if not any(one.averages for one in judgement.candidates):
        return []
    pictures = _svg(*(charts.averages(judgement.candidates, key=next(keys), narrow=narrow) for narrow in (False, True)))
    caption = "Each slice's average change (circle) joined to its worst stratum (cross)."
    means = Part(sections.averages(judgement), [(pictures, caption)], titled=False)
    return _present(means, Part(sections.choice_probabilities(judgement)))


def _forest(candidate: CandidateVerdict, keys: Iterator[str]) -> Part:
    """Draw a forest plot for a desk and one for a phone."""
    rows, left_out = page.forest_rows(candidate, charts.MOST_ROWS)
    pictures = _svg(*(charts.forest(candidate, rows, next(keys), narrow=narrow) for narrow in (False, True)))
    more = f"; the {left_out} strata with the best lower limits are left out" if left_out else ""
    caption = (
        f"Change of {candidate.name} in each stratum, with its limits; left of the dashed margin is too much{more}."
    )
    return Part(Section(candidate.name), [(pictures, caption)])


def _divergences(judgement: Judgement, evidence: Evidence, keys: Iterator[str]) -> list[Part]:
    """Draw divergence by position; choices have none."""
    parts = []
    caption = f"Mean KL divergence from {judgement.baseline} by token position: {_ALARM}"
    for label, series, rows in page.divergence_groups(evidence):
        key, figures, note = (
            next(keys),
            [],
            f"Choices have no token positions: by stratum alone. It is {_ALARM}",
        )
        if any(series.values()):
            note = ""
            figures = [(_svg(charts.divergence(series, key=key, title=f"Divergence in {label}")), caption)]
        parts.append(Part(sections.divergence(label, rows, judgement.baseline, note), figures))
    return parts


def _svg(*texts: str) -> tuple[Markup, ...]:
    return tuple(Markup(text) for text in texts)  # noqa: S704 - svg.py escapes every label


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
        "percent": words.percent,
        "word": words.word,
        "interval": words.interval,
        "short_name": words.short_name,
        "place_of": words.place,
        "as_cell": as_cell,
        "capitalize_first": lambda text: text[:1].upper() + text[1:],
    }
    known: dict[str, Any] = {"symbols": words.SYMBOLS, "words": words, "tail": tail, "most_rows": _MOST_ROWS}
    environment.globals |= known | {"rates_of": _rates, "split": split_at_difference, "routes": sections.routes}
    return environment
