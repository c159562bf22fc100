"""The files of a report: page and Markdown, and for programs JUnit XML, CSV, Parquet and model-card metadata."""

import csv
import io
import os
import re
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import yaml

from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.records import digest
from harness.report.blocks import filled
from harness.report.blocks.programs import comparisons
from harness.report.evidence import Evidence
from harness.report.markdown import markdown_report
from harness.report.sanitize import clip, one_line, visible
from harness.report.section import Section
from harness.store.files import atomic_write, explained

_STEP_SUMMARY, _LONGEST = "GITHUB_STEP_SUMMARY", 2000
_OLD = "report-flips.json"  # answers that earlier versions wrote next to the page
_REPORTS = ("report.md", "report.html", "junit.xml", _OLD, "model-index-*.yaml", "tail_events.csv", "comparisons.*")


def write(run_dir: Path, judgement: Judgement, evidence: Evidence) -> list[Path]:
    """Write every report file whole, then GitHub's step summary; give the files of the run. Raises StoreError."""
    from harness.report.html import html_report  # late: `--help` and the terminal need not wait for the templates

    files: dict[str, str | bytes] = {"report.md": markdown_report(judgement, evidence)}
    files |= {"junit.xml": junit(judgement, evidence), "report.html": html_report(judgement, evidence)}
    table = comparisons(judgement)
    files |= {"comparisons.csv": csv_text(table), "comparisons.parquet": parquet_bytes(table)}
    for section in (one for _, sections in filled("table", judgement, evidence) for one in sections):
        files[f"{section.title}.csv"] = csv_text(section)
    for candidate in (one for one in judgement.candidates if one.strata):
        files[file_name(candidate.name)] = model_index(judgement, candidate, evidence)
    for name, content in files.items():
        atomic_write(run_dir / name, content)
    _forget(run_dir / _OLD)
    step_summary(str(files["report.md"]))
    return [run_dir / name for name in files]


def remove(run_dir: Path) -> list[Path]:
    """Remove a verdict and its reports, which do not hold any more; give their paths. Raises StoreError."""
    gone = [path for name in (*_REPORTS, "verdict.json") for path in sorted(run_dir.glob(name)) if path.is_file()]
    for path in gone:
        _forget(path)
    return gone


def _forget(path: Path) -> None:
    with explained(path, "removed, and is of an earlier report"):
        path.unlink(missing_ok=True)


def step_summary(text: str) -> None:
    """Append to GitHub's step summary, if there is one. Raises StoreError."""
    if named := os.environ.get(_STEP_SUMMARY):
        doing = f"appended to as GitHub's step summary (unset {_STEP_SUMMARY} to leave that out)"
        with explained(Path(named), doing), Path(named).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def junit(judgement: Judgement, evidence: Evidence) -> str:
    """Return JUnit XML: a test suite per section, a case per row."""
    root = Element("testsuites", name=_name(f"quantcliff {evidence.name}".strip()))
    for section in (one for _, sections in filled("junit", judgement, evidence) for one in sections):
        suite = SubElement(root, "testsuite", name=_name(section.title))
        for case, place, outcome, verdict, message in section.rows:
            node = SubElement(suite, "testcase", name=_name(case), classname=_name(place))
            if outcome:
                SubElement(node, outcome, type=verdict, message=_name(message)).text = visible(clip(message, _LONGEST))
        if section.sentences:
            text = "\n".join((section.note, *section.sentences))
            SubElement(suite, "system-out").text = visible(clip(text, 20 * _LONGEST))
    for node in (*root, root):
        for attribute, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            node.set(attribute, str(len(node.findall(f".//{tag}"))))
        node.set("skipped", "0")
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _name(text: str) -> str:
    return one_line(clip(text, _LONGEST))


def csv_text(section: Section) -> str:
    """Return a table as CSV (RFC 4180), with a quote before texts that a spreadsheet would compute."""

    def harmless(value: object) -> object:
        text = one_line(value) if isinstance(value, str) else value
        return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text

    out = io.StringIO()
    rows = ([one.heading for one in section.columns], *(map(harmless, row) for row in section.rows))
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


def parquet_bytes(section: Section) -> bytes:
    """Return a table as Parquet, typed also where every value is missing."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(one.heading, getattr(pa, one.kind)()) for one in section.columns])
    texts = ((one_line(value) if isinstance(value, str) else value for value in row) for row in section.rows)
    rows, sink = [dict(zip(schema.names, row, strict=True)) for row in texts], io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


def file_name(candidate: str) -> str:
    """Return the name of a candidate's metadata file; if letters become ``_``, a digest keeps names apart."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", candidate)[:80].lstrip(".")
    return f"model-index-{safe if safe and safe == candidate else f'{safe}-{digest(one_line(candidate))}'}.yaml"


def model_index(judgement: Judgement, candidate: CandidateVerdict, evidence: Evidence) -> str:
    """Return a candidate's results as the ``model-index`` of a Hugging Face model card, to be pasted into its head."""
    base, run = one_line(judgement.baseline), one_line(clip(evidence.name, 200))
    results = [_result(base, one) for one in candidate.strata if one.candidate_mean is not None]
    index = {"model-index": [{"name": one_line(candidate.name), "results": results}]}
    head = f"# quantcliff {run}: {candidate.verdict} against {base}\n"
    return head + yaml.safe_dump(index, sort_keys=False, allow_unicode=True, width=120)


def _result(base: str, one: StratumVerdict) -> dict[str, Any]:
    figures = {f"score of {base}": one.baseline_mean, "change": one.delta}
    figures |= {"change, lower limit": one.low, "change, upper limit": one.high}
    known = ({"type": "accuracy", "name": name, "value": value} for name, value in figures.items() if value is not None)
    score = {"type": "accuracy", "name": "score", "value": one.candidate_mean, "verified": False}
    place, args = one_line(f"{one.slice}, {one.stratum}"), {"n": one.n, "margin": one.margin, "verdict": one.verdict}
    dataset = {"type": f"quantcliff/{one_line(one.slice)}", "name": place, "args": args}
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": [score, *known]}
