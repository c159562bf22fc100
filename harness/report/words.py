"""The sentences and numbers of every report, said once: terminal, Markdown, JUnit and page read alike.

Works on a `harness.judge.verdicts.Judgement` and `harness.report.evidence.Evidence` alone. Figures are formatted here
and compared nowhere: every comparison was made by the gate on unrounded numbers. A missing figure reads ``-``, never
zero. What these functions give may hold names from outside; whoever writes it out sanitizes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.judge.verdicts import Average, CandidateVerdict, Judgement, StratumVerdict, Verdict
from harness.models.compatibility import partly_quantized
from harness.report.evidence import Evidence

__all__ = [
    "ASCII_SYMBOLS",
    "NOT_STORED",
    "SYMBOLS",
    "Floor",
    "answer",
    "averages",
    "axes_and_levels",
    "change",
    "chosen",
    "exit_meaning",
    "flat",
    "floor",
    "headline",
    "interval",
    "limits_label",
    "nats",
    "no_signal_sentence",
    "percent",
    "place",
    "points",
    "reasons",
    "score",
    "short_name",
    "spent",
    "splitting",
    "stratum_sentence",
    "texts_note",
    "to_decide",
    "told",
    "undecided_sentence",
    "word",
]

NOT_STORED = "The texts of this item are not stored; its scores are."
"""In place of an item's texts."""

SYMBOLS: Mapping[Verdict, str] = {
    "pass": "✔",
    "fail": "✘",
    "inconclusive": "?",
    "no_signal": "∅",
    "not_judged": "⊘",
}
"""A sign beside every colour, so that the report reads without colours."""

ASCII_SYMBOLS: Mapping[Verdict, str] = {
    "pass": "+",
    "fail": "x",
    "inconclusive": "?",
    "no_signal": "0",
    "not_judged": "-",
}
"""The same for terminals that have ASCII only."""

_MEANINGS = {
    0: "pass: every gating stratum of every candidate is within its margin",
    1: "fail: at least one gating stratum is worse than its margin",
    2: "bad usage or config: nothing was judged",
    3: "inconclusive: the items at hand prove neither good nor bad, or a gating stratum has no signal",
    4: "incomplete or not comparable: there is no verdict to rely on",
}

_WITH_EVENTS = {
    0: ", and no gated tail event is more frequent than tolerated",
    1: ", or has more tail events than tolerated",
}
"""What is to be added where tail events gate."""

_FIGURES, _FIGURES_END = " around a margin of ", "; "

_MOST_DECIMALS = 4
_MOST_REASONS = 3


def word(verdict: Verdict) -> str:
    """Give a verdict as words."""
    return verdict.replace("_", " ")


def exit_meaning(judgement: Judgement) -> str:
    """Say what the exit code means."""
    text = _MEANINGS.get(judgement.exit_code, "unknown")
    gated = any(one.verdict is not None for candidate in judgement.candidates for one in candidate.tail_events)
    return text + (_WITH_EVENTS.get(judgement.exit_code, "") if gated else "")


def points(value: float | None, *, sign: bool = True, apart_from: float | None = None) -> str:
    """Give a proportion in points (0.02 is 2.0) with one decimal, ``-`` where there is none.

    More decimals where it would otherwise read like `apart_from` without being it: a limit just beyond its margin.
    """
    if value is None or not math.isfinite(value):
        return "-"
    decimals = 1
    while (
        apart_from is not None
        and value != apart_from
        and decimals < _MOST_DECIMALS
        and f"{value * 100:.{decimals}f}" == f"{apart_from * 100:.{decimals}f}"
    ):
        decimals += 1
    if value == 0:
        return "0.0"
    return f"{value * 100:{'+' if sign else ''}.{decimals}f}"


def score(value: float | None) -> str:
    """Give a mean score in [0, 1] as a percentage without its sign."""
    return points(value, sign=False)


def nats(value: float | None) -> str:
    """Give a divergence in nats with three significant digits, ``-`` where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def percent(value: float | None) -> str:
    """Give a proportion as a percentage, with its sign."""
    return "-" if value is None or not math.isfinite(value) else f"{value * 100:.1f} %"


def interval(stratum: StratumVerdict) -> str:
    """Give the limits of delta in points, as in ``[-57.1, -28.9]``; ``-`` where there are none."""
    if stratum.low is None and stratum.high is None:
        return "-"
    line = -stratum.margin
    return f"[{points(stratum.low, apart_from=line)}, {points(stratum.high, apart_from=line)}]"


def change(stratum: StratumVerdict) -> str:
    """Give delta with its limits in points."""
    return f"{points(stratum.delta)} {interval(stratum)}" if stratum.delta is not None else "-"


def limits_label(judgement: Judgement) -> str:
    """Say what the limits are, from the policy's alpha."""
    alpha = judgement.policy.get("alpha")
    level = f"{(1 - alpha) * 100:g} % " if isinstance(alpha, (int, float)) else ""
    return f"one-sided {level}limits"


def axes_and_levels(stratum: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split a stratum's name: ``hops=3,magnitude=large`` into its axes and its levels; no axes for ``all``."""
    parts = [part.partition("=") for part in stratum.split(",")]
    if not all(middle for _, middle, _ in parts):
        return (), (stratum,)
    return tuple(axis for axis, _, _ in parts), tuple(level for _, _, level in parts)


def splitting(strata: Sequence[StratumVerdict]) -> tuple[str, ...]:
    """Give the axes on which a slice's strata differ; all of them where none does or their names do not fit."""
    named = [axes_and_levels(one.stratum) for one in strata]
    axes = named[0][0]
    if any(one[0] != axes for one in named):
        return tuple(dict.fromkeys(axis for one in named for axis in one[0]))
    return tuple(a for i, a in enumerate(axes) if len({levels[i] for _, levels in named}) > 1) or axes


def short_name(stratum: str) -> str:
    """Name a stratum by its levels alone, a slice before it kept: ``long_context/8192, 0.5``."""
    label, slash, name = stratum.rpartition("/")
    return label + slash + ", ".join(axes_and_levels(name)[1])


def place(stratum: StratumVerdict) -> str:
    """Name a stratum with its slice, as in ``code`` or ``long_context, depth=0.5``."""
    return stratum.slice if stratum.stratum == "all" else f"{stratum.slice}, {stratum.stratum}"


def chosen(candidate: CandidateVerdict, verdict: Verdict, *, gating: bool = True) -> list[StratumVerdict]:
    """Give the gating (or the advisory) strata with a verdict, the worst delta first, unknown deltas last."""
    strata = [one for one in candidate.strata if one.gating is gating and one.verdict == verdict]
    return sorted(strata, key=lambda one: math.inf if one.delta is None else one.delta)


def told(
    judgement: Judgement, verdict: Verdict, *, gating: bool = True
) -> list[tuple[CandidateVerdict, StratumVerdict]]:
    """Give the strata with a verdict over all candidates that were judged, the worst of each first."""
    judged = [candidate for candidate in judgement.candidates if candidate.verdict != "not_judged"]
    return [(candidate, one) for candidate in judged for one in chosen(candidate, verdict, gating=gating)]


def averages(candidate: CandidateVerdict) -> tuple[Average, ...]:
    """Give the averages to show: one line where the whole is a single slice, whatever it is called."""
    first = candidate.averages[:1]
    return first + tuple(one for one in candidate.averages[1:] if (one.slice, one.n) != (first[0].slice, first[0].n))


def texts_note(evidence: Evidence) -> str:
    """Say what the run does not hold of its texts; empty where it holds all."""
    kept = {
        "full": "",
        "redacted": "Personal data was taken out of the texts before they were stored: brackets stand in its place.",
        "none": "This run stores no texts (store_text: none): items are known by their ids and scores.",
    }[evidence.store_text]
    erased = f"The texts of {evidence.erased:,} item(s) were erased." if evidence.erased else ""
    return " ".join(filter(None, (kept, erased)))


def _strata(count: int) -> str:
    return "1 gating stratum" if count == 1 else f"{count} gating strata"


def reasons(candidate: CandidateVerdict) -> str:
    """Join the gate's own sentences, the first three of many; a stand-in where it gave none."""
    text = "; ".join(one.rstrip(".") for one in candidate.reasons[:_MOST_REASONS])
    more = len(candidate.reasons) - _MOST_REASONS
    return (f"{text}; and {more} more" if more > 0 else text) or "no reason was given"


def headline(candidate: CandidateVerdict) -> str:
    """Say in one sentence what the gate says of a candidate, and the figure that matters most."""
    gating = [one for one in candidate.strata if one.gating]
    if candidate.verdict == "not_judged" or not gating:
        return reasons(candidate)
    events = _events(candidate)
    text = _scores_headline(candidate, gating)
    partly = partly_quantized(candidate.proof.get("quantized_share"))
    parts = (text, events, partly) if candidate.verdict == "pass" else (events, text, partly)
    return "; ".join(filter(None, parts))


def _events(candidate: CandidateVerdict) -> str:
    """Say how many gated rates of tail events there are, and which fail or are open."""
    gated = [one for one in candidate.tail_events if one.verdict is not None]
    failing = [one for one in gated if one.verdict == "fail"]
    if failing:
        worst = max(failing, key=lambda one: (one.rate or 0.0) - (one.tolerance or 0.0))
        where = worst.slice if worst.stratum == "all" else f"{worst.slice}, {worst.stratum}"
        told = f"{worst.events} of {worst.n} answers (tolerated {percent(worst.tolerance)})"
        return f"fails {len(failing)} of {len(gated)} tail-event rates, worst {worst.kind} in {where}: {told}"
    open_ = sum(one.verdict != "pass" for one in gated)
    if open_:
        return f"{open_} of {len(gated)} tail-event rates undecided"
    return f"all {len(gated)} tail-event rates within their tolerance" if gated else ""


def _scores_headline(candidate: CandidateVerdict, gating: list[StratumVerdict]) -> str:
    if all(one.verdict == "pass" for one in gating):
        return _pass_headline(gating)
    if candidate.verdict == "fail" and (failing := chosen(candidate, "fail")):
        worst = failing[0]
        text = f"fails {len(failing)} of {_strata(len(gating))}, worst {place(worst)}: {points(worst.delta)} points"
        rest = _counts(candidate, ("inconclusive", "no_signal"))
        return f"{text} (margin {points(worst.margin, sign=False)}){'; ' + rest if rest else ''}"
    open_ = _counts(candidate, ("fail", "inconclusive", "no_signal", "not_judged"))
    passed = len(chosen(candidate, "pass"))
    return f"{passed} of {_strata(len(gating))} pass, {open_}" if open_ else reasons(candidate)


def answer(candidate: CandidateVerdict) -> str:
    """Answer "may we ship it?" in a word or two."""
    answers: dict[Verdict, str] = {"pass": "Yes", "fail": "No", "not_judged": "Cannot be said"}
    return answers.get(candidate.verdict, "Not yet")


def _counts(candidate: CandidateVerdict, verdicts: Iterable[Verdict]) -> str:
    counts = ((len(chosen(candidate, verdict)), word(verdict)) for verdict in verdicts)
    return ", ".join(f"{count} {text}" for count, text in counts if count)


def _pass_headline(gating: list[StratumVerdict]) -> str:
    limited = [one for one in gating if one.low is not None]
    if not limited:
        return f"passes {_strata(len(gating))}"
    closest = min(limited, key=lambda one: (one.low or 0.0) + one.margin)
    line = -closest.margin
    return (
        f"within its margin in all {_strata(len(gating))}; closest {place(closest)}: "
        f"at worst {points(closest.low, apart_from=line)} points (margin {points(closest.margin, sign=False)})"
    )


def _ended(text: str) -> str:
    return text if not text or text[-1] in ".!?" else f"{text}."


def stratum_sentence(stratum: StratumVerdict, candidate: str, baseline: str) -> str:
    """Say of a failing stratum by how much, how sure, and how many items were lost and gained."""
    line = -stratum.margin
    return (
        f"{candidate} in {place(stratum)}: {points(stratum.delta)} points against {baseline} "
        f"({score(stratum.baseline_mean)} to {score(stratum.candidate_mean)}), limits "
        f"{points(stratum.low, apart_from=line)} to {points(stratum.high, apart_from=line)}, "
        f"margin {points(stratum.margin, sign=False)}: "
        f"of {stratum.n} items {stratum.lost} lost, {stratum.gained} gained."
    )


def undecided_sentence(stratum: StratumVerdict, candidate: str) -> str:
    """Say of an undecided stratum what it would take to decide it."""
    text = f"{candidate} in {place(stratum)}: {change(stratum)} points of {stratum.n} items, margin "
    return f"{text}{points(stratum.margin, sign=False)}: {to_decide(stratum)}"


def to_decide(stratum: StratumVerdict) -> str:
    """Say what it would take to decide a stratum, or the gate's reason where no number of items would."""
    if stratum.items_to_decide is not None:
        return f"about {stratum.items_to_decide:,} more items would decide it if the rates stay."
    # The gate's reason begins with figures that stand beside it here, where it has any.
    reason = stratum.reason.rpartition(_FIGURES_END)[2] if _FIGURES in stratum.reason else stratum.reason
    return _ended(reason or "at these rates no number of further items is known to decide it")


def no_signal_sentence(stratum: StratumVerdict, baseline: str) -> str:
    """Say of a stratum without signal why no damage could be seen there: the gate's own reason where it gave one."""
    if stratum.reason:
        return f"{place(stratum)}: {_ended(stratum.reason)}"
    return (
        f"{place(stratum)}: {baseline} scores {score(stratum.baseline_mean)} of {stratum.n} items "
        f"where guessing gives {score(stratum.chance)}, so no damage could be seen."
    )


@dataclass(frozen=True, slots=True)
class Floor:
    """The A/A control over all strata: what differs when nothing but the batching does."""

    items: int
    """Items in the strata where it was measured."""
    flips: int
    """Of these, items whose score flipped."""
    worst: StratumVerdict | None
    """The stratum with the largest difference, either way."""
    verdict: Verdict | None = None
    """What the gate says of the control, judged like a candidate."""

    def __str__(self) -> str:
        """Give the sentence."""
        text = f"the baseline against itself at another batch size flipped {self.flips} of {self.items:,} items"
        if self.worst is not None and self.worst.floor_delta:
            text += f"; the largest difference is {points(self.worst.floor_delta)} points in {place(self.worst)}"
        if self.verdict == "fail":
            text += "; it FAILS the gate itself, so nothing here can be compared"
        return f"{text}."


def floor(judgement: Judgement) -> Floor | None:
    """Sum the A/A control over strata, each stratum once; None where it was not measured."""
    seen: dict[tuple[str, str], StratumVerdict] = {}
    for candidate in judgement.candidates:
        for one in candidate.strata:
            if one.floor_flips is not None:
                seen.setdefault((one.slice, one.stratum), one)
    if not seen:
        return None
    moved = [one for one in seen.values() if one.floor_delta is not None]
    worst = max(moved, key=lambda one: abs(one.floor_delta or 0.0), default=None)
    flips = sum(one.floor_flips or 0 for one in seen.values())
    verdict = None if judgement.control is None else judgement.control.verdict
    asked = {} if judgement.control is None else {(one.slice, one.stratum): one.n for one in judgement.control.strata}
    return Floor(sum(asked.get(place, one.n) for place, one in seen.items()), flips, worst, verdict)


def spent(judgement: Judgement, evidence: Evidence) -> tuple[int, int] | None:
    """Give answers spent and answers that the fixed plan asks for; None where no plan is known.

    What the run counted, else the sum over all candidates and strata.
    """
    if evidence.items_spent is not None and evidence.items_planned is not None:
        return evidence.items_spent, evidence.items_planned
    known = [one for candidate in judgement.candidates for one in candidate.strata if one.items_planned]
    if not known:
        return None
    return sum(one.n for one in known), sum(max(one.items_planned, one.n) for one in known)


def flat(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Give nested facts as ``path.to.key`` and text, in the order they came; empty values are left out."""
    facts: dict[str, str] = {}
    for key, one in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(one, Mapping):
            facts |= flat(one, name)
        elif isinstance(one, (list, tuple)):
            facts |= {name: " ".join(str(part) for part in one)} if one else {}
        elif one is not None and one != "":
            facts[name] = str(one)
    return facts
