"""A section of a report as data: filled once from a judgement, rendered by the terminal, Markdown and the page.

Cells hold text as it came; whoever writes it out sanitizes it. A block is a heading with its sections, and says in
which formats it is shown and where: see `harness.report.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.judge.summaries import Verdict
from harness.judge.verdicts import Judgement
from harness.report.evidence import Evidence

__all__ = [
    "FORMATS", "Block", "Cell", "Chart", "Column", "Format", "Interval", "Items", "Line", "Places", "Row", "Section",
    "as_cell", "names", "numbers", "strata", "texts",
]  # fmt: skip

Format = Literal["terminal", "markdown", "page"]
Places = Mapping[Format, int]
FORMATS: tuple[Format, ...] = ("terminal", "markdown", "page")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    heading: str
    """Its heading; a variant's name among others."""
    kind: Literal["name", "stratum", "text", "number"]
    """What its cells hold: names from outside, names of strata, our own words, or figures, which are aligned right."""
    minor: int = 0
    """Above 0 if a narrow terminal or a phone may leave it out, the lowest first."""


def names(*headings: str, minor: int = 0) -> tuple[Column, ...]:
    """Return columns of names from outside."""
    return tuple(Column(one, "name", minor) for one in headings)


def strata(*headings: str) -> tuple[Column, ...]:
    """Return columns of strata: levels on a narrow terminal, names that people read on the page."""
    return tuple(Column(one, "stratum") for one in headings)


def texts(*headings: str) -> tuple[Column, ...]:
    """Return columns of words."""
    return tuple(Column(one, "text") for one in headings)


def numbers(*headings: str, minor: int = 0) -> tuple[Column, ...]:
    """Return columns of figures."""
    return tuple(Column(one, "number", minor) for one in headings)


class Interval(NamedTuple):
    """A change with its limits against the line of its margin, as the page draws it; proportions."""

    low: float | None
    delta: float
    high: float | None
    margin: float | None


class Items(NamedTuple):
    """The flips that a figure is about: what the page's reading room shows when the figure is followed."""

    candidate: str = ""
    place: str = ""
    """As ``slice: stratum``, the machine names."""
    kind: str = ""
    """A kind of tail event."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with more to it than its text."""

    text: str
    """What it says first."""
    note: str = ""
    """What it says besides, smaller."""
    verdict: Verdict | None = None
    """The verdict that it shows."""
    strong: bool = False
    """Whether it stands out."""
    value: float | None = None
    """What it is sorted by on the page, if not by its text."""
    interval: Interval | None = None
    """What the page draws in it."""
    tint: float | None = None
    """A change that colours it on the page."""
    items: Items | None = None
    """Which flips it is about."""


Row = tuple[str | Cell, ...]


def as_cell(cell: str | Cell) -> Cell:
    """Return a cell, made of a text if need be."""
    return cell if isinstance(cell, Cell) else Cell(cell)


@dataclass(frozen=True, slots=True)
class Line:
    """One variant's line, or its point, in a chart."""

    name: str
    """The variant's."""
    points: tuple[tuple[str | float, float], ...]
    """Where on the x axis (levels in order, or a number if the chart is a scatter) and the value."""
    hollow: bool = False
    """Whether its marks are hollow."""
    limits: tuple[tuple[float, float], ...] = ()
    """Of each point, its lower and upper limit; empty if none are drawn."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A small picture; those of one section share the scale of their y axes and one legend."""

    title: str
    """What it shows."""
    x: str
    """Name of the x axis."""
    lines: tuple[Line, ...]
    """The baseline first, if it is among them."""
    scatter: bool = False
    """Whether x is a number and nothing is joined."""
    rule: float | None = None
    """Value of a dotted line."""


@dataclass(frozen=True, slots=True)
class Section:
    """A title with a table, charts or sentences. One without any of them is left out."""

    title: str
    """What it shows."""
    columns: tuple[Column, ...] = ()
    """Of the table."""
    rows: tuple[Row, ...] = ()
    """As many cells as columns each."""
    sentences: tuple[str, ...] = ()
    """Below or in place of a table."""
    note: str = ""
    """A sentence for the reader of the figures."""
    folded: str = ""
    """What the table is called if page and Markdown show it behind a click; empty for an open table."""
    quiet: tuple[Row, ...] = ()
    """Rows that say nothing: the page shows them on demand, other formats only count them."""
    quiet_note: str = ""
    """The line shown in place of the quiet rows, with their count."""
    charts: tuple[Chart, ...] = ()
    """Drawn by the page."""
    y: str = ""
    """Name of the charts' y axes."""
    grouped: bool = False
    """Whether the first column's cells are headings above their rows on a terminal."""
    filters: bool = False
    """Whether the page offers to filter the rows by words, verdict and first column."""
    formats: tuple[Format, ...] = FORMATS
    """Who shows it."""

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.rows or self.sentences or self.quiet_note or self.charts)

    @staticmethod
    def listed(title: str, sentences: Iterable[str], formats: tuple[Format, ...] = FORMATS) -> Section:
        """Return a section of sentences."""
        return Section(title, sentences=tuple(sentences), formats=formats)


@dataclass(frozen=True, slots=True)
class Block:
    """A heading with its sections."""

    key: str
    """Its anchor on the page."""
    title: str
    """Its heading on the page."""
    fill: Callable[[Judgement, Evidence], Iterable[Section]]
    """Gives its sections."""
    places: Places
    """Formats that show it, each with its rank there, the lowest first."""
    link: str = ""
    """Its name in the page's contents; the heading if empty."""
    absent: str = ""
    """What the page says if no section has anything to show; if empty, the page leaves the block out."""
