"""Ratios of thought and price: limits that cover, verdicts under tolerances; what is blind to the KV cache."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from making import Cell, side
from paths import RESULTS

from harness.config.loading import parse
from harness.config.schema import Policy
from harness.errors import ConfigError, UsageError
from harness.judge import compare, gate, judging
from harness.judge.rules import Rules
from harness.judge.signals import blind_to_cache
from harness.judge.tolerances import judged_quantities
from harness.records import Generation, Item, Scored
from harness.run.plan import check_engines
from harness.stats.ratio import ratio
from harness.store.rundir import RunDir
from harness.store.whole import load_run

ITEMS = [Item(f"t/{at}", "s", "t", "generate", "?", {}, "a", f"c{at}", max_tokens=9) for at in range(60)]


def answers(thought: float, tokens: int, right: int, spread: float = 0.1) -> list[Scored]:
    """Answers to all items: so many right, and about so much thought and written."""
    noise = np.random.default_rng(7).normal(1.0, spread, len(ITEMS))
    return [
        Scored(
            item.id,
            "d",
            0,
            float(at < right),
            {"thinking_characters": thought * abs(float(noise[at]))} if thought else {},
            Generation(item.id, "x", (1,), "eos", 3),
            length=tokens,
        )
        for at, item in enumerate(ITEMS)
    ]


def rules(**tolerances: float) -> Rules:
    """A policy with these tolerances of quantities."""
    return Rules(Policy(quantities=tolerances))


def test_the_limits_of_a_ratio_cover_the_truth():
    """Of 400 simulated runs with a true ratio of 2, the lower 95 % limit is above it in about 20."""
    random = np.random.default_rng(1)
    names = [str(at) for at in range(50)]
    beyond = 0
    for _ in range(400):
        before = random.gamma(4.0, 25.0, 50)
        known = ratio([before * random.gamma(16.0, 2 / 16, 50)], [before], names)
        assert known is not None
        beyond += known.limit(0.05) > 2.0
    assert 6 <= beyond <= 36
    assert ratio([[1.0, 2.0]], [[0.0, 0.0]], names[:2]) is None
    assert ratio([[1.0, 2.0]], [[1.0, 2.0]], ["a", "a"]) is None


def test_thoughts_twice_as_long_fail_and_equal_ones_pass():
    """Against a tolerance of 1.5; a fifth as many solved items cost five times as much each."""
    before = answers(200, 100, 50)
    longer = judged_quantities(ITEMS, before, answers(400, 100, 10), rules(thought_length=1.5, tokens_per_solved=1.5))
    assert [(one.kind, one.verdict) for one in longer] == [("thought_length", "fail"), ("tokens_per_solved", "fail")]
    assert longer[0].ratio == pytest.approx(2.0)
    assert (longer[1].baseline, longer[1].candidate) == (120.0, 600.0)
    same = judged_quantities(ITEMS, before, before, rules(thought_length=1.5, tokens_per_solved=1.5))
    assert {one.verdict for one in same} == {"pass"}
    (wide, _) = judged_quantities(ITEMS, before, answers(310, 100, 40, spread=0.6), rules(thought_length=1.5))
    assert wide.verdict == "inconclusive"


def test_what_cannot_be_a_ratio_is_not_judged_and_what_nobody_asked_for_is_left_out():
    """A baseline without a thought, or without a solved item; no thought and no tolerance give no row."""
    (first, _) = judged_quantities(ITEMS, answers(0, 9, 30), answers(50, 9, 30), rules(thought_length=2.0))
    assert first.verdict == "not_judged"
    (price,) = judged_quantities(ITEMS, answers(0, 9, 0), answers(0, 9, 9), rules(tokens_per_solved=2.0))
    assert price.verdict == "not_judged"
    assert judged_quantities(ITEMS, answers(0, 9, 30), answers(0, 9, 30), rules()) == ()


def test_a_tolerance_for_which_nothing_was_measured_does_not_pass():
    """No thought was recognized, no answer has a length, or all is advisory: a missing figure is never a good one."""
    thoughtless = answers(0, 9, 30)
    (found,) = judged_quantities(ITEMS, thoughtless, thoughtless, rules(thought_length=1.5))
    assert (found.verdict, found.n) == ("not_judged", 0)
    unknown = [dataclasses.replace(one, length=None) for one in thoughtless]
    both = rules(thought_length=1.5, tokens_per_solved=1.5)
    assert {one.verdict for one in judged_quantities(ITEMS, unknown, unknown, both)} == {"not_judged"}
    cells = {"s/t": Cell(300, wrong=100)}
    compared = compare.compare(side("bf16", cells, 0), [side("int4", cells, 1)], both)
    judgement = gate.judge(compared, both, quantities={"int4": (found,)})
    assert (judgement.verdict, judgement.exit_code) == ("not_judged", 4)
    advisory = Rules(Policy(quantities={"thought_length": 1.5}, advisory=("*",)))
    assert judged_quantities(ITEMS, thoughtless, thoughtless, advisory) == ()


@pytest.mark.parametrize(
    ("section", "value", "said"),
    [
        ("policy", {"quantities": {"thought_length": float("inf")}}, "finite"),
        ("policy", {"latency": {"slow_tokens": float("inf")}}, "finite"),
        ("policy", {"latency": {"slow_tokens": 50}}, "seconds for each further token"),
        ("policy", {"quantities": {"thought_length": 150}}, "less than or equal to 10"),
        ("policy", {"latency": {"slow_first_token": 500}}, "less than or equal to 60"),
        ("sampling", {"thinking": {"start": "<t>", "end": "<t>"}}, "two different marks"),
        ("sampling", {"thinking": {"start": " ", "end": "</t>"}}, "two different marks"),
    ],
)
def test_tolerances_can_be_exceeded_and_marks_differ(section, value, said):
    """An infinite tolerance passes everything, as percent for a ratio do; equal marks close nothing."""
    with pytest.raises(ConfigError, match=said):
        parse(config() | {section: value, "candidates": [{"name": "c", "quantization": "bnb-nf4"}]})


def test_a_tolerance_of_lateness_without_a_limit_is_refused(tmp_path):
    """At planning, and under another policy: it would have no effect."""
    late = config() | {"policy": {"tail_events": {"slow_tokens": 0.05}}}
    late["candidates"] = [{"name": "c", "quantization": "bnb-nf4"}]
    with pytest.raises(ConfigError, match="latency does not say what is late"):
        check_engines(parse(late), "trial.yaml")
    run = load_run(RunDir(RESULTS / "demo-cpu"))
    with pytest.raises(UsageError, match="slow_tokens, and latency does not say"):
        judging.judge(run, {"tail_events": {"slow_tokens": 0.05}})
    with pytest.raises(UsageError, match="its manifest does not cover the times"):
        judging.judge(run, {"tail_events": {"slow_tokens": 0.05}, "latency": {"slow_tokens": 1.0}})


def test_a_quantity_beyond_its_tolerance_fails_the_candidate():
    """Though every score is the same."""
    cells = {"s/a": Cell(300, wrong=100)}
    policy = rules(thought_length=1.5)
    compared = compare.compare(side("bf16", cells, 0), [side("int4", cells, 1)], policy)
    found = judged_quantities(ITEMS, answers(200, 9, 30), answers(900, 9, 30), policy)
    judgement = gate.judge(compared, policy, quantities={"int4": found})
    assert judgement.verdict == "fail"
    assert any("fails by thought_length: 4.50 times" in one for one in judgement.candidates[0].reasons)
    plain = gate.judge(compared, Rules())
    assert plain.verdict == "pass"
    assert "quantities" not in plain.to_json()["candidates"][0]


def test_a_pass_on_a_stratum_that_is_blind_to_the_cache_is_withdrawn():
    """A fail stays; no signal is never a pass, and says why."""
    cells = {"s/a": Cell(300, wrong=100), "s/b": Cell(300, lost=100)}
    compared = compare.compare(side("bf16", cells, 0), [side("kv2", cells, 1)], Rules())
    (kv2,) = compared.candidates
    blind = dataclasses.replace(kv2, strata=tuple(dataclasses.replace(one, cache_blind=True) for one in kv2.strata))
    judgement = gate.judge(dataclasses.replace(compared, candidates=(blind,)), Rules())
    first, second = judgement.candidates[0].strata
    assert (first.verdict, second.verdict) == ("no_signal", "fail")
    assert first.reason.startswith("blind to the KV cache")


def test_choices_and_answers_of_one_token_are_blind_to_the_cache():
    """The cache is first used for the second token of an answer."""
    one = dataclasses.replace(ITEMS[0], stratum="one token", max_tokens=1)
    choice = dataclasses.replace(ITEMS[1], stratum="choice", kind="choice", max_tokens=0)
    assert blind_to_cache([ITEMS[2], one, choice]) == {("s", "one token"), ("s", "choice")}


def config(**candidate: object) -> dict[str, object]:
    """A config with one candidate."""
    return {
        "name": "x",
        "baseline": {"name": "b", "model": "m"},
        "candidates": [{"name": "c", **candidate}],
        "slices": [{"name": "typical", "items": 20, "gating": False}],
    }


def test_a_variant_may_differ_in_its_decoding_alone():
    """It is not the baseline itself, and a config without the keys keeps its digest."""
    experiment = parse(config(kv_cache={"backend": "hqq", "bits": 8}))
    assert experiment.candidates[0].differs_only_in(experiment.baseline, "kv_cache")
    assert not experiment.candidates[0].differs_only_in(experiment.baseline, "decoding")
    assert "kv_cache" not in experiment.baseline.model_dump()
    assert "quantities" not in experiment.policy.model_dump()


@pytest.mark.parametrize(
    ("candidate", "said"),
    [
        ({"kv_cache": {"backend": "quanto", "bits": 8}}, "quanto has no 8 bits; it has 2 or 4"),
        ({"kv_cache": {"bitz": 4}}, "Did you mean 'bits'"),
        ({"decoding": {}}, "says nothing"),
        ({"decoding": {"draft": "m", "prompt_lookup": 3}}, "give one of them"),
        ({"decoding": {"prompt_lookup": 3}, "kv_cache": {"bits": 4}}, "leave kv_cache out"),
        ({"engine": "vllm", "model": "m", "kv_cache": {"bits": 4}}, "engine.args"),
    ],
)
def test_what_cannot_be_is_said_with_its_place(candidate, said):
    """Each with the rule that it breaks."""
    with pytest.raises(ConfigError, match=said):
        parse(config(**candidate))


def test_few_long_answers_are_not_taken_for_none():
    """With a ratio at its tolerance by one answer of forty that runs to the limit, at most 5 % pass, not 30 %."""
    random, items = np.random.default_rng(2), [dataclasses.replace(one, max_tokens=1300) for one in ITEMS]
    policy, before = rules(tokens_per_solved=1.475), answers(0, 65, 60)
    verdicts = []
    for _ in range(100):
        long = random.random(60) < 0.025
        after = [dataclasses.replace(one, length=1300 if far else 65) for one, far in zip(before, long, strict=True)]
        (found,) = judged_quantities(items, before, after, policy)
        verdicts.append(found.verdict)
    assert verdicts.count("pass") <= 5
    (same,) = judged_quantities(items, before, before, policy)
    assert (same.verdict, same.reason.endswith("some up to the token limit")) == ("inconclusive", True)


def test_answers_that_one_side_lacks_may_have_been_long():
    """What timed out is not left out of a price: the tokens of a few such answers are more than is tolerated."""
    before, policy = answers(0, 9, 60), rules(tokens_per_solved=1.5)
    assert [one.verdict for one in judged_quantities(ITEMS, before, before, policy)] == ["pass"]
    lacking = [dataclasses.replace(one, score=None) if at % 3 == 0 else one for at, one in enumerate(before)]
    assert [one.verdict for one in judged_quantities(ITEMS, before, lacking, policy)] == ["inconclusive"]
