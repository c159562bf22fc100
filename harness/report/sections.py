"""What the reports show of a judgement, section by section; a new section is a function here and a line in each format.

Each format renders these with its own table. Only the strata have a layout of their own in each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.judge.summaries import Average, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report import tail, words
from harness.report.costs import Plan
from harness.report.evidence import DivergenceRow, Evidence
from harness.report.page import CliffGroup, Grid
from harness.report.section import Cell, Column, Row, Section, names, numbers, strata, texts
from harness.report.words import points, score

__all__ = [
    "answers_spent", "average_rows", "averages", "choice_probabilities", "cliff", "control_noise", "control_sentence",
    "divergence", "findings", "grid", "hidden_by_averages", "power", "provenance", "routes", "scoring_notes",
    "strata_table", "verdicts",
]  # fmt: skip

_BY_IMPORTANCE: tuple[Verdict, ...] = ("fail", "inconclusive", "no_signal", "not_judged", "pass")


def verdicts(judgement: Judgement) -> Section:
    """Return each candidate's verdict and what decides it."""
    rows = tuple((one.name, Cell("", verdict=one.verdict), words.headline(one)) for one in judgement.candidates)
    return Section("Verdicts", names("candidate") + texts("verdict", "what decides"), rows)


def findings(judgement: Judgement) -> list[Section]:
    """Return the sentences on all that does not pass, what matters most first."""
    base = judgement.baseline
    judged = [candidate for candidate in judgement.candidates if candidate.verdict != "not_judged"]

    def found(verdict: Verdict, *, gating: bool = True) -> list[tuple[str, StratumVerdict]]:
        return [(one.name, stratum) for one in judged for stratum in words.strata_with(one, verdict, gating=gating)]

    blind = dict.fromkeys(
        words.no_signal_sentence(one, base) for gating in (True, False) for _, one in found("no_signal", gating=gating)
    )
    silent = [
        f"{name} in {words.place(one)}: {one.reason or 'no figures to judge'}" for name, one in found("not_judged")
    ]
    everyone = judgement.candidates
    return [
        Section.listed("Two promises", (line for one in judged for line in words.promises(one))),
        Section.listed("Failing strata", (words.stratum_sentence(one, name, base) for name, one in found("fail"))),
        Section.listed("Tail events beyond their tolerance", tail.sentences(everyone, "fail")),
        Section.listed(
            "Below the margin, advisory",
            (words.stratum_sentence(one, name, base) for name, one in found("fail", gating=False)),
        ),
        Section.listed("Undecided", (words.undecided_sentence(one, name) for name, one in found("inconclusive"))),
        Section.listed("Tail events undecided", tail.sentences(everyone, "inconclusive")),
        Section.listed("No signal", blind),
        Section.listed("Not judged", silent),
        Section.listed("Tail events without signal", tail.sentences(everyone, "no_signal")),
        Section.listed("Tail events not judged", tail.sentences(everyone, "not_judged")),
    ]


def average_rows(candidate: CandidateVerdict) -> tuple[Average, ...]:
    """Return the averages to show: one line if the whole is a single slice, whatever it is called."""
    first = candidate.averages[:1]
    return first + tuple(one for one in candidate.averages[1:] if (one.slice, one.n) != (first[0].slice, first[0].n))


def averages(judgement: Judgement) -> Section:
    """Return each average with the worst stratum behind it."""
    rows = tuple(
        (
            candidate.name,
            one.slice,
            str(one.n),
            score(one.baseline_mean),
            score(one.candidate_mean),
            points(one.delta),
            Cell(points(one.worst_delta), strong=True),
            one.worst_stratum.removeprefix(f"{one.slice}/"),
        )
        for candidate in judgement.candidates
        for one in average_rows(candidate)
    )
    columns = names("candidate", "average of") + numbers("n", judgement.baseline, "score", "change", "worst")
    title = "Averages next to the worst stratum (points)"
    return Section(title, columns + strata("worst stratum"), rows, folded="averages")


def hidden_by_averages(judgement: Judgement) -> Section:
    """Return what each candidate's average hides."""
    hidden = (f"{one.name}: {one.hidden}" for one in judgement.candidates if one.hidden)
    return Section.listed("What the average hides", hidden)


def choice_probabilities(judgement: Judgement) -> Section:
    """Return how likely the right choices are, by candidate and stratum."""
    rows: list[Row] = []
    for candidate in judgement.candidates:
        for stratum in candidate.strata:
            if (one := stratum.choice_probability) is not None:
                means = score(one.baseline_mean), score(one.candidate_mean)
                change = points(one.delta), f"{points(one.low)} to {points(one.high)}"
                rows.append((candidate.name, words.place(stratum), str(one.n), *means, *change))
    return Section(
        "Probability of the right choice (points)",
        names("candidate", "stratum") + numbers("n", judgement.baseline, "candidate's", "change", "limits"),
        tuple(rows),
        note="How likely the right choice is among the choices: not the score. It moves before the preferred choice "
        "changes; it has no margin and is not part of a verdict.",
        folded="probability of the right choice",
    )


def control_noise(judgement: Judgement) -> Section:
    """Return what the A/A control flipped in each stratum, each stratum once."""
    found = {(one.slice, one.stratum): one for candidate in judgement.candidates for one in candidate.strata}
    rows: tuple[Row, ...] = tuple(
        (*key, str(_asked(judgement, one)), str(one.control.flips), points(one.control.delta))
        for key, one in found.items()
        if one.control is not None
    )
    columns = names("slice") + strata("stratum") + numbers("n", "flips", "change")
    sentence = control_sentence(judgement)
    if sentence:
        sentence = f"{sentence} Differences no larger than this A/A noise should not be read as regressions."
    return Section("A/A noise", columns, rows, note=sentence, folded="the A/A noise per stratum")


def _asked(judgement: Judgement, stratum: StratumVerdict) -> int:
    """Return the items on which the control was compared in a stratum."""
    own = judgement.control.strata if judgement.control is not None else ()
    key = stratum.slice, stratum.stratum
    return next((one.n for one in own if (one.slice, one.stratum) == key), stratum.n)


def control_sentence(judgement: Judgement) -> str:
    """Return what differs if nothing but the batching does; empty if it was not measured."""
    found = {(one.slice, one.stratum): one for candidate in judgement.candidates for one in candidate.strata}
    known = [(one, one.control) for one in found.values() if one.control is not None]
    if not known:
        return ""
    items, flips = sum(_asked(judgement, one) for one, _ in known), sum(noise.flips for _, noise in known)
    text = f"The baseline against itself at another batch size flipped {flips} of {items:,} items"
    worst, noise = max(known, key=lambda pair: abs(pair[1].delta))
    if noise.delta:
        text += f"; the largest difference is {points(noise.delta)} points in {words.place(worst)}"
    if judgement.control is not None and judgement.control.verdict == "fail":
        text += "; it FAILS the gate itself, so nothing here can be compared"
    return f"{text}."


def scoring_notes(evidence: Evidence) -> Section:
    """Return which answers hold a thinking part, and which reached a limit of scoring."""
    rows = tuple(
        (
            one.variant,
            f"{one.answers:,}",
            f"{one.thinking:,}",
            "-" if one.thinking_characters is None else f"{one.thinking_characters:,.0f}",
            f"{one.limited:,}",
        )
        for one in evidence.scoring
    )
    headings = "answers", "with thinking", "mean thinking characters", "at a scoring limit"
    note = (
        "The thinking part of an answer is not scored. An answer at a scoring limit was too long or too slow to score: "
        "it scores 0, or by the metrics that were in time."
    )
    return Section("Scoring", names("variant") + numbers(*headings), rows, note=note)


def power(evidence: Evidence) -> Section:
    """Return what the plan could detect, per stratum."""
    rows = tuple(
        (
            one.slice,
            one.stratum,
            f"{one.items:,}",
            score(one.detectable_drop),
            "-" if one.items_for_pass is None else f"{one.items_for_pass:,}",
        )
        for one in evidence.power
    )
    columns = names("slice") + strata("stratum") + numbers("items", "smallest drop detected", "items for a pass")
    return Section("Power of the plan (points, 80 % power)", columns, rows, folded="what the plan could detect")


def answers_spent(judgement: Judgement, evidence: Evidence) -> tuple[int, int] | None:
    """Return answers asked and answers that the fixed plan asks for; None if no plan is known.

    What the run counted, else the sum over all candidates and strata.
    """
    if evidence.items_spent is not None and evidence.items_planned is not None:
        return evidence.items_spent, evidence.items_planned
    known = [one for candidate in judgement.candidates for one in candidate.strata if one.items_planned]
    return (sum(one.n for one in known), sum(max(one.items_planned, one.n) for one in known)) if known else None


def provenance(judgement: Judgement, evidence: Evidence, *, policy: bool = False) -> Section:
    """Return every fact about how the figures were made."""
    facts = {"results": evidence.path, **_flat({**judgement.provenance, **evidence.provenance})}
    known = facts if any(facts.values()) else {}
    if policy and known:
        known |= _flat({"policy": judgement.policy})
    rows = tuple((name, value) for name, value in known.items() if value)
    return Section("How it was measured", names("what", "value"), rows, folded="every digest, version, device, setting")


def _flat(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Return nested facts as ``path.to.key`` and text, in the order they came; empty values are left out."""
    facts: dict[str, str] = {}
    for key, one in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(one, Mapping):
            facts |= _flat(one, name)
        elif isinstance(one, (list, tuple)):
            facts |= {name: " ".join(str(part) for part in one)} if one else {}
        elif one is not None and one != "":
            facts[name] = str(one)
    return facts


def strata_table(judgement: Judgement, candidate: CandidateVerdict) -> Section:
    """Return all strata of a candidate, failing ones first, so that what does not fit is what matters least."""
    order = sorted(candidate.strata, key=lambda one: (_BY_IMPORTANCE.index(one.verdict), not one.gating))
    rows = tuple(
        (
            one.slice,
            one.stratum,
            Cell("" if one.gating else "(advisory)", verdict=one.verdict),
            str(one.n),
            score(one.baseline_mean),
            score(one.candidate_mean),
            words.change(one),
            score(one.margin),
            f"{one.lost}/{one.gained}",
        )
        for one in order
    )
    figures = numbers("n", judgement.baseline, "candidate", "change", "margin", "lost/gained")
    title = f"All {len(rows)} strata of {candidate.name}, {words.limits_label(judgement)}"
    return Section(title, names("slice") + strata("stratum") + texts("verdict") + figures, rows)


def divergence(label: str, rows: Sequence[DivergenceRow], baseline: str, note: str = "") -> Section:
    """Return the divergence of a slice, by stratum and position."""
    token = f"probability of {baseline}'s token"

    def within(figure: str, error: str) -> Cell:
        return Cell(figure, note="" if error == "-" else f"± {error}")

    cells = tuple(
        (
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
        for one in rows
    )
    figures = numbers("KL, nats/token", "A/A noise", "reverse KL", "same top token", token, "tokens")
    columns = names("candidate") + strata("stratum") + texts("positions") + figures
    return Section(label, columns, cells, note=note, folded=f"divergence in {label}")


def grid(one: Grid) -> Section:
    """Return the figures of a heat map."""

    def cell(column: str, row: str) -> Cell:
        delta, verdict = one.cells[column, row]
        return Cell(points(delta), verdict=verdict)

    rows: tuple[Row, ...] = tuple((row, *(cell(column, row) for column in one.columns)) for row in one.rows)
    return Section(one.title, names(one.axes[1]) + numbers(*one.columns), rows, folded=one.title)


def cliff(group: CliffGroup, baseline: str) -> Section:
    """Return the curves of all candidates along an axis, and where each leaves the baseline."""
    first = group.curves[0][1]
    rows = tuple(
        (f"{level:g}", score(first.baseline[at]), *(score(one.candidate[at]) for _, one in group.curves))
        for at, level in enumerate(first.levels)
    )
    columns = texts(group.axis) + numbers(baseline, *(name for name, _ in group.curves))
    said = []
    for name, one in group.curves:
        text = "no level is significantly below its margin"
        if one.at is not None:
            text = f"leaves {baseline} at {one.axis} {one.at:g} by estimate"
            if one.at_low is not None and one.at_high is not None and one.at_low != one.at_high:
                text += f" (the data allow {one.at_low:g} to {one.at_high:g})"
        own, base = ("no level" if x is None else f"{x:g}" for x in (one.effective_candidate, one.effective_baseline))
        said.append(f"{name}: {text}; keeps a score of {score(one.score)} up to {own}, {baseline} up to {base}.")
    return Section(group.title, columns, rows, tuple(said), folded=group.title)


def routes(plans: Sequence[Plan]) -> Section:
    """Return where each stratum's traffic could go, by each measure of cost."""
    columns: tuple[Column, ...] = names("slice") + strata("stratum") + numbers("share")
    for plan in plans:
        columns += names(f"by {plan.measure}") + numbers("cost")
    rows = tuple(
        (
            route.slice,
            route.stratum,
            words.percent(route.share),
            *(text for plan in plans for text in (plan.routes[at].variant, words.percent(plan.routes[at].cost))),
            ", ".join(route.passed) or "none",
        )
        for at, route in enumerate(plans[0].routes if plans else ())
    )
    return Section("Routing plan", columns + names("passed"), rows, folded="the route of each stratum")
