"""What the verdict means: each sentence of the design's section on it, as a test that fails where it is untrue."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from making import Cell, judged, reordered, side, stratum

from harness import stats
from harness.config import loading as config
from harness.config.schema import SliceSpec
from harness.errors import ConfigError, UsageError
from harness.judge import compare, gate
from harness.judge.outcomes import Labels, build
from harness.judge.rules import Rules
from harness.records import Item
from harness.report.words import exit_meaning
from harness.run import planning
from harness.stats.binary import score_p

RULES = Rules.from_flags(margin=0.05)


def test_both_tests_stand_at_the_same_line():
    """p_pass and p_fail are the score tests of one null, delta = -margin, from its two sides."""
    one = stratum(judged({"code/all": Cell(300, lost=12, gained=6)}), "code/all")
    above = score_p(12, 6, 300, -0.05, "greater")
    below = score_p(12, 6, 300, -0.05, "less")
    assert (one.p_pass, one.p_fail) == (above, below)
    assert one.margin == 0.05


@pytest.mark.parametrize("gained", range(0, 40, 3))
def test_a_stratum_passes_exactly_where_its_lower_limit_is_above_the_margin(gained):
    """Pass is the lower limit above -margin, which is p_pass below alpha."""
    one = stratum(judged({"code/all": Cell(400, lost=20, gained=gained)}), "code/all")
    assert (one.verdict == "pass") == (one.low > -0.05) == (one.p_pass < 0.05)


def test_a_pass_needs_the_level_that_was_asked_for():
    """The same counts pass at 5 % and not at 1 %."""
    cells = {"code/all": Cell(200, lost=3)}
    assert judged(cells, Rules.from_flags(margin=0.05, alpha=0.05)).verdict == "pass"
    assert judged(cells, Rules.from_flags(margin=0.05, alpha=0.01)).verdict == "inconclusive"


def test_a_single_stratum_fails_exactly_where_its_upper_limit_is_below_the_margin():
    """With one gating stratum Holm changes nothing, and fail is the upper limit below -margin."""
    words = []
    for lost in range(20, 60):
        one = stratum(judged({"code/all": Cell(400, lost=lost)}), "code/all")
        assert (one.verdict == "fail") == (one.high < -0.05) == (one.p_fail < 0.05)
        assert one.p_adjusted == one.p_fail
        words.append(one.verdict)
    assert {"fail", "inconclusive"} <= set(words)


def test_fails_are_adjusted_over_the_gating_strata():
    """Counts that fail alone do not fail as one of forty; the adjusted p-value is Holm's."""
    alone = {"code/a": Cell(200, lost=20)}
    assert judged(alone).verdict == "fail"
    many = alone | {f"code/b{at}": Cell(200, lost=2) for at in range(39)}
    crowd = judged(many)
    assert stratum(crowd, "code/a").verdict == "inconclusive"
    raw = [one.p_fail for one in crowd.candidates[0].strata]
    assert [one.p_adjusted for one in crowd.candidates[0].strata] == list(stats.holm(raw))


def test_advisory_strata_do_not_count_in_the_adjustment():
    """The same forty with all but one advisory: that one fails as if it were alone."""
    rules = Rules.from_flags(margin=0.05, advisory=("code/b*",))
    cells = {"code/a": Cell(200, lost=20)} | {f"code/b{at}": Cell(200, lost=2) for at in range(39)}
    found = judged(cells, rules)
    assert stratum(found, "code/a").verdict == "fail"
    assert stratum(found, "code/a").p_adjusted == stratum(found, "code/a").p_fail
    assert stratum(found, "code/b3").p_adjusted is None


def test_strata_too_small_to_fail_leave_the_family():
    """Two items can never show a drop of more than half: such strata do not make the others' bar higher (Tarone)."""
    cells = {"code/a": Cell(200, lost=20)} | {f"code/tiny{at}": Cell(2) for at in range(39)}
    found = judged(cells)
    assert stratum(found, "code/a").verdict == "fail"
    assert stratum(found, "code/a").p_adjusted == stratum(found, "code/a").p_fail
    assert stratum(found, "code/tiny0").p_adjusted == 1.0


def test_inconclusive_is_neither_and_says_how_many_more_items_would_decide():
    """With the items that it asks for, at the same rates, the stratum passes; with a seventh fewer it does not."""
    few = judged({"code/all": Cell(100, lost=4, gained=2)})
    one = stratum(few, "code/all")
    assert one.verdict == "inconclusive"
    assert one.low <= -0.05 <= one.high
    assert one.items_to_decide > 0
    for factor, word in ((1.1, "pass"), (0.85, "inconclusive")):
        scale = (100 + one.items_to_decide) / 100 * factor
        grown = Cell(round(100 * scale), lost=round(4 * scale), gained=round(2 * scale))
        assert judged({"code/all": grown}).verdict == word
    assert str(one.items_to_decide) in few.candidates[0].reasons[0]


def test_inconclusive_never_passes():
    """One undecided stratum among passing ones: the candidate is undecided, exit code 3, or 1 where so asked."""
    cells = {"code/a": Cell(400), "code/b": Cell(400), "code/c": Cell(20)}
    found = judged(cells)
    assert [one.verdict for one in found.candidates[0].strata] == ["pass", "pass", "inconclusive"]
    assert (found.verdict, found.exit_code) == ("inconclusive", 3)
    strict = judged(cells, Rules.from_flags(margin=0.05, inconclusive="fail"))
    assert (strict.verdict, strict.exit_code) == ("inconclusive", 1)
    assert exit_meaning(strict).startswith("fail by policy.inconclusive: nothing is shown to be worse")
    lost = judged({**cells, "code/d": Cell(400, lost=200)}, Rules.from_flags(margin=0.05, inconclusive="fail"))
    assert exit_meaning(lost).startswith("fail: at least one gating stratum is worse")


@pytest.mark.parametrize(("wrong", "chance"), [(400, 0.0), (397, 0.0), (300, 0.25), (290, 0.25), (200, 0.5)])
def test_a_baseline_at_the_floor_gives_no_signal(wrong, chance):
    """Where the baseline is not above guessing by more than the margin, equal answers are no pass."""
    found = judged({"code/all": Cell(400, wrong=wrong, chance=chance)})
    one = stratum(found, "code/all")
    assert one.delta == 0.0
    assert one.low > -0.05  # the difference alone would pass
    assert (one.verdict, found.verdict, found.exit_code) == ("no_signal", "no_signal", 3)
    assert one.items_to_decide is None
    assert "guessing" in one.reason


def test_a_baseline_above_the_floor_has_signal():
    """The same 400 items pass where the baseline is well above guessing."""
    assert judged({"code/all": Cell(400, wrong=120, chance=0.25)}).verdict == "pass"


def test_the_floor_is_where_losing_everything_would_still_pass():
    """At a chance of 0 and a margin of 5 points, a baseline of 3 points could lose all it has and pass: no signal."""
    assert judged({"code/all": Cell(1000, wrong=970)}).verdict == "no_signal"
    gone = judged({"code/all": Cell(1000, lost=30, wrong=970)})
    assert stratum(gone, "code/all").low > -0.05  # it did lose all, within the margin
    assert gone.verdict == "no_signal"


def test_damage_is_seen_even_at_the_floor():
    """A baseline near guessing from which a candidate falls far below guessing: a drop over the margin is a fail."""
    found = judged({"code/all": Cell(400, lost=90, wrong=300, chance=0.25)})
    assert found.verdict == "fail"


def test_the_significance_note_is_mid_p_mcnemar_and_decides_nothing():
    """lost 40, gained 20 of 2000: significantly worse, and within 5 points all the same: a pass with the note.

    >>> from scipy.stats import binom
    >>> binom.cdf(20, 60, 0.5) - 0.5 * binom.pmf(20, 60, 0.5)
    0.004926724097629634
    """
    one = stratum(judged({"code/all": Cell(2000, lost=40, gained=20)}), "code/all")
    assert one.mid_p == pytest.approx(0.004926724097629605, rel=1e-9)
    assert one.verdict == "pass"


def test_the_gate_passes_only_if_every_gating_stratum_passes():
    """Every subset of three good strata passes; with a bad one among them none does, wherever it stands."""
    good = {f"s/{name}": Cell(300, lost=1) for name in "abc"}
    assert judged(good).verdict == "pass"
    for name in "abc":
        assert judged(good | {f"s/{name}": Cell(300, lost=60)}).verdict == "fail"


def test_passing_needs_no_correction():
    """A stratum that passes alone passes among sixty."""
    cells = {"s/a": Cell(200, lost=3)}
    assert judged(cells).verdict == "pass"
    assert judged(cells | {f"s/b{at}": Cell(200, lost=3) for at in range(59)}).verdict == "pass"


def _rates(deltas: dict[str, float], rounds: int, seed: int) -> tuple[float, float]:
    """Share of simulated rollouts that pass, and that fail, at 12 % discordance where there is room for it."""
    rng = np.random.default_rng(seed)
    words = []
    for _ in range(rounds):
        cells = {}
        for place, delta in deltas.items():
            gain = max((0.12 + delta) / 2, 0.0)
            lost, gained, _ = rng.multinomial(150, [gain - delta, gain, 1 - 2 * gain + delta])
            cells[place] = Cell(150, lost=int(lost), gained=int(gained))
        words.append(judged(cells, Rules.from_flags(margin=0.1)).verdict)
    return words.count("pass") / rounds, words.count("fail") / rounds


def test_a_candidate_over_the_margin_anywhere_rarely_passes():
    """Two strata are fine and one is exactly at the margin: passes in at most 5 % (three standard errors allowed)."""
    passes, _ = _rates({"s/a": 0.0, "s/b": 0.0, "s/c": -0.1}, 200, seed=1)
    assert passes <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)
    fine, _ = _rates({"s/a": 0.0, "s/b": 0.0, "s/c": 0.0}, 40, seed=1)
    assert fine > 0.5  # the test above is not empty: good candidates do pass


def test_a_candidate_within_the_margin_everywhere_rarely_fails():
    """Five strata exactly at the margin: some fails in at most 5 % (three standard errors allowed)."""
    _, fails = _rates({f"s/{name}": -0.1 for name in "abcde"}, 150, seed=2)
    assert fails <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 150)
    _, caught = _rates({"s/a": 0.0, "s/b": -0.3}, 20, seed=2)
    assert caught > 0.9


def test_gating_is_declared_by_the_config_before_the_run():
    """What gates comes from the rules alone: the same answers, declared advisory, decide nothing."""
    cells = {"s/a": Cell(400), "s/b": Cell(400, lost=200)}
    rules = Rules(RULES.policy, {"s": SliceSpec(name="s", advisory=("b",))})
    found = judged(cells, rules)
    assert found.verdict == "pass"
    assert (stratum(found, "s/b").verdict, stratum(found, "s/b").gating) == ("fail", False)
    assert judged(cells, RULES).verdict == "fail"


def test_without_a_gating_stratum_nothing_passes():
    """A config that declares everything advisory gets its numbers and no pass."""
    found = judged({"s/a": Cell(4000)}, Rules.from_flags(margin=0.05, advisory=("*",)))
    assert (found.verdict, found.exit_code) == ("inconclusive", 3)
    assert stratum(found, "s/a").verdict == "pass"
    assert "gating" in found.candidates[0].reasons[0]


EXPERIMENT = {
    "name": "small",
    "baseline": {"name": "bf16", "model": "somewhere"},
    "candidates": [{"name": "int4", "quantization": "bnb-nf4"}],
    "slices": [{"name": "typical", "items": 30}],
    "policy": {"margin": 0.02},
}


def _items(count: int) -> list[Item]:
    fixed = {"slice": "typical", "task": "t", "kind": "generate", "prompt": "", "levels": {}, "stratum": "all"}
    return [Item(id=f"t/{at}", cluster=f"{at}", **fixed) for at in range(count)]


def test_a_stratum_too_small_to_ever_pass_is_refused_at_plan_time():
    """30 items cannot pass 2 points though none is lost: refused with the number needed, unless advisory."""
    experiment = config.parse(EXPERIMENT)
    with pytest.raises(ConfigError, match="never pass") as caught:
        planning.check_power(experiment, planning.power_table(experiment, _items(30)), "small.yaml")
    assert caught.value.exit_code == 2
    shown = config.parse({**EXPERIMENT, "slices": [{"name": "typical", "items": 30, "gating": False}]})
    planning.check_power(shown, planning.power_table(shown, _items(30)), "small.yaml")
    assert judged({"typical/all": Cell(30)}, Rules.from_experiment(experiment)).verdict == "inconclusive"


def test_what_a_model_was_measured_to_be_never_weighs_in_the_verdict():
    """Whatever stands beside the verdict, a KL of 0 or of 10, the verdict is the same."""
    cells = {"s/a": Cell(100, lost=2)}
    plain = judged(cells)
    for value in (0.0, 10.0):
        other = judged(cells, proofs={"int4": {"kl": value}})
        assert other.candidates[0].proof == {"kl": value}
        assert (other.verdict, other.exit_code) == (plain.verdict, plain.exit_code) == ("inconclusive", 3)


@pytest.mark.parametrize(
    ("cells", "code"),
    [
        ({"s/a": Cell(400)}, 0),
        ({"s/a": Cell(400, lost=100)}, 1),
        ({"s/a": Cell(20)}, 3),
        ({"s/a": Cell(400, wrong=400)}, 3),
    ],
)
def test_exit_codes(cells, code):
    """0 pass, 1 fail, 3 inconclusive or no signal."""
    assert judged(cells).exit_code == code


def test_a_bad_flag_is_usage():
    """Exit code 2 is for margins and levels that cannot be, all of them in one message."""
    with pytest.raises(UsageError, match=r"(?s)--alpha.*--margin") as caught:
        Rules.from_flags(margin=2, alpha=0.7)
    assert caught.value.exit_code == 2
    assert "Did you mean 0.02?" in str(caught.value)


def test_nothing_is_rounded_before_it_is_compared():
    """A level a billionth above the p-value passes, a billionth below does not."""
    cells = {"s/a": Cell(250, lost=4)}
    p = stratum(judged(cells), "s/a").p_pass
    assert judged(cells, Rules.from_flags(margin=0.05, alpha=p * (1 + 1e-9))).verdict == "pass"
    assert judged(cells, Rules.from_flags(margin=0.05, alpha=p * (1 - 1e-9))).verdict == "inconclusive"
    fail = {"s/a": Cell(250, lost=25)}
    p = stratum(judged(fail), "s/a").p_fail
    assert judged(fail, Rules.from_flags(margin=0.05, alpha=p * (1 + 1e-9))).verdict == "fail"
    assert judged(fail, Rules.from_flags(margin=0.05, alpha=p * (1 - 1e-9))).verdict == "inconclusive"


def test_a_margin_holds_to_its_last_digit():
    """The lower limit itself as margin is no pass; a hair more is."""
    low = stratum(judged({"s/a": Cell(250, lost=4)}), "s/a").low
    assert judged({"s/a": Cell(250, lost=4)}, Rules.from_flags(margin=-low * (1 - 1e-9))).verdict == "inconclusive"
    assert judged({"s/a": Cell(250, lost=4)}, Rules.from_flags(margin=-low * (1 + 1e-9))).verdict == "pass"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_missing_answer_is_never_a_good_one(which):
    """Answers missing on one side (0, 1) or both (2) in a whole stratum: not judged, exit code 4."""
    cells = {"s/a": Cell(400), "s/b": Cell(400)}
    before, after = side("bf16", cells, 0), side("int4", cells, 1)
    blank = np.where([name.startswith("s/b") for name in before.items], np.nan, before.score)
    sides = [
        dataclasses.replace(one, score=blank) if which in (at, 2) else one for at, one in enumerate((before, after))
    ]
    found = gate.judge(compare.compare(sides[0], sides[1:], RULES), RULES)
    one = stratum(found, "s/b")
    assert one.verdict == "not_judged"
    assert (one.delta, one.low, one.high, one.p_pass) == (None, None, None, None)
    assert (found.verdict, found.exit_code) == ("not_judged", 4)
    assert stratum(found, "s/a").verdict == "pass"


def test_answers_missing_on_one_side_are_not_swept_aside():
    """A candidate that leaves out the hard tenth of a stratum does not pass on the rest."""
    cells = {"s/a": Cell(400, lost=40)}
    before, after = side("bf16", cells, 0), side("int4", cells, 1)
    skipped = dataclasses.replace(after, score=np.where(after.score == 0.0, np.nan, after.score))
    found = gate.judge(compare.compare(before, [skipped], RULES), RULES)
    assert stratum(found, "s/a").delta == 0.0  # on what is left it looks perfect
    assert (stratum(found, "s/a").verdict, found.exit_code) == ("not_judged", 4)
    assert "40 of 400" in stratum(found, "s/a").reason


def test_answers_missing_within_the_tolerance_count_as_lost_for_a_pass():
    """Two of 160 left out by the candidate could be two lost: a pass that does not survive that is none."""
    rules = Rules.from_flags(margin=0.02)
    found = {}
    for n in (160, 1000):
        cells = {"s/a": Cell(n)}
        before, after = side("bf16", cells, 0), side("int4", cells, 1)
        whole = stratum(gate.judge(compare.compare(before, [after], rules), rules), "s/a")
        gone = dataclasses.replace(after, score=np.r_[np.full(2, np.nan), after.score[2:]])
        found[n] = stratum(gate.judge(compare.compare(before, [gone], rules), rules), "s/a")
        assert whole.verdict == "pass"
        assert found[n].low is not None
        assert found[n].low > -0.02
    assert found[160].verdict == "inconclusive"
    assert "the 2 items with an answer on one side only" in found[160].reason
    assert found[1000].verdict == "pass"
    lost = side("int4", {"s/a": Cell(160, lost=2)}, 1)  # what they could have been
    assert (
        stratum(gate.judge(compare.compare(side("bf16", {"s/a": Cell(160)}, 0), [lost], rules), rules), "s/a").verdict
        != "pass"
    )


@pytest.mark.parametrize("how", ["plain", "relative", "clusters", "absent"])
def test_a_pass_with_missing_items_is_one_with_all_of_them_lost(how):
    """The number that is missing is chance, too: a share of it that is taken for exact lets a fifth pass wrongly."""
    rules = Rules.from_flags(margin="5%" if how == "relative" else 0.02)
    before, after = side("bf16", {"s/a": Cell(2_000, lost=10)}, 0), side("int4", {"s/a": Cell(2_000, lost=10)}, 1)
    if how == "clusters":
        names = [f"source {at // 2}" for at in range(2_000)]
        before, after = (dataclasses.replace(one, cluster=Labels.of(names)) for one in (before, after))
    words = []
    for count in range(0, 121, 4):
        gone, lost = after.score.copy(), after.score.copy()
        gone[100 : 100 + count], lost[100 : 100 + count] = np.nan, 0.0
        missing = dataclasses.replace(after, score=gone)
        if how == "absent":
            missing = reordered(after, np.r_[:100, 100 + count : 2_000])
        compared = compare.compare(before, [missing], rules, allow_unmatched=0.1)
        worst = compare.compare(before, [dataclasses.replace(after, score=lost)], rules)
        words.append([stratum(gate.judge(one, rules), "s/a").verdict == "pass" for one in (compared, worst)])
    assert words[0] == [True, True]
    assert words[-1] == [False, False]
    assert all(one == other for one, other in words)


def test_items_that_neither_side_could_be_asked_are_left_out_and_counted():
    """Prompts over the context limit on both sides leave a smaller stratum, which is judged on what is left."""
    cells = {"s/a": Cell(400)}
    gone = np.r_[np.full(100, np.nan), np.ones(300)]
    before, after = (dataclasses.replace(side(name, cells, 0), score=gone) for name in ("bf16", "int4"))
    one = stratum(gate.judge(compare.compare(before, [after], RULES), RULES), "s/a")
    assert (one.n, one.unanswered, one.verdict) == (300, 100, "pass")


@pytest.mark.parametrize(("left", "lost", "verdict"), [(200, 0, "pass"), (199, 0, "inconclusive"), (199, 90, "fail")])
def test_a_stratum_of_which_most_could_not_be_asked_does_not_pass(left, lost, verdict):
    """Where a server's limit cuts off the long prompts, what is left is not the stratum that the pass would be of."""
    cells = {"s/a": Cell(400)}
    gone = [np.r_[np.full(400 - left, np.nan), np.zeros(count), np.ones(left - count)] for count in (0, lost)]
    before, after = (
        dataclasses.replace(side(name, cells, 0), score=score)
        for name, score in zip(("bf16", "int4"), gone, strict=True)
    )
    one = stratum(gate.judge(compare.compare(before, [after], RULES), RULES), "s/a")
    assert (one.n, one.verdict) == (left, verdict)
    assert ("201 of its 400 items were not answered by both sides" in one.reason) == (verdict == "inconclusive")


def test_graded_and_clustered_strata_are_judged_by_methods_of_their_own():
    """Scores in between, and items that share sources, go to other methods, which name themselves."""
    rng = np.random.default_rng(0)
    graded = np.clip(rng.normal(0.6, 0.2, 300), 0, 1)
    ids = [f"{at}" for at in range(300)]
    sources = [f"doc-{at // 5}" for at in range(300)]
    before = build("bf16", ids, graded, clusters=sources)
    after = build("int4", ids, np.clip(graded + rng.normal(0, 0.02, 300), 0, 1), clusters=sources)
    one = stratum(gate.judge(compare.compare(before, [after], RULES), RULES), "all/all")
    assert (one.clusters, one.n) == (60, 300)
    assert one.design_effect is not None
    assert one.method != stratum(judged({"s/a": Cell(300)}), "s/a").method
    assert one.verdict == "pass"
