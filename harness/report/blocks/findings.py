"""What a reader must act on, in sentences, and what the averages hide."""

from __future__ import annotations

from collections.abc import Iterator

from harness.judge.summaries import Verdict
from harness.judge.verdicts import Judgement, StratumVerdict
from harness.report import words
from harness.report.blocks import tail
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Section, names, texts

__all__ = ["BLOCKS", "hidden_by_averages", "verdicts"]


def verdicts(judgement: Judgement) -> Section:
    """Return each candidate's verdict and what decides it."""
    rows = tuple((one.name, Cell("", verdict=one.verdict), words.headline(one)) for one in judgement.candidates)
    return Section("Verdicts", names("candidate") + texts("verdict", "what decides"), rows)


def hidden_by_averages(judgement: Judgement) -> Section:
    """Return what each candidate's average hides."""
    hidden = (f"{one.name}: {one.hidden}" for one in judgement.candidates if one.hidden)
    return Section.listed("What the average hides", hidden)


def _findings(judgement: Judgement, _: Evidence) -> Iterator[Section]:
    base, everyone = judgement.baseline, judgement.candidates
    judged = [candidate for candidate in everyone if candidate.verdict != "not_judged"]

    def found(verdict: Verdict, *, gating: bool = True) -> list[tuple[str, StratumVerdict]]:
        return [(one.name, stratum) for one in judged for stratum in words.strata_with(one, verdict, gating=gating)]

    blind = [one for gating in (True, False) for _, one in found("no_signal", gating=gating)]
    silent = ((name, words.place(one), one.reason or "no figures to judge") for name, one in found("not_judged"))
    for title, sentences in {
        "Two promises": [line for one in judged for line in words.promises(one)],
        "Failing strata": [words.stratum_sentence(one, name, base) for name, one in found("fail")],
        "Tail events beyond their tolerance": tail.sentences(everyone, "fail"),
        "Below the margin, advisory": [
            words.stratum_sentence(one, name, base) for name, one in found("fail", gating=False)
        ],
        "Undecided": [words.undecided_sentence(one, name) for name, one in found("inconclusive")],
        "Tail events undecided": tail.sentences(everyone, "inconclusive"),
        "No signal": dict.fromkeys(words.no_signal_sentence(one, base) for one in blind),
        "Not judged": [f"{name} in {place}: {why}" for name, place, why in silent],
        "Tail events without signal": tail.sentences(everyone, "no_signal"),
        "Tail events not judged": tail.sentences(everyone, "not_judged"),
    }.items():
        yield Section.listed(title, sentences)


BLOCKS = (
    Block("findings", "What does not pass", _findings, {"terminal": 30, "markdown": 10}),
    # Page and Markdown show answers in their own ways.
    Block("flips", "What changed, answer by answer", lambda *_: (), {"markdown": 60, "page": 80}, "Answers"),
)
