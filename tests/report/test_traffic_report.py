"""What a newcomer asks the page first: may we ship it, for which traffic, how was it measured."""

from __future__ import annotations

import dataclasses
import re

import pytest
import report_data
from lazily import lazy

from harness.judge.verdicts import Judgement
from harness.report.blocks.measured import measured
from harness.report.blocks.routing import shares
from harness.report.evidence import Evidence

report_html = lazy("harness.report.html")


@pytest.mark.parametrize(
    ("verdict", "answer"),
    [
        ("pass", "Yes"),
        ("fail", "No"),
        ("inconclusive", "Not yet"),
        ("no_signal", "Not yet"),
        ("not_judged", "Unknown"),
    ],
)
def test_the_answer_is_a_word(verdict, answer):
    """Only a pass is a yes; what is undecided is neither."""
    one = dataclasses.replace(report_data.judgement().candidates[1], verdict=verdict)
    page = report_html.html_report(Judgement("fail", 1, {}, (one,), "bf16"), Evidence())
    assert f"<strong>{answer}:</strong>" in page


def judged(*verdicts, candidate="fail"):
    """One candidate with a stratum of a slice per verdict."""
    made = tuple(
        report_data.stratum("math", {"hops": str(hops)}, n=100, base=0.6, drop=0.0, margin=0.05, verdict=verdict)
        for hops, verdict in enumerate(verdicts, start=1)
    )
    one = dataclasses.replace(report_data.judgement().candidates[1], strata=made, verdict=candidate)
    return Judgement("fail", 1, {"alpha": 0.05}, (one,), "bf16")


@pytest.mark.parametrize(
    ("verdicts", "candidate", "passed", "sign"),
    [
        (("pass", "pass"), "pass", 2, "pass"),
        (("pass", "inconclusive"), "inconclusive", 1, "inconclusive"),
        (("pass", "fail"), "fail", 1, "fail"),
        (("no_signal", "no_signal"), "no_signal", 0, "no_signal"),
        (("no_signal", "inconclusive"), "inconclusive", 0, "inconclusive"),
        (("pass", "pass"), "not_judged", 0, "inconclusive"),
    ],
)
def test_a_slice_is_free_to_move_only_where_all_of_it_passed(verdicts, candidate, passed, sign):
    """Counts of passed strata; a candidate that was not judged has none, whatever its strata say."""
    section = shares(judged(*verdicts, candidate=candidate))
    ((label, cell),) = section.quiet if sign == "no_signal" else section.rows
    text = "" if sign == "no_signal" else f"{passed} of 2"
    assert (label, cell.text, cell.verdict) == ("math", text, sign)
    assert cell.note == ("not: 2" if passed == 1 else "")


@pytest.mark.parametrize(
    ("verdict", "passed", "sign", "open_"),
    [
        ("pass", 2, "pass", ""),
        ("inconclusive", 1, "inconclusive", "not: 2 (wrong_script)"),
        ("not_judged", 1, "inconclusive", "not: 2 (wrong_script)"),
        ("fail", 1, "fail", "not: 2 (wrong_script)"),
    ],
)
def test_tail_events_hold_a_stratum_back(verdict, passed, sign, open_):
    """A stratum whose scores pass has not passed where a gated rate has not; the kind that holds it back is named."""
    judgement = judged("pass", "pass")
    rate = report_data.rate("math", "hops=2", "wrong_script", 20, 100, tolerance=0.01, verdict=verdict)
    one = dataclasses.replace(judgement.candidates[0], tail_events=(rate,))
    judgement = dataclasses.replace(judgement, candidates=(one,))
    ((_, cell),) = shares(judgement).rows
    assert (cell.text, cell.verdict, cell.note) == (f"{passed} of 2", sign, open_)
    page = re.sub(r"<[^>]+>", " ", report_html.html_report(judgement, Evidence()))
    assert ("not: 2 (wrong_script)" in page) is (verdict != "pass")


def test_the_page_answers_in_words():
    """The card's answer, the slice's count, and the strata that are held back."""
    page = re.sub(r"<[^>]+>", " ", report_html.html_report(judged("pass", "fail"), Evidence()))
    text = " ".join(page.split())
    assert "No: fails 1 of 2 gating strata" in text
    assert "1 of 2 not: 2" in text
    silent = re.sub(r"<[^>]+>", " ", report_html.html_report(judged("no_signal", "no_signal"), Evidence()))
    assert "math &#8709; no signal" in " ".join(silent.split()) or "math ∅ no signal" in " ".join(silent.split())


def test_how_it_was_measured_is_a_sentence():
    """Methods, items, strata, device and sampling as the run knows them; nothing is made up where it does not."""
    known = {
        "quantization": {"nf4": "bnb-nf4"},
        "dtype": {"nf4": "bfloat16", "bf16": "bfloat16"},
        "devices": {"bf16": "H100", "nf4": "H100"},
        "sampling": {"temperature": 0.0, "top_p": 1.0, "samples": 1},
        "seed": 7,
    }
    first, *others = measured(judged("pass", "fail"), Evidence(provenance=known))
    assert first.startswith("nf4 (bnb-nf4, bfloat16) answered the same 200 items as bf16 (bfloat16), compared item by")
    assert first.endswith("in 2 strata of 1 slice")
    assert others == [
        "device: H100",
        "answers chosen greedily",
        "seed 7",
    ]
    assert measured(judged("pass"), Evidence()) == [
        "nf4 answered the same 100 items as bf16, compared item by item in 1 stratum of 1 slice"
    ]
    warm = {"sampling": {"temperature": 0.7, "top_p": 0.9, "samples": 4}}
    assert measured(judged("pass"), Evidence(provenance=warm))[1] == (
        "answers sampled with temperature 0.7, top_p 0.9, samples 4"
    )
    assert measured(Judgement("not_judged", 4, {}, ()), Evidence(provenance=known)) == []
