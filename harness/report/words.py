"""The sentences and numbers of every report, not yet sanitized. A missing figure reads ``-``, never zero."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.judge.decisions import NO_NUMBER, points
from harness.judge.summaries import Quantity, TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.models.compatibility import partly_quantized
from harness.report.evidence import Evidence

_Texts = Mapping[str, Mapping[str, str]]
_NAMES: _Texts = tomllib.loads(Path(__file__).with_name("readable.toml").read_text(encoding="utf-8"))
SENTENCES: _Texts = tomllib.loads(Path(__file__).with_name("sentences.toml").read_text(encoding="utf-8"))
NOTES = SENTENCES["notes"]
NOT_STORED = "The texts of this item are not stored; its scores are."  # in place of an item's texts
SYMBOLS: Mapping[Verdict, str] = {"pass": "✔", "fail": "✘", "inconclusive": "?", "no_signal": "∅", "not_judged": "⊘"}
"""A sign next to every colour, so that the report reads without colours."""
ASCII_SYMBOLS: Mapping[Verdict, str] = dict(zip(SYMBOLS, "+x?0-", strict=True))
ANSWERS: Mapping[Verdict, str] = {"pass": "Yes", "fail": "No", "not_judged": "Unknown"}
"""What a verdict answers to "may we ship it?"; any other, "Not yet"."""
_MOST_REASONS = 3


def word(verdict: Verdict) -> str:
    """Return a verdict as words."""
    return verdict.replace("_", " ")


def exit_meaning(judgement: Judgement) -> str:
    """Return what the exit code means."""
    gated = any(one.verdict is not None for candidate in judgement.candidates for one in candidate.tail_events)
    code = str(int(judgement.exit_code))
    if code == "1" and all(one.verdict != "fail" for one in judgement.candidates):
        return SENTENCES["exit_codes"]["by_policy"]
    return SENTENCES["exit_codes"][code] + (SENTENCES["exit_codes_of_events"].get(code, "") if gated else "")


def score(value: float | None) -> str:
    """Return a mean score in [0, 1] as a percentage without its sign."""
    return points(value, sign=False)


def percent(value: float | None) -> str:
    """Return a proportion as a percentage, with its sign."""
    return "-" if value is None or not math.isfinite(value) else f"{value * 100:.1f} %"


def number_text(value: object, form: str = ",.1f") -> str:
    """Return a figure in a format; ``-`` if there is none."""
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return format(value, form) if known else "-"


def positive(value: object) -> float | None:
    """Return a figure as it is if it is a finite number above zero, else None: what a ratio can be made of."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        return None
    return float(value)


def bytes_text(value: object) -> str:
    """Return a number of bytes for reading, as in ``4.5 GiB``; ``-`` if there is none."""
    if (size := positive(value)) is None:
        return "-"
    power = next((at for at in range(4) if size < 1024 ** (at + 1)), 4)
    return f"{size / 1024**power:.{min(power, 1)}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def interval(stratum: StratumVerdict) -> str:
    """Return the limits of delta in points, as in ``[-57.1, -28.9]``; ``-`` if there are none."""
    if stratum.low is None and stratum.high is None:
        return "-"
    low, high = (points(end, apart_from=-stratum.margin) for end in (stratum.low, stratum.high))
    return f"[{low}, {high}]"


def change(stratum: StratumVerdict) -> str:
    """Return delta with its limits in points."""
    return f"{points(stratum.delta)} {interval(stratum)}" if stratum.delta is not None else "-"


def limits_label(judgement: Judgement) -> str:
    """Name the limits by the policy's alpha."""
    alpha = judgement.policy.get("alpha")
    level = f"{(1 - alpha) * 100:g} % " if isinstance(alpha, (int, float)) else ""
    return f"one-sided {level}limits"


def levels_of(stratum: str) -> dict[str, str]:
    """Return axis to level of a stratum's name, such as ``hops=3,magnitude=large``; none for ``all``."""
    parts = [part.partition("=") for part in stratum.split(",")]
    return {axis: level for axis, _, level in parts} if all(middle for _, middle, _ in parts) else {}


def splitting(strata: Sequence[StratumVerdict]) -> tuple[str, ...]:
    """Return the axes on which a slice's strata differ; all of them if none does or their names do not fit."""
    named = [levels_of(one.stratum) for one in strata]
    axes = tuple(dict.fromkeys(axis for one in named for axis in one))
    if any(one.keys() != named[0].keys() for one in named):
        return axes
    return tuple(axis for axis in axes if len({one[axis] for one in named}) > 1) or axes


def short_name(stratum: str) -> str:
    """Name a stratum by its levels alone, a slice before it kept: ``long_context/8192, 0.5``."""
    label, slash, name = stratum.rpartition("/")
    return label + slash + (", ".join(levels_of(name).values()) or name)


def readable(stratum: str) -> str:
    """Name a stratum as people read it: ``retrieval among 12 keys``; its slice, if it has one, follows in brackets."""
    before, slash, rest = stratum.partition("/")
    if slash and "=" in rest and "=" not in before:
        return f"{readable(rest)} ({before})"
    found, text = levels_of(stratum), ""
    first = next(iter(found), "")
    for axis, level in found.items():
        text += ("" if axis == first else " " if axis == "keys" and first == "task" else ", ") + _phrase(axis, level)
    return text or stratum


def _phrase(axis: str, level: str) -> str:
    if axis == "task":
        return _NAMES["tasks"].get(level, level.replace("_", " "))
    if axis == "context_tokens" and level == "none":
        return "no other context"
    text = _NAMES["axes"].get(axis, f"{axis.replace('_', ' ')} {{}}").format(level)
    return text[:-1] if level == "1" and axis in _NAMES["axes"] and text.endswith("s") else text


def place(stratum: StratumVerdict | TailRate | Quantity) -> str:
    """Name a stratum with its slice, as in ``code`` or ``depth 0.5 (long_context)``."""
    return stratum.slice if stratum.stratum == "all" else f"{readable(stratum.stratum)} ({stratum.slice})"


def hidden(candidate: CandidateVerdict) -> str:
    """Say what a candidate's average hides, with its worst stratum under the name that people read."""
    machine = candidate.averages[0].worst_stratum if candidate.averages else ""
    worst = next((one for one in candidate.strata if f"{one.slice}/{one.stratum}" == machine), None)
    return candidate.hidden if worst is None else candidate.hidden.replace(machine, place(worst))


def strata_with(candidate: CandidateVerdict, verdict: Verdict, *, gating: bool = True) -> list[StratumVerdict]:
    """Return the gating (or the advisory) strata with a verdict, the worst delta first, unknown deltas last."""
    strata = [one for one in candidate.strata if one.gating is gating and one.verdict == verdict]
    return sorted(strata, key=lambda one: math.inf if one.delta is None else one.delta)


def texts_note(evidence: Evidence) -> str:
    """Return what the run does not store of its texts; empty if it stores all."""
    stored = SENTENCES["stored"].get(evidence.store_text)
    erased = f"Items whose texts were erased (quantcliff erase): {evidence.erased:,}." if evidence.erased else ""
    return " ".join(filter(None, (stored, erased)))


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
    events = _gated_headline(candidate.tail_events, "tail-event rates")
    held = (events, _gated_headline(candidate.quantities, "quantities"))
    text, partly = _scores_headline(candidate, gating), partly_quantized(candidate.proof.get("quantized_share"))
    return "; ".join(filter(None, (text, *held, partly) if candidate.verdict == "pass" else (*held, text, partly)))


def _gated_headline(found: Sequence[TailRate | Quantity], what: str) -> str:
    """Return what the rates of tail events, or the quantities, that have a tolerance come to."""
    gated = [one for one in found if one.verdict is not None]
    if failing := [one for one in gated if one.verdict == "fail"]:
        worst = max(failing, key=excess)
        if isinstance(worst, TailRate):
            figures = f"{worst.events} of {worst.n} answers (tolerated {percent(worst.tolerance)})"
        else:
            figures = f"{worst.ratio or 0.0:.2f} times the baseline's (tolerated {worst.tolerance or 0.0:g})"
        return f"fails {len(failing)} of {len(gated)} {what}, worst {worst.kind} in {place(worst)}: {figures}"
    if open_ := sum(one.verdict != "pass" for one in gated):
        return f"{open_} of {len(gated)} {what} undecided"
    return f"all {len(gated)} {what} within their tolerance" if gated else ""


def excess(one: TailRate | Quantity) -> float:
    """Return by how much a rate or ratio is above its tolerance."""
    return ((one.rate if isinstance(one, TailRate) else one.ratio) or 0.0) - (one.tolerance or 0.0)


def _scores_headline(candidate: CandidateVerdict, gating: Sequence[StratumVerdict]) -> str:
    pooled, strata, failing = candidate.pooled, _gating_strata(len(gating)), strata_with(candidate, "fail")
    pools = pooled is not None and pooled.verdict == candidate.verdict != "pass"
    if pools and not strata_with(candidate, candidate.verdict):
        return reasons(candidate)
    if all(one.verdict == "pass" for one in gating):
        limited = [one for one in gating if one.low is not None]
        if not limited:
            return f"passes {strata}"
        closest = min(limited, key=lambda one: (one.low or 0.0) + one.margin)
        low = points(closest.low, apart_from=-closest.margin)
        where = f"within its margin in all {strata}; closest {place(closest)}"
        return f"{where}: at worst {low} points (margin {score(closest.margin)})"
    if candidate.verdict == "fail" and failing:
        worst, rest = failing[0], _counts(candidate, "inconclusive", "no_signal")
        text = f"fails {len(failing)} of {strata}, worst {place(worst)}: {points(worst.delta)} points"
        return f"{text} (margin {score(worst.margin)}){'; ' + rest if rest else ''}"
    open_ = _counts(candidate, "fail", "inconclusive", "no_signal", "not_judged")
    return f"{len(strata_with(candidate, 'pass'))} of {strata} pass, {open_}" if open_ else reasons(candidate)


def _gating_strata(count: int) -> str:
    return "1 gating stratum" if count == 1 else f"{count} gating strata"


def _counts(candidate: CandidateVerdict, *verdicts: Verdict) -> str:
    counts = ((len(strata_with(candidate, verdict)), word(verdict)) for verdict in verdicts)
    return ", ".join(f"{count} {text}" for count, text in counts if count)


def promises(candidate: CandidateVerdict) -> list[str]:
    """Return what a pooled margin and the strata's own margins promise, and what a stratum may still hide."""
    pooled, gating = candidate.pooled, [one for one in candidate.strata if one.gating]
    if pooled is None:
        return []
    strata = _gating_strata(len(gating))
    figures = f"{change(pooled)} points, margin {score(pooled.margin)}: {word(pooled.verdict)}"
    found = [f"{candidate.name} over {strata} together, by traffic: {figures}."]
    if passed := [one for one in gating if one.verdict == "pass" and one.low is not None]:
        worst = min(passed, key=lambda one: one.low or 0.0)
        text = f"{len(passed)} of {strata} pass their own margin; one of them may still hide a drop of "
        hidden = points(max(-(worst.low or 0.0), 0.0), sign=False, apart_from=worst.margin)
        found.append(f"{candidate.name}: {text}{hidden} points at most ({place(worst)}).")
    return found


def stratum_sentence(stratum: StratumVerdict, candidate: str, baseline: str) -> str:
    """Return of a failing stratum by how much, how sure, and how many items were lost and gained."""
    low, high = (points(end, apart_from=-stratum.margin) for end in (stratum.low, stratum.high))
    means = f"{score(stratum.baseline_mean)} to {score(stratum.candidate_mean)}"
    told = f"{points(stratum.delta)} points against {baseline} ({means}), limits {low} to {high}"
    flips = f"of {stratum.n} items {stratum.lost} lost, {stratum.gained} gained"
    return f"{candidate} in {place(stratum)}: {told}, margin {score(stratum.margin)}: {flips}."


def undecided_sentence(stratum: StratumVerdict, candidate: str) -> str:
    """Return of an undecided stratum its figures, and what it would take to decide it."""
    text = f"{candidate} in {place(stratum)}: {change(stratum)} points of {stratum.n} items, margin "
    return f"{text}{score(stratum.margin)}: {to_decide(stratum)}"


def to_decide(stratum: StratumVerdict) -> str:
    """Return what it would take to decide a stratum, or why no number of items would."""
    if stratum.items_to_decide is not None:
        return f"about {stratum.items_to_decide:,} more items would decide it if the rates stay."
    return f"{NO_NUMBER if stratum.decision.reason == 'undecided' else stratum.reason}."


def why(stratum: StratumVerdict) -> str:
    """Return in short why a stratum neither passes nor fails; empty if it does."""
    if stratum.verdict == "inconclusive":
        return to_decide(stratum).rstrip(".")
    if stratum.decision.reason == "no_signal" and not stratum.numbers.unusable:
        return "the baseline is not shown to be above chance"
    return "" if stratum.verdict in ("pass", "fail") else stratum.reason


def no_signal_sentence(stratum: StratumVerdict, baseline: str) -> str:
    """Return why no damage could be seen in a stratum."""
    skipped = "; the candidate was not asked (execution.skip_blind)" if stratum.decision.look is None else ""
    if unusable := stratum.numbers.unusable:
        return f"{place(stratum)}: {unusable}{skipped}."
    if stratum.decision.reason == "cache_blind":
        return f"{place(stratum)}: {stratum.reason}."
    figures = {"score": percent(stratum.baseline_mean), "chance": percent(stratum.chance)}
    about = {"place": place(stratum), "baseline": baseline, "margin": score(stratum.margin), "skipped": skipped}
    return NOTES["no_signal"].format(**figures, **about)
