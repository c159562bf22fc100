"""The history as sections: runs, what changed, regressions, trends; and its files: page, Markdown and badge."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from harness.history.changes import Move, Since, changed_facts, changed_items, steps
from harness.history.database import History
from harness.judge.decisions import points
from harness.judge.outcomes import natural_key
from harness.report.html import render
from harness.report.markdown import LIMIT, MarkdownPage
from harness.report.sanitize import clip, markdown
from harness.report.section import Block, Cell, Chart, Interval, Line, Row, Section, names, numbers, strata, texts
from harness.report.words import NOTES, SYMBOLS, readable, score
from harness.report.writer import step_summary
from harness.store.files import atomic_write
from harness.store.units import grouped

_OF_VARIANTS = ("engines", "devices", "weights", "loaded")
_NEWEST = 20  # so many steps from run to run are described; the database holds all
_COLOURS = {"pass": "#3a7d34", "fail": "#b3261e"}
_OTHER = "#8a6100"


def runs(history: History) -> Section:
    """Return the runs in their order, with what each came to."""
    verdicts = history.rows("SELECT * FROM candidates ORDER BY run, rowid")
    own = {
        run: [f"{SYMBOLS[one['verdict']]} {one['candidate']}" for one in found]
        for run, found in groupby(verdicts, lambda one: one["run"])
    }
    rows: list[Row] = []
    for one in history.rows("SELECT * FROM runs ORDER BY run"):
        name = Cell(one["name"], "rehearsal, no model was measured" if one["rehearsal"] else "")
        verdict, items = Cell("", verdict=one["verdict"]), f"{one['items']:,}"
        rows.append((str(one["run"]), name, verdict, ", ".join(own.get(one["run"], ())), items, one["items_digest"]))
    columns = numbers("#") + names("run") + texts("verdict") + names("candidates") + numbers("items")
    return Section("Runs", (*columns, *names("set of items")), tuple(rows), stacked=True)


def changes(history: History) -> Section:
    """Return what differs from each run to the next, the newest first."""
    known = [one for one in steps(history) if one["before"] is not None]
    rows: list[Row] = []
    for one in known[:_NEWEST]:
        found = _merged(changed_facts(history, one["before"], one["run"]))
        for label, shared, removed, added in changed_items(history, one["before"], one["run"]):
            found.append((f"items.{label}", f"{shared + removed}", f"{shared + added}, {shared} of them the same"))
        rows += [(one["name"], *each) for each in found or [("nothing", "", "")]]
    more = f"; {left} earlier steps are left out" if (left := len(known[_NEWEST:])) else ""
    note = f"Against the run of the same config before it, the newest first{more}."
    columns = names("run", "what changed", "before", "after")
    return Section("What changed from run to run", columns, tuple(rows), note=note, stacked=True)


def _merged(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Join what changed alike in several variants: ``engines.int8`` and ``engines.nf4`` as ``engines (int8, nf4)``."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for key, before, after in found:
        head, _, rest = key.partition(".")
        own, _, rest = rest.partition(".") if head in _OF_VARIANTS else ("", "", rest)
        alike.setdefault((".".join(filter(None, (head, rest))), before, after), []).append(own)
    return [(f"{key} ({', '.join(own)})" if own[0] else key, old, new) for (key, old, new), own in alike.items()]


def regressions(since: Since) -> Section:
    """Return the strata of the newest run against an earlier one, without those that are as they were."""
    shown = [one for one in since.moves if one.regressed or one.verdict != "pass"]
    quiet = [one for one in since.moves if one not in shown]
    columns = names("slice", minor=3) + strata("stratum") + names("variant") + texts("since then")
    columns += texts("at the gate", minor=1) + numbers("change") + numbers("limits", minor=2) + numbers("-/+")
    columns += numbers("before", "after", minor=1)
    count = f"{len(quiet)} strata and rates are within their margin of what they were." if quiet else ""
    absent = () if since.moves else (NOTES["other_items"].format(name=since.name),)
    note = NOTES["since"].format(name=since.name)
    rows, quiet_rows = (tuple(map(_move_row, moves)) for moves in (shown, quiet))
    title = f"The newest run since {since.name}"
    return Section(title, columns, rows, absent, note, quiet=quiet_rows, quiet_note=count, stacked=True)


def _move_row(one: Move) -> Row:
    place = one.slice, one.stratum, one.variant
    gate = " to ".join(SYMBOLS[each] for each in one.gate or ())
    if one.result is None or one.means is None:
        return (*place, Cell(one.of_kind, one.advisory, one.verdict), gate, "-", "-", "-", "-", "-")
    low, delta, high = one.result.low, one.result.delta, one.result.high
    told = Cell("regressed" if one.regressed and one.verdict != "fail" else "", one.advisory, one.verdict)
    drawn = Cell(points(delta), value=delta, interval=Interval(low, delta, high, one.margin))
    limits, flips = f"[{points(low)}, {points(high)}]", f"{one.result.lost}/{one.result.gained}"
    return (*place, told, gate, drawn, limits, flips, *map(score, one.means))


def series(history: History) -> Iterator[tuple[str, list[sqlite3.Row]]]:
    """Return the rows of each series, with which set of the stratum's items it is; empty if there is one set."""
    rows = sorted(history.rows("SELECT * FROM trend"), key=lambda one: natural_key(f"{one['slice']}/{one['stratum']}"))
    for _, place in groupby(rows, lambda one: (one["slice"], one["stratum"])):
        found = grouped((row["items"], row) for row in sorted(place, key=lambda one: one["run"]))
        for number, own in enumerate(found.values(), 1):
            yield f"items {number} of {len(found)}" if len(found) > 1 else "", own


def trend(history: History) -> Section:
    """Return the change of each candidate in each series over the runs."""
    rows, quiet, charts, said, count = list[Row](), list[Row](), [], [], 0
    for which, found in series(history):
        own = grouped((row["candidate"], row) for row in found)
        moved = any(len({(row["delta"], row["verdict"]) for row in each}) > 1 for each in own.values())
        (rows if moved else quiet).extend(_trend_row(which, each) for each in own.values())
        stratum, label = found[0]["stratum"], found[0]["slice"]
        place = label if stratum == "all" else f"{readable(stratum)} ({label})"
        if moved:
            title = f"{place}, {which}" if which else place
            charts.append(Chart(title, "run", tuple(_line(name, each) for name, each in own.items())))
        said += [place] if which.startswith("items 2 ") else []
        count += not moved
    columns = names("slice", minor=4) + strata("stratum") + names("candidate", "runs") + numbers("first", minor=2)
    columns += numbers("last") + numbers("limits", minor=3) + numbers("margin", minor=1) + texts("verdicts", "now")
    text = [f"Asked with more than one set of items, which are never joined to one line: {'; '.join(said)}."]
    note = "In points, with one-sided limits; runs by their number. The verdicts are those of the runs, in order."
    left = f"{count} series have one run, or did not change." if count else ""
    title, absent = "Change of each stratum against its baseline, run by run", tuple(text if said else ())
    shown = Section(title, columns, tuple(rows), absent, note, quiet=tuple(quiet), quiet_note=left, stacked=True)
    return replace(shown, charts=tuple(charts), y="change in points")


def _line(name: str, rows: list[sqlite3.Row]) -> Line:
    known = [row for row in rows if row["delta"] is not None]
    limits = tuple((100 * row["low"], 100 * row["high"]) for row in known)
    return Line(name, tuple((f"#{row['run']}", 100 * row["delta"]) for row in known), limits=limits)


def _trend_row(which: str, rows: list[sqlite3.Row]) -> Row:
    first, last = rows[0], rows[-1]
    numbers_ = [str(row["run"]) for row in rows]
    span = ", ".join(numbers_) if len(numbers_) < 8 else f"{numbers_[0]} ... {numbers_[-1]} ({len(numbers_)})"  # noqa: PLR2004
    place = last["slice"], last["stratum"], last["candidate"], Cell(span, which)
    change = points(first["delta"]), Cell(points(last["delta"]), value=last["delta"])
    limits = "-" if last["low"] is None else f"[{points(last['low'])}, {points(last['high'])}]"
    verdicts = "".join(SYMBOLS[row["verdict"]] for row in rows), Cell("", verdict=last["verdict"])
    return (*place, *change, limits, points(last["margin"], sign=False), *verdicts)


def headline(history: History, since: Since | None, name: str | None = None) -> list[str]:
    """Return in sentences what a run (the newest) came to, what regressed since another, and what is not compared."""
    (newest,) = history.rows("SELECT * FROM runs WHERE name = ifnull(?, name) ORDER BY run DESC LIMIT 1", name)
    said = [f"{newest['name']}: {newest['verdict'].replace('_', ' ')}."]
    for one in history.rows("SELECT * FROM candidates WHERE run = ?", newest["run"]):
        reasons = json.loads(one["reasons"])
        said += [f"{one['candidate']}: {reasons[0]}."] if reasons else []
    if since is None:
        return said
    if since.loosened:
        said.append(f"The gate asks for less than in {since.name}: {'; '.join(since.loosened)}.")
    if not since.moves:
        return [*said, NOTES["other_items"].format(name=since.name)]
    if since.left_out:
        said.append(f"Not compared, as they were not asked, or with other items: {'; '.join(since.left_out)}.")
    worse = (one for one in since.moves if one.regressed)
    found = [f"{one.variant} in {one.slice}/{one.stratum}{one.of_kind}{one.advisory}" for one in worse]
    open_ = sum(one.verdict in ("inconclusive", "not_judged") and one.kind == "score" for one in since.moves)
    (run,) = history.rows("SELECT run FROM runs WHERE name = ?", since.name)
    changed = _merged(changed_facts(history, run["run"], newest["run"]))
    settings = [clip(f"{key} from {old or 'none'} to {new or 'none'}", 120) for key, old, new in changed[:3]]
    settings += [f"{len(changed) - 3} more"] if len(changed) > 3 else []  # noqa: PLR2004 - so many are told
    said.append(f"Settings that changed since {since.name}: {'; '.join(settings) or 'none'}.")
    text = f"{len(found)} regressed: {'; '.join(found)}" if found else "none is shown to have regressed"
    return [*said, f"Since {since.name}, of {len(since.moves)} comparable strata and rates {text}; {open_} undecided."]


def blocks(history: History, since: Since | None) -> list[tuple[Block, list[Section]]]:
    """Return the blocks of the page, which Markdown and the terminal show too."""
    shown = [
        ("since", "Regressions", None if since is None else regressions(since)),
        ("changes", "What changed", changes(history)),
        ("trend", "Trends", trend(history)),
        ("runs", "Runs", runs(history)),
    ]
    absent = "There is no earlier run of this config to compare with."
    return [(Block(key, title, lambda *_: (), {}, absent=absent), [one] if one else []) for key, title, one in shown]


def write(folder: Path, history: History, told: dict[str, Since | None], said: list[str]) -> list[Path]:
    """Write the files on the last run of `told`, and the step summary; return their paths. Raises StoreError."""
    name, since = [*told.items()][-1]
    shown, regressed = blocks(history, since), sum(len(one.regressed) for one in told.values() if one)
    (newest,) = history.rows("SELECT *, (SELECT count(*) FROM runs) AS count FROM runs WHERE name = ?", name)
    text = MarkdownPage(LIMIT)
    text.add("## quantcliff: history\n")
    text.listed([f"- {markdown(one)}" for one in said], len(said))
    for one in (one for _, sections in shown for one in sections):
        text.section(one)
    message = newest["verdict"].replace("_", " ") + (f", {regressed} regressed" if regressed else "")
    colour = _COLOURS["fail"] if regressed else _COLOURS.get(newest["verdict"], _OTHER)
    badge = {"schemaVersion": 1, "label": "quantcliff", "message": message, "color": colour}
    files = {
        "history.html": render("history.html.j2", shown, "", said=said, count=newest["count"]),
        "history.md": str(text),
        "badge.json": json.dumps(badge) + "\n",
    }
    for name, content in files.items():
        atomic_write(folder / name, content)
    step_summary(str(text))
    return [folder / name for name in files]
