"""The page of a damage search: a map of layers and modules, bytes against lost items, and the proof on held-out items.

Reads the JSON that `harness.damage` writes and computes no figure. Asks the network for nothing and runs no script.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from harness.report.sanitize import one_line
from harness.store.files import atomic_write

__all__ = ["sentences", "write_page"]

MIB = 1 << 20
MOST_ROWS = 25
"""Groups that the ranking shows."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --muted: #667; --line: #ccd; --fail: #b3261e; --series-0: #1a66b8;
  --panel: #fff; --heat: 26, 102, 184 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --muted: #99a; --line: #445; --fail: #ff8a80;
  --series-0: #7db7ff; --panel: #16181c; --heat: 125, 183, 255 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--panel); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .15rem .6rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child { text-align: left } .wide { overflow-x: auto }
caption { text-align: left; color: var(--muted) } svg { width: 100%; height: auto }
"""


def write_page(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the page of a search, with the proof on held-out items if there is one. Raises StoreError."""
    title = f"Damage of {_text(summary['candidate'])}, run {_text(summary['run'])}"
    parts = [f"<h1>{title}</h1>", *(f"<p>{_text(one)}</p>" for one in sentences(summary))]
    if "held_out" in summary:
        parts += ["<h2>Held-out items</h2>", _held_out(summary)]
    parts += ["<h2>Damage map</h2>", _map(summary), "<h2>Bytes against lost items</h2>", _frontier(summary)]
    parts += ["<h2>Groups by items surely won back per byte</h2>", _ranking(summary)]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}"><title>{title}</title>'
    style = f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    atomic_write(path, f'<!doctype html>\n<html lang="en"><head>{head}{style}</head><body>\n' + "\n".join(parts) + "\n")


def _text(value: object) -> str:
    return escape(one_line(str(value)))


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are HTML."""
    head = "".join(f'<th scope="col">{_text(one)}</th>' for one in headings)
    body = "".join(
        f"<tr>{''.join(one if one.startswith('<td') else f'<td>{one}</td>' for one in row)}</tr>\n" for row in rows
    )
    caption = f"<caption>{_text(caption)}</caption>"
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


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


def _held_out(summary: Mapping[str, Any]) -> str:
    held = summary["held_out"]
    first = [summary["baseline"], "", "", f"{100 * held['baseline_score']:.1f}", "", "", "", ""]
    rows = [
        [_text(one["name"]), f"{one['bytes'] / MIB:.1f}", f"{100 * one['more']:+.1f} %", f"{100 * one['score']:.1f}",
         f"{one['won']} of {held['lost']}", "" if one["low"] is None else f"{one['low']:.0%} to {one['high']:.0%}",
         str(one["newly_lost"]), _text(one["verdict"])]
        for one in held["variants"]
    ]  # fmt: skip
    headings = ("variant", "MiB", "bytes", "score", "won back", "one-sided 95 % limits", "newly lost", "verdict")
    return _table("Drawn for the proof; the search never saw them.", headings, [first, *rows])


def _column(group: Mapping[str, Any]) -> str:
    """Return the column of a group on the map: the whole layer, its attention or MLP, or a module's place."""
    if group["level"] == "layer":
        return "layer"
    if group["level"] == "block":
        return str(group["name"]).split(" ", 2)[2]
    return re.sub(r"^.*?\b\d+\.", "", str(group["name"]))


def _map(summary: Mapping[str, Any]) -> str:
    groups = [one for one in summary["groups"] if one["level"] != "other"]
    columns = sorted({_column(one) for one in groups}, key=lambda one: (one != "layer", "." in one, one))
    cells = {(one["layer"], _column(one)): one for one in groups}
    layers = sorted({one["layer"] for one in groups if one["layer"] is not None})
    lost = max(1, summary["asked"]["lost_again"])
    rows = [
        ["all" if layer is None else str(layer), *(_cell(cells.get((layer, one)), lost) for one in columns)]
        for layer in (None, *layers)
    ]
    others = ", ".join(f"{_text(one['name'])} {_net(one):+d}" for one in summary["groups"] if one["level"] == "other")
    caption = "Items won back, less those newly lost, with only these modules restored; an empty cell was not asked."
    return _table(caption, ("layer", *columns), rows) + (f"<p>In no layer: {others}.</p>" if others else "")


def _net(group: Mapping[str, Any]) -> int:
    return int(group["won"]) - int(group["newly_lost"])


def _cell(group: Mapping[str, Any] | None, lost: int) -> str:
    if group is None:
        return "<td></td>"
    shade = max(0.0, min(1.0, 2 * _net(group) / lost))
    return f'<td style="background: rgba(var(--heat), {0.8 * shade:.2f})">{_net(group):+d}</td>'


def _frontier(summary: Mapping[str, Any]) -> str:
    lost, steps = summary["asked"]["lost_again"], summary["frontier"]
    rows = [
        [_text(f"{'▸ ' if at == summary['chosen'] else ''}{one['added']}"), str(len(one["modules"])),
         _share(one["bytes"], summary), str(lost - one["won"] + one["newly_lost"]), str(one["won"]),
         str(one["newly_lost"]), f"{one['low']:.1f} to {one['high']:.1f}", f"{one['alone']:+d}", f"{one['on_top']:+d}"]
        for at, one in enumerate(steps)
    ]  # fmt: skip
    headings = (
        "added",
        "modules",
        "bytes",
        "still lost",
        "won back",
        "newly lost",
        "net, 80 % interval",
        "alone",
        "on top",
    )
    caption = "Each row restores what the rows above it restore, and one group more; ▸ is the chosen set."
    return _picture(summary, lost) + _table(caption, headings, rows)


def _picture(summary: Mapping[str, Any], lost: int) -> str:
    """Draw lost items against bytes: the frontier as a line, random sets as crosses."""
    steps = summary["frontier"]
    widest = max([summary["bytes"]["limit"], *(one["bytes"] for one in steps)])
    most = max(1, lost)

    def place(size: float, left: float) -> tuple[float, float]:
        return 60 + 620 * size / widest, 20 + 200 * (1 - left / most)

    points = [place(0, lost), *(place(one["bytes"], lost - one["won"] + one["newly_lost"]) for one in steps)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="var(--series-0)"/>' for x, y in points)
    size = steps[summary["chosen"]]["bytes"] if steps and summary["chosen"] is not None else 0
    crosses = "".join(
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="var(--fail)">&times;</text>'
        for x, y in (place(size, min(lost, lost - one)) for one in summary["null"]["net"])
    )
    labels = "".join(
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="var(--muted)" font-size="12">{text}</text>'
        for x, y, anchor, text in (
            (55, 24, "end", lost), (55, 224, "end", 0), (680, 240, "end", f"{_share(widest, summary)} of the bytes"),
            (60, 240, "start", "nothing restored"), (60, 14, "start", "still lost; &times; random sets of equal bytes"),
        )
    )  # fmt: skip
    axes = '<path d="M60 20V220H680" fill="none" stroke="var(--line)"/>'
    drawn = f'<polyline points="{line}" fill="none" stroke="var(--series-0)" stroke-width="2"/>'
    title = "<title>Items still lost against restored bytes; the table holds the same figures</title>"
    return f'<svg viewBox="0 0 700 250" role="img">{title}{axes}{drawn}{marks}{crosses}{labels}</svg>'


def _ranking(summary: Mapping[str, Any]) -> str:
    by_divergence = sorted(
        summary["groups"], key=lambda one: (one["divergence"] - summary["divergence"]) / one["bytes"]
    )
    place = {one["name"]: at for at, one in enumerate(by_divergence, start=1)}
    rows = [
        [_text(one["name"]), f"{one['bytes'] / MIB:.2f}", str(one["won"]), str(one["newly_lost"]),
         f"{one['low']:.1f} to {one['high']:.1f}", f"{one['divergence']:.4f}", str(place[one["name"]])]
        for one in summary["groups"][:MOST_ROWS]
    ]  # fmt: skip
    headings = ("group", "MiB", "won back", "newly lost", "net, 80 % interval", "divergence", "rank by divergence")
    caption = (
        f"{len(summary['groups'])} groups were asked, {summary['unasked']} were not for lack of time; nothing restored:"
    )
    return _table(f"{caption} divergence {summary['divergence']:.4f}.", headings, rows)
