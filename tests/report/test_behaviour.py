"""How variants behave, read from the committed runs over axes that nobody gates: counts, pictures, cards."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import report_data
from lazily import lazy

from harness.judge import judging
from harness.judge.summaries import Quantity
from harness.report import run_evidence, words
from harness.report.blocks import behaviour, findings
from harness.report.evidence import Share
from harness.store.rundir import RunDir
from harness.store.whole import load_run

report_html = lazy("harness.report.html")


def judged(repository: Path, name: str):
    """Judge a committed run, and gather its evidence."""
    run = load_run(RunDir(repository / "results" / name))
    judgement = judging.judge(run)
    return run, judgement, run_evidence.evidence(run, judgement)


@pytest.fixture(scope="module")
def thinking(repository: Path):
    """The run that thinks: NF4 and a cache of 2 bits loop."""
    return judged(repository, "axes-thinking")


@pytest.fixture(scope="module")
def tools(repository: Path):
    """The run that calls tools."""
    return judged(repository, "axes-tools")


@pytest.fixture(scope="module")
def caches(repository: Path):
    """The run with KV caches of 8, 4 and 2 bits."""
    return judged(repository, "kv-cache")


def counted(evidence, kind: str) -> dict[str, tuple[int, int]]:
    """Count the answers with a sign, and those looked at, of each variant over all places."""
    found: dict[str, tuple[int, int]] = {}
    for one in evidence.shares:
        if one.what == kind:
            count, n = found.get(one.variant, (0, 0))
            found[one.variant] = count + one.count, n + one.n
            assert one.low <= one.count / one.n <= one.high
    return found


def test_each_variant_is_counted_by_itself(tools, thinking) -> None:
    """The counts are those that docs/axes.md reads: also of the baseline, and not only where the baseline is fine."""
    _, _, evidence = tools
    assert counted(evidence, "tool_no_call") == {"bf16": (27, 35), "nf4": (31, 35)}
    assert counted(evidence, "tool_uncalled_for") == {"bf16": (4, 15), "nf4": (3, 15)}
    assert {one.place for one in evidence.shares if one.what == "tool_no_call"} == {"2", "8"}
    _, _, evidence = thinking
    assert counted(evidence, "thought_loop") == {"bf16": (1, 24), "nf4": (15, 24), "kv2": (15, 24)}, (
        "one was bf16's own, too"
    )


def test_texts_are_compared_where_they_are_stored(caches) -> None:
    """Two bits change every text and eight bits few; of texts that are not kept nothing is said."""
    run, _, evidence = caches
    assert counted(evidence, "differs") == {"kv8": (3, 120), "kv4": (30, 120), "kv2": (120, 120)}
    bare = {
        name: [
            dataclasses.replace(one, response=dataclasses.replace(one.response, text="", token_ids=()))
            for one in run.of(name)
            if hasattr(one.response, "token_ids")
        ]
        for name in ("bf16", "kv2")
    }
    assert [one for one in behaviour.shares(run.items, bare) if one.what == "differs"] == []


def test_tool_calls_are_drawn_by_the_tools_offered(tools) -> None:
    """A picture per class, a line per variant, the number of tools along x in its order, with limits."""
    _, judgement, evidence = tools
    section = behaviour._signs(judgement, evidence, "tool_")
    titles = [one.title for one in section.charts]
    assert titles[0] == "a tool call is missing"
    assert "a tool call with a wrong value" not in titles, "no variant shows it"
    assert [[x for x, _ in line.points] for line in section.charts[0].lines] == [["2", "8"]] * 2
    assert all(len(line.limits) == 2 for line in section.charts[0].lines)
    many = (Share("bf16", "tool_no_call", offered, 1, 4, 0.0, 1.0) for offered in ("128", "2", "32", "8"))
    rows = behaviour._signs(judgement, dataclasses.replace(evidence, shares=tuple(many)), "tool_").rows
    assert [row[1] for row in rows] == ["2", "8", "32", "128"]


def test_a_page_draws_ratios_against_their_tolerance(thinking) -> None:
    """A dot with limits per variant, all within the picture, and the tolerance as a dashed line."""
    _, judgement, evidence = thinking
    charts = behaviour._quantities(judgement).charts
    assert [one.title for one in charts] == ["Characters thought per answer", "Tokens written per solved item"]
    (nf4,) = [line for line in charts[0].lines if line.name == "nf4"]
    assert nf4.points[0][1] == pytest.approx(2.507, abs=0.001)
    assert nf4.limits[0] == pytest.approx((1.671, 3.763), abs=0.001)
    assert [*charts[0].tolerated.values()] == [1.5]
    page = report_html.html_report(judgement, evidence)
    section = page.partition('id="behaviour"')[2].partition("</section>")[0]
    drawn = re.findall(r'<figure class="chart across".*?</figure>', section, re.DOTALL)
    assert len(drawn) == 4, "texts that differ, two ratios, signs in the thoughts"
    for one in drawn:
        ends = [float(x) for pair in re.findall(r'd="M([\d.-]+) [\d.]+H([\d.-]+)"', one) for x in pair]
        assert all(0 <= x <= 360 for x in ends)
    assert drawn[1].count("var(--fail)") == 1
    assert "tolerated</span>" in section


def test_the_cliff_of_caches_is_a_picture(caches) -> None:
    """The change by bytes of the cache per token, the baseline's own cache at zero; the worst stratum falls further."""
    _, judgement, evidence = caches
    section = behaviour._caches(judgement, evidence)
    for chart, last in zip(section.charts, (-55.0, -91.67), strict=True):
        points = {line.name: line.points[0] for line in chart.lines}
        assert points["bf16"] == (23_040.0, 0.0)
        assert points["kv2"] == (3_600.0, pytest.approx(last, abs=0.01))


def test_gated_rates_stand_in_one_table() -> None:
    """The furthest above their tolerance come first of each verdict; those that pass are shown on demand."""
    section = findings._rates(report_data.with_tail_events(report_data.judgement()))
    verdicts = [cell.verdict for cell, *_ in section.rows]
    assert verdicts == sorted(verdicts, key=("fail", "inconclusive", "no_signal", "not_judged").index)
    assert "wrong_script in language am" in section.rows[0][1].text
    assert {cell.verdict for cell, *_ in section.quiet} == {"pass"}
    assert section.quiet_note == f"{len(section.quiet)} gated rates are within their tolerance."
    assert not findings._rates(report_data.passing())


@pytest.mark.parametrize(
    ("name", "candidate", "said"),
    [
        ("thinking", "nf4", "characters thought per answer 2.51 [1.67, 3.76] times bf16's in chains worked, 1 hop"),
        ("thinking", "nf4", "the thought runs in a loop in 15 of 24 answers"),
        ("tools", "nf4", "a tool call is missing in 4 of 10 answers in"),
        ("caches", "kv2", "120 of 120 texts in retrieval differ from bf16's"),
    ],
)
def test_a_card_names_the_worst(request, name: str, candidate: str, said: str) -> None:
    """The longest thought, the most frequent class, the texts that differ: on the candidate's card."""
    _, judgement, evidence = request.getfixturevalue(name)
    (one,) = [each for each in judgement.candidates if each.name == candidate]
    worst = behaviour.worst(judgement, evidence, one)
    assert said in worst
    text = " ".join(re.sub(r"<[^>]+>", "", report_html.html_report(judgement, evidence)).split())
    assert "How it behaves, at worst:" in text
    assert ("blind to the KV cache: its scores come from reading" in text) is (name == "caches")
    assert "facts (choices): the baseline is not shown to be above chance" not in text


def test_a_verdict_by_a_quantity_names_it() -> None:
    """A candidate that fails by the length of its thoughts alone is not said to be within its margins first."""
    base = report_data.passing().candidates[0]
    told = Quantity("typical", "all", "thought_length", 50, 100.0, 300.0, 3.0, 2.0, 4.0, 1.5, "fail")
    one = dataclasses.replace(base, verdict="fail", quantities=(told,))
    first, *_ = words.headline(one).split("; ")
    assert (
        first == "fails 1 of 1 quantities, worst thought_length in typical: 3.00 times the baseline's (tolerated 1.5)"
    )
    passed = dataclasses.replace(base, quantities=(dataclasses.replace(told, verdict="pass"),))
    assert words.headline(passed).endswith("all 1 quantities within their tolerance")
