"""What `simulate_gate.py --routes` simulates: looks with other spending functions, pooled margins, layered sampling.

Whole candidates at once, as arrays of counts: a stratum's p-values are looked up, pooled ones computed for all rollouts
together. The first rollouts of every cell of independent items also go through `harness.judge` and must agree.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import math
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.config.schema import Policy
from harness.judge import compare, gate
from harness.judge.outcomes import build
from harness.judge.rules import Rules
from harness.stats import paired_test, smallest_fail_p, tarone_can_reject
from harness.stats.binary import score_p
from harness.stats.pooled import layered_p, pooled_test, stratified_p
from harness.stats.sequential import Spending, look_sizes, nominal_alpha
from harness.stats.stratum import relative_test
from harness.stats.units import shared_sources

ALPHA = 0.05
ROLLOUTS = 20_000
RESAMPLED = 2_000
CHECKED = 5
"""Rollouts of each cell that are also judged from their items."""
HSD = "hwang-shih-decani:-1"
RIGHT = 0.7
"""The baseline's score, where it matters."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class RouteCell:
    """One question to a route."""

    route: str
    """looks, pooled, pooled sources, layered or relative."""
    case: str
    """Where the damage is."""
    n: str
    """Items per stratum, or per layer."""
    deltas: str
    """True difference of each stratum or layer, in runs of ``delta x count``."""
    discordance: float
    """Share of items that flip, at least."""
    margin: float
    """Each stratum's margin."""
    pooled: float
    """The pooled margin (layered: the margin); 0 for none."""
    weights: str = ""
    """Of strata or layers, separated by blanks; equal if empty."""
    looks: int = 1
    spending: str = "obrien-fleming"
    wrong: str = "both"
    """Which verdict would be wrong: pass, fail or both; empty for power."""
    rollouts: int = ROLLOUTS

    @property
    def differences(self) -> Floats:
        """True difference per stratum."""
        parts = (part.split("x") for part in self.deltas.split())
        return np.concatenate([np.full(int(count), float(delta)) for delta, count in parts])

    @property
    def sizes(self) -> Counts:
        """Items per stratum."""
        given = np.array(self.n.split(), int)
        return np.broadcast_to(given, self.differences.shape) if given.size == 1 else given

    @property
    def shares(self) -> Floats:
        """Weights that sum to 1."""
        given = np.array(self.weights.split(), float) if self.weights else np.ones(self.differences.size)
        return given / given.sum()

    def rng(self, seed: int) -> np.random.Generator:
        """Give every cell random numbers of its own, whatever else is simulated."""
        return np.random.default_rng([seed, zlib.crc32(repr(dataclasses.astuple(self)).encode())])


@dataclass(frozen=True)
class RouteRow:
    """What a cell came to."""

    cell: RouteCell
    passed: float
    failed: float
    items: float
    """Mean share of the fixed plan's items that were asked."""
    seconds: float

    def error(self, rate: float) -> float:
        """Monte-Carlo standard error of a rate."""
        return math.sqrt(max(rate * (1.0 - rate), 0.0) / self.cell.rollouts)

    def holds(self) -> bool | None:
        """Whether the wrong verdict is given in at most alpha, within three standard errors; None for power."""
        allowed = ALPHA + 3.0 * math.sqrt(ALPHA * (1.0 - ALPHA) / self.cell.rollouts)
        wrong = {"pass": (self.passed,), "fail": (self.failed,), "both": (self.passed, self.failed)}
        return max(wrong[self.cell.wrong]) <= allowed if self.cell.wrong else None


def route_cells(*, quick: bool = False) -> Iterator[RouteCell]:
    """Give the cells of the table."""
    made = [*_looks(), *_pooled(), *_sources(), *_layered(), *_relative(), *_power()]
    if quick:
        made = [*made[:2], *(one for one in made if one.route != "looks")][::6]
        made = [dataclasses.replace(one, rollouts=400 if one.route != "pooled sources" else 60) for one in made]
    yield from made


def _looks() -> Iterator[RouteCell]:
    """Every stratum exactly on its margin, ten looks, by each family."""
    kinds = ((200, 0.05, 0.1), (500, 0.02, 0.02))
    for spending, (n, margin, discordance), strata in itertools.product((HSD, "power:2"), kinds, (1, 10, 40)):
        deltas = f"{-margin}x{strata}"
        yield RouteCell("looks", "on the margin", f"{n}", deltas, discordance, margin, 0.0, looks=10, spending=spending)


def _pooled() -> Iterator[RouteCell]:
    """A drop of 2 points over all strata, placed by an adversary; and one stratum on its own margin of 5."""
    kinds = ((1, "obrien-fleming", 200), (1, "obrien-fleming", 600), (10, HSD, 200))
    for (looks, spending, n), discordance in itertools.product(kinds, (0.02, 0.1)):
        cell = RouteCell("pooled", "even", f"{n}", "", discordance, 0.05, 0.02, looks=looks, spending=spending)
        for strata in (1, 10, 40):
            yield dataclasses.replace(cell, deltas=f"-0.02x{strata}")
        for strata, bad, delta in ((10, 4, -0.05), (10, 5, -0.04), (40, 20, -0.04)):
            deltas = f"{delta}x{bad} 0x{strata - bad}"
            yield dataclasses.replace(cell, case=f"{bad} of {strata} have all of it", deltas=deltas, wrong="pass")
        yield dataclasses.replace(cell, case="one on its own margin", deltas="-0.05x1 0x9")
        heavy = dataclasses.replace(cell, margin=0.1, weights=" ".join(["9", *["1"] * 9]))
        yield dataclasses.replace(heavy, case="unequal weights", deltas="-0.02x10")
        yield dataclasses.replace(heavy, case="all in the heavy one", deltas="-0.04x1 0x9", wrong="pass")


def _sources() -> Iterator[RouteCell]:
    """Items that share sources: within a stratum, and the same sources in every stratum."""
    for case, strata in itertools.product(("sources of 5", "sources in every stratum"), (5, 10)):
        yield RouteCell("pooled sources", case, "200", f"-0.02x{strata}", 0.1, 0.1, 0.02, rollouts=RESAMPLED)


LAYERS = {
    "a tenth drawn": ("0.3 0.7", "540 140"),
    "a fifth drawn": ("0.3 0.7", "540 280"),
    "three layers": ("0.2 0.3 0.5", "400 200 160"),
    "few unsure": ("0.1 0.9", "300 300"),
}


def _layered() -> Iterator[RouteCell]:
    """A drop of exactly the margin, in one layer or evenly; the unsure layers flip, the confident ones hardly do."""
    for (case, (weights, n)), margin in itertools.product(LAYERS.items(), (0.02, 0.05)):
        shares = np.array(weights.split(), float)
        for layer in range(shares.size):
            deltas = [0.0] * shares.size
            deltas[layer] = -margin / shares[layer]
            text = " ".join(f"{one:.6g}x1" for one in deltas)
            where = f"{case}, all in layer {layer + 1}"
            yield RouteCell("layered", where, n, text, 0.1, margin, margin, weights, wrong="pass")
        yield RouteCell(
            "layered", f"{case}, even", n, f"{-margin}x{shares.size}", 0.1, margin, margin, weights, wrong="pass"
        )
        mixed = " ".join(f"{-margin * 0.5 / one / shares.size * 2:.6g}x1" for one in shares)
        yield RouteCell("layered", f"{case}, shared out", n, mixed, 0.1, margin, margin, weights, wrong="pass")


def _relative() -> Iterator[RouteCell]:
    """A candidate that keeps exactly 90 or 95 % of the baseline's score of .7: margins of 10 % and 5 % of it."""
    for n, share in itertools.product((200, 2500), (0.05, 0.1)):
        deltas = f"{-share * RIGHT:.6g}x1"
        yield RouteCell("relative", "on the margin", f"{n}", deltas, 0.1, share, 0.0, rollouts=RESAMPLED)


def _relative_passed(cell: RouteCell, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Judge candidates against a share of the baseline's score: which pass, and fail."""
    n, loss, found = int(cell.sizes[0]), -float(cell.differences[0]), np.empty((cell.rollouts, 2), bool)
    lost, gained = (cell.discordance + loss) / 2.0, (cell.discordance - loss) / 2.0
    kinds = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    shares = [lost, gained, RIGHT - lost, 1.0 - RIGHT - gained]
    for at in range(cell.rollouts):
        before, after = kinds[rng.choice(4, p=shares, size=n)].T
        one = relative_test(before, after, share=cell.margin, alpha=ALPHA)
        found[at] = one.p_pass < ALPHA, one.p_fail < ALPHA
    return found[:, 0], found[:, 1]


def _power() -> Iterator[RouteCell]:
    """What an unchanged candidate gets from the items that the plan says: ten strata, by each route."""
    fixed = RouteCell("looks", "unchanged, 2 points each", "3437", "0x10", 0.1, 0.02, 0.0, wrong="")
    yield fixed
    yield dataclasses.replace(fixed, looks=10, spending=HSD, n="3764")
    pooled = RouteCell("pooled", "unchanged, 2 and 5 points", "591", "0x10", 0.1, 0.05, 0.02, wrong="")
    yield pooled
    yield dataclasses.replace(pooled, looks=10, spending=HSD, n="645")
    yield dataclasses.replace(pooled, case="4 points worse everywhere", deltas="-0.04x10", looks=10, spending=HSD)
    # 9 % flip, all of them in three tenths of the items: layers against as many items without.
    yield RouteCell("layered", "unchanged", "800 450", "0x2", 0.3, 0.02, 0.02, "0.3 0.7", wrong="")
    yield RouteCell("looks", "unchanged, no layers", "1250", "0x1", 0.09, 0.02, 0.0, wrong="")


def tables_of(cell: RouteCell, rng: np.random.Generator, rollouts: int) -> Counts:
    """Draw cumulative counts of lost and gained items. Shape [rollouts, strata, looks, 2]."""
    drawn = []
    for n, delta in zip(cell.sizes.tolist(), cell.differences.tolist(), strict=True):
        flips = max(cell.discordance, abs(delta))
        shares = [(flips - delta) / 2.0, (flips + delta) / 2.0, 1.0 - flips]
        steps = np.diff((0, *look_sizes(n, cell.looks)))
        drawn.append(np.stack([rng.multinomial(size, shares, size=rollouts)[:, :2] for size in steps], axis=1))
    return np.stack(drawn, axis=1).cumsum(axis=2)


@functools.cache
def _p(lost: int, gained: int, n: int, margin: float) -> tuple[float, float]:
    return score_p(lost, gained, n, -margin, "greater"), score_p(lost, gained, n, -margin, "less")


def _stratum_p(cell: RouteCell, tables: Counts) -> Floats:
    """p-values of passing and failing. Shape [rollouts, strata, looks, 2]."""
    found = np.empty(tables.shape)
    for at, n in enumerate(cell.sizes.tolist()):
        for look, size in enumerate(look_sizes(n, cell.looks)):
            unique, back = np.unique(tables[:, at, look], axis=0, return_inverse=True)
            known = np.array([_p(int(lost), int(gained), size, cell.margin) for lost, gained in unique])
            found[:, at, look] = known[back.ravel()]
    return found


def _first(crossed: NDArray[np.bool_]) -> Counts:
    """The look, from 0, of the first crossing along the last axis; the number of looks if there is none."""
    return np.where(crossed.any(-1), crossed.argmax(-1), crossed.shape[-1])


def judged(cell: RouteCell, tables: Counts) -> tuple[NDArray[np.bool_], NDArray[np.bool_], float]:
    """Return which candidates pass, which fail, and the mean share of the items asked."""
    p = _stratum_p(cell, tables)
    planned = [*cell.sizes.tolist(), int(cell.sizes.sum())]
    margins = [*[cell.margin] * cell.sizes.size, cell.pooled]
    if cell.pooled:
        sizes = np.array([look_sizes(n, cell.looks) for n in cell.sizes.tolist()], float).T
        lost, gained = (np.moveaxis(tables[..., side], 2, 1) for side in (0, 1))
        counts = lost, gained, sizes, cell.shares, -cell.pooled
        both = [stratified_p(*counts, side, most=cell.margin) for side in ("greater", "less")]
        p = np.concatenate([p, np.stack(both, axis=-1)[:, None]], axis=1)
    count = p.shape[1]
    able = tarone_can_reject([smallest_fail_p(planned[at], margins[at]) for at in range(count)], ALPHA)
    # Any rejection of Holm's is one of Bonferroni's over the family that can fail.
    fractions = [size / cell.sizes[0] for size in look_sizes(int(cell.sizes[0]), cell.looks)]
    spending = Spending.of(cell.spending)
    levels = [
        np.array([nominal_alpha(fractions[: at + 1], one, spending) for at in range(cell.looks)])
        for one in (ALPHA, ALPHA / max(int(able.sum()), 1))
    ]
    passed = _first(p[..., 0] < levels[0])
    failed = np.where(able, _first(p[..., 1] < levels[1]), cell.looks)
    fails = (failed < cell.looks) & (failed <= passed)
    decided = np.minimum(np.minimum(passed, failed), cell.looks - 1)
    if cell.pooled:
        # A pooled difference stays open once a stratum has failed; until it is decided, all strata get items.
        first_fail = np.where(fails[:, :-1], failed[:, :-1], cell.looks).min(axis=1)
        fails[:, -1] &= failed[:, -1] <= first_fail
        decided = np.maximum(decided[:, :-1], np.minimum(decided[:, -1], first_fail)[:, None])
    asked = np.array(fractions)[decided].mean()
    return (passed < cell.looks).all(1) & ~fails.any(1), fails.any(1), float(asked)


def check_against_gate(cell: RouteCell, tables: Counts, words: Sequence[str]) -> None:
    """Judge some rollouts from their items, the way `quantcliff compare` does. Raises if a verdict differs."""
    strata, n = cell.sizes.size, int(cell.sizes[0])
    policy = Policy(margin=cell.margin, pooled_margin=cell.pooled or None, spending=cell.spending)
    rules = dataclasses.replace(
        Rules(policy),
        looks=cell.looks,
        plan={("all", f"{at}"): n for at in range(strata)},
        traffic={("all", f"{at}"): float(share) for at, share in enumerate(cell.shares)},
    )
    looks = np.repeat(np.arange(1, cell.looks + 1), np.diff((0, *look_sizes(n, cell.looks))))
    for table, word in zip(tables, words, strict=True):
        diffs = np.zeros((strata, n))
        for stratum, rows in enumerate(np.diff(table, axis=1, prepend=0)):
            for look, (lost, gained) in enumerate(rows, start=1):
                own = np.flatnonzero(looks == look)
                diffs[stratum, own[:lost]] = -1.0
                diffs[stratum, own[lost : lost + gained]] = 1.0
        before = np.where(diffs < 0, 1.0, np.where(diffs > 0, 0.0, (np.arange(n) % 10 < 7) * 1.0))  # noqa: PLR2004
        columns = {"slices": "all", "strata": np.repeat(np.arange(strata), n).astype(str).tolist(),
                   "looks": np.tile(looks, strata).astype(np.int32)}  # fmt: skip
        ids = [f"{at}" for at in range(diffs.size)]
        sides = [build(name, ids, one.ravel(), **columns) for name, one in (("a", before), ("b", before + diffs))]
        found = gate.judge(compare.compare(sides[0], sides[1:], rules), rules).candidates[0].verdict
        if found != word:
            raise AssertionError(f"{cell}: the gate says {found}, the simulation {word}")


def _layered_passed(cell: RouteCell, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw pools of items of as many kinds as there are layers, cut them by rank, ask a part of each layer, and judge.

    The first layer is asked in full. A kind has its layer's share of the items on average, and in a single pool a few
    more or fewer, so that some items of a kind end up in the next layer.
    """
    total = round(float(cell.sizes[0] / cell.shares[0]))
    pools = np.round(cell.shares * total).astype(int)
    ends = rng.multinomial(total, cell.shares, size=cell.rollouts).cumsum(axis=1)
    tables = np.zeros((cell.rollouts, pools.size, 2), int)
    for layer, (high, wanted) in enumerate(zip(pools.cumsum(), cell.sizes.tolist(), strict=True)):
        rest, left = np.full(cell.rollouts, pools[layer]), np.full(cell.rollouts, wanted)
        for kind, delta in enumerate(cell.differences.tolist()):
            start = ends[:, kind - 1] if kind else np.zeros(cell.rollouts, int)
            own = np.maximum(np.minimum(ends[:, kind], high) - np.maximum(start, high - pools[layer]), 0)
            asked = rng.hypergeometric(own, rest - own, left)
            rest, left = rest - own, left - asked
            flips = max(cell.discordance if kind < pools.size - 1 else 0.0, abs(delta))  # the surest flips if damaged
            shares = [(flips - delta) / 2.0, (flips + delta) / 2.0, 1.0 - flips]
            tables[:, layer] += rng.multinomial(asked, shares)[:, :2]
    return layered_p(tables[..., 0], tables[..., 1], cell.sizes, pools, -cell.pooled) < ALPHA


def _sources_passed(cell: RouteCell, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Judge candidates whose items share sources: whether pooled passes, and fails."""
    strata, n, icc = cell.sizes.size, int(cell.sizes[0]), 0.3
    everywhere = cell.case == "sources in every stratum"
    size = 1 if everywhere else 5
    found = np.empty((cell.rollouts, 2), bool)
    shares = [(cell.discordance + 0.02) / 2.0, (cell.discordance - 0.02) / 2.0, 1.0 - cell.discordance]
    source = np.arange(n) // size
    for at in range(cell.rollouts):
        if everywhere:  # the same n sources in every stratum, which follow a common draw with chance sqrt(icc)
            common = rng.choice([-1.0, 1.0, 0.0], p=shares, size=(1, n))
            own = rng.choice([-1.0, 1.0, 0.0], p=shares, size=(strata, n))
        else:
            common = np.repeat(rng.choice([-1.0, 1.0, 0.0], p=shares, size=(strata, n // size)), size, axis=1)
            own = rng.choice([-1.0, 1.0, 0.0], p=shares, size=(strata, n))
        diffs = np.where(rng.random(own.shape) < math.sqrt(icc), common, own)
        labels = None if everywhere else source
        results = [paired_test(one, labels, margin=cell.margin, alpha=ALPHA) for one in diffs]
        place = np.repeat(np.arange(strata), n)
        codes = np.tile(np.arange(n), strata) if everywhere else place * n + np.tile(source, strata)
        influence = ((diffs - diffs.mean(axis=1, keepdims=True)) / n / strata).ravel()
        shared = shared_sources(influence, place, codes)
        one = pooled_test(results, cell.shares.tolist(), cell.pooled, ALPHA, shared)
        found[at] = one.p_pass < ALPHA, one.p_fail < ALPHA
    return found[:, 0], found[:, 1]


def simulate(cell: RouteCell, seed: int) -> RouteRow:
    """Run one cell."""
    start, rng, items = time.process_time(), cell.rng(seed), 1.0
    if cell.route == "pooled sources":
        passed, failed = _sources_passed(cell, rng)
    elif cell.route == "relative":
        passed, failed = _relative_passed(cell, rng)
    elif cell.route == "layered":
        passed = _layered_passed(cell, rng)
        failed = np.zeros_like(passed)
    else:
        tables = tables_of(cell, rng, cell.rollouts)
        passed, failed, items = judged(cell, tables)
        words = [
            "pass" if good else "fail" if bad else "inconclusive" for good, bad in zip(passed, failed, strict=True)
        ]
        check_against_gate(cell, tables[:CHECKED], words[:CHECKED])
    return RouteRow(cell, float(passed.mean()), float(failed.mean()), items, time.process_time() - start)


def record(row: RouteRow) -> dict[str, object]:
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


def write(rows: Sequence[RouteRow], path: Path) -> None:
    """Write the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(record(rows[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(record, rows))


def run(path: Path, seed: int, only: str, *, quick: bool) -> int:
    """Simulate, print, write. Ends with 1 if a cell does not hold its level."""
    rows = []
    for cell in route_cells(quick=quick):
        if only not in f"{cell.route}, {cell.case}":
            continue
        rows.append(row := simulate(cell, seed))
        write(rows, path)
        mark = {True: "holds", False: "DOES NOT HOLD", None: "power"}[row.holds()]
        text = f"{cell.route}, {cell.case}, {cell.n} items, {cell.deltas}, {cell.discordance}, {cell.spending}"
        rates = f"pass {row.passed:.4f} fail {row.failed:.4f} items {row.items:.3f} {mark} {row.seconds:.0f}s"
        print(f"{text:100} {rates}", flush=True)
    broken = sum(row.holds() is False for row in rows)
    print(f"{len(rows)} cells, {sum(row.seconds for row in rows):.0f} s; {broken} do not hold")
    return 1 if broken else 0
