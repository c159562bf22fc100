"""A section of a report as data, for every format. Cells hold text as it came: whoever writes it sanitizes it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Self

from harness.judge.summaries import Verdict
from harness.judge.verdicts import Judgement
from harness.report.evidence import Evidence

Format = Literal["terminal", "markdown", "page", "junit", "table"]
_ALL: tuple[Format, ...] = ("terminal", "markdown", "page", "junit", "table")
Row = tuple[Any, ...]  # texts and `Cell`s; of a table for programs figures as they are, and None for a missing one
Dot = tuple[str, float, float, float]  # a level, the value there, and its limits


class Column(NamedTuple):
    """A column of a table."""

    heading: str
    kind: str  # name (from outside), stratum, text (our own words), number (aligned right); of a record its Arrow type
    minor: int = 0  # above 0 if a narrow terminal or a phone may leave it out, the lowest first


def columns(kind: str, *headings: str, minor: int = 0) -> tuple[Column, ...]:
    """Return columns of one kind."""
    return tuple(Column(one, kind, minor) for one in headings)


names, strata = partial(columns, "name"), partial(columns, "stratum")
texts, numbers = partial(columns, "text"), partial(columns, "number")


class Interval(NamedTuple):
    """A change with its limits against the line of its margin, as the page draws it; proportions."""

    low: float | None
    delta: float
    high: float | None
    margin: float | None


class Items(NamedTuple):
    """The flips that a figure is about: what the page's reading room shows when the figure is followed."""

    candidate: str = ""
    place: str = ""  # as "slice: stratum", the machine names
    kind: str = ""  # of tail event


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell with more to it than its text."""

    text: str
    note: str = ""  # what it says besides, smaller
    verdict: Verdict | None = None
    strong: bool = False
    value: float | None = None  # what the page sorts it by, if not by its text
    interval: Interval | None = None  # drawn by the page
    tint: float | None = None  # a change that colours it on the page
    items: Items | None = None
    why: str = ""  # the reason of its verdict; on the page alone


def as_cell(cell: str | Cell) -> Cell:
    """Return a cell, made of a text if need be."""
    return cell if isinstance(cell, Cell) else Cell(cell)


class Line(NamedTuple):
    """One variant's line, or its point, in a chart."""

    name: str
    points: tuple[tuple[str | float, float], ...]  # x (levels in order, or numbers if the chart is a scatter) and y
    hollow: bool = False
    limits: tuple[tuple[float, float], ...] = ()  # the lower and upper limit of each point


def dotted(found: Mapping[str, Iterable[Dot]]) -> tuple[Line, ...]:
    """Return a line with limits for each variant."""
    return tuple(Line(name, tuple(d[:2] for d in own), limits=tuple(d[2:] for d in own)) for name, own in found.items())


@dataclass(frozen=True, slots=True)
class Chart:
    """A small picture; those of one section share the scale of their y axes and one legend."""

    title: str
    x: str  # name of the x axis
    lines: tuple[Line, ...]  # the baseline first, if it is among them
    scatter: bool = False  # x is a number, and nothing is joined
    rule: float | None = None  # value of a dotted line
    across: bool = False  # levels one below the other, values from left to right, on a scale of its own; x names that
    tolerated: Mapping[str | float, float] = field(default_factory=dict)  # what levels of one `across` may reach


@dataclass(frozen=True, slots=True)
class Section:
    """A title with a table, charts or sentences. One without any of them is left out."""

    title: str
    columns: tuple[Column, ...] = ()
    rows: tuple[Row, ...] = ()  # as many cells as columns each
    sentences: tuple[str, ...] = ()  # below or in place of a table
    note: str = ""  # for the reader of the figures
    folded: str = ""  # what the table is called behind a click on the page and in Markdown; empty for an open table
    quiet: tuple[Row, ...] = ()  # rows that say nothing: the page shows them on demand, other formats count them
    quiet_note: str = ""  # the line in place of the quiet rows, with their count
    charts: tuple[Chart, ...] = ()  # drawn by the page
    y: str = ""  # name of the charts' y axes
    grouped: bool = False  # the first column's cells are headings above their rows on a terminal
    filters: bool = False  # the page offers to filter the rows by words, verdict and first column
    stacked: bool = False  # a phone shows the cells of a row one below the other
    formats: tuple[Format, ...] = _ALL  # who shows it

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.rows or self.sentences or self.quiet_note or self.charts)

    @classmethod
    def listed(cls, title: str, sentences: Iterable[str], formats: tuple[Format, ...] = _ALL) -> Self:
        """Return a section of sentences."""
        return cls(title, sentences=tuple(sentences), formats=formats)


class Block(NamedTuple):
    """A heading with its sections; see `harness.report.blocks`."""

    key: str  # its anchor on the page
    title: str  # its heading on the page
    fill: Callable[[Judgement, Evidence], Section | Iterable[Section]]
    places: Mapping[Format, int]  # formats that show it, each with its rank there, the lowest first
    link: str = ""  # its name in the page's contents; the heading if empty
    absent: str = ""  # what the page says if no section has anything to show; if empty, the block is left out
