"""The judgement as JUnit XML, for the CI systems that read nothing else.

One test suite per candidate, one test case per gating stratum and per gated rate of tail events. `fail` is a failure.
Everything else that does not pass (inconclusive, no signal, not judged) is an *error*: GitLab, Jenkins, Azure and
GitHub's actions count a skipped case as fine, and an undecided stratum is not fine. A candidate that did not pass
although all its cases pass gets another case, and so does the run. Advisory strata are listed in the
suite's output.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report import tail, words
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line, visible

__all__ = ["junit"]

_LONGEST = 2000


def junit(judgement: Judgement, evidence: Evidence) -> str:
    """Return the document as text, UTF-8 declared, well-formed whatever the names hold."""
    root = Element("testsuites", name=_name(f"quantcliff {evidence.name}".strip()))
    for candidate in judgement.candidates:
        _suite(root, judgement, candidate)
    green = all(not (len(s.findall("*/failure")) or len(s.findall("*/error"))) for s in root)
    if (judgement.verdict != "pass" or judgement.exit_code != 0) and (green or not len(root)):
        message = " ".join(judgement.warnings) or words.exit_meaning(judgement)
        suite = SubElement(root, "testsuite", name="run")
        _add(_case(suite, "verdict", "quantcliff.run"), "error", judgement.verdict, message)
    for suite in root:
        _count(suite)
    for kind in ("tests", "failures", "errors", "skipped"):
        root.set(kind, str(sum(int(suite.get(kind, "0")) for suite in root)))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suite(root: Element, judgement: Judgement, candidate: CandidateVerdict) -> None:
    suite = SubElement(root, "testsuite", name=_name(candidate.name))
    cases = [
        (one.stratum, one.slice, one.verdict, _why(one, judgement, candidate)) for one in candidate.strata if one.gating
    ]
    cases += [
        (f"{one.stratum}: {one.kind}", one.slice, one.verdict, tail.rate_sentence(one, candidate.name))
        for one in candidate.tail_events
        if one.verdict is not None
    ]
    for name, label, verdict, text in cases:
        case = _case(suite, name, f"{candidate.name}.{label}")
        if verdict != "pass":
            _add(case, "failure" if verdict == "fail" else "error", verdict, text)
    if all(verdict == "pass" for _, _, verdict, _ in cases) and (candidate.verdict != "pass" or not cases):
        message = words.reasons(candidate) if candidate.reasons or cases else "no gating stratum was judged"
        _add(_case(suite, "verdict", candidate.name), "error", candidate.verdict, message)
    others = [f"{words.place(one)}: {words.change(one)} {one.verdict}" for one in candidate.strata if not one.gating]
    if others:
        text = visible(clip("advisory strata, not part of the verdict:\n" + "\n".join(others), 20 * _LONGEST))
        SubElement(suite, "system-out").text = text


def _why(one: StratumVerdict, judgement: Judgement, candidate: CandidateVerdict) -> str:
    if one.verdict == "fail":
        return words.stratum_sentence(one, candidate.name, judgement.baseline)
    if one.verdict == "inconclusive":
        return words.undecided_sentence(one, candidate.name)
    if one.verdict == "no_signal":
        return words.no_signal_sentence(one, judgement.baseline)
    return one.reason or words.reasons(candidate)


def _case(suite: Element, name: str, classname: str) -> Element:
    return SubElement(suite, "testcase", name=_name(name), classname=_name(classname))


def _add(case: Element, tag: str, kind: str, message: str) -> None:
    SubElement(case, tag, type=kind, message=_name(message)).text = visible(clip(message, _LONGEST))


def _name(text: str) -> str:
    return one_line(clip(text, _LONGEST))


def _count(suite: Element) -> None:
    for attribute, path in (("tests", "testcase"), ("failures", "*/failure"), ("errors", "*/error")):
        suite.set(attribute, str(len(suite.findall(path))))
    suite.set("skipped", "0")
