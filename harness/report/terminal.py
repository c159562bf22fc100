"""The judgement on a terminal, in tables that fit 80 columns and grow with the width, and two answers side by side."""

import re
from collections.abc import Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.judge.choice_probability import preferred_choice
from harness.judge.summaries import Verdict
from harness.judge.verdicts import Judgement
from harness.records import ChoiceLogprobs, Generation, Item, Response, Scored
from harness.report import words
from harness.report.answers import around_difference, first_difference, split_at_difference
from harness.report.blocks import filled
from harness.report.blocks.measured import answers_spent
from harness.report.evidence import Evidence
from harness.report.sanitize import clip, one_line, visible
from harness.report.section import Cell, Section, as_cell

_STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow", "no_signal": "magenta", "not_judged": "cyan"}
_WIDE = 104  # from this width on, strata are named in full; below, by their levels
_NARROW = 72  # below this width two answers are one above the other
_NARROWEST = 10  # columns that a name gets at least
_MOST_SENTENCES = 12  # of one kind; the rest is counted and is in report.md
_LONGEST, _LONGEST_ANSWER, _LONGEST_NAME, _PROMPT_END = 4000, 20_000, 200, 600
_PARTS = re.compile(r"[^\s,_/-]*[\s,_/-]+|[^\s,_/-]+")  # of a name, each with the sign after which a line may end


def terminal(judgement: Judgement, console: Console, evidence: Evidence) -> None:
    """Print the whole judgement, the verdicts first and the exit code last."""
    pen = Pen(console, rest="listed in report.md" if evidence.path else "which --json holds")
    name, count = f"{evidence.name}: " if evidence.name else "", len(judgement.candidates)
    pen.print(f"{name}{count} candidate{'' if count == 1 else 's'} against {judgement.baseline}", "bold")
    for candidate in judgement.candidates:
        style = _STYLES[candidate.verdict]
        line = pen.text(f"{pen.signs[candidate.verdict]} {candidate.name} ", style)
        line.append(f"{words.word(candidate.verdict).upper()} ", style=style)
        console.print(line.append_text(pen.text(words.headline(candidate))))
    for warning in judgement.warnings:
        pen.print(f"! {warning}", "bold yellow")
    for _, sections in filled("terminal", judgement, evidence):
        for section in sections:
            pen.section(section)
    notes = (f"{name}: {note}" for name, proof in evidence.proofs.items() for note in proof.get("notes", ()))
    pen.section(Section.listed("Notes", dict.fromkeys((*evidence.notes, *notes))))
    console.print()
    if (spent := answers_spent(judgement, evidence)) is not None:
        pen.print(f"Answers: {spent[0]:,} of {spent[1]:,} planned.")
    if evidence.path:
        # Soft-wrapped, so that a path can be copied from the terminal in one piece.
        console.print(pen.text(f"Results: {evidence.path}"), soft_wrap=True)
    meaning = pen.text(f"  exit code {judgement.exit_code}, {words.exit_meaning(judgement)}")
    console.print(pen.verdict(judgement.verdict).append_text(meaning))


class Pen:
    """A console, the spelling that it can show, and the place of what it leaves out; prints sections."""

    def __init__(self, console: Console, *, rest: str = "") -> None:
        self.console, self.rest = console, rest
        self._ascii = console.options.ascii_only
        self.signs, self._wide = words.ASCII_SYMBOLS if self._ascii else words.SYMBOLS, console.width >= _WIDE

    def text(self, text: str, style: str = "", longest: int = _LONGEST) -> Text:
        """Make a text from outside harmless, on one line, and spell it as this terminal can."""
        return self.lines(one_line(clip(text, longest)), style)

    def lines(self, text: str, style: str = "") -> Text:
        """As `text`, with its lines kept, and however long."""
        safe = visible(text)
        return Text(safe.encode("ascii", "backslashreplace").decode() if self._ascii else safe, style=style)

    def print(self, text: str, style: str = "") -> None:
        """Print a line of text from outside."""
        self.console.print(self.text(text, style))

    def verdict(self, verdict: Verdict) -> Text:
        """Return sign and word in the verdict's colour."""
        return Text(f"{self.signs[verdict]} {words.word(verdict)}", style=_STYLES[verdict])

    def section(self, section: Section) -> None:
        """Print a section under its title; nothing if it is empty. Notes of cells are left to other formats."""
        if not section:
            return
        if section.title:
            self.console.print()
            self.print(section.title, "bold")
        if section.rows:
            self._print_table(section)
        said, more = section.sentences[:_MOST_SENTENCES], len(section.sentences) - _MOST_SENTENCES
        lines = [self.text(one) for one in (*said, section.quiet_note) if one]
        lines += [Text(f"and {more} more, {self.rest}", style="dim")] if more > 0 else []
        for line in lines:
            self.console.print(Padding(line, (0, 0, 0, 2), expand=False))

    def _name(self, text: str, style: str = "") -> Text:
        return self.text(text, style, _LONGEST_NAME)

    def _print_table(self, section: Section) -> None:
        """Print a section's rows; of a grouped one a table per group, all with the same columns."""
        cells = [[self._spelled(as_cell(cell), section, at) for at, cell in enumerate(row)] for row in section.rows]
        widths = self._widths(section, [[text.cell_len for text in row] for row in cells])
        named, group, before = next(iter(widths)), None, ""
        table = self._table(section, widths, header=True)
        ruled = not section.grouped and len({row[named].plain for row in cells}) < len(cells)
        for row, shown in zip(section.rows, cells, strict=True):
            if section.grouped and row[0] != group:
                self.console.print(table)
                if group is not None:
                    self.console.print()
                heading = as_cell(row[0])
                self.console.print(self._name(heading.text, "bold").append_text(self._name(heading.note, "dim")))
                table, before, group = self._table(section, widths, header=False), "", row[0]
            if ruled and before and shown[named].plain != before:
                table.add_section()
            again, before = shown[named].plain == before, shown[named].plain
            texts = {at: self._fitted(shown[at], width, section.columns[at].kind) for at, width in widths.items()}
            table.add_row(*(texts | {named: Text("")} if again else texts).values())
        self.console.print(table)

    def _spelled(self, cell: Cell, section: Section, at: int) -> Text:
        kind, text = section.columns[at].kind, cell.text
        if cell.verdict is not None:
            shown = self.verdict(cell.verdict)
            return shown.append_text(self._name(f" {text}")) if text else shown
        if kind == "stratum" and self._wide:
            text = text if section.grouped else text.replace(",", ", ")
        elif kind == "stratum":
            text = cell.note or words.short_name(text)
        return self._name(text, "bold" if cell.strong and kind == "number" else "")

    def _fitted(self, text: Text, width: int, kind: str) -> Text:
        """Cut a name into lines of `width` columns, between its words if it has several."""
        if kind in ("number", "text"):
            return text
        lines = [""]
        for part in _PARTS.findall(text.plain):
            if lines[-1] and cell_len(lines[-1]) + cell_len(part.rstrip()) > width:
                lines.append("")
            lines[-1] += part
        cut = [one for line in lines for one in Text(line.rstrip()).wrap(self.console, width, overflow="fold")]
        return Text("\n").join(cut)

    def _padding(self, section: Section) -> int:
        return 0 if section.grouped and not self._wide else 1

    def _table(self, section: Section, widths: Mapping[int, int], *, header: bool) -> Table:
        padding = (0, self._padding(section), 0, 0)
        table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False, show_edge=False, show_header=header)
        for at, width in widths.items():
            column, fixed = section.columns[at], width if section.grouped else None
            right, name = column.kind == "number", self._name(column.heading)
            whole = right and not column.minor
            table.add_column(name, justify="right" if right else "left", no_wrap=whole, overflow="fold", width=fixed)
        return table

    def _widths(self, section: Section, cells: list[list[int]]) -> dict[int, int]:
        """Return the width of each column shown; minor ones are left out, one by one, while names get too little."""
        headings = [self._name(one.heading).cell_len for one in section.columns]
        capped = [min(long, 8) if one.minor else long for long, one in zip(headings, section.columns, strict=True)]
        longest = [max(column) for column in zip(*cells, strict=True)]
        least = [max(pair) for pair in zip(longest, capped, strict=True)]
        kept = [at for at in range(len(longest)) if at or not section.grouped]
        minor = sorted((at for at in kept if section.columns[at].minor), key=lambda at: section.columns[at].minor)
        while True:
            wanted = {at: least[at] if section.grouped else longest[at] for at in kept}
            shared = [at for at in kept if section.columns[at].kind in ("name", "stratum")]
            left = self.console.width - (1 + self._padding(section)) * len(kept)
            left -= sum(least[at] for at in kept if at not in shared)
            while (over := sum(max(wanted[at], capped[at]) for at in shared) > left) and shared:
                widest = max(shared, key=wanted.__getitem__)
                if wanted[widest] <= _NARROWEST:
                    break
                wanted[widest] -= 1
            if not minor or not over:
                return {at: max(wanted[at], 1) for at in kept}
            kept.remove(minor.pop(0))


def side_by_side(item: Item, baseline: Scored, candidate: Scored, console: Console) -> None:
    """Print the item and both answers, which must be answers to it: texts, or the log-probability of each choice."""
    pen, sides = Pen(console), (baseline.response, candidate.response)
    console.print(pen.lines(f"{item.id}  ({item.slice}, {item.stratum})", "bold"))
    stored = bool(item.prompt or not item.asked)
    if stored:
        prompt = item.prompt
        if (left_out := len(prompt) - 2 * _PROMPT_END) > 0:
            prompt = f"{prompt[:_PROMPT_END]}\n[{left_out:,} characters left out]\n{prompt[-_PROMPT_END:]}"
        console.print(Panel(pen.lines(prompt), title="prompt", title_align="left"))
        if item.target:
            console.print(pen.lines(f"right: {clip(item.target, _LONGEST_ANSWER)}"))
    else:
        console.print(words.NOT_STORED)
    choices = [one for one in sides if isinstance(one, ChoiceLogprobs)]
    if len(choices) == len(sides):
        console.print(_choices(pen, item, choices, (baseline.metric or candidate.metric).partition(",")[0]))
    elif stored:
        _answers(pen, *sides)


def _answer(response: Response) -> tuple[str, str]:
    if isinstance(response, Generation):
        counted = f"{len(response.token_ids)} tokens, " if response.token_ids or not response.text else ""
        return response.text, f"{counted}ended by {response.finish}"
    if isinstance(response, ChoiceLogprobs):
        return " ".join(f"{one:.3f}" for one in response.logprobs), "log-probabilities"
    return "", f"unanswered: {response.reason}"


def _answers(pen: Pen, baseline: Response, candidate: Response) -> None:
    """Print two answers with the first word that differs marked, one above the other on a narrow terminal."""
    (one, about_one), (other, about_other) = _answer(baseline), _answer(candidate)
    narrow, panels = pen.console.width < _NARROW, []
    width = pen.console.width if narrow else pen.console.width // 2 - 1
    sides = split_at_difference(*around_difference(one, other, _LONGEST_ANSWER))
    for who, about, parts in zip(("baseline", "candidate"), (about_one, about_other), sides, strict=True):
        shared, differs, rest = map(pen.lines, parts)
        marked = (Text(">>", "bold"), Text(differs.plain, "bold reverse"), Text("<<", "bold")) if differs else ()
        text, says = Text.assemble(shared, *marked, rest), pen.lines(about)
        panels.append(Panel(text, title=who, title_align="left", subtitle=says, subtitle_align="left", width=width))
    for shown in panels if narrow else (Columns(panels, padding=(0, 1)),):
        pen.console.print(shown)
    index = first_difference(one, other)
    place = "" if index is None else f"First difference at character {index + 1:,}, between the signs >> and <<."
    pen.console.print(place or "The two texts are the same.")


def _choices(pen: Pen, item: Item, sides: Sequence[ChoiceLogprobs], metric: str) -> Table:
    best = [preferred_choice(item, response, metric) for response in sides]
    preferred, ways = "the same choice" if best[0] == best[1] else "different choices", words.SENTENCES["preferred"]
    caption = f"> is preferred {ways.get(metric, ways['acc'])}: the two prefer {preferred}"
    table = Table(title="log-probability of each choice", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("choice", overflow="fold")
    for heading in ("baseline", "candidate", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    for index, values in enumerate(zip(*(one.logprobs for one in sides), strict=True)):
        choice = (item.choices[index] if index < len(item.choices) else "") or f"choice {index + 1}"
        label = pen.text(choice, longest=300)
        if index == item.gold:
            label.append("  (right)", style="bold")
        cells = (f"{'> ' if index == top else ''}{value:.3f}" for top, value in zip(best, values, strict=True))
        table.add_row(label, *cells, f"{values[1] - values[0]:+.3f}")
    return table
