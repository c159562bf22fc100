"""The judgement on a terminal: tables that fit 80 columns and grow with the width.

Everything goes through the `rich.console.Console` that it is given, so colour, width, quiet and recording are the
caller's choice. Nothing is said by colour alone: every verdict has its sign and its word. Text from outside is made
visible first and is never read as markup.
"""

from __future__ import annotations

from rich.console import Console

from harness.judge.verdicts import Judgement
from harness.report import words
from harness.report.blocks import filled
from harness.report.blocks.measured import answers_spent
from harness.report.evidence import Evidence
from harness.report.section import Section
from harness.report.terminal_table import STYLES, Pen

__all__ = ["terminal"]


def terminal(judgement: Judgement, console: Console, evidence: Evidence) -> None:
    """Print the whole judgement, the verdicts first and the exit code last."""
    pen = Pen(console, rest="listed in report.md" if evidence.path else "which --json holds")
    _head(pen, judgement, evidence)
    for _, sections in filled("terminal", judgement, evidence):
        for section in sections:
            pen.section(section)
    _end(pen, judgement, evidence)


def _head(pen: Pen, judgement: Judgement, evidence: Evidence) -> None:
    name = f"{evidence.name}: " if evidence.name else ""
    count = len(judgement.candidates)
    title = f"{name}{count} candidate{'' if count == 1 else 's'} against {judgement.baseline}"
    pen.console.print(pen.text(title, "bold"))
    for candidate in judgement.candidates:
        line = pen.text(f"{pen.signs[candidate.verdict]} {candidate.name} ", STYLES[candidate.verdict])
        line.append(f"{words.word(candidate.verdict).upper()} ", style=STYLES[candidate.verdict])
        line.append_text(pen.text(words.headline(candidate)))
        pen.console.print(line)
    for warning in judgement.warnings:
        pen.console.print(pen.text(f"! {warning}", "bold yellow"))


def _end(pen: Pen, judgement: Judgement, evidence: Evidence) -> None:
    proof_notes = [f"{name}: {note}" for name, proof in evidence.proofs.items() for note in proof.get("notes", ())]
    pen.section(Section.listed("Notes", dict.fromkeys((*evidence.notes, *proof_notes))))
    pen.console.print()
    if (spent := answers_spent(judgement, evidence)) is not None:
        pen.console.print(pen.text(f"Answers: {spent[0]:,} of {spent[1]:,} planned."))
    if evidence.path:
        # Soft-wrapped, so that a path can be copied from the terminal in one piece.
        pen.console.print(pen.text(f"Results: {evidence.path}"), soft_wrap=True)
    line = pen.verdict(judgement.verdict)
    line.append_text(pen.text(f"  exit code {judgement.exit_code}, {words.exit_meaning(judgement)}"))
    pen.console.print(line)
