"""The files of a report: page, Markdown, JUnit, step summary, tables, model card."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import StoreError
from harness.judge.verdicts import Judgement
from harness.report import exports
from harness.report.evidence import Evidence
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

    page = html_report(judgement, evidence)
    files: dict[str, str | bytes] = {
        "report.md": markdown_report(judgement, evidence),
        "junit.xml": exports.junit(judgement, evidence),
        "report.html": page.html,
        "comparisons.csv": exports.comparisons_csv(judgement),
        "comparisons.parquet": exports.comparisons_parquet(judgement),
    }
    if any(candidate.tail_events for candidate in judgement.candidates):
        files["tail_events.csv"] = exports.tail_events_csv(judgement)
    if page.side_file is not None:
        files[SIDE_FILE] = page.side_file
    for candidate in judgement.candidates:
        if candidate.strata:
            files[exports.file_name(candidate.name)] = exports.model_index(judgement, candidate, evidence)
    paths = [_replace(run_dir / name, content) for name, content in files.items()]
    if page.side_file is None:
        _forget(run_dir / SIDE_FILE)
    step_summary(str(files["report.md"]))
    return paths


def remove(run_dir: Path) -> list[Path]:
    """Remove the report files that show questions and answers, and give their paths. Raises StoreError."""
    from harness.report.html import SIDE_FILE

    paths = [run_dir / name for name in ("report.md", "report.html", "junit.xml", SIDE_FILE)]
    gone = [path for path in paths if path.is_file()]
    for path in gone:
        _forget(path)
    return gone


@contextmanager
def _explained(path: Path | str, what: str, remedy: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot {what}: {error.strerror}{remedy}") from error


def _replace(path: Path, content: str | bytes) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _explained(path, "write the report", "; free space or name another directory"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_bytes(content if isinstance(content, bytes) else content.encode())
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    return path


def _forget(path: Path) -> None:
    """Remove what an earlier report left and this one does not hold."""
    with _explained(path, "remove the earlier report's file"):
        path.unlink(missing_ok=True)


def step_summary(text: str) -> None:
    """Append to GitHub's step summary, if there is one. Raises StoreError."""
    if named := os.environ.get(_STEP_SUMMARY):
        what = "append to GitHub's step summary"
        with _explained(named, what, f"; unset {_STEP_SUMMARY}"), Path(named).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
