"""Sections on a terminal: tables whose names share the columns that the figures leave, and lists of sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.judge.summaries import Verdict
from harness.report import words
from harness.report.sanitize import clip, one_line, plain_ascii
from harness.report.section import Cell, Column, Section, as_cell

__all__ = ["STYLES", "Pen"]

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
        """Print a section under its title; nothing if it is empty. Notes of cells are left to other formats."""
        if not section:
            return
        if section.title:
            self.console.print()
            self.console.print(self.text(section.title, "bold"))
        if section.rows:
            self._print_table(section)
        for sentence in (*section.sentences[:_MOST_SENTENCES], section.quiet_note):
            if sentence:
                self.console.print(Padding(self.text(sentence), (0, 0, 0, 2), expand=False))
        if len(section.sentences) > _MOST_SENTENCES:
            more = f"and {len(section.sentences) - _MOST_SENTENCES} more, {self.rest}"
            self.console.print(Padding(Text(more, style="dim"), (0, 0, 0, 2), expand=False))

    def _print_table(self, section: Section) -> None:
        """Print a section's rows; of a grouped one a table per group, all with the same columns."""
        cells = [[self._spelled(as_cell(cell), section, at) for at, cell in enumerate(row)] for row in section.rows]
        widths = self._widths(section, [[text.cell_len for text in row] for row in cells])
        named, group = next(iter(widths)), None
        table, before = self._table(section, widths, header=True), ""
        ruled = not section.grouped and len({row[named].plain for row in cells}) < len(cells)
        for row, shown in zip(section.rows, cells, strict=True):
            if section.grouped and row[0] != group:
                self.console.print(table)
                self._heading(as_cell(row[0]), first=group is None)
                table, before, group = self._table(section, widths, header=False), "", row[0]
            if ruled and before and shown[named].plain != before:
                table.add_section()
            texts = {at: self._fitted(shown[at], width, section.columns[at]) for at, width in widths.items()}
            if shown[named].plain == before:
                texts[named] = Text("")
            before = shown[named].plain
            table.add_row(*texts.values())
        self.console.print(table)

    def _heading(self, cell: Cell, *, first: bool) -> None:
        if not first:
            self.console.print()
        heading = self.name(cell.text, "bold")
        heading.append_text(self.name(cell.note, "dim"))
        self.console.print(heading)

    def _fitted(self, text: Text, width: int, column: Column) -> Text:
        return text if column.kind in ("number", "text") else Text("\n").join(self.lines(text.plain, width))

    def _padding(self, section: Section) -> int:
        return 0 if section.grouped and not self.wide else 1

    def _table(self, section: Section, widths: Mapping[int, int], *, header: bool) -> Table:
        """Return an empty table with these columns."""
        padding = (0, self._padding(section), 0, 0)
        table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False, show_edge=False, show_header=header)
        for at, width in widths.items():
            column = section.columns[at]
            right = column.kind == "number"
            table.add_column(
                self.name(column.heading),
                justify="right" if right else "left",
                no_wrap=right and not column.minor,
                overflow="fold",
                width=width if section.grouped else None,
            )
        return table

    def _spelled(self, cell: Cell, section: Section, at: int) -> Text:
        kind, text = section.columns[at].kind, cell.text
        if cell.verdict is not None:
            shown = self.verdict(cell.verdict)
            return shown.append_text(self.name(f" {text}")) if text else shown
        if kind == "stratum":
            narrow = cell.note or words.short_name(text)
            text = (text if section.grouped else text.replace(",", ", ")) if self.wide else narrow
        return self.name(text, "bold" if cell.strong and kind == "number" else "")

    def _widths(self, section: Section, cells: list[list[int]]) -> dict[int, int]:
        """Return the width of each column that is shown: figures as they are, names share what these leave.

        Minor columns are left out, one by one, while names would get too little.
        """
        longest = [max(column) for column in zip(*cells, strict=True)]
        headings = [self.name(one.heading).cell_len for one in section.columns]
        capped = [min(headings[at], 8) if one.minor else headings[at] for at, one in enumerate(section.columns)]
        kept = [at for at in range(len(longest)) if at or not section.grouped]
        minor = sorted((at for at in kept if section.columns[at].minor), key=lambda at: section.columns[at].minor)
        gap = 1 + self._padding(section)
        while True:
            wanted = {at: max(longest[at], capped[at] if section.grouped else 0) for at in kept}
            shared = [at for at in kept if section.columns[at].kind in ("name", "stratum")]
            figures = sum(max(longest[at], capped[at]) for at in kept if at not in shared)
            left = self.console.width - figures - gap * len(kept)
            while sum(max(wanted[at], capped[at]) for at in shared) > left:
                widest = max(shared, key=lambda at: wanted[at])
                if wanted[widest] <= NARROWEST:
                    break
                wanted[widest] -= 1
            if not minor or sum(max(wanted[at], capped[at]) for at in shared) <= left:
                return {at: max(wanted[at], 1) for at in kept}
            kept.remove(minor.pop(0))
