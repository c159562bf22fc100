"""The files of a report: page and Markdown, and for programs JUnit XML, CSV, Parquet and model-card metadata."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import yaml

from harness.judge.summaries import ChoiceProbability, TailRate
from harness.judge.verdicts import FIGURES, CandidateVerdict, Judgement, StratumVerdict
from harness.records import digest
from harness.report import words
from harness.report.answers import SIDE_FILE
from harness.report.blocks.findings import rate_sentence
from harness.report.evidence import Evidence
from harness.report.markdown import markdown_report
from harness.report.sanitize import clip, one_line, visible
from harness.store.files import explained

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_CHOICE_FIELDS = {f"choice_probability_{one.name}": one for one in dataclasses.fields(ChoiceProbability)}

COLUMNS = ("candidate", *FIGURES, *_CHOICE_FIELDS)  # the tables' columns, in order
_LONGEST = 2000
_TAGS = {"pass": "", "fail": "failure"}


def write(run_dir: Path, judgement: Judgement, evidence: Evidence) -> list[Path]:
    """Write every report file into `run_dir` and append to GitHub's step summary if there is one.

    Gives the files written in the run directory. A file is replaced whole or not at all. Raises StoreError if one
    cannot be written; the step summary comes last.
    """
    from harness.report.html import html_report  # late: `--help` and the terminal need not wait for the templates

    page = html_report(judgement, evidence)
    files: dict[str, str | bytes] = {
        "report.md": markdown_report(judgement, evidence),
        "junit.xml": junit(judgement, evidence),
        "report.html": page.html,
        "comparisons.csv": comparisons_csv(judgement),
        "comparisons.parquet": comparisons_parquet(judgement),
    }
    if any(candidate.tail_events for candidate in judgement.candidates):
        files["tail_events.csv"] = tail_events_csv(judgement)
    if page.side_file is not None:
        files[SIDE_FILE] = page.side_file
    for candidate in judgement.candidates:
        if candidate.strata:
            files[file_name(candidate.name)] = model_index(judgement, candidate, evidence)
    paths = [_replace(run_dir / name, content) for name, content in files.items()]
    if page.side_file is None:
        _forget(run_dir / SIDE_FILE)
    step_summary(str(files["report.md"]))
    return paths


def remove(run_dir: Path) -> list[Path]:
    """Remove the report files that show questions and answers, and give their paths. Raises StoreError."""
    paths = (run_dir / name for name in ("report.md", "report.html", "junit.xml", SIDE_FILE))
    gone = [path for path in paths if path.is_file()]
    for path in gone:
        _forget(path)
    return gone


def _replace(path: Path, content: str | bytes) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content if isinstance(content, bytes) else content.encode())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    return path


def _forget(path: Path) -> None:
    """Remove what an earlier report left and this one does not hold."""
    with explained(path, "removed, and is of an earlier report"):
        path.unlink(missing_ok=True)


def step_summary(text: str) -> None:
    """Append to GitHub's step summary, if there is one. Raises StoreError."""
    if named := os.environ.get(_STEP_SUMMARY):
        doing = f"appended to as GitHub's step summary (unset {_STEP_SUMMARY} to leave that out)"
        with explained(Path(named), doing), Path(named).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def junit(judgement: Judgement, evidence: Evidence) -> str:
    """Return JUnit XML: a test suite per candidate, a case per gating stratum and per gated rate of tail events.

    What neither passes nor fails is an *error*: GitLab, Jenkins, Azure and GitHub's actions count a skipped case as
    fine, and an undecided stratum is not fine. A candidate that did not pass although all its cases pass gets another
    case, and so does the run. Advisory strata are listed in the suite's output.
    """
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
    strata, rates = [one for one in candidate.strata if one.gating], candidate.tail_events
    cases = [(one.stratum, one.slice, one.verdict, _why(one, judgement, candidate)) for one in strata]
    cases += [
        (f"{one.stratum}: {one.kind}", one.slice, one.verdict, rate_sentence(one, name)) for one in rates if one.verdict
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


def _rows(judgement: Judgement) -> list[dict[str, Any]]:
    rows = []
    for candidate in judgement.candidates:
        for one in candidate.strata:
            figures = {name: figure.read(one) for name, figure in FIGURES.items()}
            levels = ",".join(f"{axis}={level}" for axis, level in one.levels.items())
            known = one.choice_probability
            choice = {name: known and getattr(known, field.name) for name, field in _CHOICE_FIELDS.items()}
            rows.append({"candidate": candidate.name, **figures, "levels": levels, **choice})
    return rows


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV (RFC 4180), with a quote before texts that a spreadsheet would compute."""

    def harmless(value: object) -> object:
        text = one_line(value) if isinstance(value, str) else value
        return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@")) else text

    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({key: harmless(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def comparisons_csv(judgement: Judgement) -> str:
    """Return the comparisons as CSV: a row per candidate and stratum, figures unrounded, missing ones empty."""
    return _csv(COLUMNS, _rows(judgement))


def tail_events_csv(judgement: Judgement) -> str:
    """Return the rates of tail events as CSV: a row per candidate, the A/A control among them, stratum and kind."""
    columns = ["candidate", *(one.name for one in dataclasses.fields(TailRate))]
    sides = [*judgement.candidates, *([judgement.control] if judgement.control else [])]
    rates = ((side, one) for side in sides for one in side.tail_events)
    return _csv(columns, ({"candidate": side.name} | dataclasses.asdict(one) for side, one in rates))


def comparisons_parquet(judgement: Judgement) -> bytes:
    """Return the same rows as Parquet, typed also where every value is missing."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"candidate": "string"} | {name: figure.kind for name, figure in FIGURES.items()}
    kinds |= {name: "int64" if one.name == "n" else "float64" for name, one in _CHOICE_FIELDS.items()}
    schema = pa.schema([(name, getattr(pa, kinds[name])()) for name in COLUMNS])
    rows = [{key: one_line(v) if isinstance(v, str) else v for key, v in row.items()} for row in _rows(judgement)]
    sink = io.BytesIO()
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
    figures = {
        f"score of {base}": one.baseline_mean,
        "change": one.delta,
        "change, lower limit": one.low,
        "change, upper limit": one.high,
    }
    known = ({"type": "accuracy", "name": name, "value": value} for name, value in figures.items() if value is not None)
    place, args = one_line(f"{one.slice}, {one.stratum}"), {"n": one.n, "margin": one.margin, "verdict": one.verdict}
    return {
        "task": {"type": "text-generation"},
        "dataset": {"type": f"quantcliff/{one_line(one.slice)}", "name": place, "args": args},
        "metrics": [{"type": "accuracy", "name": "score", "value": one.candidate_mean, "verified": False}, *known],
    }
