"""The history as sections of `harness.report.section`: runs, what changed, regressions, and the trend of each stratum.

A series is a stratum of a slice on one set of items. Runs that asked a stratum's other items are another series, in a
chart of its own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from itertools import groupby, pairwise

from harness.history.changes import Move, changed_facts, changed_items
from harness.history.database import History
from harness.report.section import Block, Cell, Chart, Column, Interval, Line, Row, Section, names, numbers, strata
from harness.report.words import SYMBOLS, points, readable, score

__all__ = ["blocks", "headline", "regressions"]

_OF_VARIANTS = ("engines", "devices", "weights", "loaded")
_NEWEST = 20
"""So many steps from run to run are described; the database holds all."""


def _texts(*headings: str) -> tuple[Column, ...]:
    return tuple(Column(one, "text") for one in headings)


def runs(history: History) -> Section:
    """Return the runs in their order, with what each came to."""
    verdicts = history.rows("SELECT * FROM candidates ORDER BY run, rowid")
    own = {run: [*found] for run, found in groupby(verdicts, lambda one: one["run"])}
    rows = tuple(
        (
            str(one["run"]),
            Cell(one["name"], "rehearsal, no model was measured" if one["rehearsal"] else ""),
            Cell("", verdict=one["verdict"]),
            ", ".join(f"{SYMBOLS[each['verdict']]} {each['candidate']}" for each in own.get(one["run"], ())),
            f"{one['items']:,}",
            one["items_digest"],
        )
        for one in history.rows("SELECT * FROM runs ORDER BY run")
    )
    columns = numbers("#") + names("run") + _texts("verdict") + names("candidates") + numbers("items")
    return Section("Runs", (*columns, *names("set of items", minor=1)), rows)


def changes(history: History) -> Section:
    """Return what differs from each run to the next, the newest first."""
    known = history.rows("SELECT run, name FROM runs ORDER BY run")
    steps = [*pairwise(known)][: -_NEWEST - 1 : -1]
    rows: list[Row] = []
    for old, new in steps:
        found = _merged(changed_facts(history, old["run"], new["run"]))
        for label, shared, removed, added in changed_items(history, old["run"], new["run"]):
            found.append((f"items.{label}", f"{shared} kept, {removed} removed", f"{added} added"))
        rows += [(new["name"], *one) for one in found or [("nothing", "", "")]]
    columns = names("run", "what changed", "before", "after")
    left = max(len(known) - 1 - len(steps), 0)
    note = f"Against the run before it, the newest first{f'; {left} earlier steps are left out' if left else ''}."
    return Section("What changed from run to run", columns, tuple(rows), note=note)


def _merged(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Join what changed alike in several variants: ``engines.int8`` and ``engines.nf4`` as ``engines (int8, nf4)``."""
    alike: dict[tuple[str, str, str, str], list[str]] = {}
    for key, before, after in found:
        head, _, rest = key.partition(".")
        own, _, rest = rest.partition(".") if head in _OF_VARIANTS else ("", "", rest)
        alike.setdefault((head, rest, before, after), []).append(own)
    return [
        (".".join(filter(None, (head, rest))) + (f" ({', '.join(own)})" if own[0] else ""), before, after)
        for (head, rest, before, after), own in alike.items()
    ]


def regressions(found: list[Move], since: str) -> Section:
    """Return the strata of the newest run against a named run, the regressed ones first."""
    rows = tuple(_move_row(one) for one in found if one.regressed or one.verdict != "pass")
    quiet = tuple(_move_row(one) for one in found if not (one.regressed or one.verdict != "pass"))
    columns = names("variant") + strata("stratum") + _texts("since then", "at the gate")
    columns += numbers("change", "limits", "-/+", "before", "after")
    count = f"{len(quiet)} strata and rates are within their margin of what they were." if quiet else ""
    absent = () if found else ("No stratum has the same items in both runs, so nothing can be compared.",)
    note = (
        "Each variant, the baseline too, against itself on the same items; change and limits in points. It regressed "
        "if it lost more than its margin, or passed the gate then and fails it now."
    )
    return Section(f"The newest run since {since}", columns, rows, absent, note, quiet=quiet, quiet_note=count)


def _move_row(one: Move) -> Row:
    place = one.stratum if one.stratum != "all" else one.slice
    gate = " to ".join(SYMBOLS[each] for each in one.gate or ())
    if one.result is None or one.means is None:
        return (
            one.variant,
            Cell(place, one.kind),
            Cell("", verdict=one.gate[1] if one.gate else None),
            gate,
            "-",
            "-",
            "-",
            "-",
            "-",
        )
    result, shown = one.result, None if one.gating else "advisory"
    drawn = Interval(result.low, result.delta, result.high, one.margin)
    return (
        one.variant,
        Cell(place, one.slice if place != one.slice else ""),
        Cell("regressed" if one.regressed and one.verdict != "fail" else "", shown or "", one.verdict),
        gate,
        Cell(points(result.delta), value=result.delta, interval=drawn),
        f"[{points(result.low)}, {points(result.high)}]",
        f"{result.lost}/{result.gained}",
        score(one.means[0]),
        score(one.means[1]),
    )


def _series(history: History) -> Iterator[tuple[str, list[sqlite3.Row]]]:
    """Return each series with its rows, under a name that tells two sets of items of one stratum apart."""
    rows = history.rows("SELECT * FROM trend")
    for (label, stratum), place in groupby(rows, lambda one: (one["slice"], one["stratum"])):
        found: dict[str, list[sqlite3.Row]] = {}
        for row in sorted(place, key=lambda one: one["run"]):
            found.setdefault(row["items"], []).append(row)
        title = label if stratum == "all" else f"{readable(stratum)} ({label})"
        for number, series in enumerate(found.values(), 1):
            yield f"{title}, items {number} of {len(found)}" if len(found) > 1 else title, series


def trend(history: History) -> Section:
    """Return the change of each candidate in each series over the runs."""
    rows: list[Row] = []
    quiet: list[Row] = []
    charts, said = [], []
    for title, series in _series(history):
        moved = len({row["run"] for row in series}) > 1 and len({(row["candidate"], row["delta"]) for row in series})
        candidates = [*dict.fromkeys(row["candidate"] for row in series)]
        own = {name: [row for row in series if row["candidate"] == name] for name in candidates}
        (rows if moved > len(own) else quiet).extend(_trend_row(title, name, found) for name, found in own.items())
        if moved > len(own):
            charts.append(Chart(title, "run", tuple(_line(name, found) for name, found in own.items())))
        if ", items 2 of" in title:
            said.append(title.partition(", items ")[0])
    columns = names("stratum", "candidate") + names("runs", minor=2) + numbers("first", "last", "limits")
    columns += (*numbers("margin", minor=1), *_texts("verdicts", "now"))
    text = f"Asked with more than one set of items, which are never joined to one line: {'; '.join(said)}."
    count = len({str(row[0]) for row in quiet})
    return Section(
        "Change of each stratum against its baseline, run by run",
        columns,
        tuple(rows),
        (text,) if said else (),
        note="In points, with one-sided limits; runs by their number. The verdicts are those of the runs, in order.",
        quiet=tuple(quiet),
        quiet_note=f"{count} series have one run, or did not change." if count else "",
        charts=tuple(charts),
        y="change in points",
    )


def _line(name: str, rows: list[sqlite3.Row]) -> Line:
    known = [row for row in rows if row["delta"] is not None]
    limits = tuple((100 * row["low"], 100 * row["high"]) for row in known)
    return Line(name, tuple((f"#{row['run']}", 100 * row["delta"]) for row in known), limits=limits)


def _trend_row(title: str, name: str, rows: list[sqlite3.Row]) -> Row:
    first, last = rows[0], rows[-1]
    numbers_ = [str(row["run"]) for row in rows]
    limits = "-" if last["low"] is None else f"[{points(last['low'])}, {points(last['high'])}]"
    trail = "".join(SYMBOLS[row["verdict"]] for row in rows)
    span = ", ".join(numbers_) if len(numbers_) < 8 else f"{numbers_[0]} ... {numbers_[-1]} ({len(numbers_)})"  # noqa: PLR2004
    change = Cell(points(last["delta"]), value=last["delta"])
    margin = points(last["margin"], sign=False)
    return title, name, span, points(first["delta"]), change, limits, margin, trail, Cell("", verdict=last["verdict"])


def headline(history: History, found: list[Move], since: str) -> list[str]:
    """Return in sentences what the newest run came to, and what regressed since a run."""
    newest = history.rows("SELECT * FROM runs ORDER BY run DESC LIMIT 1")[0]
    said = [f"{newest['name']}: {newest['verdict'].replace('_', ' ')}."]
    for one in history.rows("SELECT * FROM candidates WHERE run = ?", newest["run"]):
        reasons = json.loads(one["reasons"])
        said += [f"{one['candidate']}: {reasons[0]}."] if reasons else []
    if not since:
        return said
    regressed = [one for one in found if one.regressed]
    places = [f"{one.variant} in {one.slice}/{one.stratum}{'' if one.gating else ' (advisory)'}" for one in regressed]
    open_ = sum(one.verdict in ("inconclusive", "not_judged") and one.kind == "score" for one in found)
    text = f"regressed in {len(places)}: {'; '.join(places)}" if places else "nothing is shown to have regressed"
    return [*said, f"Since {since}, of {len(found)} comparable strata and rates {text}; {open_} undecided."]


def blocks(history: History, found: list[Move], since: str) -> list[tuple[Block, list[Section]]]:
    """Return the blocks of the page, which Markdown and the terminal show in the same order."""
    sections = {
        "since": ("Regressions", [regressions(found, since)] if since else []),
        "trend": ("Trends", [trend(history)]),
        "changes": ("What changed", [changes(history)]),
        "runs": ("Runs", [runs(history)]),
    }
    return [
        (Block(key, title, lambda *_: (), {}, absent="There is one run, so nothing to compare."), [*filter(None, own)])
        for key, (title, own) in sections.items()
    ]
