"""A judgement as people and programs read it: terminal, Markdown, JUnit, step summary.

The facade over the `report_*` modules: `write` leaves every file of a report in a run directory, `terminal` prints
one, `side_by_side` shows two answers. None of them judges: they read a finished `harness.verdicts.Judgement`.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import StoreError
from harness.evidence import Divergence, Evidence, FlipPair, PowerRow, TailEvent
from harness.report_junit import junit
from harness.report_markdown import markdown_report
from harness.report_side_by_side import side_by_side
from harness.report_terminal import terminal
from harness.verdicts import Judgement

__all__ = [
    "Divergence",
    "Evidence",
    "FlipPair",
    "PowerRow",
    "TailEvent",
    "side_by_side",
    "terminal",
    "write",
]

_STEP_SUMMARY = "GITHUB_STEP_SUMMARY"


def write(run_dir: Path, judgement: Judgement, evidence: Evidence) -> list[Path]:
    """Write every report file into `run_dir` and append to GitHub's step summary where there is one.

    Gives the files written in the run directory. A file is replaced whole or not at all. Raises StoreError where the
    directory cannot be written; a step summary that cannot be written raises it too, after the files are there.
    """
    text = markdown_report(judgement, evidence)
    paths = [
        _replace(run_dir / "report.md", text.encode()),
        _replace(run_dir / "junit.xml", junit(judgement, evidence).encode()),
    ]
    _step_summary(text)
    return paths


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


def _step_summary(text: str) -> None:
    named = os.environ.get(_STEP_SUMMARY)
    if not named:
        return
    try:
        with Path(named).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
    except OSError as error:
        message = f"{named}: cannot append to GitHub's step summary: {error.strerror}; unset {_STEP_SUMMARY}"
        raise StoreError(message) from error
