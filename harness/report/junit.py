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
from harness.report import words
from harness.report.blocks.tail import rate_sentence
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line, visible

__all__ = ["junit"]

_LONGEST = 2000
_TAGS = {"pass": "", "fail": "failure"}


def junit(judgement: Judgement, evidence: Evidence) -> str:
    """Return the document as text, UTF-8 declared, well-formed whatever the names hold."""
    root = Element("testsuites", name=_name(f"quantcliff {evidence.name}".strip()))
    for candidate in judgement.candidates:
        _suite(root, judgement, candidate)
    green = root.find(".//failure") is None and root.find(".//error") is None
    if (judgement.verdict != "pass" or judgement.exit_code != 0) and green:
        message = " ".join(judgement.warnings) or words.exit_meaning(judgement)
        suite = SubElement(root, "testsuite", name="run")
        _case(suite, "verdict", "quantcliff.run", "error", judgement.verdict, message)
    for node in (*root, root):
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            node.set(attribute, str(len(node.findall(f".//{tag}"))))
        node.set("skipped", "0")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suite(root: Element, judgement: Judgement, candidate: CandidateVerdict) -> None:
    suite, name = SubElement(root, "testsuite", name=_name(candidate.name)), candidate.name
    cases = [
        (one.stratum, one.slice, one.verdict, _why(one, judgement, candidate)) for one in candidate.strata if one.gating
    ]
    cases += [
        (f"{one.stratum}: {one.kind}", one.slice, one.verdict, rate_sentence(one, name))
        for one in candidate.tail_events
        if one.verdict is not None
    ]
    for case, label, verdict, text in cases:
        _case(suite, case, f"{name}.{label}", _TAGS.get(verdict, "error"), verdict, text)
    if all(verdict == "pass" for _, _, verdict, _ in cases) and (candidate.verdict != "pass" or not cases):
        message = words.reasons(candidate) if candidate.reasons or cases else "no gating stratum was judged"
        _case(suite, "verdict", name, "error", candidate.verdict, message)
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


def _case(suite: Element, name: str, classname: str, tag: str, verdict: str, message: str) -> None:
    case = SubElement(suite, "testcase", name=_name(name), classname=_name(classname))
    if tag:
        SubElement(case, tag, type=verdict, message=_name(message)).text = visible(clip(message, _LONGEST))


def _name(text: str) -> str:
    return one_line(clip(text, _LONGEST))
