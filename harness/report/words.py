"""The sentences and numbers of every report, worded once: terminal, Markdown, JUnit and page read alike.

Figures are formatted here and compared nowhere: every comparison was made by the gate on unrounded numbers. A missing
figure reads ``-``, never zero. Results may hold names from outside; whoever writes them out sanitizes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from harness.judge.decisions import NO_NUMBER, points
from harness.judge.summaries import Quantity, TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.models.compatibility import partly_quantized
from harness.report.evidence import Evidence

__all__ = [
    "ASCII_SYMBOLS", "NOT_STORED", "SYMBOLS", "answer", "axes_and_levels", "change", "exit_meaning", "headline",
    "interval", "level", "limits_label", "nats", "no_signal_sentence", "percent", "place", "places", "points",
    "promises", "readable", "reasons", "score", "short_name", "splitting", "strata_with", "stratum_sentence",
    "texts_note", "to_decide", "undecided_sentence", "word",
]  # fmt: skip

NOT_STORED = "The texts of this item are not stored; its scores are."
"""In place of an item's texts."""

SYMBOLS: Mapping[Verdict, str] = {
    "pass": "✔",
    "fail": "✘",
    "inconclusive": "?",
    "no_signal": "∅",
    "not_judged": "⊘",
}
"""A sign next to every colour, so that the report reads without colours."""

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
    3: "inconclusive: the items prove neither good nor bad, or a gating stratum has no signal",
    4: "incomplete or not comparable: there is no verdict to rely on",
}

_WITH_EVENTS = {
    0: ", and no gated tail event is more frequent than tolerated",
    1: ", or has more tail events than tolerated",
}
"""What is added if tail events gate."""

_MOST_REASONS = 3


def word(verdict: Verdict) -> str:
    """Return a verdict as words."""
    return verdict.replace("_", " ")


def exit_meaning(judgement: Judgement) -> str:
    """Return what the exit code means."""
    text = _MEANINGS.get(judgement.exit_code, "unknown")
    gated = any(one.verdict is not None for candidate in judgement.candidates for one in candidate.tail_events)
    return text + (_WITH_EVENTS.get(judgement.exit_code, "") if gated else "")


def score(value: float | None) -> str:
    """Return a mean score in [0, 1] as a percentage without its sign."""
    return points(value, sign=False)


def nats(value: float | None) -> str:
    """Return a divergence in nats with three significant digits, ``-`` if there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3g}"


def percent(value: float | None) -> str:
    """Return a proportion as a percentage, with its sign."""
    return "-" if value is None or not math.isfinite(value) else f"{value * 100:.1f} %"


def interval(stratum: StratumVerdict) -> str:
    """Return the limits of delta in points, as in ``[-57.1, -28.9]``; ``-`` if there are none."""
    if stratum.low is None and stratum.high is None:
        return "-"
    line = -stratum.margin
    return f"[{points(stratum.low, apart_from=line)}, {points(stratum.high, apart_from=line)}]"


def change(stratum: StratumVerdict) -> str:
    """Return delta with its limits in points."""
    return f"{points(stratum.delta)} {interval(stratum)}" if stratum.delta is not None else "-"


def limits_label(judgement: Judgement) -> str:
    """Name the limits by the policy's alpha."""
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
    """Return the axes on which a slice's strata differ; all of them if none does or their names do not fit."""
    named = [axes_and_levels(one.stratum) for one in strata]
    axes = named[0][0]
    if any(one[0] != axes for one in named):
        return tuple(dict.fromkeys(axis for one in named for axis in one[0]))
    return tuple(a for i, a in enumerate(axes) if len({levels[i] for _, levels in named}) > 1) or axes


def level(stratum: str, axes: Sequence[str]) -> str:
    """Name a stratum by its levels on some of its axes; in full if it has none of them."""
    own = zip(*axes_and_levels(stratum), strict=False)
    return ", ".join(level for axis, level in own if axis in axes) or stratum


def short_name(stratum: str) -> str:
    """Name a stratum by its levels alone, a slice before it kept: ``long_context/8192, 0.5``."""
    label, slash, name = stratum.rpartition("/")
    return label + slash + ", ".join(axes_and_levels(name)[1])


_TASKS = {
    "lookup": "retrieval",
    "chain": "chained retrieval",
    "several": "several at once",
    "babi": "bAbI",
    "chains": "sums in words",
    "choice": "facts by choice",
    "write": "facts in writing",
    "tool_calls": "tool calls",
    "words": "common words",
    "frequent": "frequent words",
    "pairs": "key-value pairs",
}
"""Levels of the axis ``task`` whose names say little."""

_AXES = {
    "keys": "among {} keys",
    "answer": "answer {}",
    "context_tokens": "{} tokens of context",
    "hops": "{} hops",
    "steps": "{} steps",
    "facts": "{} facts",
    "pairs": "{} pairs",
    "ask": "asked for {}",
    "shape": "{}",
    "size": "{}",
    "fields": "{} fields",
    "tools": "{} tools",
    "arguments": "{} arguments",
    "resource": "resource level {}",
    "solution_lines": "{} lines of solution",
}


def readable(stratum: str) -> str:
    """Name a stratum as people read it: ``retrieval among 12 keys, answer present``; one without axes as it is."""
    axes, levels = axes_and_levels(stratum)
    text = "" if axes else stratum
    for axis, level in zip(axes, levels, strict=False):
        phrase = _TASKS.get(level, level.replace("_", " ")) if axis == "task" else _phrase(axis, level)
        text += phrase if not text else f" {phrase}" if axis == "keys" and axes[0] == "task" else f", {phrase}"
    return text


def _phrase(axis: str, level: str) -> str:
    if axis == "context_tokens" and level == "none":
        return "no other context"
    text = _AXES.get(axis, f"{axis.replace('_', ' ')} {{}}").format(level)
    return text[:-1] if level == "1" and axis in _AXES and text.endswith("s") else text


def place(stratum: StratumVerdict | TailRate | Quantity) -> str:
    """Name a stratum with its slice, as in ``code`` or ``depth 0.5 (long_context)``."""
    return stratum.slice if stratum.stratum == "all" else f"{readable(stratum.stratum)} ({stratum.slice})"


def places(strata: Iterable[StratumVerdict]) -> str:
    """Name several strata."""
    return "; ".join(map(place, strata))


def strata_with(candidate: CandidateVerdict, verdict: Verdict, *, gating: bool = True) -> list[StratumVerdict]:
    """Return the gating (or the advisory) strata with a verdict, the worst delta first, unknown deltas last."""
    strata = [one for one in candidate.strata if one.gating is gating and one.verdict == verdict]
    return sorted(strata, key=lambda one: math.inf if one.delta is None else one.delta)


def texts_note(evidence: Evidence) -> str:
    """Return what the run does not store of its texts; empty if it stores all."""
    stored = {
        "full": "",
        "redacted": "Personal data was replaced by brackets in the texts before they were stored.",
        "none": "This run stores no texts (store_text: none): items are known by their ids and scores.",
    }[evidence.store_text]
    erased = f"The texts of {evidence.erased:,} item(s) were erased." if evidence.erased else ""
    return " ".join(filter(None, (stored, erased)))


def _strata(count: int) -> str:
    return "1 gating stratum" if count == 1 else f"{count} gating strata"


def reasons(candidate: CandidateVerdict) -> str:
    """Join the gate's own sentences, the first three of many; a stand-in if it gave none."""
    text = "; ".join(one.rstrip(".") for one in candidate.reasons[:_MOST_REASONS])
    more = len(candidate.reasons) - _MOST_REASONS
    return (f"{text}; and {more} more" if more > 0 else text) or "no reason was given"


def headline(candidate: CandidateVerdict) -> str:
    """Return a candidate's verdict in one sentence, with the figure that matters most."""
    gating = [one for one in candidate.strata if one.gating]
    if candidate.verdict == "not_judged" or not gating:
        return reasons(candidate)
    events = _events_headline(candidate)
    text = _scores_headline(candidate, gating)
    partly = partly_quantized(candidate.proof.get("quantized_share"))
    parts = (text, events, partly) if candidate.verdict == "pass" else (events, text, partly)
    return "; ".join(filter(None, parts))


def _events_headline(candidate: CandidateVerdict) -> str:
    """Return how many gated rates of tail events there are, and which fail or are open."""
    gated = [one for one in candidate.tail_events if one.verdict is not None]
    failing = [one for one in gated if one.verdict == "fail"]
    if failing:
        worst = max(failing, key=lambda one: (one.rate or 0.0) - (one.tolerance or 0.0))
        figures = f"{worst.events} of {worst.n} answers (tolerated {percent(worst.tolerance)})"
        return f"fails {len(failing)} of {len(gated)} tail-event rates, worst {worst.kind} in {place(worst)}: {figures}"
    open_ = sum(one.verdict != "pass" for one in gated)
    if open_:
        return f"{open_} of {len(gated)} tail-event rates undecided"
    return f"all {len(gated)} tail-event rates within their tolerance" if gated else ""


def promises(candidate: CandidateVerdict) -> list[str]:
    """Return what a pooled margin and the strata's own margins promise, and what a stratum may still hide."""
    pooled, gating = candidate.pooled, [one for one in candidate.strata if one.gating]
    if pooled is None:
        return []
    figures = f"{change(pooled)} points, margin {points(pooled.margin, sign=False)}: {word(pooled.verdict)}"
    found = [f"{candidate.name} over {_strata(len(gating))} together, by traffic: {figures}."]
    passed = [one for one in gating if one.verdict == "pass" and one.low is not None]
    if passed:
        worst = min(passed, key=lambda one: one.low or 0.0)
        text = f"{len(passed)} of {_strata(len(gating))} pass their own margin; one of them may still hide a drop of "
        hidden = points(max(-(worst.low or 0.0), 0.0), sign=False, apart_from=worst.margin)
        found.append(f"{candidate.name}: {text}{hidden} points at most ({place(worst)}).")
    return found


def _scores_headline(candidate: CandidateVerdict, gating: list[StratumVerdict]) -> str:
    pooled, word_ = candidate.pooled, candidate.verdict
    if pooled is not None and pooled.verdict == word_ != "pass" and not strata_with(candidate, word_):
        return reasons(candidate)
    if all(one.verdict == "pass" for one in gating):
        return _pass_headline(gating)
    if candidate.verdict == "fail" and (failing := strata_with(candidate, "fail")):
        worst = failing[0]
        text = f"fails {len(failing)} of {_strata(len(gating))}, worst {place(worst)}: {points(worst.delta)} points"
        rest = _counts(candidate, ("inconclusive", "no_signal"))
        return f"{text} (margin {points(worst.margin, sign=False)}){'; ' + rest if rest else ''}"
    open_ = _counts(candidate, ("fail", "inconclusive", "no_signal", "not_judged"))
    passed = len(strata_with(candidate, "pass"))
    return f"{passed} of {_strata(len(gating))} pass, {open_}" if open_ else reasons(candidate)


def answer(candidate: CandidateVerdict) -> str:
    """Answer "may we ship it?" in a word or two."""
    answers: dict[Verdict, str] = {"pass": "Yes", "fail": "No", "not_judged": "Unknown"}
    return answers.get(candidate.verdict, "Not yet")


def _counts(candidate: CandidateVerdict, verdicts: Iterable[Verdict]) -> str:
    counts = ((len(strata_with(candidate, verdict)), word(verdict)) for verdict in verdicts)
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


def stratum_sentence(stratum: StratumVerdict, candidate: str, baseline: str) -> str:
    """Return of a failing stratum by how much, how sure, and how many items were lost and gained."""
    line = -stratum.margin
    return (
        f"{candidate} in {place(stratum)}: {points(stratum.delta)} points against {baseline} "
        f"({score(stratum.baseline_mean)} to {score(stratum.candidate_mean)}), limits "
        f"{points(stratum.low, apart_from=line)} to {points(stratum.high, apart_from=line)}, "
        f"margin {points(stratum.margin, sign=False)}: "
        f"of {stratum.n} items {stratum.lost} lost, {stratum.gained} gained."
    )


def undecided_sentence(stratum: StratumVerdict, candidate: str) -> str:
    """Return of an undecided stratum its figures, and what it would take to decide it."""
    text = f"{candidate} in {place(stratum)}: {change(stratum)} points of {stratum.n} items, margin "
    return f"{text}{points(stratum.margin, sign=False)}: {to_decide(stratum)}"


def to_decide(stratum: StratumVerdict) -> str:
    """Return what it would take to decide a stratum, or why no number of items would."""
    if stratum.items_to_decide is not None:
        return f"about {stratum.items_to_decide:,} more items would decide it if the rates stay."
    return f"{NO_NUMBER if stratum.decision.reason == 'undecided' else stratum.reason}."


def no_signal_sentence(stratum: StratumVerdict, baseline: str) -> str:
    """Return why no damage could be seen in a stratum."""
    numbers = stratum.numbers
    skipped = "; the candidate was not asked (execution.skip_blind)" if stratum.decision.look is None else ""
    if numbers.unusable:
        return f"{place(stratum)}: {numbers.unusable}{skipped}."
    if stratum.decision.reason == "cache_blind":
        return f"{place(stratum)}: {stratum.reason}."
    return (
        f"{place(stratum)}: {baseline} scores {percent(stratum.baseline_mean)}, which is not significantly above "
        f"chance ({percent(stratum.chance)}) plus the margin ({points(stratum.margin, sign=False)} points): "
        f"a regression could not be detected here{skipped}."
    )
