"""The files of a report: page, Markdown, JUnit, step summary, tables, model card."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import StoreError
from harness.judge.verdicts import Judgement
from harness.report import tables
from harness.report.evidence import Evidence
from harness.report.junit import junit
from harness.report.markdown import markdown_report

__all__ = ["remove", "step_summary", "write"]

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def write(run_dir: Path, judgement: Judgement, evidence: Evidence) -> list[Path]:
    """Write every report file into `run_dir` and append to GitHub's step summary if there is one.

    Gives the files written in the run directory. A file is replaced whole or not at all. Raises StoreError if the
    directory cannot be written; a step summary that cannot be written raises it too, after the files are there.
    """
    # The page draws: its library takes a second to load, which `--help` and the terminal need not wait for.
    from harness.report.html import SIDE_FILE, html_report

    text = markdown_report(judgement, evidence)
    page = html_report(judgement, evidence)
    files = {
        "report.md": text.encode(),
        "junit.xml": junit(judgement, evidence).encode(),
        "report.html": page.html.encode(),
        "comparisons.csv": tables.comparisons_csv(judgement).encode(),
    }
    if any(candidate.tail_events for candidate in judgement.candidates):
        files["tail_events.csv"] = tables.tail_events_csv(judgement).encode()
    if page.side_file is not None:
        files[SIDE_FILE] = page.side_file.encode()
    if tables.has_parquet():
        files["comparisons.parquet"] = tables.comparisons_parquet(judgement)
    for candidate in judgement.candidates:
        if candidate.strata:
            files[tables.file_name(candidate.name)] = tables.model_index(judgement, candidate, evidence).encode()
    paths = [_replace(run_dir / name, content) for name, content in files.items()]
    if page.side_file is None:
        _forget(run_dir / SIDE_FILE)
    step_summary(text)
    return paths


def remove(run_dir: Path) -> list[Path]:
    """Remove the report files that show questions and answers, and give their paths. Raises StoreError."""
    from harness.report.html import SIDE_FILE

    paths = [run_dir / name for name in ("report.md", "report.html", "junit.xml", SIDE_FILE)]
    gone = [path for path in paths if path.is_file()]
    for path in gone:
        _forget(path)
    return gone


def _replace(path: Path, content: bytes) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        message = f"{path}: cannot write the report: {error.strerror}; free space or name another directory"
        raise StoreError(message) from error
    return path


def _forget(path: Path) -> None:
    """Remove what an earlier report left and this one does not hold."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot remove the earlier report's file: {error.strerror}") from error


def step_summary(text: str) -> None:
    """Append to GitHub's step summary, if there is one. Raises StoreError."""
    named = os.environ.get(_STEP_SUMMARY)
    if not named:
        return
    try:
        with Path(named).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        message = f"{named}: cannot append to GitHub's step summary: {error.strerror}; unset {_STEP_SUMMARY}"
        raise StoreError(message) from error
