"""Sections on a terminal: tables whose names share the columns that the figures leave, and lists of sentences."""

from __future__ import annotations

import re

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.judge.summaries import Verdict
from harness.report import words
from harness.report.sanitize import clip, one_line, plain_ascii
from harness.report.section import Cell, Section, as_cell

__all__ = ["NARROWEST", "STYLES", "Pen"]

STYLES: dict[Verdict, str] = {
    "pass": "green",
    "fail": "bold red",
    "inconclusive": "yellow",
    "no_signal": "magenta",
    "not_judged": "cyan",
}

WIDE = 104
"""From this width on, strata are named in full; below, by their levels."""

NARROWEST = 10
"""Columns that a name gets at least."""

_MOST_SENTENCES = 12
"""Sentences of one kind; the rest is counted and is in report.md."""

_LONGEST_NAME = 200

_PARTS = re.compile(r"[^\s,_/-]*[\s,_/-]+|[^\s,_/-]+")
"""The pieces of a name, each with the sign after which a line may end."""


class Pen:
    """A console, the spelling that it can show, and the place of what it leaves out."""

    def __init__(self, console: Console, *, rest: str) -> None:
        self.console, self.rest = console, rest
        self._ascii = console.options.ascii_only
        self.signs = words.ASCII_SYMBOLS if self._ascii else words.SYMBOLS
        self.wide = console.width >= WIDE

    def text(self, text: str, style: str = "") -> Text:
        """Make a text from outside harmless and spell it as this terminal can."""
        safe = one_line(clip(text, 4000))
        return Text(plain_ascii(safe) if self._ascii else safe, style=style)

    def name(self, text: str, style: str = "") -> Text:
        """As `text`, for a table cell."""
        return self.text(clip(text, _LONGEST_NAME), style)

    def lines(self, name: str, width: int) -> list[Text]:
        """Cut a name into lines of `width` columns, between its words if it has several."""
        lines = [""]
        for part in _PARTS.findall(self.name(name).plain):
            if lines[-1] and cell_len(lines[-1]) + cell_len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
        return [cut for line in lines for cut in Text(line.rstrip()).wrap(self.console, width, overflow="fold")]

    def verdict(self, verdict: Verdict) -> Text:
        """Return sign and word in the verdict's colour."""
        return Text(f"{self.signs[verdict]} {words.word(verdict)}", style=STYLES[verdict])

    def section(self, section: Section) -> None:
        """Print a section under its title; nothing if it is empty."""
        if not section:
            return
        self.console.print()
        self.console.print(self.text(section.title, "bold"))
        if section.rows:
            self.console.print(self._table(section))
        for sentence in section.sentences[:_MOST_SENTENCES]:
            self.console.print(Padding(self.text(sentence), (0, 0, 0, 2), expand=False))
        if len(section.sentences) > _MOST_SENTENCES:
            more = f"and {len(section.sentences) - _MOST_SENTENCES} more, {self.rest}"
            self.console.print(Padding(Text(more, style="dim"), (0, 0, 0, 2), expand=False))

    def _table(self, section: Section) -> Table:
        """Return a section's table; notes of cells are left to the formats that have room for them."""
        cells = [[self._spelled(as_cell(cell), section, at) for at, cell in enumerate(row)] for row in section.rows]
        widths = self._widths(section, [[text.cell_len for text in row] for row in cells])
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for column in section.columns:
            number = column.kind == "number"
            table.add_column(
                self.name(column.heading), justify="right" if number else "left", no_wrap=number, overflow="fold"
            )
        before = ""
        for row in cells:
            if before and row[0].plain != before and len({one[0].plain for one in cells}) < len(cells):
                table.add_section()
            shown = [*row]
            for at, width in widths.items():
                shown[at] = Text("\n").join(self.lines(row[at].plain, width))
            if row[0].plain == before:
                shown[0] = Text("")
            before = row[0].plain
            table.add_row(*shown)
        return table

    def _spelled(self, cell: Cell, section: Section, at: int) -> Text:
        kind, text = section.columns[at].kind, cell.text
        if kind == "stratum":
            text = text.replace(",", ", ") if self.wide else words.short_name(text)
        return self.name(text, "bold" if cell.strong and kind == "number" else "")

    def _widths(self, section: Section, cells: list[list[int]]) -> dict[int, int]:
        """Return the width of each column of names: as long as they are, or a share of what the figures leave."""
        longest = [max(column) for column in zip(*cells, strict=True)]
        headings = [self.name(one.heading).cell_len for one in section.columns]
        wanted = {at: longest[at] for at, one in enumerate(section.columns) if one.kind in ("name", "stratum")}
        figures = sum(max(longest[at], headings[at]) for at in range(len(longest)) if at not in wanted)
        left = self.console.width - figures - 2 * len(longest)
        while sum(max(width, headings[at]) for at, width in wanted.items()) > left:
            widest = max(wanted, key=lambda at: wanted[at])
            if wanted[widest] <= NARROWEST:
                break
            wanted[widest] -= 1
        return {at: max(width, 1) for at, width in wanted.items()}
