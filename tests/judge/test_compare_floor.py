"""The test that a baseline has skill to lose, against other implementations; and the benchmark of a comparison."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from harness.stats.units import above_chance_p


@pytest.mark.parametrize(("right", "n", "line"), [(12, 40, 0.27), (1, 100, 0.02), (40, 40, 0.5), (0, 10, 0.1)])
def test_right_or_wrong_items_by_the_exact_binomial(right, n, line):
    """The one-sided exact binomial p-value of scipy.

    >>> from scipy.stats import binomtest
    >>> [round(binomtest(k, n, p, "greater").pvalue, 6) for k, n, p in [(12, 40, 0.27), (1, 100, 0.02)]]
    [0.391803, 0.86738]
    """
    from scipy.stats import binomtest

    scores = np.r_[np.ones(right), np.zeros(n - right)]
    assert above_chance_p(scores, None, line) == pytest.approx(binomtest(right, n, line, "greater").pvalue, rel=1e-10)


def test_graded_items_by_students_t():
    """The one-sided one-sample t-test of scipy."""
    from scipy.stats import ttest_1samp

    scores = np.random.default_rng(0).beta(2, 5, 80)
    assert above_chance_p(scores, None, 0.25) == pytest.approx(ttest_1samp(scores, 0.25, alternative="greater").pvalue)


def test_clusters_of_one_size_by_students_t_on_their_means():
    """Sources of five items each: the t-test on the sources' means."""
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(1)
    means = rng.random(30)
    scores = (rng.random((30, 5)) < means[:, None]).astype(float)
    clusters = np.repeat(np.arange(30), 5).astype(np.int32)
    expected = ttest_1samp(scores.mean(axis=1), 0.4, alternative="greater").pvalue
    assert above_chance_p(scores.ravel(), clusters, 0.4) == pytest.approx(expected)


def test_sources_of_one_item_each_are_items():
    """Clusters that never repeat change nothing."""
    scores = np.r_[np.ones(12), np.zeros(28)]
    assert above_chance_p(scores, np.arange(40, dtype=np.int32), 0.2) == above_chance_p(scores, None, 0.2)


def test_one_source_alone_cannot_say():
    """All items from one haystack have no spread between sources: no p-value, and so no pass."""
    assert above_chance_p(np.ones(50), np.zeros(50, np.int32), 0.1) is None


@pytest.mark.parametrize(("score", "p"), [(0.5, 0.6**20), (0.1, 1.0)])
def test_equal_graded_scores(score, p):
    """Where every item scores the same, two of five could score nothing, and the mean be 0.3, unseen: 0.6^20."""
    assert above_chance_p(np.full(20, score), None, 0.3) == pytest.approx(p)


@pytest.mark.parametrize("kind", ["sources", "graded", "few graded"])
def test_a_baseline_on_the_line_is_seldom_shown_to_be_above_it(kind):
    """Nearly all is well, and a few sources or items score nothing: Student's t alone shows 11 to 19 % of these."""
    random, shown, rollouts = np.random.default_rng(4), 0, 2_000
    n, share, score, size = {
        "sources": (62, 0.05, 1.0, 5),
        "graded": (62, 0.05, 0.9, 1),
        "few graded": (10, 0.3, 0.6, 1),
    }[kind]
    for _ in range(rollouts):
        scores = np.where(random.random(n) < share, 0.0, score)
        scores = np.clip(scores + random.normal(0.0, 0.01, n) * (score < 1.0) * (scores > 0.0), 0.0, 1.0)
        clusters = np.repeat(np.arange(n, dtype=np.int32), size)
        p = above_chance_p(np.repeat(scores, size), clusters, score * (1.0 - share))
        shown += p is not None and p < 0.05
    assert shown / rollouts < 0.05 + 3 * (0.05 * 0.95 / rollouts) ** 0.5


def test_a_line_at_the_top_is_never_exceeded():
    """Guessing plus margin at 1 or more: nothing is above it."""
    assert above_chance_p(np.ones(1000), None, 1.0) == 1.0


@pytest.mark.slow
def test_the_benchmark_prints_what_a_comparison_costs(repository):
    """A part of the benchmark, in its own process: every stratum and candidate judged, time and memory printed."""
    script = repository / "scripts" / "bench_compare.py"
    command = [sys.executable, str(script), "--items", "30000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    figures = json.loads(done.stdout)
    print(f"\n{figures}")
    assert (figures["items"], figures["strata"], figures["candidates"]) == (30_000, 60, 4)
    assert figures["cpu_seconds"] < 5
    assert figures["peak_mib"] < 1024


@pytest.mark.slow
def test_the_benchmark_judges_two_csv_files(repository):
    """A part of it: the command as a user starts it, in less than 3 s of CPU time and 1 GiB."""
    script = repository / "scripts" / "bench_compare.py"
    command = [sys.executable, str(script), "--csv", "--items", "30000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    figures = json.loads(done.stdout)
    print(f"\n{figures}")
    assert (figures["items"], figures["strata"], figures["exit_code"]) == (30_000, 1707, 3)
    assert figures["cpu_seconds"] < 3
    assert figures["peak_mib"] < 1024
