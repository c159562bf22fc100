"""report.html: one self-contained page that opens from disk and asks the network for nothing.

Every text that a template writes passes through `sanitize.visible` and then through HTML escaping, by the environment
and not by the author's care; the page's own policy lets no script run but its own.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache, partial
from importlib import resources
from math import isfinite
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from harness.judge.decisions import points
from harness.judge.summaries import Verdict
from harness.judge.verdicts import Judgement
from harness.report import answers, charts, words
from harness.report.blocks import behaviour, filled, findings
from harness.report.blocks.measured import control_sentence
from harness.report.blocks.routing import relative_cost
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line, visible
from harness.report.section import Block, Section, as_cell

_LONGEST, _MOST_ROWS, _LEAST_REACH = 20_000, 400, 0.1
_WORST_FIRST: tuple[Verdict, ...] = ("fail", "inconclusive", "not_judged", "pass", "no_signal")
_LOSSES = ((-0.2, "heat-n4 strong"), (-0.1, "heat-n3 strong"), (-0.05, "heat-n2"), (-0.02, "heat-n1"))


def html_report(judgement: Judgement, evidence: Evidence, text_bytes: int = 4_000_000) -> str:
    """Return the page. `text_bytes`: how much of it answers to browse may take; the whole page stays under 6 MB."""
    pairs = answers.pairs(evidence)
    inside = answers.fitting(pairs, text_bytes)
    flips = Markup(answers.page_json(inside))  # noqa: S704 - page_json leaves no HTML in it
    more: dict[str, Any] = {"judgement": judgement, "evidence": evidence, "noise": control_sentence(judgement)}
    left_out = len(pairs) - len(inside) + evidence.flips_left_out
    more |= {"flips_json": flips, "browsable": bool(inside), "left_out": left_out}
    more |= {"cost_of": lambda name: one_line(relative_cost(judgement, evidence, name))}
    more |= {"worst": partial(behaviour.worst, judgement, evidence)}
    return render("report.html.j2", filled("page", judgement, evidence), judgement.baseline, **more)


def render(template: str, blocks: Sequence[tuple[Block, list[Section]]], baseline: str, **more: Any) -> str:
    """Return a page of these blocks. baseline: the name that charts draw as such."""
    script = _file("report.js")
    shown = [(block, sections) for block, sections in blocks if sections or block.absent or block.key == "flips"]
    own = {"css": Markup(_file("report.css")), "script": Markup(script)}  # noqa: S704 - our own files
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    marks = {block.key: _worst(sections) for block, sections in shown}
    found = {**more, **own, "script_digest": digest, "blocks": shown, "base": baseline, "marks": marks}
    return _environment().get_template(template).render(found)


def _worst(sections: Sequence[Section]) -> Verdict | None:
    found = {as_cell(cell).verdict for section in sections for row in (*section.rows, *section.quiet) for cell in row}
    return next((one for one in _WORST_FIRST if one in found), None)


def _reach(section: Section) -> float:
    """Return where the drawings of a section's changes end: past the largest change and margin."""
    drawn = (as_cell(cell).interval for row in (*section.rows, *section.quiet) for cell in row)
    ends = [abs(end) for one in drawn if one is not None for end in (one.delta, one.margin or 0.0)]
    return max([_LEAST_REACH, *(1.15 * end for end in ends)])


def _heat(delta: float) -> str:
    """Return the classes of a change: four steps of loss, none within two points, two of gain."""
    lost = next((name for line, name in _LOSSES if delta <= line), "")
    return lost or ("heat-0" if delta < 0.02 else "heat-p1" if delta < 0.1 else "heat-p2 strong")  # noqa: PLR2004


def _file(name: str) -> str:
    return resources.files("harness.report").joinpath("templates", name).read_text(encoding="utf-8")


def _short(text: str, longest: int) -> str:
    safe = one_line(clip(text, 4 * longest))
    return safe if len(safe) <= longest else f"{safe[: longest - 1]}…"


def _harmless(value: object) -> object:
    """Make what a template expression gives harmless: jinja2 calls this for each, before it escapes."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else visible(clip(value, _LONGEST))


@cache
def _environment() -> Environment:
    made = Environment(autoescape=True, undefined=StrictUndefined, finalize=_harmless, loader=FunctionLoader(_file))
    made.trim_blocks = made.lstrip_blocks = True
    filters = (points, words.score, words.word, words.interval, words.readable, words.place, as_cell)
    made.filters |= {one.__name__: one for one in filters}
    made.filters |= {"heat": _heat, "reach": _reach, "tenth": "{:.1f}".format, "short": _short}
    made.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    made.filters["finite"] = lambda every: [one for one in every if isfinite(one[1])]
    made.globals.update(symbols=words.SYMBOLS, words=words, findings=findings, charts=charts, most_rows=_MOST_ROWS)
    return made
