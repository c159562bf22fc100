"""Repeated checks of one endpoint: limits of noise are exact, and a thousand days raise no more alarms than stated."""

from __future__ import annotations

import numpy as np
import pytest
import scipy

from harness.errors import StatisticsError
from harness.run.verifying import ALPHA, THRESHOLD
from harness.stats.monitoring import alarm_count, evidence, noise_limit, noise_rate

DAYS = 1000
ENDPOINTS = 400
ITEMS = 40


@pytest.mark.parametrize(("flips", "control", "asked"), [(0, 15, 24), (3, 40, 40), (18, 59, 59), (9, 500, 25)])
def test_noise_limit_is_the_hypergeometric_bound(flips: int, control: int, asked: int) -> None:
    """One more item differing than the limit is as unlikely as asked for, and the limit itself is not."""
    limit = noise_limit(flips, control, asked, 0.005)

    def chance(differ: int) -> float:
        return float(scipy.stats.hypergeom.cdf(flips, control + asked, flips + differ, control))

    assert 0 < limit < asked
    assert chance(limit + 1) <= 0.005 < chance(limit)


def test_limits_of_small_or_noisy_controls_allow_everything() -> None:
    """Without enough control items no count is beyond noise; the rate is then 1 and there is no evidence."""
    assert noise_limit(0, 2, 20, 0.005) == 19
    assert noise_limit(30, 30, 30, 0.005) == 30
    assert noise_rate(30, 30, 30, 0.005) == 1.0
    assert evidence([30, 30], 30, 1.0).tolist() == [1.0, 1.0]
    for wrong in ((5, 4, 20), (-1, 4, 20), (0, 4, 0)):
        with pytest.raises(StatisticsError):
            noise_limit(*wrong, 0.005)
    with pytest.raises(StatisticsError):
        evidence([31], 30, 0.5)


@pytest.mark.parametrize("frozen", [0.0, 0.5, 1.0], ids=["fresh", "half", "frozen"])
@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_a_thousand_days_of_the_same_weights_keep_the_rate(frozen: float, noise: float) -> None:
    """Rates differ by item, and a part of what differs is the same every day; alarms of all days are counted."""
    rng = np.random.default_rng(7)
    rates = rng.beta(0.5, 0.5 * (1 - noise) / noise, (ENDPOINTS, ITEMS))
    control = (rng.random(rates.shape) < rates).sum(axis=1)
    still = rng.random(rates.shape) < frozen
    first = rng.random(rates.shape) < rates
    fresh = np.where(still, 0.0, rates)
    days = np.empty((ENDPOINTS, DAYS), dtype=np.int64)
    for day in range(DAYS):
        days[:, day] = (rng.random(rates.shape) < fresh).sum(axis=1) + (first & still).sum(axis=1)
    alarms = 0
    for flips in np.unique(control):
        own = days[control == flips]
        limit, rate = (bound(int(flips), ITEMS, ITEMS, ALPHA / 2) for bound in (noise_limit, noise_rate))
        crossed = evidence(own, ITEMS, rate).max(axis=1) >= THRESHOLD
        alarms += int((crossed | (own[:, 0] > limit)).sum())
    # At the stated rate more alarms than this are seen once in a thousand such tests.
    assert alarms <= scipy.stats.binom.ppf(0.999, ENDPOINTS, ALPHA)


def test_a_change_is_seen_however_long_all_was_quiet() -> None:
    """After a year of one flip a day, NF4's share of items raises an alarm in two calls; before, nothing does."""
    rate = noise_rate(1, 40, 40, ALPHA / 2)
    quiet = [1] * 365
    assert evidence(quiet, 40, rate).max() < 1.1
    found = evidence([*quiet, 27, 27], 40, rate)
    assert found[-1] >= THRESHOLD
    needed = alarm_count(quiet, 40, rate, THRESHOLD)
    assert evidence([*quiet, needed], 40, rate)[-1] >= THRESHOLD > evidence([*quiet, needed - 1], 40, rate)[-1]
    assert noise_limit(1, 40, 40, ALPHA / 2) < needed <= 40


def test_a_slow_drift_is_seen_over_days() -> None:
    """A share somewhat beyond the noise is no alarm in a call, and one within a month."""
    limit, rate = (bound(1, 40, 40, ALPHA / 2) for bound in (noise_limit, noise_rate))
    found = evidence([1] * 100 + [limit + 4] * 30, 40, rate)
    assert found[100] < THRESHOLD <= found[-1]
