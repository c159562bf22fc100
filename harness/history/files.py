"""The files of a history: history.html, history.md, and a badge as SVG and as a shields.io endpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from harness.history.changes import Since
from harness.history.database import History
from harness.history.sections import blocks, headline
from harness.report.html import render
from harness.report.markdown import LIMIT, MarkdownPage
from harness.report.sanitize import markdown
from harness.report.writer import step_summary
from harness.store.files import atomic_write

__all__ = ["write"]

_COLOURS = {"pass": "#3a7d34", "fail": "#b3261e"}
_OTHER = "#8a6100"

_BADGE = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {text}">
<title>{label}: {text}</title><rect width="{width}" height="20" rx="3" fill="#555"/>
<path d="M{left} 0h{rest}a3 3 0 0 1 3 3v14a3 3 0 0 1-3 3h-{rest}z" fill="{colour}"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{middle}" y="14">{label}</text><text x="{second}" y="14">{text}</text></g></svg>
"""


def write(folder: Path, history: History, since: Since | None) -> list[Path]:
    """Write the files, append to GitHub's step summary if there is one, and return the paths. Raises StoreError."""
    shown, said = blocks(history, since), headline(history, since)
    (newest,) = history.rows("SELECT *, (SELECT count(*) FROM runs) AS count FROM runs ORDER BY run DESC LIMIT 1")
    text = MarkdownPage(LIMIT)
    text.add("## quantcliff: history\n")
    text.listed([f"- {markdown(one)}" for one in said], len(said))
    for _, sections in shown:
        for section in sections:
            text.section(section)
    regressed = 0 if since is None else len(since.regressed)
    message = newest["verdict"].replace("_", " ") + (f", {regressed} regressed" if regressed else "")
    colour = _COLOURS["fail"] if regressed else _COLOURS.get(newest["verdict"], _OTHER)
    badge = {"schemaVersion": 1, "label": "quantcliff", "message": message, "color": colour}
    files = {
        "history.html": render("history.html.j2", shown, "", said=said, count=newest["count"]),
        "history.md": str(text),
        "badge.json": json.dumps(badge) + "\n",
        "badge.svg": _svg(badge),
    }
    for name, content in files.items():
        atomic_write(folder / name, content)
    step_summary(str(text))
    return [folder / name for name in files]


def _svg(badge: Mapping[str, object]) -> str:
    label, text = str(badge["label"]), str(badge["message"])
    left, right = (10 + 6.5 * len(one) for one in (label, text))
    return _BADGE.format(
        width=left + right,
        left=left,
        rest=right - 3,
        middle=left / 2,
        second=left + right / 2,
        label=escape(label),
        text=escape(text),
        colour=badge["color"],
    )
