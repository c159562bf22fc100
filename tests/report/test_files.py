"""The files of a report: Markdown, JUnit, the step summary."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import report_data

from harness import report
from harness.cli import program as cli
from harness.errors import StoreError
from harness.judge.verdicts import CandidateVerdict, Judgement
from harness.report.evidence import Evidence
from harness.report.markdown import LIMIT, markdown_report
from harness.report.writer import junit


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def rendered(text):
    """The Markdown as HTML, by a parser of GitHub's dialect."""
    from markdown_it import MarkdownIt

    return MarkdownIt("gfm-like", {"linkify": False}).render(text)


def big(strata=400, candidates=6):
    """A judgement far larger than a comment may be."""
    made = report_data.judgement().candidates[1]
    many = tuple(report_data.numbered(made.strata[i % 28], stratum=f"language=x{i}") for i in range(strata))
    several = tuple(dataclasses.replace(made, name=f"c{i}", strata=many) for i in range(candidates))
    return Judgement("fail", 1, {"alpha": 0.05}, several, "bf16")


def test_markdown_tells_the_verdict_first_and_folds_the_tables():
    """The verdict and the failing strata come first, the tables are in closed details."""
    judged = report_data.judgement()
    text = markdown_report(judged, report_data.evidence(judged))
    assert text.startswith("## ✘ fail: quantcliff of <code>suite</code>\n")
    assert text.index("### Failing strata") < text.index("<details>")
    assert text.count("<details>") == text.count("</details>") == 3
    html = rendered(text)
    assert html.count("<table>") == 5
    assert "of 400 items 177 lost, 2 gained." in html


@pytest.mark.parametrize("limit", [2000, 10_000, LIMIT])
def test_markdown_never_exceeds_its_limit(limit):
    """However many strata and flips, the text keeps its limit in bytes, closes its details and counts what is left."""
    judged = big()
    text = markdown_report(judged, report_data.evidence(judged), limit)
    assert len(text.encode()) <= limit
    assert text.count("<details>") == text.count("</details>")
    assert "more" in text


def test_markdown_shows_failing_strata_before_passing_ones():
    """What does not fit is what matters least."""
    text = markdown_report(report_data.judgement(), Evidence())
    table = text[text.index("All 28 strata") :].split("</details>")[0]
    lines = [line for line in table.splitlines() if line.startswith("| <code>")]
    rows = [next(word for word in ("fail", "inconclusive", "no signal", "pass") if word in line) for line in lines]
    assert rows == sorted(rows, key=["fail", "inconclusive", "no signal", "pass"].index)
    assert len(rows) == 27
    assert "1 more stratum has no signal" in table


def test_markdown_survives_hostile_text():
    """Hostile names and answers become text: no script, no emphasis, no broken table, valid UTF-8."""
    judged = report_data.hostile()
    pair = dataclasses.replace(
        report_data.evidence(report_data.judgement()).flips[0], baseline_text=report_data.HOSTILE
    )
    text = markdown_report(judged, Evidence(name=report_data.HOSTILE, notes=(report_data.HOSTILE,), flips=(pair,)))
    assert not set(text) & {"\x1b", "\x00", "\u202e", "\ud800"}
    text.encode()
    html = rendered(text)
    assert "<script" not in html
    assert "@team" not in text
    for row in html.split("<tr>")[1:]:
        assert row.count("<td") in {0, 2, 3, 6, 7, 8}


def test_markdown_tells_tail_events_that_do_not_pass_before_the_tables():
    """Gated rates that fail or are open stand with the strata, where a cut of long tables does not reach them."""
    judged = report_data.with_tail_events(report_data.judgement())
    text = markdown_report(judged, Evidence())
    first = text.index("### Tail events beyond their tolerance")
    assert (
        text.index("### Failing strata") < first < text.index("### Undecided") < text.index("### Tail events undecided")
    )
    assert text.index("### Tail events undecided") < text.index("<details>")
    assert "36 of 250 items (14 %, limits 11 % to 18 %), tolerated 2 %" in text[first:].partition("###")[2]


def test_markdown_shows_where_long_answers_part():
    """Two answers that agree for long are not shown as if they were the same."""
    pair = report_data.evidence(report_data.judgement()).flips[0]
    pair = dataclasses.replace(pair, baseline_text="so " * 900 + "yes", candidate_text="so " * 900 + "no")
    text = markdown_report(report_data.judgement(), Evidence(flips=(pair,)))
    assert re.search(r"baseline: <code>\(2,625 characters before\) …(so )+yes</code>", text)
    assert re.search(r"\(2,625 characters before\) …(so )+no</code>", text)


def cases(text):
    """Each test case's name to what is in it: nothing, failure or error."""
    root = ET.fromstring(text)  # noqa: S314 - our own output
    return {
        (suite.get("name"), case.get("name")): [child.tag for child in case]
        for suite in root.findall("testsuite")
        for case in suite.findall("testcase")
    }


def test_junit_has_a_case_per_gating_stratum():
    """Fail is a failure, pass is nothing, everything else is an error, advisory strata are no cases."""
    judged = report_data.judgement()
    found = cases(junit(judged, Evidence()))
    kinds = {"pass": [], "fail": ["failure"], "inconclusive": ["error"], "no_signal": ["error"]}
    for candidate in judged.candidates:
        for one in candidate.strata:
            if one.gating:
                assert found.pop((candidate.name, one.stratum)) == kinds[one.verdict]
    assert found == {("gptq-int4", "verdict"): ["error"]}


def test_junit_counts_what_it_holds():
    """The counts in the attributes are the counts of the elements."""
    root = ET.fromstring(junit(report_data.judgement(), Evidence()))  # noqa: S314 - our own output
    for node in (root, *root.findall("testsuite")):
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            assert int(node.get(attribute)) == len(node.findall(f".//{tag}"))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("55", "16", "7")


def test_junit_is_never_green_where_the_gate_is_not():
    """Whatever the strata say, a judgement that did not pass leaves a failure or an error."""
    passing = report_data.passing()
    assert set(map(tuple, cases(junit(passing, Evidence())).values())) == {()}
    candidate = dataclasses.replace(passing.candidates[0], verdict="not_judged", reasons=("A/A failed",))
    for judged in (
        dataclasses.replace(passing, verdict="not_judged", exit_code=4),
        dataclasses.replace(passing, exit_code=4),
        dataclasses.replace(passing, candidates=(candidate,)),
        dataclasses.replace(passing, candidates=(CandidateVerdict("x", "pass", (), ()),)),
        Judgement("not_judged", 4, {}, ()),
    ):
        assert ["error"] in cases(junit(judged, Evidence())).values()


def test_junit_is_well_formed_with_hostile_names():
    """Names with control characters, lone surrogates and XML's own signs give a document that parsers read."""
    text = junit(report_data.hostile(), Evidence(name=report_data.HOSTILE))
    found = cases(text.encode().decode())
    assert len(found) == 5
    assert all(r"\x1b[31m" in name for _, name in found)


def test_write_leaves_both_files_and_appends_the_summary(tmp_path, monkeypatch):
    """report.md and junit.xml lie in the run; the step summary keeps what was there and gains the Markdown."""
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    judged = report_data.passing()
    paths = report.write(tmp_path / "run", judged, Evidence())
    assert {"report.md", "junit.xml"} <= {path.name for path in paths}
    assert all(path.stat().st_size for path in paths)
    assert sorted(paths) == sorted((tmp_path / "run").iterdir())
    text = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert summary.read_text(encoding="utf-8") == f"before\n{text}\n"


def test_writing_twice_gives_equal_bytes(tmp_path):
    """A report holds no time and no random choice: the same judgement gives the same bytes."""
    judged = report_data.judgement()
    first, second = (report.write(tmp_path / name, judged, report_data.evidence(judged)) for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    """The message names the file and the remedy; nothing is half written."""
    (tmp_path / "run").write_text("a file where a directory should be")
    with pytest.raises(StoreError, match=r"report\.md: cannot be written"):
        report.write(tmp_path / "run", report_data.passing(), Evidence())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110 - not a regular file
def test_a_summary_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    """A full disk under the step summary is said by its own name."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full")
    with pytest.raises(StoreError, match="step summary"):
        report.write(tmp_path / "run", report_data.passing(), Evidence())
    assert (tmp_path / "run" / "report.md").exists()


def write_csv(path: Path, right: range) -> Path:
    """A table of 200 items in two strata, of which the first `right` are answered right."""
    rows = [f"q{index},{int(index in right)},{'ab'[index % 2]}" for index in range(200)]
    path.write_text("\n".join(["id,score,part", *rows]) + "\n", encoding="utf-8")
    return path


def foreign(tmp_path: Path, *more: object) -> int:
    """Compare two tables of another tool by the command line, and give the exit code."""
    base, other = write_csv(tmp_path / "base.csv", range(180)), write_csv(tmp_path / "other.csv", range(100))
    words = ["compare", "--baseline", base, "--candidate", f"int4={other}", "--item", "id", "--score", "score"]
    return cli._run([str(word) for word in (*words, "--stratum", "part", "--margin", "0.1", "--quiet", *more)])


def test_a_comparison_of_other_tools_files_leaves_reports_where_it_is_told_to(tmp_path):
    """With --output all reports and the comparison lie there; the page names the files that were compared."""
    assert foreign(tmp_path, "--output", tmp_path / "out") == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "report.md", "junit.xml", "comparisons.csv", "comparisons.json", "verdict.json"} <= names
    assert json.loads((tmp_path / "out" / "comparisons.json").read_text())["verdict"] == "fail"
    assert "other.csv" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    # A verdict that an earlier comparison left there is none on files that are refused.
    assert foreign(tmp_path, "--output", tmp_path / "out", "--slice", "none") == 2
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {"report.html", "report.md", "junit.xml", "comparisons.json", "verdict.json"} & names
    (tmp_path / "junit.xml").write_text("of the project's own tests")
    assert foreign(tmp_path, "--output", tmp_path, "--slice", "none") == 2
    assert (tmp_path / "junit.xml").is_file()


def test_a_comparison_of_other_tools_files_leaves_nothing_unless_told_to(tmp_path):
    """Without --output only the two tables are there afterwards."""
    assert foreign(tmp_path) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"base.csv", "other.csv"}


def test_a_foreign_comparison_is_not_written_over_a_runs_own(tmp_path, capsys):
    """A run's directory as --output, or --output for a run, ends in 2 and changes nothing."""
    (tmp_path / "run.json").write_text("{}")
    assert foreign(tmp_path, "--output", tmp_path) == 2
    assert "already contains a quantcliff run" in capsys.readouterr().err
    assert cli._run(["compare", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "--output: for files of other tools" in capsys.readouterr().err
    assert not (tmp_path / "comparisons.json").exists()
