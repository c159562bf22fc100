"""Rates of tail events: their limits, their verdicts under a tolerance, and what they promise over many strata."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lazily import lazy
from making import Cell as Counts
from making import judged, stratum
from scipy.stats import binom

from harness.config.schema import Policy, SliceSpec
from harness.errors import StatisticsError
from harness.judge.outages import in_words, outages
from harness.judge.rules import Rules
from harness.judge.tail_counts import Cell, cells, with_late
from harness.judge.tolerances import judge_rates, unmatched_tolerances
from harness.records import TAIL_KINDS, Generation, Item, Scored, Unanswered
from harness.stats.events import event_rate, items_to_decide_rate, items_without_event

proportion = lazy("statsmodels.stats.proportion")


def test_limits_are_those_of_clopper_and_pearson() -> None:
    """Against statsmodels, whose two-sided 90 % interval has our one-sided 95 % limits."""
    for events, n in ((0, 299), (1, 50), (7, 120), (49, 50), (50, 50)):
        found = event_rate([True] * events + [False] * (n - events))
        low, high = proportion.proportion_confint(events, n, alpha=0.1, method="beta")
        assert found.low == pytest.approx(low if events else 0.0, abs=1e-12)
        assert found.high == pytest.approx(high if events < n else 1.0, abs=1e-12)


def test_a_stratum_that_only_one_side_answered_is_not_judged() -> None:
    """A candidate that answers nothing has no events, and no pass either: its gated kinds are not judged."""
    items = [Item(f"t/{at}", "s", "t", "generate", "?", {}, "a", f"t/{at}") for at in range(300)]
    clean = dict.fromkeys(("empty", "repetition"), False)
    before = [
        Scored(one.id, "d", 0, 1.0, {}, Generation(one.id, "yes", (1,), "eos", 3), signs=clean, length=1)
        for one in items
    ]
    after = [Scored(one.id, "d", 0, None, {}, Unanswered(one.id, "over_context", 9)) for one in items]
    rules = Rules(policy=Policy(), slices={"s": SliceSpec(name="s", tail_events={"empty": 0.01})})
    found = judge_rates(cells(items, before, after), rules)
    assert [(one.kind, one.verdict, one.n) for one in found if one.tolerance is not None] == [
        ("empty", "not_judged", 0)
    ]


@pytest.mark.parametrize(("beyond", "verdict"), [(300, "pass"), (301, "inconclusive")])
def test_what_is_left_of_a_stratum_by_the_context_limit_does_not_pass_for_it(beyond: int, verdict: str) -> None:
    """Items that neither side could be asked: with more than half of them no rate passes, as no score does."""
    items = [Item(f"t/{at}", "s", "t", "generate", "?", {}, "a", f"t/{at}") for at in range(300 + beyond)]
    clean = {"signs": dict.fromkeys(("empty", "repetition"), False), "length": 1}
    side = [
        Scored(one.id, "d", 0, 1.0, {}, Generation(one.id, "yes", (1,), "eos", 3), **clean)
        if at < 300
        else Scored(one.id, "d", 0, None, {}, Unanswered(one.id, "over_context", 9))
        for at, one in enumerate(items)
    ]
    rules = Rules(policy=Policy(), slices={"s": SliceSpec(name="s", gating=False, tail_events={"empty": 0.01})})
    (found,) = (one for one in judge_rates(cells(items, side, side), rules) if one.tolerance is not None)
    assert (found.verdict, found.n) == (verdict, 300)
    assert ("300 of its 601 items" in found.reason) == (verdict != "pass")


def test_a_stratum_that_neither_side_answered_is_not_judged_beside_one_that_passes() -> None:
    """All of its items were over the context limit: its tolerance is not forgotten."""
    places = [("short", at) for at in range(300)] + [("long", at) for at in range(300)]
    items = [Item(f"t/{name}/{at}", "s", "t", "generate", "?", {}, name, f"{name}/{at}") for name, at in places]
    clean = {"signs": dict.fromkeys(("empty", "repetition"), False), "length": 1}
    side = [
        Scored(one.id, "d", 0, 1.0, {}, Generation(one.id, "yes", (1,), "eos", 3), **clean)
        if one.stratum == "short"
        else Scored(one.id, "d", 0, None, {}, Unanswered(one.id, "over_context", 9))
        for one in items
    ]
    rules = Rules(policy=Policy(), slices={"s": SliceSpec(name="s", gating=False, tail_events={"empty": 0.01})})
    found = {one.stratum: one.verdict for one in judge_rates(cells(items, side, side), rules) if one.tolerance}
    assert found == {"short": "pass", "long": "not_judged"}


def test_items_missing_within_the_tolerance_count_as_events_for_a_pass() -> None:
    """Three of 303 unanswered by the candidate could be three events: no events among the rest is no pass at 1 %."""
    rules = Rules(policy=Policy(), slices={"s": SliceSpec(name="s", tail_events={"empty": 0.01})})
    names = [f"t/{at}" for at in range(300)]
    clean = Cell("s", "a", "empty", items=names, clusters=names, events=[False] * 300, baseline=[False] * 300)
    assert [one.verdict for one in judge_rates([clean], rules) if one.tolerance] == ["pass"]
    clean.one_sided = 3
    (found,) = (one for one in judge_rates([clean], rules) if one.tolerance)
    assert found.verdict == "inconclusive"
    assert "the 3 items with an answer on one side only" in found.reason
    names = [f"t/{at}" for at in range(2_000)]
    for missing, verdict in ((11, "pass"), (13, "inconclusive")):  # 12 events are the most that show less than 1 %
        clean = Cell("s", "a", "empty", names[missing:], names[missing:], *[[False] * (2_000 - missing)] * 2)
        clean.one_sided = missing
        (found,) = (one for one in judge_rates([clean], rules) if one.tolerance)
        assert found.verdict == verdict


@pytest.mark.parametrize(("shown", "verdict"), [(300, "no_signal"), (290, "no_signal"), (150, "pass"), (0, "pass")])
def test_a_baseline_that_shows_the_sign_everywhere_passes_nobody(shown: int, verdict: str) -> None:
    """What the baseline does itself is no event: where it nearly always does, no event could be seen."""
    rules = Rules(policy=Policy(), slices={"s": SliceSpec(name="s", tail_events={"truncated": 0.05})})
    names = [f"t/{at}" for at in range(300)]
    baseline = [at < shown for at in range(300)]
    cell = Cell("s", "a", "truncated", items=names, clusters=names, events=[False] * 300, baseline=baseline)
    assert [one.verdict for one in judge_rates([cell], rules)] == [verdict]


def test_p_values_say_what_the_limits_say() -> None:
    """The upper limit lies below a tolerance exactly where its p-value is below alpha; the lower one likewise."""
    for events, n in ((0, 298), (0, 299), (3, 200), (12, 200)):
        found = event_rate([True] * events + [False] * (n - events))
        for tolerance in (0.005, 0.01, 0.02, 0.04, 0.1):
            assert (found.high < tolerance) == (binom.cdf(events, n, tolerance) < 0.05)
            assert (found.low > tolerance) == (found.p_high(tolerance) < 0.05)


def test_one_percent_needs_299_clean_items() -> None:
    """298 are not enough, 299 are; 59 for 5 %."""
    assert items_without_event(0.01) == 299
    assert items_without_event(0.05) == 59
    assert event_rate([False] * 298).high >= 0.01
    assert event_rate([False] * 299).high < 0.01


def test_items_that_share_sources_say_less() -> None:
    """Eight questions on each of 40 haystacks are 40 items if none shows how alike they are, and more if some do."""
    clusters = np.repeat(np.arange(40), 8)
    clean = event_rate([False] * 320, clusters)
    assert event_rate([False] * 320).high < clean.high == pytest.approx(event_rate([False] * 40).high)
    together = event_rate(clusters < 4, clusters)
    spread = event_rate(np.arange(320) % 10 == 0, clusters)
    assert together.rate == spread.rate == 0.1
    assert event_rate(clusters < 4, clusters, gates=True).high >= together.high > spread.high
    assert together.low < spread.low


@pytest.mark.parametrize(("sizes", "tolerance"), [([20] * 20, 0.05), ([20] * 11 + [1] * 89, 0.1)])
def test_sources_that_show_an_event_as_a_whole_pass_no_more_often(sizes: list[int], tolerance: float) -> None:
    """At a correlation of a half, a rate at its tolerance passed in 11 to 22 %."""
    rng, passed = np.random.default_rng(4), 0
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    for _ in range(150):
        follows, whole = rng.random(clusters.size) < 0.7, (rng.random(len(sizes)) < tolerance)[clusters]
        events = np.where(follows, whole, rng.random(clusters.size) < tolerance)
        passed += event_rate(events, clusters, gates=True).high < tolerance
    assert passed <= 8


def test_a_gated_rate_of_shared_sources_counts_each_as_one_item() -> None:
    """In the verdict and its limit, also where the events are spread; items of their own are as they were."""
    clusters = [str(at // 20) for at in range(400)]
    cell = Cell("s", "a", "truncated", list(map(str, range(400))), clusters, [False] * 400, [False] * 400)
    rates = {}
    for tolerance in (None, 0.13, 0.15):
        own = SliceSpec(name="s", tail_events={} if tolerance is None else {"truncated": tolerance})
        (rates[tolerance],) = judge_rates([cell], Rules(policy=Policy(), slices={"s": own}))
    assert [one.verdict for one in rates.values()] == [None, "inconclusive", "pass"]
    assert [one.high for one in rates.values()] == pytest.approx([event_rate([False] * 20).high] * 3)
    spread = np.arange(400) % 13 == 0
    assert event_rate(spread, clusters).high < event_rate(spread, clusters, gates=True).high
    assert event_rate([False] * 299, range(299), gates=True) == event_rate([False] * 299)


def test_how_many_more_items_would_decide() -> None:
    """With so many more at the same rate it is decided, with one fewer it is not."""
    clean = event_rate([False] * 100)
    assert items_to_decide_rate(clean, 0.01, 0.05, 0.05) == 199
    often = event_rate([True] * 6 + [False] * 94)
    more = items_to_decide_rate(often, 0.04, 0.05, 0.025)
    assert more is not None
    total = 100 + more
    k = 0.06 * total
    bigger = event_rate([True] * round(k) + [False] * (total - round(k)))
    assert bigger.p_high(0.04) == pytest.approx(0.025, rel=0.25)
    assert items_to_decide_rate(event_rate([True, *[False] * 99]), 0.01, 0.05, 0.05) is None


def test_nothing_to_count_is_an_error() -> None:
    """A rate needs items."""
    with pytest.raises(StatisticsError):
        event_rate([])


def cell(events: int, n: int, **fields: Any) -> Cell:
    """A cell of independent items."""
    plain: dict[str, Any] = {"slice": "s", "stratum": "a", "kind": "empty"}
    ids = [str(at) for at in range(n)]
    own = {"items": ids, "clusters": ids, "events": [at < events for at in range(n)], "baseline": [False] * n}
    return Cell(**{**plain, **own, **fields})


def rules(**policy: Any) -> Rules:
    """Rules with tolerances."""
    return Rules(Policy.model_validate(policy))


def test_verdicts_under_a_tolerance() -> None:
    """Clean and enough: pass. Clean and too few: inconclusive, with the number. Too often: fail. Else inconclusive."""
    held = rules(tail_events={"empty": 0.01})
    verdicts = {}
    for events, n in ((0, 299), (0, 298), (40, 300), (5, 300)):
        (one,) = judge_rates([cell(events, n)], held)
        verdicts[events, n] = (one.verdict, one.items_to_decide)
    assert verdicts[0, 299] == ("pass", None)
    assert verdicts[0, 298] == ("inconclusive", 1)
    assert verdicts[40, 300] == ("fail", None)
    assert verdicts[5, 300][0] == "inconclusive"


def test_without_a_tolerance_nothing_is_judged() -> None:
    """Limits are shown, no verdict is."""
    (one,) = judge_rates([cell(40, 300)], rules())
    assert (one.verdict, one.tolerance, one.p_adjusted) == (None, None, None)
    assert one.low is not None
    assert one.low > 0.05


def test_who_is_held_to_what() -> None:
    """The star is for every kind not named; a slice's own replace the policy's and gate where its scores do not."""
    slices = {
        "s": SliceSpec(name="s"),
        "own": SliceSpec(name="s", gating=False, tail_events={"refusal": 0.2}, advisory=("shown*",)),
        "aside": SliceSpec(name="s", gating=False),
        "free": SliceSpec(name="s", tail_events={}),
    }
    held = Rules(Policy(tail_events={"*": 0.05, "empty": 0.01}), slices)
    assert held.tolerance("s", "a", "empty") == 0.01
    assert held.tolerance("s", "a", "refusal") == 0.05
    assert held.tolerance("own", "a", "refusal") == 0.2
    assert held.tolerance("own", "a", "empty") is None
    assert held.tolerance("own", "shown=1", "refusal") is None
    assert held.tolerance("aside", "a", "empty") is None
    assert held.tolerance("free", "a", "empty") is None
    assert (held.families, rules().families) == (2, 1)


def test_what_is_missing_never_passes() -> None:
    """Unseen answers, answers on one side only, spared items, a named kind that nobody looked for."""
    held = rules(tail_events={"empty": 0.02})
    assert judge_rates([cell(0, 300, unseen=1)], held)[0].verdict == "not_judged"
    assert judge_rates([cell(0, 300, one_sided=10)], held)[0].verdict == "not_judged"
    assert judge_rates([cell(0, 300, one_sided=1)], held)[0].verdict == "pass"
    assert judge_rates([cell(0, 300, unasked=50)], held)[0].verdict == "inconclusive"
    assert judge_rates([cell(200, 300, unasked=50)], held)[0].verdict == "inconclusive"
    named = Rules(Policy(), {"s": SliceSpec(name="s", tail_events={"empty": 0.02, "code_error": 0.02})})
    assert {one.kind: one.verdict for one in judge_rates([cell(0, 300)], named)} == {
        "empty": "pass",
        "code_error": "not_judged",
    }
    assert unmatched_tolerances(judge_rates([cell(0, 300)], held), rules(tail_events={"refusal": 0.1})) != []


def test_scores_and_events_share_the_chance_of_a_wrong_fail() -> None:
    """Declaring a tolerance doubles every adjusted p-value of the scores; passing costs nothing."""
    cells_ = {"s/a": Counts(200, lost=20, gained=2), "s/b": Counts(400, lost=1)}
    alone = judged(cells_, Rules.from_flags(margin=0.05))
    both = judged(cells_, Rules(Policy(margin=0.05, tail_events={"empty": 0.01})))
    for place in cells_:
        one, other = stratum(alone, place), stratum(both, place)
        assert one.p_adjusted is not None
        assert other.p_adjusted == pytest.approx(min(2 * one.p_adjusted, 1.0))
        assert (one.p_pass, one.low, one.high) == (other.p_pass, other.low, other.high)
    assert stratum(both, "s/b").verdict == "pass"


@pytest.mark.parametrize(("count", "code"), [(0, 0), (90, 1), (6, 3)])
def test_a_tolerance_alone_decides_where_no_score_gates(count: int, code: int) -> None:
    """One gated rate and no gating stratum: pass, fail and inconclusive as for a stratum. Without either, 3."""
    alone = Rules(Policy(), {"s": SliceSpec(name="s", gating=False, tail_events={"empty": 0.02})})
    scores = {"s/a": Counts(300, lost=150)}
    assert judged(scores, alone, events={"int4": [cell(count, 300)]}).exit_code == code
    assert judged(scores, Rules(Policy(), {"s": SliceSpec(name="s", gating=False)})).exit_code == 3


def item(number: int, stratum: str = "a") -> Item:
    """A free-text item."""
    name = f"t/{number}"
    return Item(name, "s", "t", "generate", "?", {}, stratum, name)


def scored(number: int, signs: dict[str, bool] | None, length: int = 10, sample: int = 0) -> Scored:
    """An answer that shows signs."""
    response = Generation(f"t/{number}", "x", (), "eos", 1, sample)
    return Scored(f"t/{number}", "d", 0, 1.0, {}, response, signs, length)


def test_an_event_is_what_the_candidate_does_and_the_baseline_does_not() -> None:
    """Both: none. Baseline alone: none. Candidate alone: one. And the baseline's own are counted apart."""
    sides = [(False, False), (True, True), (True, False), (False, True)]
    before = [scored(at, {"empty": was}) for at, (was, _) in enumerate(sides)]
    after = [scored(at, {"empty": now}) for at, (_, now) in enumerate(sides)]
    found = {one.kind: one for one in cells([item(at) for at in range(4)], before, after)}
    assert found["empty"].events == [False, False, False, True]
    assert found["empty"].baseline == [False, True, True, False]
    assert set(found) == {"empty", "blow_up"}


def test_any_sample_of_the_candidate_and_none_of_the_baseline() -> None:
    """Of three samples each."""
    before = [scored(at, {"empty": at == 1 and sample == 2}, sample=sample) for at in (0, 1) for sample in range(3)]
    after = [scored(at, {"empty": sample == 1}, sample=sample) for at in (0, 1) for sample in range(3)]
    found = {one.kind: one for one in cells([item(0), item(1)], before, after)}
    assert found["empty"].events == [True, False]


def test_length_blow_up_is_four_times_and_64_tokens() -> None:
    """Both conditions, and the lengths are kept where the texts are not."""
    lengths = [(100, 399), (100, 400), (2, 60), (2, 66), (0, 64), (0, 63)]
    before = [scored(at, {}, one) for at, (one, _) in enumerate(lengths)]
    after = [scored(at, {}, other) for at, (_, other) in enumerate(lengths)]
    (found,) = cells([item(at) for at in range(6)], before, after)
    assert (found.kind, found.events) == ("blow_up", [False, True, False, True, True, False])


def test_items_without_a_text_on_both_sides_are_counted_apart() -> None:
    """Unanswered on one side, missing on one side, never looked at, choices."""
    gone = Scored("t/1", "d", 0, None, {}, Unanswered("t/1", "over_context", 9))
    before = [scored(0, {"empty": False}), scored(1, {"empty": False}), scored(2, {"empty": False})]
    after = [scored(0, {"empty": False}), gone]
    found = {one.kind: one for one in cells([item(at) for at in range(3)], before, after)}
    assert (len(found["empty"].items), found["empty"].one_sided, found["empty"].unasked) == (1, 1, 1)
    old = cells([item(0)], [scored(0, None)], [scored(0, {"empty": False})])
    assert {one.unseen for one in old} == {1}
    assert {one.kind for one in old} == set(TAIL_KINDS)


@pytest.mark.parametrize("strata", [1, 8])
def test_a_candidate_at_its_tolerances_seldom_fails_and_seldom_passes(strata: int) -> None:
    """Every rate at its tolerance, 300 rollouts: half of alpha to fail, alpha to pass."""
    held = rules(tail_events={"empty": 0.05})
    rng = np.random.default_rng(strata)
    rollouts = 300
    known = {count: cell(count, 150) for count in range(60)}
    fails = passes = 0
    for counts in rng.binomial(150, 0.05, (rollouts, strata)):
        verdicts = [one.verdict for one in judge_rates([known[count] for count in counts.tolist()], held)]
        fails += "fail" in verdicts
        passes += set(verdicts) == {"pass"}
    assert fails / rollouts < 0.025 + 3 * (0.025 * 0.975 / rollouts) ** 0.5
    assert passes / rollouts < 0.05 + 3 * (0.05 * 0.95 / rollouts) ** 0.5


def _timed(items: list[Item], state: str = "warm", cache: str = "uncached", **figures: float | None) -> list[dict]:
    figures = {"first": 0.1, "per_token": 0.01} | figures
    return [{"item": one.id, "sample": 0, "state": state, "cache": cache, **figures} for one in items]


@pytest.mark.parametrize(
    ("figures", "kind", "verdict"),
    [
        ({}, "slow_first_token", "pass"),
        ({}, "slow_tokens", "pass"),
        ({"cache": "cached"}, "slow_first_token", "not_judged"),
        ({"cache": "unknown"}, "slow_tokens", "not_judged"),
        ({"state": "idle"}, "slow_tokens", "not_judged"),
        ({"per_token": None, "first": 0.1}, "slow_tokens", "not_judged"),
        ({"first": 9.0}, "slow_first_token", "fail"),
    ],
)
def test_a_tolerance_of_lateness_needs_times(figures: dict[str, Any], kind: str, verdict: str) -> None:
    """Prompts that the server had cached, and answers that came in one piece, show nothing of it, and never pass."""
    items = [Item(f"t/{at}", "s", "t", "generate", "?", {}, "a", f"t/{at}") for at in range(300)]
    said = [
        Scored(one.id, "d", 0, 1.0, {}, Generation(one.id, "yes", (1,), "eos", 3), signs={"empty": False}, length=1)
        for one in items
    ]
    limits = {"slow_first_token": 0.5, "slow_tokens": 0.1}
    before, after = with_late([said, said], [_timed(items), _timed(items, **figures)], limits)
    rules = Rules(Policy(latency=limits, tail_events={kind: 0.05}))
    found = [one for one in judge_rates(cells(items, before, after, [*limits, "empty"]), rules) if one.tolerance]
    assert [one.verdict for one in found] == [verdict]


def _said(texts: list[str], *, score: float = 0.0, finish: Any = "eos", **signs: bool) -> list[Scored]:
    return [
        Scored(f"t/{at}", "d", 0, score, {}, Generation(f"t/{at}", text, (1,), finish, 3), signs=signs)
        for at, text in enumerate(texts)
    ]


def _errors(sides: list[list[Scored]], places: dict[str, str] | None = None) -> dict[str, str]:
    return outages(map(in_words, sides), places or {}).errors


def test_errors_in_words_are_whole_repeated_never_right_and_hardly_the_candidates() -> None:
    """A text that comes five times, or once with another request number each time, is one if a candidate is well."""
    busy = [f"The backend gave up (request 7f3a-{at:05d})" for at in range(6)]
    well = _said([f"The answer is {at}" for at in range(6)], score=1.0)
    assert set(_errors([_said(busy), well]).values()) == {"The backend gave up (request ..."}
    assert set(_errors([_said(busy), well])) == {f"t/{at}" for at in range(6)}
    assert set(_errors([_said([f"Error: {at}" for at in range(6)]), well]).values()) == {"Error: ..."}
    assert not _errors([_said([f"{at}" for at in range(6)]), _said([f"{at} jars" for at in range(6)])])
    assert _errors([_said(busy), _said(busy), well])  # one candidate that is well is enough
    assert not _errors([_said(busy[:4]), well])
    assert not _errors([_said(busy), _said([f"The answer is {at}" for at in range(6)])])  # nothing that hides a loss
    assert not _errors([_said(["I do not"] * 6), well])  # too short to be told from a label
    for word in ("nan", "[timed out]", "<ERROR>", "ReadTimeout", "no response", "-" * 100_000):
        assert len(_errors([_said([word] * 6), well])) == 6
    assert not _errors([_said(["-" * 100_000 + "?x"] * 4), well])  # and in no time
    assert set(_errors([_said([""] * 4 + [" \n"] * 2), well]).values()) == {""}
    assert not _errors([_said([""] * 6), _said(["", "", "", "", "4 lamps", "5"], score=1.0)])  # stop texts, say
    unkept = [Scored(f"t/{at}", "d", 0, 0.0, {}, Generation(f"t/{at}", "", (), "eos", 3), length=4) for at in range(6)]
    assert not _errors([unkept, well])
    thoughts = _said([f"<think>So {at} it is</think>" for at in range(6)])
    thought = [replace(one, signs={"empty": True}) for one in thoughts]
    assert set(_errors([thought, well]).values()) == {""}  # a whole answer within the marks of a thought is none
    assert not _errors([_said(["The answer is B"] * 6), _said(["The answer is B"] * 3, score=1.0)])
    assert not _errors([_said(busy[:5]) + _said(busy[5:], score=1.0), well])
    assert not _errors([_said(busy, finish="length"), well])
    for own in ("I do not know that.", "I'm sorry, I can't respond to that.", "Sorry, we cannot help with that."):
        assert not _errors([_said([own] * 6), well])  # the model's own, perhaps
        assert len(outages([in_words(_said([own] * 6)), in_words(well)], {}).doubtful) == 6
    assert len(_errors([_said(['{"error": {"code": 429, "message": "Who am I?"}}'] * 6), well])) == 6  # no model's
    assert not _errors([_said(busy)])


def test_errors_that_no_model_writes_are_seen_however_often_a_candidate_has_them() -> None:
    """Where both servers fail, what the baseline lost hides what the candidate lost."""
    down = [f"Error code: 503 - Service Unavailable ({at})" for at in range(8)]
    assert len(_errors([_said(down), _said(down)])) == 8
    assert not _errors([_said(down[:4]), _said(down)])  # too few
    assert not _errors([_said(down[:7]) + _said(down[7:], score=1.0), _said(down)])  # it may be asked for
    for text in ("HTTP/1.1 502 Bad Gateway", "openai.APITimeoutError: Request timed out.", '{"error": {"code": 429}}'):
        assert _errors([_said([text] * 5), _said([text] * 5)])
    for text in ("TypeError: 'int' is not iterable", "A connection error is reported", "Error analysis of the model"):
        assert not _errors([_said([text] * 5), _said([text] * 5)])


def test_an_error_that_is_right_in_another_task_is_seen() -> None:
    """What asks for a refusal, say, takes an error for one."""
    well = _said([f"The answer is {at}" for at in range(140)], score=1.0)
    told = [replace(one, score=float(at >= 20)) for at, one in enumerate(_said(["The backend gave up on you"] * 120))]
    tasks = {f"t/{at}": "safe" if at >= 20 else "sums" for at in range(140)}
    assert set(_errors([told, well], tasks)) == {f"t/{at}" for at in range(20)}
    assert not _errors([told[1:], well], tasks)  # 19 in a task may be chance
    assert not _errors([told, well])
