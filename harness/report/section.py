"""A section of a report as data: filled once from a judgement, rendered by the terminal, Markdown and the page.

Cells hold text as it came; whoever writes it out sanitizes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.judge.summaries import Verdict

__all__ = ["Cell", "Column", "Row", "Section", "as_cell", "names", "numbers", "strata", "texts"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    heading: str
    """Its heading; a variant's name among others."""
    kind: Literal["name", "stratum", "text", "number"]
    """What its cells hold: names from outside, names of strata, our own words, or figures, which are aligned right."""


def names(*headings: str) -> tuple[Column, ...]:
    """Return columns of names from outside."""
    return tuple(Column(one, "name") for one in headings)


def strata(*headings: str) -> tuple[Column, ...]:
    """Return columns of strata, which a narrow terminal shortens."""
    return tuple(Column(one, "stratum") for one in headings)


def texts(*headings: str) -> tuple[Column, ...]:
    """Return columns of words."""
    return tuple(Column(one, "text") for one in headings)


def numbers(*headings: str) -> tuple[Column, ...]:
    """Return columns of figures."""
    return tuple(Column(one, "number") for one in headings)


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


Row = tuple[str | Cell, ...]


def as_cell(cell: str | Cell) -> Cell:
    """Return a cell, made of a text if need be."""
    return cell if isinstance(cell, Cell) else Cell(cell)


@dataclass(frozen=True, slots=True)
class Section:
    """A title with a table or with sentences. One without rows and sentences is left out."""

    title: str
    """What it shows."""
    columns: tuple[Column, ...] = ()
    """Of the table."""
    rows: tuple[Row, ...] = ()
    """As many cells as columns each."""
    sentences: tuple[str, ...] = ()
    """In place of a table."""
    note: str = ""
    """A sentence for the reader of the figures."""
    folded: str = ""
    """What the table is called if the page shows it behind a click; empty for an open table."""

    def __bool__(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.rows or self.sentences)

    @staticmethod
    def listed(title: str, sentences: Iterable[str]) -> Section:
        """Return a section of sentences."""
        return Section(title, sentences=tuple(sentences))
