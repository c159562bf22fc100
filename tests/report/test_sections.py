"""Sections as data: what is filled once is in every format."""

from __future__ import annotations

import dataclasses
import html
import io
import re
from pathlib import Path

import pytest
import report_data
from lazily import lazy
from rich.console import Console

from harness.judge import judging
from harness.report import run_evidence
from harness.report.blocks import behaviour, filled, findings, measured, routing, strata
from harness.report.evidence import Evidence
from harness.report.markdown import markdown_report
from harness.report.section import as_cell
from harness.report.terminal import terminal
from harness.store.rundir import RunDir
from harness.store.whole import load_run

report_html = lazy("harness.report.html")


@pytest.fixture(scope="module")
def judged():
    """A judgement with tail events."""
    return report_data.with_tail_events(report_data.judgement())


@pytest.fixture(scope="module")
def evidence(judged):
    """What a run gathers, with a model that thinks."""
    rows = (("nf4", "9,876", "4,321", "1,234", "17"),)
    return dataclasses.replace(report_data.evidence(judged), scoring=rows)


@pytest.fixture(scope="module")
def formats(judged, evidence):
    """The report on a wide terminal, in Markdown and as a page: the text that a reader sees."""
    console = Console(file=io.StringIO(), width=300)
    terminal(judged, console, evidence)
    page = report_html.html_report(judged, evidence).html
    texts = (console.file.getvalue(), markdown_report(judged, evidence, 10_000_000), page)
    return [" ".join(html.unescape(re.sub(r"<[^>]+>|\*\*", " ", text)).split()) for text in texts]


def made(judged, evidence):
    """The sections that all formats show."""
    sections = [strata.averages(judged), findings.kinds_section(judged), routing.cost_section(judged, evidence)]
    sections.append(measured.scoring_notes(evidence))
    assert all(sections)
    return sections


def test_every_figure_is_in_every_format(judged, evidence, formats):
    """Each heading and each figure of averages, tail events, costs and scoring notes is in all three."""
    for section in made(judged, evidence):
        for text in formats:
            assert [one.heading for one in section.columns if one.heading not in text] == []
            figures = (
                as_cell(cell).text
                for row in section.rows
                for cell, column in zip(row, section.columns, strict=True)
                if column.kind == "number"
            )
            assert [one for one in figures if one not in text] == []


def test_rows_have_a_cell_per_column(judged, evidence):
    """No format would show a row of another length."""
    plans = routing.plans(judged, evidence)
    more = [routing.routes(plans, "bf16"), measured.power(evidence), measured.control_noise(judged)]
    more += [strata.by_candidate(judged, one) for one in judged.candidates if one.strata]
    more += [behaviour.divergence(evidence.divergence, "bf16"), routing.proof_section(evidence), strata.matrix(judged)]
    for section in (*made(judged, evidence), *more):
        assert section.rows
        assert {len(row) for row in (*section.rows, *section.quiet)} == {len(section.columns)}


def test_an_empty_section_is_left_out(judged):
    """A run without a thinking model and without limits has no section about them, in any format."""
    plain = report_data.evidence(judged)
    assert not measured.scoring_notes(plain)
    assert "thinking" not in markdown_report(judged, plain)
    assert 'id="scoring"' not in report_html.html_report(judged, plain).html


def test_scoring_notes_are_gathered_from_the_answers(repository: Path):
    """A variant is listed if an answer has a thinking part or reached a limit of scoring; the demo has neither."""
    run = load_run(RunDir(repository / "results" / "demo-cpu"))
    assert [*run_evidence.scoring_rows(run, ["bf16", "nf4"])] == []
    first, second, *rest = run.of("nf4")
    changed = [
        dataclasses.replace(first, metrics={**first.metrics, "thinking_characters": 30.0}),
        dataclasses.replace(second, metrics={**second.metrics, "thinking_characters": 10.0, "scoring_limit": 1.0}),
        *rest,
    ]
    run = dataclasses.replace(run, answers={**run.answers, "nf4": {Path("nf4"): tuple(changed)}})
    assert [*run_evidence.scoring_rows(run, ["bf16", "nf4"])] == [("nf4", f"{len(changed)}", "2", "20", "1")]


def test_failing_strata_name_the_next_command(repository: Path):
    """A quantized candidate that fails in a run can be searched for the modules that cost its items; another cannot."""
    run = load_run(RunDir(repository / "results" / "demo-cpu"))
    judgement = judging.judge(run)
    for modules, expected in (
        (210, "Which modules cost the items of nf4: quantcliff localize results/demo nf4."),
        (0, ""),
    ):
        known = Evidence(path="results/demo", proofs={"nf4": {"quantized_modules": modules}})
        failing = next(one for one in findings._findings(judgement, known) if one.title == "Failing strata")
        assert failing.quiet_note == expected


def test_a_block_is_a_file(judged, evidence, monkeypatch):
    """A module with BLOCKS is shown by the formats that it names, in the order of its ranks."""
    from harness.report import blocks
    from harness.report.section import Block, Section

    one = Block("mine", "Mine", lambda *_: [Section.listed("Mine", ["said"])], {"page": 1, "terminal": 99})
    known = blocks._blocks()
    monkeypatch.setattr(blocks, "_blocks", lambda: (*known, one))
    keys = {
        name: [block.key for block, _ in filled(name, judged, evidence)] for name in ("terminal", "markdown", "page")
    }
    assert (keys["page"][0], keys["terminal"][-1]) == ("mine", "mine")
    assert "mine" not in keys["markdown"]
    assert 'id="mine"' in report_html.html_report(judged, evidence).html


def test_what_says_nothing_is_a_line():
    """A stratum without signal in which nothing flipped is counted by all formats; one that flipped is shown."""

    def made(number, lost):
        one = report_data.stratum("s", {"i": str(number)}, n=9, base=0.0, drop=0.0, margin=0.1, verdict="no_signal")
        look = dataclasses.replace(one.decision.look, result=dataclasses.replace(one.result, lost=lost, gained=0))
        return report_data.decided(one, look=look)

    one = dataclasses.replace(report_data.passing().candidates[0], strata=(made(1, 0), made(2, 0), made(3, 1)))
    judgement = dataclasses.replace(report_data.passing(), candidates=(one,))
    for section in (strata.matrix(judgement), strata.on_terminal(judgement), strata.by_candidate(judgement, one)):
        assert [as_cell(row[1]).text for row in section.rows] == ["i=3"]
        assert section.quiet_note == "2 more strata have no signal and no flips."
