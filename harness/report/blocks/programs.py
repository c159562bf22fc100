"""What programs read, as sections: test cases for CI systems, and tables in which no figure is rounded."""

import dataclasses
from collections.abc import Iterator

from harness.judge.summaries import ChoiceProbability, TailRate
from harness.judge.verdicts import FIGURES, CandidateVerdict, Judgement, StratumVerdict
from harness.report import words
from harness.report.blocks.findings import rate_sentence
from harness.report.section import Block, Column, Section, columns, texts

_CHOICE = {f"choice_probability_{one.name}": one.name for one in dataclasses.fields(ChoiceProbability)}
COLUMNS = (
    *columns("string", "candidate"),
    *(Column(name, figure.kind) for name, figure in FIGURES.items()),
    *(Column(name, "int64" if of == "n" else "float64") for name, of in _CHOICE.items()),
)
_OUTCOMES = {"pass": "", "fail": "failure"}


def cases(judgement: Judgement) -> Iterator[Section]:
    """Yield a section per candidate: a row per gating stratum and gated rate of tail events; advisory strata below.

    What neither passes nor fails is an *error*: GitLab, Jenkins, Azure and GitHub's actions count a skipped case as
    fine, and an undecided stratum is not fine. A candidate that did not pass although all its cases pass gets another
    case, and so does the run.
    """
    head, green = texts("case", "class", "outcome", "verdict", "message"), True
    for candidate in judgement.candidates:
        name, strata = candidate.name, [one for one in candidate.strata if one.gating]
        found = [(one.stratum, one.slice, one.verdict, _why(one, judgement, candidate)) for one in strata]
        found += [
            (f"{one.stratum}: {one.kind}", one.slice, verdict, rate_sentence(one, name))
            for one in candidate.tail_events
            if (verdict := one.verdict)
        ]
        rows = [(case, f"{name}.{at}", _OUTCOMES.get(how, "error"), how, why) for case, at, how, why in found]
        if not any(row[2] for row in rows) and (candidate.verdict != "pass" or not rows):
            message = words.reasons(candidate) if candidate.reasons or rows else "no gating stratum was judged"
            rows.append(("verdict", name, "error", candidate.verdict, message))
        others = (one for one in candidate.strata if not one.gating)
        listed = tuple(f"{words.place(one)}: {words.change(one)} {one.verdict}" for one in others)
        yield Section(name, head, tuple(rows), listed, "advisory strata, not part of the verdict:")
        green = green and not any(row[2] for row in rows)
    if green and (judgement.verdict != "pass" or judgement.exit_code != 0):
        message = " ".join(judgement.warnings) or words.exit_meaning(judgement)
        yield Section("run", head, (("verdict", "quantcliff.run", "error", judgement.verdict, message),))


def _why(one: StratumVerdict, judgement: Judgement, candidate: CandidateVerdict) -> str:
    if one.verdict == "fail":
        return words.stratum_sentence(one, candidate.name, judgement.baseline)
    if one.verdict == "inconclusive":
        return words.undecided_sentence(one, candidate.name)
    if one.verdict == "no_signal":
        return words.no_signal_sentence(one, judgement.baseline)
    return one.reason or words.reasons(candidate)


def comparisons(judgement: Judgement) -> Section:
    """Return a row per candidate and stratum; missing figures are None."""
    rows = []
    for candidate in judgement.candidates:
        for one in candidate.strata:
            figures = {name: figure.read(one) for name, figure in FIGURES.items()}
            figures["levels"] = ",".join(f"{axis}={level}" for axis, level in one.levels.items())
            known = one.choice_probability
            rows.append((candidate.name, *figures.values(), *(known and getattr(known, of) for of in _CHOICE.values())))
    return Section("comparisons", COLUMNS, tuple(rows))


def tail_events(judgement: Judgement) -> Section:
    """Return a row per candidate, the A/A control among them, stratum and kind; empty if no candidate has any."""
    known = [one.name for one in dataclasses.fields(TailRate)]
    sides = [*judgement.candidates, *([judgement.control] if judgement.control else [])]
    rows = ((side.name, *(getattr(one, name) for name in known)) for side in sides for one in side.tail_events)
    found = any(one.tail_events for one in judgement.candidates)
    return Section("tail_events", columns("string", "candidate", *known), tuple(rows) if found else ())


BLOCKS = (
    Block("junit", "Test cases", lambda one, _: cases(one), {"junit": 10}),
    Block("tables", "Tables", lambda one, _: [comparisons(one), tail_events(one)], {"table": 10}),
)
