"""The judgement on a terminal: a table per slice that fits 80 columns and grows with the width.

Everything goes through the `rich.console.Console` that it is given, so colour, width, quiet and recording are the
caller's choice. Colour never stands alone: every verdict has its sign and its word. Text from outside (names, notes)
is made visible first and is never read as markup. This module computes no figure; `harness.report.words` words them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rich import box
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.judge.verdicts import Average, CandidateVerdict, Judgement, StratumVerdict, Verdict
from harness.report import costs, tail, words
from harness.report.choices import CHOICE_HEADINGS, CHOICE_TITLE, choice_rows
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line, plain_ascii

__all__ = ["terminal"]

_STYLES: dict[Verdict, str] = {
    "pass": "green",
    "fail": "bold red",
    "inconclusive": "yellow",
    "no_signal": "magenta",
    "not_judged": "cyan",
}

_WIDE = 104
"""From this width on, strata are named in full; below, by their levels under a heading with the axes."""

_NARROWEST = 10
"""Columns that a stratum's name gets at least."""

_MOST_SENTENCES = 12
"""Sentences of one kind; the rest is counted and stands in report.md."""

_AVERAGE_OF = 18
"""Columns for a slice's name beside its average on a narrow terminal."""

_LONGEST_NAME = 200

_PARTS = re.compile(r"[^\s,_/-]*[\s,_/-]+|[^\s,_/-]+")
"""The pieces of a name, each with the sign after which a line may end."""


class _Pen:
    """A console, the spelling that it can show, and where what it leaves out is to be found."""

    def __init__(self, console: Console, *, rest: str) -> None:
        self.console, self.rest = console, rest
        self._ascii = console.options.ascii_only
        self.signs = words.ASCII_SYMBOLS if self._ascii else words.SYMBOLS

    def text(self, text: str, style: str = "") -> Text:
        """Make a text from outside harmless and spell it as this terminal can."""
        safe = one_line(clip(text, 4000))
        return Text(plain_ascii(safe) if self._ascii else safe, style=style)

    def name(self, text: str, style: str = "") -> Text:
        """As `text`, for a table cell."""
        return self.text(clip(text, _LONGEST_NAME), style)

    def lines(self, name: str, width: int) -> list[Text]:
        """Cut a name into lines of `width` columns, between its words where it has several."""
        lines = [""]
        for part in _PARTS.findall(self.name(name).plain):
            if lines[-1] and cell_len(lines[-1]) + cell_len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
        return [cut for line in lines for cut in Text(line.rstrip()).wrap(self.console, width, overflow="fold")]

    def verdict(self, verdict: Verdict) -> Text:
        """Give sign and word in the verdict's colour."""
        return Text(f"{self.signs[verdict]} {words.word(verdict)}", style=_STYLES[verdict])

    def section(self, title: str, lines: Iterable[Text]) -> None:
        """Print a titled list, nothing where it is empty."""
        given = list(lines)
        if not given:
            return
        self.console.print()
        self.console.print(Text(title, style="bold"))
        for line in given[:_MOST_SENTENCES]:
            self.console.print(Padding(line, (0, 0, 0, 2), expand=False))
        if len(given) > _MOST_SENTENCES:
            more = f"and {len(given) - _MOST_SENTENCES} more, {self.rest}"
            self.console.print(Padding(Text(more, style="dim"), (0, 0, 0, 2), expand=False))

    def table(self, title: str, table: Table) -> None:
        """Print a titled table."""
        self.console.print()
        self.console.print(Text(title, style="bold"))
        self.console.print(table)


def terminal(judgement: Judgement, console: Console, evidence: Evidence) -> None:
    """Print the whole judgement, the verdicts first and the exit code last."""
    pen = _Pen(console, rest="listed in report.md" if evidence.path else "which --json holds")
    _head(pen, judgement, evidence)
    if any(candidate.strata for candidate in judgement.candidates):
        _strata(pen, judgement)
        _averages(pen, judgement)
        _choices(pen, judgement)
    _sentences(pen, judgement)
    _tail_events(pen, judgement)
    _floor(pen, judgement)
    _costs(pen, judgement, evidence)
    _end(pen, judgement, evidence)


def _head(pen: _Pen, judgement: Judgement, evidence: Evidence) -> None:
    name = f"{evidence.name}: " if evidence.name else ""
    count = len(judgement.candidates)
    title = f"{name}{count} candidate{'' if count == 1 else 's'} against {judgement.baseline}"
    pen.console.print(pen.text(title, "bold"))
    for candidate in judgement.candidates:
        line = pen.text(f"{pen.signs[candidate.verdict]} {candidate.name} ", _STYLES[candidate.verdict])
        line.append(f"{words.word(candidate.verdict).upper()} ", style=_STYLES[candidate.verdict])
        line.append_text(pen.text(words.headline(candidate)))
        pen.console.print(line)
    for warning in judgement.warnings:
        pen.console.print(pen.text(f"! {warning}", "bold yellow"))


def _grid(*headings: str | Text, right: int = 0) -> Table:
    """A borderless table; the columns from index `right` on are aligned right and keep their line."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for index, heading in enumerate(headings):
        numeric = bool(right) and index >= right
        table.add_column(
            Text(heading) if isinstance(heading, str) else heading,
            justify="right" if numeric else "left",
            no_wrap=numeric,
            overflow="fold",
        )
    return table


class _Columns:
    """The columns of the strata table, as wide as their longest cell, the same for every slice.

    Where not all fit, lost/gained goes first, then the baseline's score, the candidate's, and n: change, limits and
    verdict always stay.
    """

    def __init__(self, pen: _Pen, judgement: Judgement) -> None:
        strata = [one for candidate in judgement.candidates for one in candidate.strata]
        names = [pen.name(candidate.name).cell_len for candidate in judgement.candidates if candidate.strata]
        self.base = pen.name(judgement.baseline)
        self.wide = pen.console.width >= _WIDE
        cells = [_figures(one) for one in strata]
        figures = [
            max(len(heading), *(len(row[index]) for row in cells))
            for index, heading in enumerate(("n", "100.0", "score", "change [limits]", "-/+"))
        ]
        figures[1] = max(figures[1], min(self.base.cell_len, 8))
        verdict = max(len("verdict"), *(2 + len(words.word(one.verdict)) for one in strata))
        variant = max(*names, len("variant"))
        widths = {1: figures[0], 2: figures[1], 3: variant, 4: figures[2], 5: figures[3], 6: figures[4], 7: verdict}
        gap = 2 if self.wide else 1

        def free() -> int:
            return pen.console.width - sum(widths.values()) - gap * len(widths)

        widths[3] = max(min(variant, 8), variant + min(0, free() - _NARROWEST))
        for least in (6, 2, 4, 1):
            if free() < _NARROWEST:
                del widths[least]
        slices: dict[str, list[StratumVerdict]] = {}
        for one in strata:
            slices.setdefault(one.slice, []).append(one)
        self._split = {label: words.splitting(found) for label, found in slices.items()}
        wanted = max(pen.name(self.level(one)).cell_len for one in strata)
        self.stratum = max(_NARROWEST, min(free(), wanted))
        self.widths = {0: self.stratum, **widths}

    def axes(self, label: str) -> tuple[str, ...]:
        """Give the axes whose levels name a slice's strata on a narrow terminal."""
        return self._split[label]

    def level(self, one: StratumVerdict) -> str:
        """Name a stratum: in full where there is room, else by its levels on the axes that differ."""
        axes, levels = words.axes_and_levels(one.stratum)
        if self.wide or not axes:
            return one.stratum
        split = self._split[one.slice]
        return ", ".join(level for axis, level in zip(axes, levels, strict=True) if axis in split)

    def table(self, *, header: bool) -> Table:
        """Give an empty table with these columns."""
        padding = (0, 1, 0, 0) if self.wide else 0
        table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False, show_edge=False, show_header=header)
        headings = ("stratum", "n", self.base, "variant", "score", "change [limits]", "-/+", "verdict")
        for index, width in self.widths.items():
            heading = headings[index]
            text = Text(heading) if isinstance(heading, str) else heading
            justify: JustifyMethod = "left" if index in {0, 3, 7} else "right"
            table.add_column(text, justify=justify, overflow="fold", width=width)
        return table

    def row(self, table: Table, *cells: Text | str) -> None:
        """Add a row of all eight cells to a table with these columns; those without a column are left out."""
        kept = (cell for index, cell in enumerate(cells) if index in self.widths)
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in kept))


def _figures(one: StratumVerdict) -> tuple[str, str, str, str, str]:
    """Give n, the baseline's score, the candidate's, the change with its limits, and lost/gained."""
    base, candidate = words.score(one.baseline_mean), words.score(one.candidate_mean)
    return str(one.n), base, candidate, words.change(one), f"{one.lost}/{one.gained}"


def _strata(pen: _Pen, judgement: Judgement) -> None:
    columns = _Columns(pen, judgement)
    title = f"Strata (points, {words.limits_label(judgement)}, -/+ is items lost and gained)"
    for index, (label, cells) in enumerate(_by_slice(judgement).items()):
        table = columns.table(header=False)
        for found in cells.values():
            _stratum_rows(pen, columns, table, found)
        pen.console.print()
        if index == 0:
            pen.console.print(Text(title, style="bold"))
            pen.console.print(columns.table(header=True))
        pen.console.print(_slice_title(pen, label, cells, () if columns.wide else columns.axes(label)))
        pen.console.print(table)


_Found = list[tuple[str, StratumVerdict]]


def _by_slice(judgement: Judgement) -> dict[str, dict[str, _Found]]:
    """Gather each stratum's verdicts over the candidates, by slice, in order of first appearance."""
    slices: dict[str, dict[str, _Found]] = {}
    for candidate in judgement.candidates:
        for one in candidate.strata:
            slices.setdefault(one.slice, {}).setdefault(one.stratum, []).append((candidate.name, one))
    return slices


def _slice_title(pen: _Pen, label: str, cells: dict[str, _Found], axes: tuple[str, ...]) -> Text:
    strata = [one for found in cells.values() for _, one in found]
    margins = sorted({one.margin for one in strata})
    told = " to ".join(words.points(one, sign=False) for one in dict.fromkeys((margins[0], margins[-1])))
    text = pen.name(label, "bold")
    about = f" by {', '.join(axes)}" if axes else ""
    note = "" if any(one.gating for one in strata) else ", advisory only"
    text.append_text(pen.name(f"{about}, margin {told}{note}", "dim"))
    return text


def _stratum_rows(pen: _Pen, columns: _Columns, table: Table, found: _Found) -> None:
    """Add a row per candidate; a name longer than its column goes on beside the following rows."""
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
        verdict = _cell_verdict(pen, one)
        columns.row(table, line, n, base, pen.name(variant), candidate, change, flips, verdict)


def _cell_verdict(pen: _Pen, one: StratumVerdict) -> Text:
    text = pen.verdict(one.verdict)
    if not one.gating:
        text.stylize("dim")
    return text


def _mean_figures(one: Average) -> tuple[str, str, str, str]:
    return (
        words.score(one.baseline_mean),
        words.score(one.candidate_mean),
        words.points(one.delta),
        words.points(one.worst_delta),
    )


def _worst(one: Average, *, wide: bool) -> str:
    """Name an average's worst stratum, without its slice where that stands at the row's beginning."""
    name = one.worst_stratum.removeprefix(f"{one.slice}/")
    return name.replace(",", ", ") if wide else words.short_name(name)


def _averages(pen: _Pen, judgement: Judgement) -> None:
    table = _grid("average of", "variant", "n", pen.name(judgement.baseline), "score", "change", "worst", right=2)
    table.add_column("worst stratum", overflow="fold")
    wide = pen.console.width >= _WIDE
    shown = [(c, index, one) for c in judgement.candidates for index, one in enumerate(words.averages(c))]
    figures = [(str(one.n), *_mean_figures(one)) for _, _, one in shown]
    names = max((pen.name(one.slice).cell_len for _, _, one in shown), default=0)
    first = names if wide else min(names, _AVERAGE_OF)
    headings = ("n", pen.name(judgement.baseline).plain, "score", "change", "worst")
    others = max(first, len("average of")) + max(len("variant"), *(pen.name(c.name).cell_len for c, _, _ in shown), 0)
    others += sum(max(len(heading), *(len(row[i]) for row in figures), 0) for i, heading in enumerate(headings))
    last = max(_NARROWEST, pen.console.width - others - 2 * (len(headings) + 2))
    for (candidate, index, one), row in zip(shown, figures, strict=True):
        if index == 0 and table.row_count:
            table.add_section()
        table.add_row(
            Text("\n").join(pen.lines(one.slice, first)),
            pen.name("" if index else candidate.name),
            *row[:-1],
            Text(row[-1], style="bold"),
            Text("\n").join(pen.lines(_worst(one, wide=wide), last)),
        )
    if shown:
        pen.table("Averages beside the worst stratum (points)", table)
    hidden = [pen.text(f"{one.name}: {one.hidden}") for one in judgement.candidates if one.hidden]
    pen.section("What the average hides", hidden)


def _choices(pen: _Pen, judgement: Judgement) -> None:
    rows = choice_rows(judgement)
    table = _grid(*CHOICE_HEADINGS, right=2)
    table.columns[1].overflow = "fold"
    for row in rows:
        table.add_row(pen.name(row[0]), pen.text(row[1]), *row[2:])
    if rows:
        pen.table(CHOICE_TITLE, table)


def _sentences(pen: _Pen, judgement: Judgement) -> None:
    def told(verdict: Verdict, *, gating: bool = True) -> list[tuple[CandidateVerdict, StratumVerdict]]:
        return words.told(judgement, verdict, gating=gating)

    base = judgement.baseline
    failing = [pen.text(words.stratum_sentence(one, c.name, base)) for c, one in told("fail")]
    pen.section("Failing strata", failing)
    aside = [pen.text(words.stratum_sentence(one, c.name, base)) for c, one in told("fail", gating=False)]
    pen.section("Below the margin, advisory only", aside)
    undecided = [pen.text(words.undecided_sentence(one, c.name)) for c, one in told("inconclusive")]
    pen.section("Undecided", undecided)
    blind = {(one.slice, one.stratum): one for gating in (True, False) for _, one in told("no_signal", gating=gating)}
    pen.section("No signal", [pen.text(words.no_signal_sentence(one, base)) for one in blind.values()])
    silent = [
        pen.text(f"{c.name} in {words.place(one)}: {one.reason or 'no figures to judge'}")
        for c, one in told("not_judged")
    ]
    pen.section("Not judged", silent)


def _tail_events(pen: _Pen, judgement: Judgement) -> None:
    rows, quiet = tail.shown_rows(judgement)
    names = [pen.name(one.name) for one in judgement.candidates]
    table = _grid("event", pen.name(f"{judgement.baseline} itself"), "A/A", *names, right=1)
    for row in rows:
        table.add_row(row.kind, row.baseline, row.control, *row.candidates)
    if rows:
        pen.table("Tail events (answers that show what the baseline's do not, of all answers)", table)
    if quiet:
        pen.section("Tail events looked for and not found", [pen.text(", ".join(quiet))])
    titles: dict[Verdict, str] = {
        "fail": "beyond their tolerance",
        "inconclusive": "undecided",
        "no_signal": "without signal",
        "not_judged": "not judged",
    }
    for verdict, title in titles.items():
        told = [pen.text(tail.rate_sentence(one, c.name)) for c, one in tail.gated(judgement, verdict)]
        pen.section(f"Tail events {title}", told)


def _floor(pen: _Pen, judgement: Judgement) -> None:
    if not any(candidate.strata for candidate in judgement.candidates):
        return
    measured = words.floor(judgement)
    sentence = "was not measured: a difference may be noise of batching." if measured is None else str(measured)
    pen.section("A/A noise", [pen.text(sentence)])


def _costs(pen: _Pen, judgement: Judgement, evidence: Evidence) -> None:
    rows = costs.rows_of(judgement, evidence)
    if not rows:
        return
    table = _grid(*costs.HEADINGS, right=1)
    for row in rows:
        table.add_row(pen.name(row[0]), *row[1:])
    pen.table("Cost", table)


def _end(pen: _Pen, judgement: Judgement, evidence: Evidence) -> None:
    proof_notes = [f"{name}: {note}" for name, proof in evidence.proofs.items() for note in proof.get("notes", ())]
    pen.section("Notes", [pen.text(note) for note in dict.fromkeys((*evidence.notes, *proof_notes))])
    pen.console.print()
    if (done := words.spent(judgement, evidence)) is not None:
        pen.console.print(pen.text(f"Answers: {done[0]:,} of {done[1]:,} planned."))
    if evidence.path:
        # Soft-wrapped, so that a path can be copied from the terminal in one piece.
        pen.console.print(pen.text(f"Results: {evidence.path}"), soft_wrap=True)
    line = pen.verdict(judgement.verdict)
    line.append_text(pen.text(f"  exit code {judgement.exit_code}, {words.exit_meaning(judgement)}"))
    pen.console.print(line)
