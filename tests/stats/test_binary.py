"""Tango's limits and tests and McNemar's: against other implementations, enumeration and symmetry."""

from __future__ import annotations

import ast
import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazily import lazy
from scipy import special

from harness.errors import ExitCode, StatisticsError
from harness.stats import binary
from harness.stats.binary import mcnemar_midp, score_limit, score_p

scipy_stats = lazy("scipy.stats")

contingency_tables = lazy("statsmodels.stats.contingency_tables")


class Interval(NamedTuple):
    """Both limits of delta, and the estimate."""

    low: float
    delta: float
    high: float


def tango_interval(lost: int, gained: int, n: int, level: float = 0.95, *, correction: bool = False) -> Interval:
    """The two-sided interval at a level."""
    alpha = (1 - level) / 2
    low, high = (score_limit(lost, gained, n, alpha, side, correction=correction) for side in ("low", "high"))
    return Interval(low, (gained - lost) / n, high)


def tango_p(lost: int, gained: int, n: int, null: float, alternative: str, *, correction: bool = False) -> float:
    """The p-value of the score test, corrected or as published."""
    if alternative == "less":
        lost, gained, null = gained, lost, -null
    return float(special.ndtr(-binary._score(lost, gained, n, null, correction=correction)))


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int, int]:
    """Lost, gained and all items."""
    lost, gained = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    return lost, gained, lost + gained + draw(st.integers(0 if lost + gained else 1, 400))


def test_tango_interval_is_the_published_one():
    """Discordant counts 40 and 20 of 160 give (0.03086, 0.21806) in the direction of the larger one."""
    worse, better = tango_interval(40, 20, 160), tango_interval(20, 40, 160)
    assert (better.low, better.high) == pytest.approx((0.03086, 0.21806), abs=5e-6)
    assert (worse.low, worse.high) == pytest.approx((-0.21806, -0.03086), abs=5e-6)
    assert worse.delta == -0.125


SESSION = """
>>> import numpy as np
>>> from evalstats.core.resampling import tango_scc_paired_ci            # evalstats 0.3.3, a quartic's closed form
>>> for b, c, n in ((40, 20, 160), (27, 19, 499), (3, 0, 50), (12, 30, 200), (1, 1, 60)):
...     base = np.r_[np.ones(b), np.zeros(c), np.ones(n - b - c)]
...     cand = np.r_[np.zeros(b), np.ones(c), np.ones(n - b - c)]
...     print((b, c, n), tango_scc_paired_ci(cand, base, .05, c=0.0), sep=": ")
(40, 20, 160): (-0.21806424416682424, -0.030864533133086746)
(27, 19, 499): (-0.04393376392012873, 0.01099669678760894)
(3, 0, 50): (-0.16217091688838156, 0.015628455081360248)
(12, 30, 200): (0.027641709436084762, 0.155082053242735)
(1, 1, 60): (-0.07420034906884784, 0.07420034906884784)
"""
EVALSTATS = ast.literal_eval("{" + ",".join(line for line in SESSION.splitlines() if line.startswith("(")) + "}")


@pytest.mark.parametrize("table", EVALSTATS)
def test_tango_interval_agrees_with_evalstats(table: tuple[int, int, int]):
    """Root finding and the quartic's closed form of another package give the same limits."""
    found = tango_interval(*table)
    assert (found.low, found.high) == pytest.approx(EVALSTATS[table], abs=1e-10)


@given(counts(), st.floats(0.5, 0.999), st.booleans())
def test_swapping_the_sides_mirrors_the_interval(table: tuple[int, int, int], level: float, correction: bool):
    """What is lost from one side is gained from the other."""
    lost, gained, n = table
    one = tango_interval(lost, gained, n, level, correction=correction)
    other = tango_interval(gained, lost, n, level, correction=correction)
    assert (one.low, one.high) == (-other.high, -other.low)


@given(counts(), st.integers(1, 300), st.sampled_from([0.8, 0.9, 0.95, 0.99]), st.booleans())
def test_concordant_items_never_widen_the_claim(table: tuple[int, int, int], more: int, level: float, correction: bool):
    """More items that agree never let a larger drop, nor a larger gain, be thought of."""
    lost, gained, n = table
    before = tango_interval(lost, gained, n, level, correction=correction)
    after = tango_interval(lost, gained, n + more, level, correction=correction)
    assert min(after.low, 0.0) >= min(before.low, 0.0) - 1e-12
    assert max(after.high, 0.0) <= max(before.high, 0.0) + 1e-12
    if 2 * (lost + gained) <= n:  # beyond, everything moved and the estimate itself moves most
        assert after.high - after.low <= before.high - before.low + 1e-12


@given(counts(), st.floats(0.5, 0.999), st.booleans())
def test_an_interval_is_never_empty_nor_beyond_what_can_be(table: tuple[int, int, int], level: float, correction: bool):
    """It has width where nothing flipped and where everything did, holds the estimate, and stays in [-1, 1]."""
    found = tango_interval(*table, level, correction=correction)
    assert found.high - found.low > 1e-4
    assert -1.0 <= found.low <= found.delta <= found.high <= 1.0


@given(counts(), st.floats(-0.5, 0.5), st.sampled_from([0.001, 0.05, 0.2]), st.booleans())
def test_interval_and_test_are_dual(table: tuple[int, int, int], null: float, alpha: float, correction: bool):
    """A test rejects at alpha exactly where the interval at level 1 - 2 alpha leaves the null outside."""
    interval = tango_interval(*table, 1.0 - 2.0 * alpha, correction=correction)
    above = tango_p(*table, null, "greater", correction=correction)
    below = tango_p(*table, null, "less", correction=correction)
    if abs(interval.low - null) > 1e-9 and abs(above - alpha) > 1e-9:
        assert (above < alpha) == (interval.low > null)
    if abs(interval.high - null) > 1e-9 and abs(below - alpha) > 1e-9:
        assert (below < alpha) == (interval.high < null)


def test_the_test_statistic_at_no_change_is_mcnemars():
    """At delta 0 Tango's statistic is McNemar's (gained - lost) / sqrt(lost + gained), Tango 1998 section 3."""
    statistic = binary._score(40, 20, 160, 0.0, correction=False)
    assert statistic == pytest.approx(-20 / math.sqrt(60), abs=1e-12)
    assert statistic**2 == pytest.approx(
        contingency_tables.mcnemar([[0, 40], [20, 0]], exact=False, correction=False).statistic, abs=1e-12
    )


def exact_size(n: int, margin: float, gained: float, alpha: float, alternative: str, correction: bool) -> float:
    """The chance to reject when the true difference is -margin, by enumerating every table."""
    lost = gained + margin
    found = 0.0
    for b, c in itertools.product(range(n + 1), repeat=2):
        if b + c > n:
            continue
        chance = math.exp(
            math.lgamma(n + 1)
            - math.lgamma(b + 1)
            - math.lgamma(c + 1)
            - math.lgamma(n - b - c + 1)
            + b * math.log(lost)
            + (c * math.log(gained) if c else 0.0)
            + (n - b - c) * math.log1p(-lost - gained)
        )
        if chance > 1e-12 and (c == 0 or gained > 0.0):
            p = tango_p(b, c, n, -margin, alternative, correction=correction)
            found += chance if p < alpha else 0.0
    return found


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 40])
@pytest.mark.parametrize("alternative", ["greater", "less"])
@pytest.mark.parametrize(("n", "margin"), [(50, 0.05), (80, 0.02), (80, 0.1)])
def test_the_corrected_test_holds_its_level_exactly(n: int, margin: float, alternative: str, alpha: float):
    """Over all tables, a candidate at the margin is wrongly judged at most alpha of the time, sparse or not."""
    sizes = [exact_size(n, margin, gained, alpha, alternative, correction=True) for gained in (1e-9, 0.01, 0.05, 0.1)]
    assert max(sizes) <= alpha
    assert max(sizes) > 0.0 or (alternative == "greater" and score_p(0, 0, n, -margin, "greater") >= alpha)


def test_the_published_test_does_not_hold_it():
    """The reason for the correction: uncorrected, 100 to 150 items with rare flips fail far more often than 5 %."""
    assert exact_size(150, 0.02, 1e-9, 0.05, "less", correction=False) > 0.08
    assert exact_size(150, 0.1, 0.01, 0.05 / 40, "less", correction=False) > 1.6 * 0.05 / 40


def covered(n: int, discordance: float, delta: float, correction: bool) -> float:
    """The chance that a 95 % interval holds the true difference, by enumerating the tables that matter."""
    lost, gained = (discordance - delta) / 2, (discordance + delta) / 2
    top = min(n, int(n * discordance + 7 * math.sqrt(n * discordance) + 10))
    found = 0.0
    for b in range(top + 1):
        chance_b = scipy_stats.binom.pmf(b, n, lost)
        chances = chance_b * scipy_stats.binom.pmf(np.arange(top + 1), n - b, gained / (1 - lost))
        for c in np.flatnonzero(chances > 1e-9):
            p = min(tango_p(b, int(c), n, delta, side, correction=correction) for side in ("less", "greater"))
            found += chances[c] if p >= 0.025 else 0.0
    return found


@pytest.mark.parametrize(
    ("n", "discordance", "delta"), [(50, 0.1, 0.0), (50, 0.3, -0.1), (100, 0.05, 0.0), (200, 0.1, -0.05), (500, 0.1, 0)]
)
def test_tango_covers_what_it_says(n: int, discordance: float, delta: float):
    """A 95 % interval holds the truth 94 to 97.5 % of the time from n = 50; corrected, at least 95 %."""
    assert 0.94 <= covered(n, discordance, delta, correction=False) <= 0.975
    assert 0.95 <= covered(n, discordance, delta, correction=True) <= 0.982


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_agrees_with_scipys_binomial_test(lost: int, gained: int):
    """One side at a time it is a binomial test of one half; mid-p takes off half the point mass."""
    worse, better = mcnemar_midp(lost, gained)
    assert mcnemar_midp(gained, lost) == pytest.approx((better, worse), rel=1e-9)
    if lost + gained == 0:
        assert worse == 0.5
        return
    exact = scipy_stats.binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue
    point = scipy_stats.binom.pmf(lost, lost + gained, 0.5)
    assert worse == pytest.approx(exact - point / 2, rel=1e-8, abs=1e-14)


@pytest.mark.parametrize(
    "call",
    [
        lambda: binary.check_counts(1, 1, 0),
        lambda: binary.check_counts(-1, 1, 10),
        lambda: binary.check_counts(6, 5, 10),
        lambda: binary.check_counts(math.nan, 1, 10),
        lambda: binary.check_alpha(0.5),
        lambda: binary.check_margin(1.0),
        lambda: mcnemar_midp(-1, 3),
    ],
)
def test_what_cannot_be_is_refused(call):
    """A count, level or side that makes no sense is an error with a message, never a number."""
    with pytest.raises(StatisticsError) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == ExitCode.NOT_COMPARABLE
    assert len(str(caught.value)) > 20


@given(counts(), st.floats(0.0005, 0.4), st.sampled_from([3.0, 12.0, math.inf]), st.floats(1.0, 20.0))
def test_limits_of_effective_counts_are_dual_too(table: tuple[int, int, int], alpha: float, df: float, unit: float):
    """Fractional counts and Student's t, as clusters use them, keep limit and test together."""
    lost, gained, n = (value / unit for value in table)
    low = score_limit(lost, gained, n, alpha, "low", df=df)
    for null in (low - 1e-6, low + 1e-6):
        if -1.0 < null < (gained - lost) / n:
            assert (score_p(lost, gained, n, null, "greater", df=df) < alpha) == (null < low)
