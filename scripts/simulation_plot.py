"""Draws the table that `simulate_gate.py` wrote: wrong verdicts against 5 %, and what looks save.

    python scripts/simulation_plot.py results/simulation/cells.csv results/simulation/cells.png

Needs matplotlib, which quantcliff itself does not.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

Record = dict[str, str]
PASS, FAIL = "#1f77b4", "#d95f02"


def main(table: Path, picture: Path) -> None:
    """Read the table, draw four panels."""
    with table.open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), constrained_layout=True)
    wrong = [one for one in records if one["wrong"]]
    single = [one for one in wrong if one["law"] == "items" and one["strata"] == "1"]
    _rates(axes[0, 0], single, "One stratum of independent items", lambda one: f"{one['n']}")
    families = [one for one in wrong if one["law"] == "items" and one["strata"] != "1"]
    _rates(axes[0, 1], families, "Candidates of many strata", lambda one: f"{one['strata']} x {one['n']}")
    others = [one for one in wrong if one["law"] != "items"]
    _rates(axes[1, 0], others, "Items that share sources; graded scores", _law)
    _power(axes[1, 1], [one for one in records if not one["wrong"]])
    figure.suptitle("Wrong verdicts on candidates that sit exactly on their margin (alpha = 5 %)")
    figure.savefig(picture, dpi=110)


def _law(one: Record) -> str:
    return one["law"] if one["size"] == "1" else f"{one['law']}, icc {one['icc']}"


def _rates(axes: Axes, records: Sequence[Record], title: str, group: Callable[[Record], str]) -> None:
    """One dot per cell and kind of wrong verdict, by group, with a bar of three standard errors."""
    groups = list(dict.fromkeys(group(one) for one in records))
    for record in records:
        at = groups.index(group(record))
        for shift, color, rate, marker in ((-0.16, PASS, "passed", "o"), (0.16, FAIL, "failed", "s")):
            value, error = float(record[rate]), float(record[f"{rate}_error"])
            place = at + shift + (0.08 if record["looks"] != "1" else 0.0)
            filled = color if record["looks"] == "1" else "white"
            axes.errorbar(
                place, value, 3.0 * error, fmt=marker, ms=4, color=color, mfc=filled, elinewidth=0.6, alpha=0.8
            )
    rollouts = min((int(one["rollouts"]) for one in records), default=1)
    axes.axhline(0.05, color="black", lw=1)
    axes.axhspan(0.05, 0.05 + 3.0 * math.sqrt(0.05 * 0.95 / rollouts), color="black", alpha=0.08)
    axes.set_xticks(range(len(groups)), groups, rotation=30 if len(groups) <= 8 else 60, ha="right", fontsize=8)  # noqa: PLR2004
    axes.set_ylim(0.0, 0.075)
    axes.set_title(f"{title}\nblue: wrong pass, orange: wrong fail; hollow: five looks", fontsize=10)
    axes.set_ylabel("share of candidates")


def _power(axes: Axes, records: Sequence[Record]) -> None:
    """What unchanged and worse candidates get, and the share of the planned items that they are asked."""
    names = [
        f"margin {100 * float(one['margin']):g} pts, discordance {100 * float(one['discordance']):g} %, "
        f"delta {100 * float(one['delta']):g} pts, {one['looks']} look{'s' if one['looks'] != '1' else ''}"
        for one in records
    ]
    rows = range(len(records))
    axes.barh(rows, [float(one["passed"]) for one in records], color=PASS, height=0.7, label="pass")
    left = [float(one["passed"]) for one in records]
    axes.barh(rows, [float(one["failed"]) for one in records], left=left, color=FAIL, height=0.7, label="fail")
    axes.plot([float(one["items_share"]) for one in records], rows, "kD", ms=4, label="items asked of the plan")
    axes.set_yticks(rows, names, fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.02)
    axes.set_title("Power, and items spent", fontsize=10)
    axes.legend(loc="lower left", fontsize=8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
