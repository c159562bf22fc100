"""What the numbers come to: a verdict for every stratum and candidate, and one exit code.

Pass: every gating stratum shows that its drop is smaller than its margin (an intersection-union test: Berger 1982,
Technometrics 24:295-300; no correction needed). Fail: some gating stratum shows that its drop is larger, after Holm
over the candidate's gating strata. Neither: inconclusive, and it never passes. Which strata do is
`harness.judge.decisions`' matter; this module knows neither items nor files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.errors import ExitCode
from harness.judge import averages
from harness.judge.comparison import Comparison, Comparisons
from harness.judge.decisions import decide
from harness.judge.rules import Rules
from harness.judge.summaries import TailRate, Verdict
from harness.judge.tail_counts import Cell
from harness.judge.tail_rates import judge_rates, unmatched_tolerances
from harness.judge.verdicts import CandidateVerdict, ControlNoise, Judgement, StratumVerdict
from harness.models.compatibility import partly_quantized

__all__ = ["judge"]


def judge(
    comparisons: Comparisons,
    rules: Rules,
    *,
    not_judged: Mapping[str, str] | None = None,
    order: Sequence[str] = (),
    events: Mapping[str, Sequence[Cell]] | None = None,
    proofs: Mapping[str, Mapping[str, Any]] | None = None,
    warnings: tuple[str, ...] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Judgement:
    """Return the judgement of a comparison.

    not_judged: candidates that could not be run, and why. order: candidates' names as the config has them; names that
    are not in it come last. events: variant to its tail events, the control's too; a variant that is absent was not
    checked. proofs, warnings, provenance: what the reports show next to the verdict. The verdict of the whole is the
    gravest of the candidates': a fail stands though another candidate was not judged; a candidate not judged is graver
    than one undecided. A control that fails overrides everything, for then no difference can be trusted; a baseline
    gone wrong overrides everything but a fail, which it cannot explain.
    """
    events = events or {}
    rates = {one.name: judge_rates(events.get(one.name, ()), rules) for one in comparisons.candidates}
    control = None if comparisons.control is None else _control(comparisons.control, rules, events)
    noise = {} if comparisons.control is None else _noise(comparisons.control)
    found = [_candidate(one, rules, noise, rates[one.name]) for one in comparisons.candidates]
    found += [CandidateVerdict(name, "not_judged", (reason,), ()) for name, reason in (not_judged or {}).items()]
    position = {name: at for at, name in enumerate(order)}
    found.sort(key=lambda one: position.get(one.name, len(position)))
    unstable = [*_control_failures(comparisons, rules), *_control_events(control)]
    wrong = _baseline_wrong(comparisons, rules)
    found = [_with_proof(_overruled(one, unstable, wrong), (proofs or {}).get(one.name, {})) for one in found]
    verdict = _gravest([one.verdict for one in found])
    return Judgement(
        verdict=verdict,
        exit_code=int(_exit_code(verdict, rules)),
        policy=rules.to_json(),
        candidates=tuple(found),
        baseline=comparisons.baseline,
        control=control,
        warnings=(*unstable, *wrong, *_notes(comparisons), *_unheld(rates, rules), *warnings),
        provenance=provenance or {},
    )


_GRAVITY: tuple[Verdict, ...] = ("fail", "not_judged", "inconclusive", "no_signal")


def _gravest(words: Sequence[Verdict]) -> Verdict:
    """Return the gravest word, `pass` only if there is nothing else; nothing judged is `not_judged`."""
    if not words:
        return "not_judged"
    return next((word for word in _GRAVITY if word in words), "pass")


def _exit_code(verdict: Verdict, rules: Rules) -> ExitCode:
    undecided = ExitCode.FAIL if rules.policy.inconclusive == "fail" else ExitCode.INCONCLUSIVE
    return {
        "pass": ExitCode.PASS,
        "fail": ExitCode.FAIL,
        "not_judged": ExitCode.NOT_COMPARABLE,
        "inconclusive": undecided,
        "no_signal": undecided,
    }[verdict]


def _control(compared: Comparison, rules: Rules, events: Mapping[str, Sequence[Cell]]) -> CandidateVerdict:
    """Judge the control like a candidate; what it was not checked for does not count against it."""
    rates = judge_rates(events.get(compared.name, ()), rules) if compared.name in events else ()
    return _candidate(compared, rules, {}, rates, directions=_BOTH_WAYS)


_BOTH_WAYS = 2
"""The control may be worse than the baseline or better: both directions share alpha."""


def _candidate(
    compared: Comparison,
    rules: Rules,
    noise: Mapping[tuple[str, str], ControlNoise],
    rates: tuple[TailRate, ...],
    directions: int = 1,
) -> CandidateVerdict:
    if compared.refused:
        return CandidateVerdict(compared.name, "not_judged", (compared.refused,), ())
    decisions = decide(compared.judged, rules.policy.alpha, directions * rules.families)
    judged = [
        StratumVerdict(one, decision, noise.get((one.slice, one.stratum)))
        for one, decision in zip(compared.judged, decisions, strict=True)
    ]
    strata = [one for one in judged if not one.numbers.pooled]
    gating = [one for one in judged if one.gating]
    gated = [(one.verdict, one) for one in rates if one.verdict is not None]
    reasons = [_sentence(one) for word in _GRAVITY for one in gating if one.verdict == word]
    reasons += [_event_sentence(one) for word in _GRAVITY for verdict, one in gated if verdict == word]
    if not gating and not gated:
        reasons.append("no stratum was declared gating, so nothing can pass")
    decisive = [*(one.verdict for one in gating), *(verdict for verdict, _ in gated)]
    return CandidateVerdict(
        name=compared.name,
        verdict=_gravest(decisive) if decisive else "inconclusive",
        reasons=tuple(reasons),
        strata=tuple(strata),
        pooled=next((one for one in judged if one.numbers.pooled), None),
        averages=compared.averages,
        cliffs=compared.cliffs,
        worse=compared.worse,
        better=compared.better,
        hidden=compared.hidden,
        tail_events=rates,
    )


def _event_sentence(one: TailRate) -> str:
    words = {"fail": "fails", "no_signal": "has no signal", "not_judged": "was not judged"}
    return f"{one.slice}/{one.stratum} {words.get(str(one.verdict), 'is inconclusive')} by {one.kind}: {one.reason}"


def _sentence(one: StratumVerdict) -> str:
    signal = "was not measured" if one.numbers.unusable else "has no signal"
    words = {"fail": "fails", "no_signal": signal, "not_judged": "was not judged"}
    text = f"{one.slice}/{one.stratum} {words.get(one.verdict, 'is inconclusive')}"
    if one.reason:
        text += f": {one.reason}"
    return text


def _noise(control: Comparison) -> dict[tuple[str, str], ControlNoise]:
    """Return the A/A noise of every stratum that the control was asked."""
    asked = [one for one in control.strata if one.looks]
    return {(one.slice, one.stratum): ControlNoise(one.looks[-1].result.delta, one.flips) for one in asked}


def _control_failures(comparisons: Comparisons, rules: Rules) -> list[str]:
    """Return in which strata the baseline differs from itself by more than the margin, either way."""
    found = []
    for one in (comparisons.control, comparisons.control_reversed):
        if one is None:
            continue
        if one.refused:
            found.append(f"the A/A control cannot be compared with the baseline: {one.refused}")
            continue
        decisions = decide(one.strata, rules.policy.alpha, _BOTH_WAYS * rules.families)
        pairs = zip(one.strata, decisions, strict=True)
        failing = [f"{each.slice}/{each.stratum}" for each, found in pairs if each.gating and found.verdict == "fail"]
        if failing:
            found.append(
                f"the baseline differs from itself by more than the margin in {', '.join(failing)} (A/A control): its "
                "answers depend on how they are batched, so no difference here can be trusted"
            )
    return list(dict.fromkeys(found))


def _control_events(control: CandidateVerdict | None) -> list[str]:
    """Return where the baseline's tail events are more than tolerated against itself."""
    failing = [] if control is None else [one for one in control.tail_events if one.verdict == "fail"]
    places = ", ".join(f"{one.kind} in {one.slice}/{one.stratum}" for one in failing)
    text = f"the baseline has more tail events against itself than are tolerated ({places}; A/A control): its answers"
    return [f"{text} depend on how they are batched, so no event here can be trusted"] if failing else []


def _baseline_wrong(comparisons: Comparisons, rules: Rules) -> list[str]:
    """Call out a baseline that looks broken, from its candidates or from what others report of it."""
    found = averages.gone_wrong(comparisons.candidates)
    scopes = next((one.scopes for one in comparisons.candidates if one.scopes), ())
    for scope in scopes:
        known = rules.slices[scope.slice].public_range if scope.slice in rules.slices else None
        if (
            known
            and scope.baseline_mean + averages.normal_quantile(rules.policy.alpha) * scope.baseline_error < known[0]
        ):
            found.append(
                f"the baseline scores {scope.baseline_mean:.3f} in {scope.slice}, below the public range "
                f"{known[0]:g} to {known[1]:g}: check its template, dtype and weights"
            )
    return found


def _unheld(rates: Mapping[str, Sequence[TailRate]], rules: Rules) -> list[str]:
    return list(dict.fromkeys(note for found in rates.values() for note in unmatched_tolerances(found, rules)))


def _overruled(one: CandidateVerdict, unstable: Sequence[str], wrong: Sequence[str]) -> CandidateVerdict:
    """Withdraw a verdict that the run cannot support."""
    if unstable:
        return replace(one, verdict="not_judged", reasons=(*unstable, *one.reasons))
    if wrong and one.verdict != "fail":
        return replace(one, verdict="not_judged", reasons=(*wrong, *one.reasons))
    return one


def _with_proof(one: CandidateVerdict, proof: Mapping[str, Any]) -> CandidateVerdict:
    partly = partly_quantized(proof.get("quantized_share"))
    return replace(one, proof=proof, reasons=(partly, *one.reasons) if partly else one.reasons)


def _notes(comparisons: Comparisons) -> list[str]:
    own = [comparisons.control] if comparisons.control is not None else []
    return [*comparisons.warnings, *(note for one in (*comparisons.candidates, *own) for note in one.warnings)]
