"""What a newcomer asks the page first: may we ship it, for which traffic, how was it measured."""

from __future__ import annotations

import dataclasses
import re

import pytest
import report_data
from lazily import lazy

from harness.judge.verdicts import Judgement
from harness.report.blocks.measured import measured
from harness.report.blocks.routing import routing
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
    ("verdict", "passed"), [("pass", ["nf4", "nf4"]), ("fail", ["nf4", "none"]), ("not_judged", ["nf4", "none"])]
)
def test_tail_events_hold_a_stratum_back(verdict, passed):
    """A stratum whose scores pass has not passed where a gated rate has not."""
    judgement = judged("pass", "pass")
    rate = report_data.rate("math", "hops=2", "wrong_script", 20, 100, tolerance=0.01, verdict=verdict)
    one = dataclasses.replace(judgement.candidates[0], tail_events=(rate,))
    judgement = dataclasses.replace(judgement, candidates=(one,))
    assert [row[-1] for row in routing(judgement, Evidence()).rows] == passed


def test_the_page_answers_in_words():
    """The card's answer, and who passed in each stratum."""
    page = re.sub(r"<[^>]+>", " ", report_html.html_report(judged("pass", "fail"), Evidence()))
    text = " ".join(page.split())
    assert "No: fails 1 of 2 gating strata" in text
    assert "math 1 hop 50.0 % nf4 math 2 hops 50.0 % none" in text


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
