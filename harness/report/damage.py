"""The page of a damage search: a map of layers and modules, bytes against lost items, and the proof on held-out items.

Reads the JSON that `harness.damage` writes and computes no figure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.report.html import render
from harness.report.sanitize import one_line
from harness.report.section import Block, Cell, Chart, Line, Row, Section, names, numbers, texts
from harness.store.files import atomic_write

__all__ = ["sentences", "write_page"]

MIB = 1 << 20
MOST_ROWS = 25
"""Groups that the ranking shows."""


def write_page(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the page of a search, with the proof on held-out items if there is one. Raises StoreError."""
    shown = [
        ("held-out", "Held-out items", _held_out(summary)),
        ("map", "Damage map", _map(summary)),
        ("frontier", "Bytes against lost items", _frontier(summary)),
        ("ranking", "Groups by items surely won back per byte", _ranking(summary)),
    ]
    blocks = [(Block(key, title, lambda *_: (), {}), [one]) for key, title, one in shown if one]
    said, title = sentences(summary), f"Damage of {summary['candidate']}, run {summary['run']}"
    atomic_write(path, render("damage.html.j2", blocks, summary["baseline"], said=said, heading=one_line(title)))


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """Return what was found, in sentences: for the page and the terminal."""
    asked, everything = summary["asked"], summary["everything"]
    lost = asked["lost_again"]
    began = (
        f"{summary['candidate']} lost {asked['lost']} items in {', '.join(summary['strata'])}. The search asks "
        f"those that are lost again ({lost}) and {asked['kept_again']} kept items. With all modules of the baseline "
        f"{everything['won']} are won back and {everything['newly_lost']} newly lost."
    )
    said = [began]
    if summary["chosen"] is None:
        return [*said, "No group of modules within the bytes wins more items back than it newly loses."]
    step = summary["frontier"][summary["chosen"]]
    null = summary["null"]["net"]
    said.append(
        f"{len(step['modules'])} modules, {_share(step['bytes'], summary)} of the candidate's bytes, win back "
        f"{step['won']} of {lost} and newly lose {step['newly_lost']}. These items chose the modules, so this figure "
        "is too good; only held-out items are a proof."
    )
    if null:
        said.append(
            f"{len(null)} random sets of these bytes win back {min(null)} to {max(null)} net, against "
            f"{step['won'] - step['newly_lost']} (p = {summary['null']['p']:.2g} of the chosen set among them)."
        )
    if (held := summary.get("held_out")) is not None:
        said += _proof(summary, held)
    return said


def _proof(summary: Mapping[str, Any], held: Mapping[str, Any]) -> list[str]:
    """Say what came of the held-out items."""
    rows = {one["name"]: one for one in held["variants"]}
    own = rows[f"{summary['candidate']}-repaired"]
    seen = f" ({held['seen_before']} more had been in the run and were left out)" if held["seen_before"] else ""
    found = (
        f"Of {held['items']} held-out items{seen} {summary['candidate']} loses {held['lost']}. Repaired, for "
        f"{100 * own['more']:.1f} % more bytes, {own['won']} of these are won back{_limits(own)} and "
        f"{own['newly_lost']} are newly lost: {own['verdict']}."
    )
    said = [found]
    for how, words in (("by-divergence", "What lowers the divergence most per byte"), ("random", "Random modules")):
        other = rows.get(f"{summary['candidate']}-{how}")
        if other is None:
            said.append(f"{words} is the very same set.")
            continue
        said.append(
            f"{words}, of the same bytes: {other['won']} won back{_limits(other)}; that the repaired one is no better "
            f"has p = {other['p_repaired_better']:.2g}."
        )
    return said


def _limits(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" ({100 * row['low']:.0f} to {100 * row['high']:.0f} %)"


def _share(size: int, summary: Mapping[str, Any]) -> str:
    return f"{100 * size / summary['bytes']['candidate']:.1f} %"


def _held_out(summary: Mapping[str, Any]) -> Section:
    """Return the table of the held-out items; empty before `repair`."""
    if (held := summary.get("held_out")) is None:
        return Section("")
    first: Row = (summary["baseline"], "", "", f"{100 * held['baseline_score']:.1f}", "", "", "", "")
    rows: list[Row] = [
        (one["name"], f"{one['bytes'] / MIB:.1f}", f"{100 * one['more']:+.1f} %", f"{100 * one['score']:.1f}",
         f"{one['won']} of {held['lost']}", "" if one["low"] is None else f"{one['low']:.0%} to {one['high']:.0%}",
         str(one["newly_lost"]), Cell("", verdict=one["verdict"]))
        for one in held["variants"]
    ]  # fmt: skip
    figures = numbers("MiB", "bytes", "score", "won back", "one-sided 95 % limits", "newly lost")
    note = "Drawn for the proof; the search never saw them."
    return Section("", names("variant") + figures + texts("verdict"), (first, *rows), note=note)


def _column(group: Mapping[str, Any]) -> str:
    """Return the column of a group on the map: the whole layer, its attention or MLP, or a module's place."""
    if group["level"] == "layer":
        return "layer"
    if group["level"] == "block":
        return str(group["name"]).split(" ", 2)[2]
    return re.sub(r"^.*?\b\d+\.", "", str(group["name"]))


def _map(summary: Mapping[str, Any]) -> Section:
    """Return a row per layer and a column per kind of group."""
    groups = [one for one in summary["groups"] if one["level"] != "other"]
    columns = sorted({_column(one) for one in groups}, key=lambda one: (one != "layer", "." in one, one))
    cells = {(one["layer"], _column(one)): one for one in groups}
    layers = sorted({one["layer"] for one in groups if one["layer"] is not None})
    lost = max(1, summary["asked"]["lost_again"])
    rows: tuple[Row, ...] = tuple(
        ("all" if layer is None else str(layer), *(_cell(cells.get((layer, one)), lost) for one in columns))
        for layer in (None, *layers)
    )
    others = ", ".join(f"{one['name']} {_net(one):+d}" for one in summary["groups"] if one["level"] == "other")
    note = "Items won back, less those newly lost, with only these modules restored; an empty cell was not asked."
    return Section(
        "",
        names("layer") + numbers(*("whole layer" if one == "layer" else one for one in columns)),
        rows,
        (f"In no layer: {others}.",) if others else (),
        note,
    )


def _net(group: Mapping[str, Any]) -> int:
    return int(group["won"]) - int(group["newly_lost"])


def _cell(group: Mapping[str, Any] | None, lost: int) -> Cell:
    return Cell("") if group is None else Cell(f"{_net(group):+d}", value=_net(group), tint=_net(group) / lost)


def _frontier(summary: Mapping[str, Any]) -> Section:
    """Return what each added group wins, drawn with the random sets of equal bytes."""
    lost, steps = summary["asked"]["lost_again"], summary["frontier"]
    left = [lost - one["won"] + one["newly_lost"] for one in steps]
    rows: list[Row] = [
        (f"{'▸ ' if at == summary['chosen'] else ''}{one['added']}", str(len(one["modules"])),
         _share(one["bytes"], summary), str(left[at]), str(one["won"]),
         str(one["newly_lost"]), f"{one['low']:.1f} to {one['high']:.1f}", f"{one['alone']:+d}", f"{one['on_top']:+d}")
        for at, one in enumerate(steps)
    ]  # fmt: skip
    headings = ("modules", "bytes", "still lost", "won back", "newly lost", "net, 80 % interval", "alone", "on top")
    note = "Each row restores what the rows above it restore, and one group more; ▸ is the chosen set."
    points = [(0.0, float(lost)), *((one["bytes"] / MIB, float(own)) for one, own in zip(steps, left, strict=True))]
    lines = [Line("restored groups", tuple(points))]
    if summary["chosen"] is not None and summary["null"]["net"]:
        size = steps[summary["chosen"]]["bytes"] / MIB
        random = tuple((size, float(lost - one)) for one in summary["null"]["net"])
        lines.append(Line("random sets of equal bytes", random, hollow=True))
    chart = Chart("Items still lost", "MiB restored", tuple(lines), scatter=True)
    return Section("", names("added") + numbers(*headings), tuple(rows), note=note, charts=(chart,), y="items")


def _ranking(summary: Mapping[str, Any]) -> Section:
    """Return the groups in the order of the search, next to their rank by divergence."""
    by_divergence = sorted(
        summary["groups"], key=lambda one: (one["divergence"] - summary["divergence"]) / one["bytes"]
    )
    place = {one["name"]: at for at, one in enumerate(by_divergence, start=1)}
    rows: tuple[Row, ...] = tuple(
        (one["name"], f"{one['bytes'] / MIB:.2f}", str(one["won"]), str(one["newly_lost"]),
         f"{one['low']:.1f} to {one['high']:.1f}", f"{one['divergence']:.4f}", str(place[one["name"]]))
        for one in summary["groups"][:MOST_ROWS]
    )  # fmt: skip
    headings = ("MiB", "won back", "newly lost", "net, 80 % interval", "divergence", "rank by divergence")
    note = (
        f"{len(summary['groups'])} groups were asked, {summary['unasked']} were not for lack of time; "
        f"nothing restored: divergence {summary['divergence']:.4f}."
    )
    return Section("", names("group") + numbers(*headings), rows, note=note)
