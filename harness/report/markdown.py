"""The judgement as Markdown for a pull-request comment and for GitHub's step summary.

Verdicts and failing strata first, everything long in collapsible details, and never above `LIMIT` bytes: a list that
does not fit ends in "and N more". All text from outside is escaped: no markup, HTML, link or mention survives.
"""

from collections.abc import Sequence

from harness.judge.summaries import Verdict
from harness.judge.verdicts import Judgement
from harness.report import words
from harness.report.answers import around_difference
from harness.report.blocks import filled
from harness.report.blocks.findings import hidden_by_averages, verdicts
from harness.report.evidence import Evidence, FlipPair
from harness.report.sanitize import clip, markdown, markdown_code
from harness.report.section import Cell, Column, Section, as_cell

LIMIT = 60_000  # bytes; GitHub refuses a comment above 65,536 characters
_RESERVED = 400  # bytes reserved for what closes an open list: its "and N more" and its tags
_MOST_SENTENCES, _MOST_FLIPS = 20, 5
_LONGEST_NAME, _LONGEST_SENTENCE, _LONGEST_ANSWER = 120, 1500, 300


class MarkdownPage:
    """Markdown that counts its bytes and stops in time."""

    def __init__(self, limit: int) -> None:
        self._parts: list[str] = []
        self._left = limit - _RESERVED

    def add(self, text: str) -> bool:
        """Append a line if it fits, and return whether it did."""
        size = len(text.encode()) + 1
        if size > self._left:
            return False
        self._left -= size
        self._parts.append(text)
        return True

    def listed(self, lines: Sequence[str], most: int) -> None:
        """Append lines up to `most` or as many as fit, and count the rest."""
        for index, line in enumerate(lines):
            if index >= most or not self.add(line):
                self._parts.append(f"\nand {len(lines) - index:,} more")
                return

    def section(self, section: Section) -> None:
        """Append a section, behind a click if it is folded; nothing if it is empty."""
        title = _sentence(section.title)
        if not section or not (self.details(title) if section.folded else self.add(f"\n### {title}\n")):
            return
        if section.folded and section.note:
            self.add(f"\n{_sentence(section.note)}\n")
        if section.rows:
            self.table(section)
        if section.quiet_note:
            self.add(f"\n{_sentence(section.quiet_note)}")
        self.listed([f"- {_sentence(one)}" for one in section.sentences], _MOST_SENTENCES)
        if section.folded:
            self.close()

    def table(self, section: Section) -> None:
        """Append a section's table."""
        headings = (_sentence(one.heading) for one in section.columns)
        bars = ("---:" if one.kind == "number" else "---" for one in section.columns)
        pairs = [zip(row, section.columns, strict=True) for row in section.rows]
        lines = [f"| {' | '.join(_cell(as_cell(cell), column) for cell, column in row)} |" for row in pairs]
        if self.add(f"| {' | '.join(headings)} |\n| {' | '.join(bars)} |"):
            self.listed(lines, len(lines))

    def details(self, summary: str) -> bool:
        """Open a collapsible part if it fits; `close` ends it."""
        return self.add(f"\n<details><summary>{summary}</summary>\n")

    def close(self) -> None:
        """End a collapsible part."""
        self._parts.append("\n</details>")
        self._left -= len("\n</details>\n")

    def __str__(self) -> str:
        return "\n".join(self._parts) + "\n"


def _cell(cell: Cell, column: Column) -> str:
    text = _name(cell.text) if column.kind in ("name", "stratum") and cell.text else _sentence(cell.text)
    shown = f"**{text}**" if cell.strong and text else text
    return " ".join(filter(None, (_verdict(cell.verdict) if cell.verdict else "", shown, _sentence(cell.note))))


def markdown_report(judgement: Judgement, evidence: Evidence, limit: int = LIMIT) -> str:
    """Return the report as GitHub Markdown of at most `limit` bytes."""
    page = MarkdownPage(limit)
    _head(page, judgement, evidence)
    for block, sections in filled("markdown", judgement, evidence):
        for section in sections:
            page.section(section)
        if block.key == "flips" and evidence.flips:
            _flips(page, evidence)
    return str(page)


def _name(text: str) -> str:
    return markdown_code(clip(text, _LONGEST_NAME))


def _sentence(text: str) -> str:
    return markdown(clip(text, _LONGEST_SENTENCE))


def _verdict(verdict: Verdict) -> str:
    return f"{words.SYMBOLS[verdict]} {words.word(verdict)}"


def _head(page: MarkdownPage, judgement: Judgement, evidence: Evidence) -> None:
    name = f" of {_name(evidence.name)}" if evidence.name else ""
    page.add(f"## {_verdict(judgement.verdict)}: quantcliff{name}\n")
    if evidence.description:
        page.add(f"{_sentence(evidence.description)}\n")
    meaning = words.exit_meaning(judgement)
    page.add(f"Exit code {judgement.exit_code}, {meaning}. Baseline: {_name(judgement.baseline)}.\n")
    for warning in judgement.warnings[:_MOST_SENTENCES]:
        page.add(f"> **Warning:** {_sentence(warning)}\n")
    page.table(verdicts(judgement))
    if hidden := hidden_by_averages(judgement):
        page.add(f"\n**{hidden.title}**\n")
        page.listed([f"- {_sentence(one)}" for one in hidden.sentences], _MOST_SENTENCES)
    for note in evidence.notes[:_MOST_SENTENCES]:
        page.add(f"\n> {_sentence(note)}")


def _flips(page: MarkdownPage, evidence: Evidence) -> None:
    lost = [one for one in evidence.flips if one.candidate_score < one.baseline_score] or [*evidence.flips]
    if page.details(f"{min(len(lost), _MOST_FLIPS)} of {(len(evidence.flips) + evidence.flips_left_out):,} flips"):
        if note := words.texts_note(evidence):
            page.add(f"{_sentence(note)}\n")
        for pair in lost[:_MOST_FLIPS]:
            if not page.add(_flip(pair)):
                break
        page.close()


def _flip(pair: FlipPair) -> str:
    lines = [f"- {_name(pair.slice)} {_name(pair.stratum)} {_name(pair.item_id)}"]
    baseline, answer = around_difference(pair.baseline_text, pair.candidate_text, _LONGEST_ANSWER)
    for who, text in (("right", clip(pair.target, _LONGEST_ANSWER)), ("baseline", baseline), (pair.candidate, answer)):
        lines += [f"  - {markdown(clip(who, _LONGEST_NAME))}: {markdown_code(text)}"] if text else []
    return "\n".join(lines)
