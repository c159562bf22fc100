"""The table of strata on a terminal: all slices in the same columns, each stratum's candidates below each other."""

from __future__ import annotations

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from harness.judge.verdicts import Judgement, StratumVerdict
from harness.report import words
from harness.report.terminal_table import NARROWEST, Pen

__all__ = ["print_strata"]

_HEADINGS = ("stratum", "n", "", "variant", "score", "change [limits]", "-/+", "verdict")
"""The third is the baseline's name."""
_LEFT = frozenset((0, 3, 7))
_DROPPED = (6, 2, 4, 1)
"""Columns that a narrow terminal leaves out, in this order: change, limits and verdict always stay."""

_Found = list[tuple[str, StratumVerdict]]


class _Columns:
    """The columns of the strata table, as wide as their longest cell."""

    def __init__(self, pen: Pen, judgement: Judgement) -> None:
        self._pen = pen
        strata = [one for candidate in judgement.candidates for one in candidate.strata]
        variants = [pen.name(one.name).cell_len for one in judgement.candidates if one.strata]
        self._base = pen.name(judgement.baseline)
        n, base, score, change, flips = (max(map(len, cells)) for cells in zip(*map(_figures, strata), strict=True))
        base, score = max(base, len("100.0"), min(self._base.cell_len, 8)), max(score, len("score"))
        verdict = max(2 + len(words.word(one.verdict)) for one in strata)
        least = [0, 1, 1, len("variant"), 1, len("change [limits]"), 3, len("verdict")]
        wanted = [0, n, base, max(variants), score, change, flips, verdict]
        widths = {at: max(wanted[at], least[at]) for at in range(1, 8)}
        gap = 2 if pen.wide else 1

        def free() -> int:
            return pen.console.width - sum(widths.values()) - gap * len(widths)

        widths[3] = max(min(widths[3], 8), widths[3] + min(0, free() - NARROWEST))
        for at in _DROPPED:
            if free() < NARROWEST:
                del widths[at]
        slices = dict.fromkeys(one.slice for one in strata)
        self.axes = {label: words.splitting([one for one in strata if one.slice == label]) for label in slices}
        longest = max(pen.name(self.level(one)).cell_len for one in strata)
        self.stratum = max(NARROWEST, min(free(), longest))
        self._widths = {0: self.stratum, **widths}

    def level(self, one: StratumVerdict) -> str:
        """Name a stratum: in full on a wide terminal, else by its levels on the axes that differ."""
        axes, levels = words.axes_and_levels(one.stratum)
        if self._pen.wide or not axes:
            return one.stratum
        return ", ".join(level for axis, level in zip(axes, levels, strict=True) if axis in self.axes[one.slice])

    def table(self, *, header: bool) -> Table:
        """Return an empty table with these columns."""
        padding = (0, 1, 0, 0) if self._pen.wide else 0
        table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False, show_edge=False, show_header=header)
        for at, width in self._widths.items():
            justify: JustifyMethod = "left" if at in _LEFT else "right"
            heading = Text(_HEADINGS[at]) if _HEADINGS[at] else self._base
            table.add_column(heading, justify=justify, overflow="fold", width=width)
        return table

    def row(self, table: Table, *cells: Text | str) -> None:
        """Add a row of all eight cells; those without a column are left out."""
        kept = (cell for at, cell in enumerate(cells) if at in self._widths)
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in kept))


def _figures(one: StratumVerdict) -> tuple[str, str, str, str, str]:
    """Return n, the baseline's score, the candidate's, the change with its limits, and lost/gained."""
    base, candidate = words.score(one.baseline_mean), words.score(one.candidate_mean)
    return str(one.n), base, candidate, words.change(one), f"{one.lost}/{one.gained}"


def print_strata(pen: Pen, judgement: Judgement) -> None:
    """Print a table per slice, in columns that are the same for all."""
    columns = _Columns(pen, judgement)
    pen.console.print()
    title = f"Strata (points, {words.limits_label(judgement)}, -/+ is items lost and gained)"
    pen.console.print(Text(title, style="bold"))
    pen.console.print(columns.table(header=True))
    slices: dict[str, dict[str, _Found]] = {}
    for candidate in judgement.candidates:
        for one in candidate.strata:
            slices.setdefault(one.slice, {}).setdefault(one.stratum, []).append((candidate.name, one))
    for index, (label, strata) in enumerate(slices.items()):
        if index:
            pen.console.print()
        pen.console.print(_slice_title(pen, columns, label, [one for found in strata.values() for _, one in found]))
        table = columns.table(header=False)
        for found in strata.values():
            _stratum_rows(pen, columns, table, found)
        pen.console.print(table)


def _slice_title(pen: Pen, columns: _Columns, label: str, strata: list[StratumVerdict]) -> Text:
    margins = sorted({one.margin for one in strata})
    margin = " to ".join(words.score(one) for one in dict.fromkeys((margins[0], margins[-1])))
    about = f" by {', '.join(columns.axes[label])}" if columns.axes[label] and not pen.wide else ""
    note = "" if any(one.gating for one in strata) else ", advisory"
    text = pen.name(label, "bold")
    text.append_text(pen.name(f"{about}, margin {margin}{note}", "dim"))
    return text


def _stratum_rows(pen: Pen, columns: _Columns, table: Table, found: _Found) -> None:
    """Add a row per candidate; a name longer than its column goes on next to the following rows."""
    first = found[0][1]
    lines = pen.lines(columns.level(first), columns.stratum)
    for index in range(max(len(lines), len(found))):
        line = lines[index] if index < len(lines) else Text()
        if index >= len(found):
            table.add_row(line)
            continue
        variant, one = found[index]
        n, base, candidate, change, flips = _figures(one)
        if index > 0 and one.n == first.n:
            n = base = ""
        verdict = pen.verdict(one.verdict)
        if not one.gating:
            verdict.stylize("dim")
        columns.row(table, line, n, base, pen.name(variant), candidate, change, flips, verdict)
