"""What all charts share: a matplotlib figure, and its SVG made fit for a page.

Colours are drawn as stand-ins and written out as CSS variables, so that one picture follows the page from light to
dark to print. Text stays text: a browser shapes it in any script, and a reader can search it. Nothing global is
touched, and equal figures give equal bytes. This module knows no judgement.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import escape

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from harness.report.sanitize import clip, one_line

__all__ = ["COLOURS", "chart", "colour", "label", "svg"]

COLOURS = (
    "ink", "muted", "line", "panel", "pass", "fail", "inconclusive", "no_signal", "not_judged",
    "series-0", "series-1", "series-2", "series-3", "series-4", "series-5",
    "heat-n4", "heat-n3", "heat-n2", "heat-n1", "heat-0", "heat-p1", "heat-p2", "heat-ink", "heat-ink-strong",
)  # fmt: skip
"""Names of the page's CSS variables that a chart may use, without their dashes."""

_STAND_INS = {name: f"#7e57{index:02x}" for index, name in enumerate(COLOURS)}
_NAMES = {stand_in: name for name, stand_in in _STAND_INS.items()}
_STAND_IN = re.compile(r"#7e57[0-9a-f]{2}")

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "quantcliff",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _STAND_INS["muted"],
    "axes.labelcolor": _STAND_INS["ink"],
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "text.color": _STAND_INS["ink"],
    "xtick.color": _STAND_INS["muted"],
    "ytick.color": _STAND_INS["muted"],
    "xtick.labelcolor": _STAND_INS["ink"],
    "ytick.labelcolor": _STAND_INS["ink"],
    "grid.color": _STAND_INS["line"],
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}

_LONGEST_LABEL = 48
_LEAST = 0.7
"""Share of its own size below which a picture is not shrunk: its text would be too small to read."""


def colour(name: str) -> str:
    """Return the stand-in that becomes the page's colour of that name. Raises KeyError for a name it does not have."""
    return _STAND_INS[name]


def label(text: str, longest: int = _LONGEST_LABEL) -> str:
    """Make a text from outside fit for a label: harmless, on one line, cut."""
    safe = one_line(clip(text, 4 * longest))
    return safe if len(safe) <= longest else f"{safe[: longest - 1]}…"


@contextmanager
def chart(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """Return a figure of `width` by `height` inches with one pair of axes, in the page's style."""
    with rc_context():
        rcdefaults()  # whatever the user's own matplotlibrc says
        rcParams.update(_SETTINGS)
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def svg(figure: Figure, *, key: str, title: str, description: str) -> str:
    """Return the figure as an inline ``<svg>`` element, named for those who cannot see it.

    key: unique on the page, of letters, digits and dashes; ids inside the picture begin with it.
    """
    raw = io.StringIO()
    with warnings.catch_warnings():
        # Labels hold every script; matplotlib's own fonts do not, and the browser's do.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
        # The layout once, then one drawing; `savefig` would draw everything twice.
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
        figure.set_layout_engine("none")
        FigureCanvasSVG(figure).print_svg(raw, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    text = raw.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'href="#', f'href="#{key}-', text)
    text = re.sub(r"url\(#", f"url(#{key}-", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: ([^;\"']*?)'[^;\"]*(?=[;\"])", r"font: \1sans-serif", text)
    text = re.sub(r"\s*\n\s*", "\n", text.replace("<defs>\n </defs>", ""))
    text = _STAND_IN.sub(lambda match: f"var(--{_NAMES[match[0]]})", text)
    return _named(text, key, title, description)


def _named(text: str, key: str, title: str, description: str) -> str:
    """Replace the opening tag: scalable, of role img, with title and description."""
    opening = text[: text.index(">") + 1]
    box = re.search(r'viewBox="([^"]+)"', opening)
    size = box[1] if box else "0 0 1 1"
    width = float(size.split()[2])
    style = f"min-width: {_LEAST * width:g}pt; max-width: {1.25 * width:g}pt"
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{size}" style="{style}" role="img" aria-labelledby="{key}-title {key}-desc">\n'
        f'<title id="{key}-title">{escape(one_line(title))}</title>\n'
        f'<desc id="{key}-desc">{escape(one_line(description))}</desc>'
    )
    return head + text[len(opening) :].rstrip() + "\n"
