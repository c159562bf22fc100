"""Is what an endpoint serves still what was gated: asks it a certificate's questions and judges this and earlier calls.

In the first call more items differ than noise explains: `other`. The evidence of all calls crosses its bound: `other`
if this call shows it by itself, else `drifted`. The same weights ever get one of them with a chance of at most `ALPHA`.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from harness.config.engines import EngineSpec
from harness.engines.registry import ENGINES, EngineRequest
from harness.errors import ExitCode, Incomplete, NotComparable, UsageError
from harness.records import Response, Settings, Unanswered
from harness.run.certificate import Certificate, Given, Part, agrees, calls_of, certify
from harness.run.plan import files_of
from harness.stats.monitoring import alarm_count, evidence, noise_limit, noise_rate
from harness.store.record import RunRecord

ALPHA = 0.01  # chance of a false alarm over all calls: half for the limits of noise, half for the evidence
THRESHOLD = 2 / ALPHA  # evidence at which there is an alarm
Call = Mapping[str, Any]  # by kind of question, how many items differed
Verdict = Literal["same", "other", "drifted", "inconclusive"]


@dataclass(frozen=True, slots=True)
class PartResult:
    """What came of the questions of one kind."""

    kind: str  # generate or choice
    asked: int  # items asked in this call
    differ: int  # items with another answer
    first: int  # those in the first call
    limit: int  # most that noise explains
    alarm_at: int  # items that had to differ for an alarm in this call; beyond `asked` if none would do
    evidence: float  # e-value of all calls


@dataclass(frozen=True, slots=True)
class Verification:
    """What is said of an endpoint."""

    variant: str  # what should be served
    endpoint: str  # what was asked
    verdict: Verdict
    reasons: tuple[str, ...] = ()  # why, and what a reader must know of it
    looks_like: str = ""  # on an alarm the variant of the run whose answers it gives; empty if none
    parts: tuple[PartResult, ...] = ()  # by kind of question
    calls: int = 0  # so far, this one included
    evidence: float = 1.0  # e-value of all calls and kinds
    threshold: float = THRESHOLD  # evidence at which there is an alarm
    false_alarm_rate: float = ALPHA  # over all calls

    @property
    def exit_code(self) -> ExitCode:
        """Return what the process ends with."""
        return {"same": ExitCode.PASS, "inconclusive": ExitCode.INCONCLUSIVE}.get(self.verdict, ExitCode.FAIL)


def choose_variant(run: RunRecord, name: str | None) -> str:
    """Return what is named, also the baseline, or else the only candidate. Raises UsageError, NotComparable."""
    if run.experiment.execution.rehearsal is not None:
        raise NotComparable(f"{run.directory.path}: a rehearsal, whose answers are made up: no server gives them")
    known = [one.name for one in run.experiment.variants]
    name = name or (run.experiment.candidates[0].name if len(run.experiment.candidates) == 1 else None)
    if name is None or name not in known:
        raise UsageError(f"give --candidate with one of {', '.join(known)}" + (f", not {name!r}" if name else ""))
    if name in run.failures or not run.of(name):
        raise NotComparable(f"{name} has no answers in this run")
    return name


def verify(run: RunRecord, variant: str, spec: EngineSpec, key: str = "") -> Verification:
    """Ask an endpoint, keep the counts and judge them. Raises Incomplete if it is gone, ModelError, NotComparable."""
    certificate, endpoint = certify(run, variant), f"{spec.url} {spec.model}"
    if not certificate.parts:
        return Verification(variant, endpoint, "inconclusive", (certificate.missing,))
    path = run.directory.path / f"verify-{variant}.json"
    calls_of(path, certificate, endpoint)  # refuses a file of other questions before anything is asked
    try:
        given, served, refused = _ask(run, certificate, spec, key)
    except Incomplete as error:  # whose remedy is that of a run
        problem = str(error).partition("; finished work is kept")[0]
        raise Incomplete(f"nothing was verified: {problem}: is the server up at that address?") from error
    notes, template = _differences(run, variant, served)
    if template:
        return Verification(variant, endpoint, "other", (template, *notes))
    if not given:
        why = "it answers none of the questions: it refuses them, or they have choices and it cannot weigh choices"
        return Verification(variant, endpoint, "inconclusive", (why, *notes))
    call = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **count(certificate, given)}
    judged = judge_calls(certificate, [*calls_of(path, certificate, endpoint), call], given, endpoint)
    if refused and judged.verdict != "other":  # such a call says nothing of the weights, now or later
        why = f"{refused} items refused or too long"
        return dataclasses.replace(judged, verdict="inconclusive", reasons=(why, *notes), calls=judged.calls - 1)
    calls_of(path, certificate, endpoint, call)
    weighed = (run.identities.get(variant, {}).get("proof", {}).get("served") or {}).get("logprob_method")
    if weighed and judged.verdict == "same" and not served.get("logprob_method"):
        why = "it weighs no choices, and the server of the run did: its texts alone are no proof"
        judged = dataclasses.replace(judged, verdict="inconclusive", reasons=(why,))
    return dataclasses.replace(judged, reasons=(*judged.reasons, *notes))


def _ask(run: RunRecord, certificate: Certificate, spec: EngineSpec, key: str) -> tuple[Given, Mapping[str, Any], int]:
    """Return answers by item, what the server says, how many it refused; choices are left out if it weighs none."""
    items = [question.item for part in certificate.parts for question in part.questions]
    choices = any(item.kind == "choice" for item in items)
    variant = next(one for one in run.experiment.variants if one.name == certificate.variant)
    variant, folder = variant.model_copy(update={"engine": spec}), str(files_of(run.experiment.baseline, None))
    request = EngineRequest(variant, folder, folder, "", "", spec.concurrency, choices=choices, log=Path(), key=key)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # where an engine says what a server refused
        try:
            engine = stack.enter_context(ENGINES["openai"](request))
        except NotComparable as error:
            if "cannot weigh choices" not in str(error):
                raise
            items = [item for item in items if item.kind != "choice"]
            engine = stack.enter_context(ENGINES["openai"](dataclasses.replace(request, choices=False)))
        answers = engine.answer(items, Settings(seed=run.experiment.seed))
        given: dict[str, Response] = {one.item_id: one for one in answers if not isinstance(one, Unanswered)}
        known = [one.response for one in run.of(variant.name) if not isinstance(one.response, Unanswered)]
        beyond = sum(one.prompt_tokens >= engine.context_limit for one in known)  # also of what is not asked
        return given, engine.proof().served or {}, len(items) - len(given) + beyond


def _differences(run: RunRecord, variant: str, served: Mapping[str, Any]) -> tuple[list[str], str]:
    """Return notes on what differs between the server of the run and this one, and what is wrong with its template."""
    recorded = run.identities.get(variant, {}).get("proof", {}).get("served")
    if not recorded:
        note = "the run's answers come from quantcliff's own engine, and a server computes other numbers: a difference"
        return [note + " may be the engine's, so that the false-alarm rate is not known"], ""
    said = {"version": "its server's version", "prompts": "the form of its prompts", "fingerprint": "its fingerprint"}
    both = [(text, recorded.get(name), served.get(name)) for name, text in said.items()]
    notes = [f"{text} was {then} and is {now}" for text, then, now in both if then and now and then != now]
    before, now = recorded.get("prompt_offset"), served.get("prompt_offset")
    if before is not None and now is not None and recorded.get("prompts") == served.get("prompts") and before != now:
        return notes, f"it counts {now:+d} tokens in every prompt, and {before:+d} when it was gated: another template"
    return notes, ""


def count(certificate: Certificate, given: Given, variant: str | None = None) -> dict[str, int]:
    """Return by kind how many answers differ from a variant's; choices are absent if the server weighs none."""
    name = variant or certificate.variant
    found: dict[str, int] = {}
    for part in certificate.parts:
        sides = [(one, one.answers.get(name), given.get(one.item.id)) for one in part.questions]
        if part.kind == "generate" or any(answer for _, _, answer in sides):
            found[part.kind] = sum(not agrees(*one, part.tolerance) for one in sides if one[2] is not None)
    return found


def judge_calls(certificate: Certificate, calls: Sequence[Call], given: Given, endpoint: str = "") -> Verification:
    """Judge the counts of all calls; given: the answers of the last one, for what they look like."""
    kinds = len(certificate.parts)
    results = tuple(_judge_part(part, calls, kinds) for part in certificate.parts if part.kind in calls[-1])
    total = (sum(one.evidence for one in results) + kinds - len(results)) / kinds
    reasons: list[str] = []
    verdict: Verdict = "drifted" if total >= THRESHOLD else "same"
    beyond = [one for one in results if one.differ > one.limit]
    if beyond and (total >= THRESHOLD or any(one.first > one.limit for one in beyond)):
        verdict = "other"
    elif verdict == "same" and beyond:
        verdict, reasons = "inconclusive", ["more than noise explains, but no alarm yet after so many calls: ask again"]
    elif verdict == "same" and any(calls[-1].keys() < one.keys() for one in calls):
        verdict, reasons = "inconclusive", ["it weighs no choices now, and did in an earlier call"]
    elif all(one.limit >= one.asked for one in results):
        verdict, reasons = "inconclusive", ["the control is too small or too noisy for any alarm"]
    limits, like = {one.kind: one.limit for one in results}, ""
    others = sorted({name for part in certificate.parts for one in part.questions for name in one.answers})
    others.remove(certificate.variant)
    if verdict == "same":
        unseen = [name for name in others if _fits(certificate, limits, recorded(certificate, name))]
        reasons += [f"these questions do not tell it from {name}" for name in unseen]
    elif verdict != "inconclusive":
        fitting = [name for name in others if _fits(certificate, limits, given, name)]
        like = min(fitting, key=lambda name: sum(count(certificate, given, name).values()), default="")
    return Verification(certificate.variant, endpoint, verdict, tuple(reasons), like, results, len(calls), total)


def recorded(certificate: Certificate, variant: str) -> dict[str, Response]:
    """Return what a variant of the run answered to the questions."""
    return {q.item.id: q.answers[variant] for part in certificate.parts for q in part.questions if variant in q.answers}


def _fits(certificate: Certificate, limits: Call, given: Given, variant: str | None = None) -> bool:
    """Whether noise explains what differs between answers and a variant's, in each kind that was asked."""
    differ = count(certificate, given, variant)
    return all(kind in differ and differ[kind] <= limit for kind, limit in limits.items())


def _judge_part(part: Part, calls: Sequence[Call], kinds: int) -> PartResult:
    asked, level, counts = len(part.questions), ALPHA / 2 / kinds, [one[part.kind] for one in calls if part.kind in one]
    limit = noise_limit(part.flips, part.control, asked, level)
    rate = noise_rate(part.flips, part.control, asked, level)
    alarm = limit + 1 if len(counts) == 1 else alarm_count(counts[:-1], asked, rate, kinds * THRESHOLD)
    return PartResult(part.kind, asked, counts[-1], counts[0], limit, alarm, float(evidence(counts, asked, rate)[-1]))
