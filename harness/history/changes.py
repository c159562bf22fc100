"""What differs between two runs of a history: settings, items, verdicts, and scores item by item."""

import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from harness import stats
from harness.errors import UsageError
from harness.history.database import History
from harness.judge.decisions import points
from harness.judge.summaries import Verdict
from harness.store.units import grouped

_SQL = dict(re.findall(r"-- name: (\w+)\n(.*?);\n", Path(__file__).with_suffix(".sql").read_text("utf-8"), re.DOTALL))


def changed_facts(history: History, before: int, after: int) -> list[tuple[str, str, str]]:
    """Return the key of each setting that differs, and its two values; empty for one that is not set."""
    return [(row["key"], row["before"], row["after"]) for row in history.rows(_SQL["facts"], before, after)]


def changed_items(history: History, before: int, after: int) -> list[tuple[str, int, int, int]]:
    """Return the slices whose items differ, with the counts of shared, removed and added items."""
    return [tuple(row) for row in history.rows(_SQL["items"], before, after)]


@dataclass(frozen=True, slots=True)
class Move:
    """A variant in a stratum of the same items, then and now."""

    variant: str  # its name in both runs
    slice: str  # the slice's label
    stratum: str  # the levels of its axes
    kind: str  # ``score``, or the kind of a gated tail event
    gating: bool  # whether it decides in one of the runs
    gate: tuple[Verdict, Verdict] | None  # the gate's verdicts in the two runs; None of the baseline
    margin: float | None = None  # largest tolerated drop of the newer run
    # The newer run's scores against the older one's; None of a tail event, or without shared answers
    result: stats.PairedResult | None = None
    means: tuple[float, float] | None = None  # the mean scores on the items that both answered
    # Fail if the drop is larger than the margin (of a tail event: if the gate fails it now), pass if it is smaller
    verdict: Verdict = "inconclusive"

    @property
    def of_kind(self) -> str:
        """Return the kind of tail event, or the change of the score, to be appended to a place."""
        if self.result is not None:
            return f" ({points(self.result.delta)} points)"
        return "" if self.kind == "score" else f" {self.kind}"

    @property
    def advisory(self) -> str:
        """Return what is appended to the place of a stratum that decides nothing."""
        return "" if self.gating else " (advisory)"

    @property
    def regressed(self) -> bool:
        """Whether it is worse than it was, or passed the gate and fails it now."""
        return self.verdict == "fail" or self.gate == ("pass", "fail")


@dataclass(frozen=True, slots=True)
class Since:
    """The newest run against an earlier one."""

    name: str  # the earlier run's
    moves: tuple[Move, ...]  # each variant in each stratum that can be compared, the worst first
    # Gating strata not asked now, or with other items, candidates not judged, tolerances taken away, and rehearsals
    left_out: tuple[str, ...]
    loosened: tuple[str, ...]  # where the newer run's gate asks for less than the earlier one's did, and how

    @property
    def regressed(self) -> list[Move]:
        """What regressed in a gating stratum."""
        return [one for one in self.moves if one.regressed and one.gating]


def steps(history: History) -> list[sqlite3.Row]:
    """Return each run with the run of the same config before it, the newest first."""
    return history.rows(_SQL["steps"])


def newest(history: History, given: Iterable[str]) -> list[str]:
    """Return the newest given run of each config, by its name, the newest last; of no given ones, the newest of all."""
    return [row["name"] for row in history.rows(_SQL["newest"], json.dumps([*given])) or steps(history)[:1]]


def since(history: History, name: str | None = None, own: str | None = None) -> Since | None:
    """Compare run `own` (the newest) with an earlier one, by default its config's; None if none. Raises UsageError."""
    rows = steps(history)
    newest, *earlier = rows[next((at for at, row in enumerate(rows) if row["name"] == own), 0) :]
    known = {row["name"]: row["run"] for row in reversed(earlier)}
    if name is not None and name not in known:
        raise UsageError(f"--since {name}: is not an earlier run; there are {', '.join(known) or 'none'}")
    before, after = newest["before"] if name is None else known[name], newest["run"]
    if before is None:
        return None
    name, found = next(row["name"] for row in earlier if row["run"] == before), _moves(history, before, after)
    left_out = [row[0] for row in history.rows(_SQL["left_out"], before, after)]
    lost = [one for one in found if one.verdict == "not_judged"]
    left_out += [f"{one.variant} in {one.slice}/{one.stratum}" for one in lost if one.gating]
    # By something else than a stratum or a rate, such as the pooled difference or the length of its thoughts.
    shown = {one.variant for one in found if one.regressed and one.gating}
    failed = sorted({row[0] for row in history.rows(_SQL["words"], before, after)} - shown)
    whole = [Move(one, "all", "all", "verdict", gating=True, gate=("pass", "fail"), verdict="fail") for one in failed]
    loosened = tuple(row[0] for row in history.rows(_SQL["loosened"], before, after))
    return Since(name, (*([] if left_out else whole), *found), tuple(left_out), loosened)


def _moves(history: History, before: int, after: int) -> list[Move]:
    old, new = sorted(history.rows("SELECT * FROM runs WHERE run IN (?, ?)", before, after), key=lambda one: one["run"])

    def move(row: sqlite3.Row, variant: str, gate: tuple[Verdict, Verdict] | None) -> Move:
        place = variant, row["slice"], row["stratum"]
        found = Move(*place, "score", bool(row["gating"]), gate, row["margin"], verdict="not_judged")
        if not (scores := history.rows(_SQL["scores"], old["run"], new["run"], *place)):
            return found
        before, after, clusters = zip(*scores, strict=True)
        diffs = [y - x for x, y in zip(before, after, strict=True)]
        result = stats.paired_test(diffs, clusters, margin=row["margin"], alpha=new["alpha"])
        means = math.fsum(before) / len(before), math.fsum(after) / len(after)
        return replace(found, result=result, means=means)

    pairs = history.rows(_SQL["pairs"], before, after)
    moved = ((row["candidate"], move(row, row["candidate"], (row["before"], row["after"]))) for row in pairs)
    found: dict[str, list[Move]] = grouped(moved)
    if old["baseline"] == new["baseline"]:
        places = {(row["slice"], row["stratum"]): row for row in pairs}
        found[new["baseline"]] = [move(one, new["baseline"], None) for one in places.values()]
    moves = [one for own in found.values() for one in _decided(own, new["alpha"])]
    for row in history.rows(_SQL["rates"], before, after):
        gate = row["before"], row["after"]
        verdict: Verdict = "fail" if gate == ("pass", "fail") else "pass"
        place = row["candidate"], row["slice"], row["stratum"], row["kind"]
        moves.append(Move(*place, gating=True, gate=gate, verdict=verdict))
    return sorted(moves, key=lambda one: (not one.regressed, one.result.delta if one.result else 0.0, one.variant))


def _decided(own: list[Move], alpha: float) -> Iterator[Move]:
    """Give one variant's strata their verdicts; one without scores is left out if no damage could be seen before."""
    p_fail = [1.0 if one.result is None else one.result.p_fail for one in own]
    family = [at for at, one in enumerate(own) if one.gating and one.result is not None]
    adjusted = dict(zip(family, stats.holm([p_fail[at] for at in family]), strict=True))
    for at, one in enumerate(own):
        if one.result is not None:
            worse = adjusted.get(at, p_fail[at]) < alpha
            yield replace(one, verdict="fail" if worse else "pass" if one.result.p_pass < alpha else "inconclusive")
        elif one.gate is None or one.gate[0] not in ("no_signal", "not_judged"):
            yield one
