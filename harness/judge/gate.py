"""What the numbers come to: a verdict for every stratum and candidate, and one exit code.

Pass: every gating stratum shows that its drop is smaller than its margin (an intersection-union test: Berger 1982,
Technometrics 24:295-300; no correction needed). Fail: some gating stratum shows that its drop is larger, after Holm
over the candidate's gating strata. Neither: inconclusive, and it never passes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import ExitCode
from harness.judge.averages import gone_wrong
from harness.judge.decisions import decide
from harness.judge.rules import Place, Rules
from harness.judge.summaries import Comparison, Comparisons, Quantity, TailRate, Verdict
from harness.judge.tail_counts import Cell
from harness.judge.tolerances import judge_rates, unmatched_tolerances
from harness.judge.verdicts import CandidateVerdict, ControlNoise, Judgement, StratumVerdict
from harness.models.compatibility import partly_quantized

_Gate = StratumVerdict | TailRate | Quantity
_GRAVITY: tuple[Verdict, ...] = ("fail", "not_judged", "inconclusive", "no_signal")
_BOTH_WAYS = 2  # the control may be worse than the baseline or better: both directions share alpha
_BATCHED = "its answers depend on how they are batched"


def judge(  # noqa: PLR0913 - what reports show passes through
    comparisons: Comparisons,
    rules: Rules,
    *,
    not_judged: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
    events: Mapping[str, Sequence[Cell]] | None = None,
    quantities: Mapping[str, tuple[Quantity, ...]] | None = None,
    proofs: Mapping[str, Mapping[str, Any]] | None = None,
    warnings: tuple[str, ...] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Judgement:
    """Return the judgement of a comparison.

    not_judged: candidates that could not be run, and why. order: candidates' names as the config has them; names that
    are not in it come last. events: variant to its tail events, the control's too; a variant that is absent was not
    checked. quantities: candidate to its ratios. proofs, warnings, provenance: what reports show beside it.
    A control that fails overrides everything; a baseline gone wrong all but a fail, which it cannot explain.
    """
    events, quantities, proofs, base = events or {}, quantities or {}, proofs or {}, comparisons.control
    # What the control was not checked for does not count against it.
    own = () if base is None or base.name not in events else judge_rates(events[base.name], rules)
    control = None if base is None else _candidate(base, rules, {}, own, directions=_BOTH_WAYS)
    measured = [one for one in (base.strata if base is not None else ()) if one.looks]
    noise = {one.place: ControlNoise(one.looks[-1].result.delta, one.flips) for one in measured}
    sides = comparisons.candidates
    rates = {one.name: judge_rates(events.get(one.name, ()), rules) for one in sides}
    found = [_candidate(one, rules, noise, rates[one.name], quantities.get(one.name, ())) for one in sides]
    found += [CandidateVerdict(name, "not_judged", (reason,), ()) for name, reason in (not_judged or {}).items()]
    position = {name: at for at, name in enumerate(order)}
    found.sort(key=lambda one: position.get(one.name, len(position)))
    unstable, wrong = _control_failures(comparisons, control, rules), gone_wrong(sides, rules)
    found = [_overruled(one, unstable, wrong, proofs.get(one.name, {})) for one in found]
    verdict = _gravest([one.verdict for one in found])
    codes = {"pass": ExitCode.PASS, "fail": ExitCode.FAIL, "not_judged": ExitCode.NOT_COMPARABLE}
    undecided = ExitCode.FAIL if rules.policy.inconclusive == "fail" else ExitCode.INCONCLUSIVE
    notes = [note for one in (*sides, *([base] if base else ())) for note in one.warnings]
    unheld = dict.fromkeys(note for one in rates.values() for note in unmatched_tolerances(one, rules))
    return Judgement(
        *(verdict, int(codes.get(verdict, undecided)), rules.to_json(), tuple(found), comparisons.baseline, control),
        warnings=(*unstable, *wrong, *comparisons.warnings, *notes, *unheld, *warnings),
        provenance=provenance or {},
    )


def rehearsed(judgement: Judgement) -> Judgement:
    """Withdraw the passes of a run whose answers were made up, if they would make it pass."""
    why = "a rehearsal, which measures no model"
    own = tuple(replace(one, verdict="not_judged", reasons=(why, *one.reasons)) for one in judgement.candidates)
    withdrawn = replace(judgement, verdict="not_judged", exit_code=int(ExitCode.NOT_COMPARABLE), candidates=own)
    return withdrawn if judgement.exit_code == ExitCode.PASS else judgement


def _gravest(words: Sequence[Verdict]) -> Verdict:
    """Return the gravest word, `pass` only if there is nothing else; nothing judged is `not_judged`."""
    return next((word for word in _GRAVITY if word in words), "pass") if words else "not_judged"


def _candidate(
    compared: Comparison,
    rules: Rules,
    noise: Mapping[Place, ControlNoise],
    rates: tuple[TailRate, ...],
    amounts: tuple[Quantity, ...] = (),
    directions: int = 1,
) -> CandidateVerdict:
    if compared.refused:
        return CandidateVerdict(compared.name, "not_judged", (compared.refused,), ())
    pairs = zip(compared.judged, decide(compared.judged, rules.policy.alpha, directions * rules.families), strict=True)
    judged = [StratumVerdict(one, found, noise.get(one.place)) for one, found in pairs]
    measured: list[TailRate | Quantity] = [*rates, *amounts]
    gates = [one for one in judged if one.gating], [one for one in measured if one.verdict is not None]
    words = [one.verdict for kind in gates for one in kind if one.verdict is not None]
    reasons = [_sentence(one) for kind in gates for word in _GRAVITY for one in kind if one.verdict == word]
    return CandidateVerdict(
        name=compared.name,
        verdict=_gravest(words) if words else "inconclusive",
        reasons=tuple(reasons) if words else ("no stratum was declared gating, so nothing can pass",),
        strata=tuple(one for one in judged if not one.numbers.pooled),
        pooled=next((one for one in judged if one.numbers.pooled), None),
        tail_events=rates,
        quantities=amounts,
        **{name: getattr(compared, name) for name in ("averages", "cliffs", "worse", "better", "hidden")},
    )


def _sentence(one: _Gate) -> str:
    """Say that a stratum, a rate of tail events or a quantity does not pass, and why."""
    words = {"fail": "fails", "no_signal": "has no signal", "not_judged": "was not judged"}
    said = words.get(str(one.verdict), "is inconclusive")
    if not isinstance(one, StratumVerdict):
        said += f" by {one.kind}"
    elif one.verdict == "no_signal" and one.numbers.unusable:
        said = "was not measured"
    return f"{one.slice}/{one.stratum} {said}" + (f": {one.reason}" if one.reason else "")


def _control_failures(comparisons: Comparisons, control: CandidateVerdict | None, rules: Rules) -> list[str]:
    """Return where the baseline differs from itself by more than is allowed: scores, what it answers, tail events."""
    found = []
    for one in filter(None, (comparisons.control, comparisons.control_reversed)):
        if one.refused:
            found.append(f"the A/A control cannot be compared with the baseline: {one.refused}")
            continue
        pairs = zip(one.strata, decide(one.strata, rules.policy.alpha, _BOTH_WAYS * rules.families), strict=True)
        if failing := [f"{each.slice}/{each.stratum}" for each, own in pairs if each.gating and own.verdict == "fail"]:
            text = f"the baseline differs from itself by more than the margin in {', '.join(failing)} (A/A control)"
            found.append(f"{text}: {_BATCHED}, so no difference here can be trusted")
        held = [each for each in one.strata if each.excessive and (each.gating or rules.tolerances(*each.place))]
        if places := ", ".join(f"{each.slice}/{each.stratum}" for each in held):
            text = f"the baseline and its A/A control did not answer the same items of {places}"
            found.append(f"{text}, so no difference here can be trusted: find out what was refused, and run it again")
    rates = () if control is None else control.tail_events
    if places := ", ".join(f"{one.kind} in {one.slice}/{one.stratum}" for one in rates if one.verdict == "fail"):
        text = f"the baseline has more tail events against itself than are tolerated ({places}; A/A control)"
        found.append(f"{text}: {_BATCHED}, so no event here can be trusted")
    return list(dict.fromkeys(found))


def _overruled(
    one: CandidateVerdict, unstable: Sequence[str], wrong: Sequence[str], proof: Mapping[str, Any]
) -> CandidateVerdict:
    """Withdraw a verdict that the run cannot support, and say of a model that was quantized in part that it was."""
    if over := unstable or (wrong if one.verdict != "fail" else ()):
        one = replace(one, verdict="not_judged", reasons=(*over, *one.reasons))
    partly = partly_quantized(proof.get("quantized_share"))
    return replace(one, proof=proof, reasons=(partly, *one.reasons) if partly else one.reasons)
