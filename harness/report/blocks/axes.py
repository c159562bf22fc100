"""Scores along ordered axes, as curves."""

from collections import defaultdict

from harness.judge.summaries import Cliff
from harness.judge.verdicts import Judgement
from harness.report.evidence import Evidence
from harness.report.section import Block, Chart, Line, Row, Section, names, numbers, texts
from harness.report.words import readable, score


def cliffs(judgement: Judgement, _: Evidence) -> Section:
    """Return the scores along each ordered axis, and where a candidate leaves the baseline."""
    found: dict[tuple[str, str, str, tuple[float, ...]], dict[str, Cliff]] = defaultdict(dict)
    for candidate in judgement.candidates:
        for one in (one for one in candidate.cliffs if one.levels):
            found[one.slice, one.axis, one.group, one.levels][candidate.name] = one
    base, judged = judgement.baseline, [one.name for one in judgement.candidates if one.cliffs]
    rows, quiet, drawn, said = list[Row](), list[Row](), list[Chart](), list[str]()
    for (label, axis, group, levels), curves in found.items():
        x = axis.replace("_", " ")
        title, first = f"{label} by {x}{f', {readable(group)}' if group else ''}", next(iter(curves.values()))
        flat = all(one.candidate == one.baseline for one in curves.values())
        for at, level in enumerate(levels):
            scores = (score(curves[name].candidate[at]) if name in curves else "-" for name in judged)
            (quiet if flat else rows).append((title, f"{level:g}", score(first.baseline[at]), *scores))
        if not flat:
            means = {base: first.baseline} | {name: one.candidate for name, one in curves.items()}
            named = [f"{level:g}" for level in levels]
            lines = (Line(one, tuple(zip(named, [100 * y for y in own], strict=True))) for one, own in means.items())
            drawn.append(Chart(title, x, tuple(lines), rule=100 * first.score))
            said += [_leaves(base, title, *one) for one in curves.items() if one[1].at is not None]
    count = len({row[0] for row in quiet})
    columns, charts = names("curve") + texts("level") + numbers(base, *judged), tuple(drawn)
    above = "No candidate is significantly below its margin from any level on."
    note = f"Mean score by level; dotted is the score to keep: 85 % of {base}'s first one, unless stated."
    shown = columns, tuple(rows), tuple(said) or (above,) * bool(drawn), note, "the scores at each level", tuple(quiet)
    counted = f"Nothing changed along {count} more axes." if count else ""
    return Section("Scores along ordered axes", *shown, quiet_note=counted, charts=charts, y="score")


def _leaves(baseline: str, title: str, name: str, one: Cliff) -> str:
    text = f"{name} leaves {baseline} in {title} at {one.at:g} by estimate"
    if one.at_low is not None and one.at_high is not None and one.at_low != one.at_high:
        text += f" (the data allow {one.at_low:g} to {one.at_high:g})"
    own, base = ("no level" if x is None else f"{x:g}" for x in (one.effective_candidate, one.effective_baseline))
    return f"{text}; it keeps a score of {score(one.score)} up to {own}, {baseline} up to {base}."


_NO_AXIS = "No slice has an ordered axis, such as context tokens or hops, with at least two levels."
BLOCKS = (Block("cliffs", "Where it falls off", cliffs, {"page": 30}, "Cliffs", _NO_AXIS),)
