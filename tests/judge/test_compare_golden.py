"""Real outcomes of Llama-3.1-8B-Instruct at fp16, q8_0 and q4_K_M, against the figures published with them.

The published figures stand in results/summary.json beside the rows. Their methods, found from the figures themselves:
McNemar as chi-square with continuity correction, Holm over the three pairs, and for MMLU a percentile bootstrap at 95 %
that draws whole subjects (its limits are fractions of 498 to 500 items). Counts, differences, McNemar and Holm must
agree to the last digit; a bootstrap limit to its grain.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lazily import lazy
from making import stratum

from harness import stats
from harness.judge import compare, gate
from harness.judge.importers import ImportOptions, load
from harness.judge.rules import Rules

scipy_stats = lazy("scipy.stats")

RULES = Rules.from_flags(margin=0.02)


@pytest.fixture(scope="module")
def results(shared_data: Path) -> Path:
    """The folder with the rows and the published figures."""
    return shared_data / "paired_llama31_fp16_q8_q4" / "results"


@pytest.fixture(scope="module")
def published(results: Path) -> dict[str, dict]:
    """The published figures by task."""
    return {one["task"]: one for one in json.loads((results / "summary.json").read_text())}


def _sides(results, task, *arms, strata=()):
    options = ImportOptions(item="example_id", score="score", strata=strata)
    return [load(results / f"{task}_{arm}.jsonl", options, arm) for arm in arms]


def _judged(results, task, baseline, candidate, rules=RULES, **options):
    sides = _sides(results, task, baseline, candidate, **options)
    return gate.judge(compare.compare(sides[0], sides[1:], rules), rules)


def _pair(published, task, baseline, candidate, key="pairwise_diffs"):
    (found,) = [one for one in published[task][key] if (one["arm_a"], one["arm_b"]) == (baseline, candidate)]
    return found


def _mcnemar(one):
    """Chi-square with continuity correction, on the counts that `compare` found."""
    distance = max(abs(one.lost - one.gained) - 1, 0)
    return float(scipy_stats.chi2.sf(distance**2 / (one.lost + one.gained), 1))


def _exact(one):
    """The two-sided exact McNemar test."""
    return float(scipy_stats.binomtest(one.lost, one.lost + one.gained).pvalue)


PAIRS = [("fp16", "q8_0", 1, 2), ("fp16", "q4_K_M", 27, 19), ("q8_0", "q4_K_M", 27, 18)]


@pytest.mark.parametrize(("baseline", "candidate", "lost", "gained"), PAIRS)
def test_mmlu_counts_and_mcnemar(results, published, baseline, candidate, lost, gained):
    """n = 499 after one question that stands there twice; lost and gained; McNemar's p to the last digit.

    >>> from scipy.stats import chi2
    >>> chi2.sf((27 - 19 - 1) ** 2 / 46, 1), chi2.sf((27 - 18 - 1) ** 2 / 45, 1)
    (0.3020282281097738, 0.23303798227390204)
    """
    one = stratum(_judged(results, "mmlu", baseline, candidate), "all/all")
    known = _pair(published, "mmlu", baseline, candidate)
    assert (one.n, one.lost, one.gained) == (499, lost, gained) == (known["n_pairs"], lost, gained)
    assert one.delta == pytest.approx(-known["diff"], abs=1e-12)
    assert _mcnemar(one) == pytest.approx(known["p_value"], abs=1e-12)
    assert _exact(one) == pytest.approx(known["p_value"], abs=5e-4)


def test_mmlu_figures_that_the_issue_of_q4_rests_on(results):
    """q4_K_M against fp16: -1.6 points, 27 lost, 19 gained, p 0.302; against q8_0: 27 lost, 18 gained, p 0.233."""
    one = stratum(_judged(results, "mmlu", "fp16", "q4_K_M"), "all/all")
    assert round(one.delta, 3) == -0.016
    assert round(_exact(one), 3) == 0.302
    other = stratum(_judged(results, "mmlu", "q8_0", "q4_K_M"), "all/all")
    assert round(_exact(other), 3) == 0.233


@pytest.mark.parametrize(("baseline", "candidate", "lost", "gained"), PAIRS)
def test_mmlu_intervals(results, published, baseline, candidate, lost, gained):
    """The published interval is found again from the strata that `compare` gives, by drawing whole subjects."""
    strata = _judged(results, "mmlu", baseline, candidate, strata=("metadata.subject",)).candidates[0].strata
    known = _pair(published, "mmlu", baseline, candidate)
    sums = np.array([one.gained - one.lost for one in strata])
    sizes = np.array([one.n for one in strata])
    drawn = np.random.default_rng(0).integers(0, 10, (20_000, 10))
    deltas = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(deltas, [0.025, 0.975])
    assert low == pytest.approx(-known["upper"], abs=1 / 499)
    assert high == pytest.approx(-known["lower"], abs=1 / 499)


@pytest.mark.parametrize(("baseline", "candidate", "lost", "gained"), PAIRS)
def test_mmlu_intervals_of_the_verdict(results, published, baseline, candidate, lost, gained):
    """The verdict's own limits, by Tango over items, hold the published interval and reach a point farther at most."""
    one = stratum(_judged(results, "mmlu", baseline, candidate, Rules.from_flags(alpha=0.025)), "all/all")
    known = _pair(published, "mmlu", baseline, candidate)
    assert -known["upper"] - 0.01 < one.low < -known["upper"]
    assert -known["lower"] < one.high < -known["lower"] + 0.01


def test_mmlu_holm(results, published):
    """Holm over the three pairs: 1, 0.699, 0.699."""
    found = [stratum(_judged(results, "mmlu", one, other), "all/all") for one, other, _, _ in PAIRS]
    known = [_pair(published, "mmlu", one, other)["p_adj"] for one, other, _, _ in PAIRS]
    assert list(stats.holm([_mcnemar(one) for one in found])) == pytest.approx(known, abs=1e-12)


def test_mmlu_by_subject(results, published):
    """Every subject is a stratum: its items, its means, its delta and its exact McNemar p."""
    found = _judged(results, "mmlu", "fp16", "q4_K_M", strata=("metadata.subject",))
    subjects = published["mmlu"]["per_subject"]
    assert len(found.candidates[0].strata) == len(subjects) == 10
    for name, known in subjects.items():
        one = stratum(found, f"all/subject={name}")
        (pair,) = [each for each in known["pairwise_diffs"] if (each["arm_a"], each["arm_b"]) == ("fp16", "q4_K_M")]
        assert one.n == known["n"]
        assert one.baseline_mean == pytest.approx(known["intervals"]["fp16"]["mean"])
        assert one.candidate_mean == pytest.approx(known["intervals"]["q4_K_M"]["mean"])
        assert one.delta == pytest.approx(-pair["diff"])
        assert _exact(one) == pytest.approx(pair["p_value"])


def test_mmlu_equivalence(results, published):
    """Within one point, as published: q8_0 is shown to be, q4_K_M is not."""
    rules = Rules.from_flags(margin=published["mmlu"]["equivalence_margin"])
    for candidate, word in (("q8_0", "pass"), ("q4_K_M", "inconclusive")):
        (known,) = [
            one for one in published["mmlu"]["equivalence"] if (one["arm_a"], one["arm_b"]) == ("fp16", candidate)
        ]
        assert known["equivalent"] == (word == "pass")
        assert _judged(results, "mmlu", "fp16", candidate, rules).verdict == word


@pytest.mark.parametrize(("baseline", "candidate"), [("fp16", "q8_0"), ("fp16", "q4_K_M"), ("q8_0", "q4_K_M")])
def test_extraction_graded(results, published, baseline, candidate):
    """Per-sentence F1: the mean difference to the last digit, the published limits found again by drawing sentences.

    The verdict's own limits hold them and reach less than a point farther: 300 items may hide one case in a hundred.
    """
    before, after = _sides(results, "extraction", baseline, candidate)
    rules = Rules.from_flags(margin=0.01, alpha=0.025)
    one = stratum(gate.judge(compare.compare(before, [after], rules), rules), "all/all")
    known = _pair(published, "extraction", baseline, candidate, "pairwise_diffs_macro")
    assert one.n == known["n_pairs"] == 300
    assert one.delta == pytest.approx(-known["diff"], abs=1e-12)
    diffs = after.score - before.score
    drawn = np.random.default_rng(0).integers(0, 300, (10_000, 300))
    low, high = np.quantile(diffs[drawn].mean(axis=1), [0.025, 0.975])
    assert low == pytest.approx(-known["upper"], abs=0.002)
    assert high == pytest.approx(-known["lower"], abs=0.002)
    assert low - 0.01 < one.low < low
    assert high < one.high < high + 0.01


def test_extraction_finds_what_the_authors_found(results):
    """F1 falls by five points at q4_K_M (published p 0.001, Holm 0.003), and not at q8_0."""
    rules = Rules.from_flags(margin=0.01)
    assert stratum(_judged(results, "extraction", "fp16", "q4_K_M", rules), "all/all").verdict == "fail"
    assert stratum(_judged(results, "extraction", "fp16", "q8_0", rules), "all/all").verdict != "fail"


def test_the_question_that_stands_there_twice_is_named(results):
    """The one id that the file gives twice, with one score both times, counts once and is named."""
    found = _judged(results, "mmlu", "fp16", "q8_0")
    assert sum("high_school_mathematics::d3f3d532" in one for one in found.warnings) == 2
