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
from harness.report import run_evidence, writer
from harness.report.blocks import behaviour, filled, findings, measured, programs, routing, strata
from harness.report.evidence import Evidence, Share
from harness.report.markdown import markdown_report
from harness.report.section import as_cell
from harness.report.terminal import terminal
from harness.store.files import read_json
from harness.store.rundir import RunDir
from harness.store.whole import load_run

report_html = lazy("harness.report.html")


@pytest.fixture(scope="module")
def judged():
    """A judgement with tail events."""
    return report_data.with_tail_events(report_data.judgement())


@pytest.fixture(scope="module")
def evidence(judged):
    """What a run gathers, with tools that were called."""
    shares = (
        Share(name, "tool_no_call", offered, count, 50, 0.1, 0.9)
        for name, offered, count in (("bf16", "2", 7), ("nf4", "2", 17), ("int8", "128", 23), ("nf4", "128", 37))
    )
    return dataclasses.replace(report_data.evidence(judged), shares=tuple(shares))


@pytest.fixture(scope="module")
def formats(judged, evidence):
    """The report on a wide terminal, in Markdown and as a page: the text that a reader sees."""
    console = Console(file=io.StringIO(), width=300)
    terminal(judged, console, evidence)
    page = report_html.html_report(judged, evidence)
    texts = (console.file.getvalue(), markdown_report(judged, evidence, 10_000_000), page)
    return [" ".join(html.unescape(re.sub(r"<[^>]+>|\*\*", " ", text)).split()) for text in texts]


def made(judged, evidence):
    """The sections that all formats show."""
    sections = [strata.averages(judged), findings.kinds_section(judged), routing.cost_section(judged, evidence)]
    sections.append(behaviour._signs(judged, evidence, "tool_"))
    assert all(sections)
    return sections


def test_every_figure_is_in_every_format(judged, evidence, formats):
    """Each heading and each figure of averages, tail events, costs and tool calls is in all three."""
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
    more = [routing.routing(judged, evidence), measured.provenance(judged, evidence), strata.on_terminal(judged)]
    more += [behaviour.divergence(judged, evidence), strata.in_markdown(judged), strata.matrix(judged)]
    for section in (*made(judged, evidence), *more):
        assert section.rows
        assert {len(row) for row in (*section.rows, *section.quiet)} == {len(section.columns)}


def test_an_empty_section_is_left_out(judged):
    """A run without tools, thoughts and other caches has no section about them, in any format."""
    plain = report_data.evidence(judged)
    assert not any(behaviour._behaviour(judged, plain))
    assert "How it behaves" not in markdown_report(judged, plain)
    page = report_html.html_report(judged, plain)
    assert 'id="behaviour"' not in page
    assert "at worst:" not in page


def test_answers_at_a_limit_of_scoring_are_said(repository: Path):
    """A variant with an answer that was too long or too slow to score has a note; the demo has none."""
    run = load_run(RunDir(repository / "results" / "demo-cpu"))
    first, *rest = run.of("nf4")
    changed = dataclasses.replace(first, metrics={**first.metrics, "scoring_limit": 1.0})
    other = dataclasses.replace(run, answers={**run.answers, "nf4": {Path("nf4"): (changed, *rest)}})
    told = f"nf4: 1 of {1 + len(rest)} answers were too long or too slow to score"
    assert not any("to score" in one for one in run_evidence._notes(run, {"nf4": []}))
    assert [one for one in run_evidence._notes(other, {"nf4": []}) if one.startswith(told)]


def test_a_note_on_several_variants_is_said_once(repository: Path):
    """Three KV caches that answer in the same way have one note, with their names."""
    run = load_run(RunDir(repository / "results" / "kv-cache"))
    spent = {name: [read_json(run.directory.path / name / "cost-1of1.json")] for name in ("bf16", "kv8", "kv4", "kv2")}
    (note,) = run_evidence._notes(run, spent)
    assert note.startswith("kv8, kv4, kv2: answers grow on a quantized KV cache")


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
    assert 'id="mine"' in report_html.html_report(judged, evidence)


def test_what_says_nothing_is_a_line():
    """A stratum without signal in which nothing flipped is counted by all formats; one that flipped is shown."""

    def made(number, lost):
        one = report_data.stratum("s", {"i": str(number)}, n=9, base=0.0, drop=0.0, margin=0.1, verdict="no_signal")
        look = dataclasses.replace(one.decision.look, result=dataclasses.replace(one.result, lost=lost, gained=0))
        return report_data.decided(one, look=look)

    one = dataclasses.replace(report_data.passing().candidates[0], strata=(made(1, 0), made(2, 0), made(3, 1)))
    judgement = dataclasses.replace(report_data.passing(), candidates=(one,))
    for section in (strata.matrix(judgement), strata.on_terminal(judgement), strata.in_markdown(judgement)):
        assert [as_cell(row[1]).text for row in section.rows] == ["i=3"]
        assert section.quiet_note == "2 more strata have no signal and no flips."


def test_a_row_says_why_it_is_open():
    """Under the verdict of a stratum that neither passes nor fails stands its reason, on the page alone."""
    made = report_data.stratum("s", {"i": "1"}, n=9, base=0.0, drop=0.2, margin=0.1, verdict="inconclusive")
    few = report_data.decided(made, reason="one_cluster")
    more = report_data.decided(made, reason="undecided", items_to_decide=1_234)
    for stratum, why in ((few, "all its items share one source"), (more, "about 1,234 more items would decide it")):
        one = dataclasses.replace(report_data.passing().candidates[0], strata=(stratum,))
        judged = dataclasses.replace(report_data.passing(), candidates=(one,))
        assert strata.matrix(judged).rows[0][-1].why.startswith(why)
        section = report_html.html_report(judged, Evidence()).partition('id="matrix"')[2].partition("</section>")[0]
        assert why in section
    assert strata.matrix(report_data.passing()).rows[0][-1].why == ""


@pytest.mark.parametrize("name", ["demo-cpu", "kv-cache", "axes-thinking"])
def test_files_for_programs_are_the_committed_ones(repository: Path, name: str):
    """JUnit and both tables, rendered from sections, are to the byte what the committed runs hold."""
    folder = repository / "results" / name
    run = load_run(RunDir(folder))
    judgement = judging.judge(run)
    made = {
        "junit.xml": writer.junit(judgement, Evidence(name=run.experiment.name)),
        "comparisons.csv": writer.csv_text(programs.comparisons(judgement)),
        "tail_events.csv": writer.csv_text(programs.tail_events(judgement)),
    }
    for file, text in made.items():
        assert text.encode() == (folder / file).read_bytes(), file
