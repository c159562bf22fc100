"""What differs between two runs of a history: settings, items, verdicts, and scores item by item.

A variant is compared with itself on the same items, by the test that judges candidates, under the newer run's policy.
"""

import math
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace

from harness import stats
from harness.errors import UsageError
from harness.history.database import History
from harness.judge.decisions import points
from harness.judge.summaries import Verdict


def changed_facts(history: History, before: int, after: int) -> list[tuple[str, str, str]]:
    """Return the key of each setting that differs, and its two values; empty for one that is not set."""
    query = """SELECT key, max(CASE run WHEN ?1 THEN value ELSE '' END) AS before,
      max(CASE run WHEN ?2 THEN value ELSE '' END) AS after
      FROM facts WHERE run IN (?1, ?2) GROUP BY key HAVING before != after ORDER BY key"""
    return [(row["key"], row["before"], row["after"]) for row in history.rows(query, before, after)]


def changed_items(history: History, before: int, after: int) -> list[tuple[str, int, int, int]]:
    """Return the slices whose items differ, with the counts of shared, removed and added items."""
    query = """WITH asked AS (SELECT DISTINCT run, item FROM answers WHERE run IN (?1, ?2)),
      places AS (SELECT item, min(run = ?1) AS old, count(*) AS runs FROM asked GROUP BY item)
      SELECT slice, sum(runs = 2) AS shared, sum(runs = 1 AND old) AS removed, sum(runs = 1 AND NOT old) AS added
      FROM places JOIN items USING (item) GROUP BY slice HAVING removed + added > 0 ORDER BY slice"""
    return [tuple(row) for row in history.rows(query, before, after)]


@dataclass(frozen=True, slots=True)
class Move:
    """A variant in a stratum of the same items, then and now."""

    variant: str  # its name in both runs
    slice: str  # the slice's label
    stratum: str  # the levels of its axes
    kind: str  # ``score``, or the kind of a gated tail event
    gating: bool  # whether it decides in the newer run
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


_PAIRS = """SELECT n.candidate, n.slice, n.stratum, n.gating, n.margin, o.verdict AS before, n.verdict AS after
  FROM strata o JOIN strata n USING (candidate, slice, stratum, items) WHERE o.run = ? AND n.run = ?"""
_RATES = """SELECT n.candidate, n.slice, n.stratum, n.kind, o.verdict AS before, n.verdict AS after
  FROM tail_rates o JOIN tail_rates n USING (candidate, slice, stratum, kind)
  JOIN strata p ON (p.run, p.candidate, p.slice, p.stratum) = (o.run, n.candidate, n.slice, n.stratum)
  JOIN strata q ON (q.run, q.candidate, q.slice, q.stratum, q.items) =
    (n.run, n.candidate, n.slice, n.stratum, p.items)
  WHERE o.run = ? AND n.run = ? AND n.verdict IS NOT NULL AND o.verdict IS NOT NULL"""
_SCORES = """SELECT o.score AS before, n.score AS after, cluster FROM answers o JOIN answers n USING (variant, item)
  JOIN items USING (item) WHERE o.run = ? AND n.run = ? AND variant = ? AND slice = ? AND stratum = ?
  AND o.score IS NOT NULL AND n.score IS NOT NULL ORDER BY item"""


@dataclass(frozen=True, slots=True)
class Since:
    """The newest run against an earlier one."""

    name: str  # the earlier run's
    moves: tuple[Move, ...]  # each variant in each stratum that can be compared, the worst first
    # Gating strata that were not asked now, or with other items, and candidates that were not judged
    left_out: tuple[str, ...]

    @property
    def regressed(self) -> list[Move]:
        """What regressed in a gating stratum."""
        return [one for one in self.moves if one.regressed and one.gating]


_LEFT_OUT = """SELECT DISTINCT slice || '/' || stratum FROM strata o WHERE run = ?1 AND gating AND NOT EXISTS
  (SELECT 1 FROM strata n WHERE n.run = ?2 AND n.slice = o.slice AND n.stratum = o.stratum AND n.items = o.items)
  UNION ALL SELECT candidate FROM candidates WHERE run = ?1 AND candidate NOT IN
  (SELECT candidate FROM strata WHERE run = ?2)
  UNION SELECT candidate FROM candidates WHERE run = ?2 AND verdict = 'not_judged'"""
_WORDS = """SELECT candidate FROM candidates o JOIN candidates n USING (candidate)
  WHERE o.run = ? AND n.run = ? AND o.verdict = 'pass' AND n.verdict = 'fail'"""


def steps(history: History) -> list[sqlite3.Row]:
    """Return each run with the run of the same config before it, the newest first."""
    query = "SELECT run, name, lag(run) OVER (PARTITION BY experiment ORDER BY run) AS before FROM runs"
    return history.rows(f"{query} ORDER BY run DESC")


def since(history: History, name: str | None = None) -> Since | None:
    """Compare the newest run with an earlier one, by default its config's; None without one. Raises UsageError."""
    newest, *earlier = steps(history)
    known = {row["name"]: row["run"] for row in reversed(earlier)}
    if name is not None and name not in known:
        raise UsageError(f"--since {name}: is not an earlier run; there are {', '.join(known) or 'none'}")
    before, after = newest["before"] if name is None else known[name], newest["run"]
    if before is None:
        return None
    name = next(row["name"] for row in earlier if row["run"] == before)
    found = _moves(history, before, after)
    left_out = [row[0] for row in history.rows(_LEFT_OUT, before, after)]
    lost = [one for one in found if one.verdict == "not_judged"]
    left_out += [f"{one.variant} in {one.slice}/{one.stratum}" for one in lost if one.gating]
    # By something else than a stratum or a rate, such as the pooled difference or the length of its thoughts.
    shown = {one.variant for one in found if one.regressed and one.gating}
    failed = {row[0] for row in history.rows(_WORDS, before, after)} - shown
    whole = [
        Move(one, "all", "all", "verdict", gating=True, gate=("pass", "fail"), verdict="fail") for one in sorted(failed)
    ]
    return Since(name, (*([] if left_out else whole), *found), tuple(left_out))


def _moves(history: History, before: int, after: int) -> list[Move]:
    old, new = sorted(history.rows("SELECT * FROM runs WHERE run IN (?, ?)", before, after), key=lambda one: one["run"])

    def move(row: sqlite3.Row, variant: str, gate: tuple[Verdict, Verdict] | None) -> Move:
        place = variant, row["slice"], row["stratum"]
        found = Move(*place, "score", bool(row["gating"]), gate, row["margin"], verdict="not_judged")
        if not (scores := history.rows(_SCORES, old["run"], new["run"], *place)):
            return found
        before, after, clusters = zip(*scores, strict=True)
        diffs = [y - x for x, y in zip(before, after, strict=True)]
        result = stats.paired_test(diffs, clusters, margin=row["margin"], alpha=new["alpha"])
        means = math.fsum(before) / len(before), math.fsum(after) / len(after)
        return replace(found, result=result, means=means)

    found: dict[str, list[Move]] = {}
    pairs = history.rows(_PAIRS, before, after)
    for row in pairs:
        found.setdefault(row["candidate"], []).append(move(row, row["candidate"], (row["before"], row["after"])))
    if old["baseline"] == new["baseline"]:
        places = {(row["slice"], row["stratum"]): row for row in pairs}
        found[new["baseline"]] = [move(one, new["baseline"], None) for one in places.values()]
    moves = [one for own in found.values() for one in _decided(own, new["alpha"])]
    for row in history.rows(_RATES, before, after):
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
