"""Simulates the whole judge: how often it passes or fails a candidate that sits exactly on its margin, and its power.

    python scripts/simulate_gate.py [--out results/simulation] [--quick] [--only TEXT] [--jobs N] [--routes]

Every rollout draws the items of every stratum, and goes through `harness.judge.compare` and the stopping rule that the
gate uses. Right-or-wrong strata of independent items are summed up by their counts, so each table of counts is compared
once and remembered; the first rollouts of every cell are also judged from their items by `harness.judge.gate`, and must
agree. Writes one row per cell to cells.csv and, where matplotlib is installed, a plot to cells.png.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import simulation_routes
from numpy.typing import NDArray
from simulation_cells import LAWS, Cell, cells

from harness.judge import compare, decisions, gate
from harness.judge.outcomes import Labels, Outcomes, build
from harness.judge.rules import Rules
from harness.judge.summaries import Look, StratumNumbers
from harness.stats.sequential import look_sizes

ALPHA = 0.05
CHECKED = 10
"""Rollouts of each cell that are also judged from their items."""
BATCH = 1_000_000
"""Items compared at a time."""
RIGHT = 0.7
"""Share of unchanged items that both sides get right."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Row:
    """What a cell came to."""

    cell: Cell
    passed: float
    """Share of rollouts whose candidate passed."""
    failed: float
    """Share of rollouts whose candidate failed."""
    items: float
    """Mean share of the fixed plan's items that were asked before every stratum was decided."""
    seconds: float
    """Processor time of one core."""

    def error(self, rate: float) -> float:
        """Monte-Carlo standard error of a rate."""
        return math.sqrt(max(rate * (1.0 - rate), 0.0) / self.cell.rollouts)

    def holds(self) -> bool | None:
        """Whether the wrong verdict is given in at most alpha, within three standard errors; None for power."""
        allowed = ALPHA + 3.0 * math.sqrt(ALPHA * (1.0 - ALPHA) / self.cell.rollouts)
        wrong = {"pass": (self.passed,), "fail": (self.failed,), "both": (self.passed, self.failed)}
        return max(wrong[self.cell.wrong]) <= allowed if self.cell.wrong in wrong else None


def rules_of(cell: Cell, strata: int, n: int) -> Rules:
    """The cell's margin and looks, and the plan of its strata."""
    rules = Rules.from_flags(margin=cell.margin, alpha=ALPHA)
    return dataclasses.replace(rules, looks=cell.looks, plan={("all", f"{at}"): n for at in range(strata)})


def outcomes(diffs: Floats, looks: Counts, sources: Counts | None) -> tuple[Outcomes, Outcomes]:
    """Make the two sides of strata. diffs: shape [strata, items]; looks and sources: shape [items]."""
    strata, n = diffs.shape
    kept = (np.arange(n) * 7919 % 1000 < 1000 * RIGHT).astype(float)
    before = np.clip(np.broadcast_to(kept, diffs.shape), np.maximum(-diffs, 0.0), np.minimum(1.0 - diffs, 1.0))
    ids = tuple(map(str, range(strata * n)))
    names = tuple(f"{at}" for at in range(strata))
    clusters = None
    if sources is not None:
        count = int(sources.max()) + 1
        codes = (np.arange(strata)[:, None] * count + sources).astype(np.int32).ravel()
        clusters = Labels(codes, tuple(map(str, range(strata * count))))
    columns = {
        "slices": "all",
        "strata": Labels(np.repeat(np.arange(strata, dtype=np.int32), n), names),
        "clusters": clusters,
        "looks": np.tile(looks, strata).astype(np.int32),
    }
    sides = (("baseline", before), ("candidate", np.clip(before + diffs, 0.0, 1.0)))
    first, second = (build(name, ids, scores.ravel(), **columns) for name, scores in sides)
    return first, second


def compared(cell: Cell, diffs: Floats, looks: Counts, sources: Counts | None) -> list[StratumNumbers]:
    """Send strata through `harness.judge.compare`."""
    found: list[StratumNumbers] = []
    step = max(BATCH // diffs.shape[1], 1)
    for start in range(0, diffs.shape[0], step):
        part = diffs[start : start + step]
        baseline, candidate = outcomes(part, looks, sources)
        rules = rules_of(cell, part.shape[0], cell.n)
        found += compare.compare(baseline, [candidate], rules).candidates[0].strata
    return found


class Tables:
    """Looks at independent right-or-wrong items, by their counts: compared once each, then remembered."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Look] = {}
        self._template: dict[tuple[object, ...], StratumNumbers] = {}

    def strata(self, cell: Cell, tables: Counts) -> list[StratumNumbers]:
        """Give the numbers of strata from their cumulative counts. tables: shape [strata, looks, 2]."""
        place = (cell.n, cell.margin, cell.looks)
        sizes = look_sizes(cell.n, cell.looks)
        for look, size in enumerate(sizes, start=1):
            wanted = {(int(lost), int(gained)) for lost, gained in np.unique(tables[:, look - 1], axis=0)}
            missing = sorted(table for table in wanted if (*place, look, *table) not in self._known)
            for table, numbers in zip(missing, self._compared(cell, missing, look, size), strict=True):
                self._known[*place, look, *table] = numbers.looks[-1]
                self._template.setdefault(place, numbers)
        base = dataclasses.replace(self._template[place], planned=cell.n, asked=cell.n)
        numbers = range(1, len(sizes) + 1)
        return [
            dataclasses.replace(
                base,
                looks=tuple(
                    self._known[*place, look, int(row[look - 1, 0]), int(row[look - 1, 1])] for look in numbers
                ),
            )
            for row in tables
        ]

    @staticmethod
    def _compared(cell: Cell, tables: Sequence[tuple[int, int]], look: int, size: int) -> list[StratumNumbers]:
        step = max(BATCH // size, 1)
        found: list[StratumNumbers] = []
        for start in range(0, len(tables), step):
            part = np.array(tables[start : start + step])
            at = np.arange(size)
            diffs = (at < part.sum(axis=1)[:, None]).astype(float) - 2.0 * (at < part[:, :1])
            # The looks before have any items at all: only the last one is kept.
            sizes = look_sizes(cell.n, cell.looks)[:look]
            found += compared(cell, diffs, np.repeat(np.arange(1, look + 1), np.diff((0, *sizes))), None)
        return found


def tables_of(cell: Cell, rng: np.random.Generator) -> Counts:
    """Draw cumulative counts of lost and gained items. Shape [rollouts, strata, looks, 2]."""
    sizes = np.diff((0, *look_sizes(cell.n, cell.looks)))
    drawn = np.empty((cell.rollouts, cell.strata, sizes.size, 2), np.int64)
    for stratum in range(cell.strata):
        shares = cell.shares(stratum)
        for look, size in enumerate(sizes):
            drawn[:, stratum, look] = rng.multinomial(size, shares, size=cell.rollouts)[:, :2]
    return drawn.cumsum(axis=2)


def rollouts(cell: Cell, rng: np.random.Generator, known: Tables) -> Iterator[list[StratumNumbers]]:
    """Give the numbers of every rollout's strata."""
    if cell.law == "items":
        tables = tables_of(cell, rng)
        step = max(20_000 // cell.strata, 1)
        for start in range(0, cell.rollouts, step):
            part = tables[start : start + step]
            strata = known.strata(cell, part.reshape(-1, *part.shape[2:]))
            yield from (strata[at : at + cell.strata] for at in range(0, len(strata), cell.strata))
        return
    step = max(min(BATCH // (cell.n * cell.strata), cell.rollouts), 1)
    for start in range(0, cell.rollouts, step):
        count = min(step, cell.rollouts - start)
        strata = compared(cell, *drawn_items(cell, count * cell.strata, rng))
        yield from (strata[at : at + cell.strata] for at in range(0, len(strata), cell.strata))


def drawn_items(cell: Cell, strata: int, rng: np.random.Generator) -> tuple[Floats, Counts, Counts | None]:
    """Draw items: differences of shape [strata, items], the look of each item, and its source."""
    diffs = LAWS[cell.law](cell, strata, rng)
    sources = np.arange(cell.n) // cell.size if cell.size > 1 else None
    units = cell.n // cell.size
    look = np.searchsorted(look_sizes(units, cell.looks), np.arange(units), side="right") + 1
    return diffs, np.repeat(look, cell.size), sources


def verdict(strata: Sequence[StratumNumbers]) -> tuple[str, float]:
    """Judge one candidate: its verdict, and the share of planned items that it was asked."""
    found = decisions.decide(strata, ALPHA)
    words = [one.verdict for one in found]
    asked = sum(one.look.result.n for one in found if one.look is not None)
    word = "fail" if "fail" in words else "pass" if all(one == "pass" for one in words) else "inconclusive"
    return word, asked / sum(one.planned for one in strata)


def check_against_gate(cell: Cell, rng: np.random.Generator, known: Tables) -> None:
    """Judge some rollouts from their items, the way `quantcliff compare` does. Raises where a verdict differs."""
    few = dataclasses.replace(cell, rollouts=CHECKED)
    tables = tables_of(few, rng)
    sizes = look_sizes(cell.n, cell.looks)
    looks = np.repeat(np.arange(1, len(sizes) + 1), np.diff((0, *sizes)))
    rules = rules_of(cell, cell.strata, cell.n)
    for table in tables:
        diffs = np.zeros((cell.strata, cell.n))
        for stratum, rows in enumerate(np.diff(table, axis=1, prepend=0)):
            for look, (lost, gained) in enumerate(rows, start=1):
                own = np.flatnonzero(looks == look)
                diffs[stratum, own[:lost]] = -1.0
                diffs[stratum, own[lost : lost + gained]] = 1.0
        baseline, candidate = outcomes(diffs, looks, None)
        whole = compare.compare(baseline, [candidate], rules)
        words = [one.verdict for one in gate.judge(whole, rules).candidates[0].strata]
        short = [one.verdict for one in decisions.decide(known.strata(cell, table), ALPHA)]
        if words != short:
            raise AssertionError(f"{cell}: the gate says {words}, the simulation {short}")


def simulate(cell: Cell, seed: int, known: Tables) -> Row:
    """Run one cell."""
    start = time.process_time()
    rng = np.random.default_rng([seed, cell.seed()])
    if cell.law == "items":
        check_against_gate(cell, rng, known)
    found = [verdict(strata) for strata in rollouts(cell, rng, known)]
    words = [word for word, _ in found]
    return Row(
        cell=cell,
        passed=words.count("pass") / len(words),
        failed=words.count("fail") / len(words),
        items=float(np.mean([share for _, share in found])),
        seconds=time.process_time() - start,
    )


def record(row: Row) -> dict[str, object]:
    """Give a row of the table."""
    holds = row.holds()
    return {
        **dataclasses.asdict(row.cell),
        "passed": f"{row.passed:.5f}",
        "passed_error": f"{row.error(row.passed):.5f}",
        "failed": f"{row.failed:.5f}",
        "failed_error": f"{row.error(row.failed):.5f}",
        "items_share": f"{row.items:.4f}",
        "holds": "" if holds is None else "yes" if holds else "NO",
        "seconds": f"{row.seconds:.1f}",
    }


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [record(row) for row in rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


_KNOWN = Tables()
"""What a process has compared so far."""


def _simulated(task: tuple[Cell, int]) -> Row:
    cell, seed = task
    return simulate(cell, seed, _KNOWN)


def main() -> int:
    """Simulate, print, write. Ends with 1 where a cell does not hold its level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/simulation"))
    parser.add_argument("--quick", action="store_true", help="a few cells of few rollouts")
    parser.add_argument("--only", default="", help="cells whose name contains this text")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--jobs", type=int, default=1, help="cells simulated at a time; the rows do not depend on it")
    parser.add_argument("--routes", action="store_true", help="looks, pooled margins and layers, into routes.csv")
    options = parser.parse_args()
    if options.routes:
        return simulation_routes.run(options.out / "routes.csv", options.seed, options.only, quick=options.quick)
    tasks = [(cell, options.seed) for cell in cells(quick=options.quick) if options.only in cell.name()]
    rows = []
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for row in pool.imap(_simulated, tasks):
            rows.append(row)
            mark = {True: "holds", False: "DOES NOT HOLD", None: "power"}[row.holds()]
            print(
                f"{row.cell.name():70} pass {row.passed:.4f} fail {row.failed:.4f} items {row.items:.3f} "
                f"{mark} {row.seconds:.0f}s",
                flush=True,
            )
    write(rows, options.out / "cells.csv")
    broken = [row.cell.name() for row in rows if row.holds() is False]
    print(f"{len(rows)} cells, {sum(row.seconds for row in rows):.0f} s; not holding: {broken or 'none'}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
