"""The judgement as JUnit XML, for the CI systems that read nothing else.

One test suite per candidate, one test case per gating stratum and per gated rate of tail events. `fail` is a failure.
Everything else that does not pass (inconclusive, no signal, not judged) is an *error*: GitLab, Jenkins, Azure and
GitHub's actions count a skipped case as fine, and an undecided stratum is not fine. A candidate that did not pass
although none of its strata says so gets a case of its own, and so does the run. Advisory strata are listed in the
suite's output: they decide nothing.
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
    """Give the document as text, UTF-8 declared, well-formed whatever the names hold."""
    root = Element("testsuites", name=_name(f"quantcliff {evidence.name}".strip()))
    for candidate in judgement.candidates:
        _suite(root, judgement, candidate)
    green = all(not (len(s.findall("*/failure")) or len(s.findall("*/error"))) for s in root)
    if (judgement.verdict != "pass" or judgement.exit_code != 0) and (green or not len(root)):
        message = " ".join(judgement.warnings) or words.exit_meaning(judgement)
        suite = SubElement(root, "testsuite", name="run")
        _error(_case(suite, "verdict", "quantcliff.run"), judgement.verdict, message)
    for suite in root:
        _count(suite)
    for kind in ("tests", "failures", "errors", "skipped"):
        root.set(kind, str(sum(int(suite.get(kind, "0")) for suite in root)))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suite(root: Element, judgement: Judgement, candidate: CandidateVerdict) -> None:
    suite = SubElement(root, "testsuite", name=_name(candidate.name))
    gating = [one for one in candidate.strata if one.gating]
    for one in gating:
        case = _case(suite, one.stratum, f"{candidate.name}.{one.slice}")
        if one.verdict == "fail":
            text = words.stratum_sentence(one, candidate.name, judgement.baseline)
            SubElement(case, "failure", type="fail", message=_name(text)).text = visible(clip(text, _LONGEST))
        elif one.verdict != "pass":
            _error(case, one.verdict, _why(one, judgement, candidate))
    _events(suite, candidate)
    decided = [*(one.verdict for one in gating), *(one.verdict for one in candidate.tail_events if one.verdict)]
    if all(verdict == "pass" for verdict in decided) and (candidate.verdict != "pass" or not decided):
        message = words.reasons(candidate) if candidate.reasons or gating else "no gating stratum was judged"
        _error(_case(suite, "verdict", candidate.name), candidate.verdict, message)
    aside = [f"{words.place(one)}: {words.change(one)} {one.verdict}" for one in candidate.strata if not one.gating]
    if aside:
        text = visible(clip("advisory strata, not part of the verdict:\n" + "\n".join(aside), 20 * _LONGEST))
        SubElement(suite, "system-out").text = text


def _events(suite: Element, candidate: CandidateVerdict) -> None:
    """Give each gated rate of tail events a case of its own."""
    for one in candidate.tail_events:
        if one.verdict is None:
            continue
        case = _case(suite, f"{one.stratum}: {one.kind}", f"{candidate.name}.{one.slice}")
        text = tail.rate_sentence(one, candidate.name)
        if one.verdict == "fail":
            SubElement(case, "failure", type="fail", message=_name(text)).text = visible(clip(text, _LONGEST))
        elif one.verdict != "pass":
            _error(case, one.verdict, text)


def _why(one: StratumVerdict, judgement: Judgement, candidate: CandidateVerdict) -> str:
    if one.verdict == "inconclusive":
        return words.undecided_sentence(one, candidate.name)
    if one.verdict == "no_signal":
        return words.no_signal_sentence(one, judgement.baseline)
    return one.reason or words.reasons(candidate)


def _case(suite: Element, name: str, classname: str) -> Element:
    return SubElement(suite, "testcase", name=_name(name), classname=_name(classname))


def _error(case: Element, kind: str, message: str) -> None:
    SubElement(case, "error", type=kind, message=_name(message)).text = visible(clip(message, _LONGEST))


def _name(text: str) -> str:
    return one_line(clip(text, _LONGEST))


def _count(suite: Element) -> None:
    for attribute, path in (("tests", "testcase"), ("failures", "*/failure"), ("errors", "*/error")):
        suite.set(attribute, str(len(suite.findall(path))))
    suite.set("skipped", "0")
