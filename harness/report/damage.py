"""The page of a damage search, from what `harness.damage` wrote: a map, bytes against lost items, the proof."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.report.html import render
from harness.report.sanitize import one_line
from harness.report.section import Block, Cell, Chart, Line, Row, Section, names, numbers, texts
from harness.report.words import NOTES, SENTENCES
from harness.store.files import atomic_write

_MIB = 1 << 20
_MOST_ROWS = 25  # groups that the ranking shows
_SENTENCES = SENTENCES["damage"]
_Json = Mapping[str, Any]


def write_page(path: Path, summary: _Json) -> None:
    """Write the page of a search, with the proof on held-out items if there is one. Raises StoreError."""
    shown = {
        ("held-out", "Held-out items"): _held_out(summary),
        ("map", "Damage map"): _map(summary),
        ("frontier", "Bytes against lost items"): _frontier(summary),
        ("ranking", "Groups by items surely won back per byte"): _ranking(summary),
    }
    blocks = [(Block(*about, lambda *_: (), {}), [one]) for about, one in shown.items() if one]
    said, title = sentences(summary), f"Damage of {summary['candidate']}, run {summary['run']}"
    atomic_write(path, render("damage.html.j2", blocks, summary["baseline"], said=said, heading=one_line(title)))


def sentences(summary: _Json) -> list[str]:
    """Return what was found, in sentences: for the page and the terminal."""
    lost, net = summary["asked"]["lost_again"], summary["null"]["net"]
    said = [_SENTENCES["asked"].format(**{**summary, "strata": ", ".join(summary["strata"])})]
    if summary["chosen"] is None:
        return [*said, "No group of modules within the bytes wins more items back than it newly loses."]
    step = summary["frontier"][summary["chosen"]]
    share, count = _share(step["bytes"], summary), len(step["modules"])
    said.append(_SENTENCES["chosen"].format(**step, count=count, share=share, lost=lost))
    if net:
        ends = {"least": min(net), "most": max(net)}
        said.append(_SENTENCES["random"].format(count=len(net), **ends, own=_net(step), p=summary["null"]["p"]))
    return said + _proof(summary)


def _proof(summary: _Json) -> list[str]:
    if (held := summary.get("held_out")) is None:
        return []
    rows = {one["name"]: one for one in held["variants"]}
    own = rows[f"{summary['candidate']}-repaired"]
    seen = f" ({held['seen_before']} more had been in the run and were left out)" if held["seen_before"] else ""
    about = {"held": held, "seen": seen, "candidate": summary["candidate"]}
    said = [_SENTENCES["held_out"].format(**about, own=own, more=100 * own["more"], limits=_limits(own))]
    if bits := held.get("module_bits"):
        small = rows[f"{summary['candidate']}-repaired-{bits}bit"]
        figures = small | {"more": 100 * small.get("more", 0.0), "limits": _limits(small), "bits": bits}
        said.append(_SENTENCES["fewer_bits_unjudged" if "reason" in small else "fewer_bits"].format(**figures))
    for how, words in (("by-divergence", "What lowers the divergence most per byte"), ("random", "Random modules")):
        other = rows.get(f"{summary['candidate']}-{how}", {})
        key = "rival" if "won" in other else "rival_unjudged" if other else "rival_same"
        said.append(_SENTENCES[key].format(words=words, limits=_limits(other), **other))
    return said


def _limits(row: _Json) -> str:
    return "" if row.get("low") is None else f" ({100 * row['low']:.0f} to {100 * row['high']:.0f} %)"


def _share(size: int, summary: _Json) -> str:
    return f"{100 * size / summary['bytes']['candidate']:.1f} %"


def _net(group: _Json) -> int:
    return int(group["won"]) - int(group["newly_lost"])


def _held_out(summary: _Json) -> Section:
    if (held := summary.get("held_out")) is None:
        return Section("")
    rows: list[Row] = [(summary["baseline"], "", "", f"{100 * held['baseline_score']:.1f}", "", "", "", "")]
    for one in (one for one in held["variants"] if "won" in one):
        size, won = (f"{one['bytes'] / _MIB:.1f}", f"{100 * one['more']:+.1f} %"), f"{one['won']} of {held['lost']}"
        limits, lost = _limits(one).strip(" ()"), str(one["newly_lost"])
        score, verdict = f"{100 * one['score']:.1f}", Cell("", verdict=one["verdict"])
        rows.append((one["name"], *size, score, won, limits, lost, verdict))
    unjudged = (one for one in held["variants"] if "won" not in one)
    rows += [(one["name"], *[""] * 6, Cell("", verdict=one["verdict"])) for one in unjudged]
    figures = numbers("MiB", "bytes", "score", "won back", "one-sided 95 % limits", "newly lost")
    note = "Drawn for the proof; the search never saw them."
    return Section("", names("variant") + figures + texts("verdict"), tuple(rows), note=note)


def _column(group: _Json) -> str:
    """Return the column of a group on the map: the whole layer, its attention or MLP, or a module's place."""
    if group["level"] == "layer":
        return "layer"
    if group["level"] == "block":
        return str(group["name"]).split(" ", 2)[2]
    return re.sub(r"^.*?\b\d+\.", "", str(group["name"]))


def _map(summary: _Json) -> Section:
    cells = {(one["layer"], _column(one)): one for one in summary["groups"] if one["level"] != "other"}
    columns = sorted({column for _, column in cells}, key=lambda one: (one != "layer", "." in one, one))
    layers, lost = sorted({layer for layer, _ in cells if layer is not None}), max(1, summary["asked"]["lost_again"])
    rows: list[Row] = []
    for layer in (None, *layers):
        nets = [_net(cells[layer, one]) if (layer, one) in cells else None for one in columns]
        shown = (Cell("") if net is None else Cell(f"{net:+d}", value=net, tint=net / lost) for net in nets)
        rows.append(("all" if layer is None else str(layer), *shown))
    others = ", ".join(f"{one['name']} {_net(one):+d}" for one in summary["groups"] if one["level"] == "other")
    note = "Items won back, less those newly lost, with only these modules restored; an empty cell was not asked."
    headings = names("layer") + numbers(*("whole layer" if one == "layer" else one for one in columns))
    return Section("", headings, tuple(rows), (f"In no layer: {others}.",) if others else (), note)


def _frontier(summary: _Json) -> Section:
    lost, steps, chosen = summary["asked"]["lost_again"], summary["frontier"], summary["chosen"]
    rows: list[Row] = []
    points = [(0.0, float(lost))]
    for at, one in enumerate(steps):
        left, interval = lost - _net(one), f"{one['low']:.1f} to {one['high']:.1f}"
        name, size = f"{'▸ ' if at == chosen else ''}{one['added']}", _share(one["bytes"], summary)
        figures = str(len(one["modules"])), size, str(left), str(one["won"]), str(one["newly_lost"])
        rows.append((name, *figures, interval, f"{one['alone']:+d}", f"{one['on_top']:+d}"))
        points.append((one["bytes"] / _MIB, float(left)))
    headings = ("modules", "bytes", "still lost", "won back", "newly lost", "net, 80 % interval", "alone", "on top")
    note = "Each row restores what the rows above it restore, and one group more; ▸ is the chosen set."
    lines = [Line("restored groups", tuple(points))]
    if chosen is not None and summary["null"]["net"]:
        random = tuple((steps[chosen]["bytes"] / _MIB, float(lost - one)) for one in summary["null"]["net"])
        lines.append(Line("random sets of equal bytes", random, hollow=True))
    chart = Chart("Items still lost", "MiB restored", tuple(lines), scatter=True)
    return Section("", names("added") + numbers(*headings), tuple(rows), note=note, charts=(chart,), y="items")


def _ranking(summary: _Json) -> Section:
    groups, nothing = summary["groups"], summary["divergence"]
    by_divergence = sorted(groups, key=lambda one: (one["divergence"] - nothing) / one["bytes"])
    place = {one["name"]: at for at, one in enumerate(by_divergence, start=1)}
    rows: list[Row] = []
    for one in groups[:_MOST_ROWS]:
        size, interval = f"{one['bytes'] / _MIB:.2f}", f"{one['low']:.1f} to {one['high']:.1f}"
        count = str(one["won"]), str(one["newly_lost"])
        rows.append((one["name"], size, *count, interval, f"{one['divergence']:.4f}", str(place[one["name"]])))
    headings = ("MiB", "won back", "newly lost", "net, 80 % interval", "divergence", "rank by divergence")
    note = NOTES["groups"].format(asked=len(groups), unasked=summary["unasked"], divergence=nothing)
    return Section("", names("group") + numbers(*headings), tuple(rows), note=note)
