"""Layers by the baseline's confidence: who is asked what, in the run and when it is judged, and what that may hide."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import making
import numpy as np
import pytest
from rich.console import Console

from harness.config.fields import Layers
from harness.config.loading import parse
from harness.errors import ConfigError, Incomplete, NotComparable, UsageError
from harness.judge import compare, gate, judging
from harness.judge.choice_probability import CONFIDENCE, confidence
from harness.judge.layers import LEFT_OUT, SURE, UNSURE, layering, sentences
from harness.judge.layers import part as sizes
from harness.judge.outcomes import build
from harness.judge.rules import Rules
from harness.records import ChoiceLogprobs, Generation, Item, Scored
from harness.report import listings
from harness.report.run_evidence import evidence
from harness.report.terminal import terminal
from harness.run import plan as run_plan
from harness.run import runner
from harness.run.planning import check_layers, layered_route
from harness.run.progress import Reporter
from harness.stats import items_for_pass
from harness.stats.plan import Design
from harness.stats.pooled import layered_power
from harness.store.record import RunRecord
from harness.store.rundir import RunDir, Shard
from harness.store.whole import load_run

LAYERS = {"unsure": 0.3, "sure_share": 0.3}
ASKED = 60 + 42  # of 200: three tenths, and three tenths of the rest


def config(model: Path, **execution: Any) -> dict[str, Any]:
    """A rehearsal at 80 % right over 200 choices in layers, and 40 free texts, which are asked in full."""
    return {
        "name": "trial",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}, {"name": "int8", "quantization": "bnb-int8"}],
        "slices": [
            {
                "name": "low_resource_languages",
                "label": "names",
                "tasks": ["quantcliff_cldr_choice"],
                "axes": {"resource": [5]},
                "items": 200,
                "margin": 0.1,
            },
            {"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 40, "margin": 0.2},
        ],
        "execution": {"unit_items": 16, "device": "cpu", "rehearsal": {}, "layers": LAYERS, **execution},
    }


def run(data: dict[str, Any], folder: Path) -> RunDir:
    """Run a config in this process."""
    directory = RunDir(folder / "trial")
    runner.run(run_plan.make_plan(parse(data), "trial.yaml"), directory, Shard(), Reporter())
    return directory


def answered(directory: RunDir, name: str) -> set[str]:
    """The ids of the items that a variant answered."""
    return {one.item_id for one in directory.all_results(name)}


@pytest.fixture(scope="module")
def part(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with layers, in which nothing is lost."""
    return run(config(tiny_llama), tmp_path_factory.mktemp("layers"))


def changed(record: RunRecord, name: str, change: Any) -> RunRecord:
    """The run with some answers of a variant changed: `change` gives a line, or None to take it out."""
    files = {path: tuple(filter(None, map(change, lines))) for path, lines in record.answers[name].items()}
    return dataclasses.replace(record, answers={**record.answers, name: files})


def names_of(judgement: Any) -> Any:
    """The layered stratum of the first candidate."""
    return next(one for one in judgement.candidates[0].strata if one.slice == "names")


def test_all_but_the_baseline_are_asked_the_same_part(part: RunDir) -> None:
    """Three tenths in full and three tenths of the rest; free text in full; the judge comes to the same items."""
    everything, own = answered(part, "bf16"), answered(part, "nf4")
    assert len(everything) == 240
    assert len(own) == ASKED + 40
    assert own == answered(part, "int8") == answered(part, "control")
    assert everything - own == judging.unasked(load_run(part))


def test_an_unchanged_candidate_passes_and_the_report_says_what_was_asked(part: RunDir) -> None:
    """Its means are those of the pool, and every layer has its counts."""
    record = load_run(part)
    judgement = judging.judge(record)
    one = names_of(judgement)
    assert (one.verdict, one.n, one.items_planned, one.method) == (
        "pass",
        ASKED,
        ASKED,
        "layered Tango score, corrected",
    )
    assert judgement.exit_code == 0
    assert one.baseline_mean == pytest.approx(one.candidate_mean)
    assert one.to_json()["layers"] == [
        {"name": "unsure", "pool": 60, "asked": 60, "n": 60, "lost": 0, "gained": 0},
        {"name": "sure", "pool": 140, "asked": 42, "n": 42, "lost": 0, "gained": 0},
    ]
    assert all("layers" not in each.to_json() for each in judgement.candidates[0].strata if each is not one)
    console = Console(record=True, width=200)
    terminal(judgement, console, evidence(record, judgement))
    text = console.export_text()
    assert (
        "of the 200 items in layers that the baseline answers, all others are asked the 60 on which it is least sure"
        in text
    )
    assert "and 42 drawn of the other 140" in text
    assert "have a confidence: multi_hop_math/task=chains,hops=1" in text


def test_damage_in_the_sure_layer_weighs_as_what_it_stands_for(part: RunDir) -> None:
    """A seventh of the drawn sure items lost is 10 points of the pool, the margin: it does not pass; a half fails."""
    record, layers = load_run(part), judging.layers_of(load_run(part))
    right = [one.item_id for one in record.of("nf4") if layers.get(one.item_id) == SURE and one.score == 1.0]

    def losing(count: int) -> Any:
        lost = set(right[:count])
        return names_of(
            judging.judge(
                changed(record, "nf4", lambda one: dataclasses.replace(one, score=0.0) if one.item_id in lost else one)
            )
        )

    assert len(right) > 21
    assert (losing(6).verdict, losing(21).verdict) == ("inconclusive", "fail")
    assert losing(21).reason == "-35.0 points against a margin of 10: 21 lost, 0 gained of 102 in layers"
    assert losing(6).delta == pytest.approx(-0.7 * 6 / 42)
    assert losing(6).items_to_decide is None or losing(6).items_to_decide > 100  # it sits on the margin


def test_what_was_not_drawn_does_not_count_and_what_was_is_missed(part: RunDir, tmp_path: Path) -> None:
    """A candidate with more answers than it was asked for is judged alike; with one fewer the run is incomplete."""
    record = load_run(part)
    unasked = judging.unasked(record)
    more = tuple(dataclasses.replace(one, score=0.0) for one in record.of("bf16") if one.item_id in unasked)
    path = next(iter(record.answers["nf4"]))
    own = {**record.answers["nf4"], path: (*record.answers["nf4"][path], *more)}
    extended = dataclasses.replace(record, answers={**record.answers, "nf4": own})
    assert len(more) == 98
    assert names_of(judging.judge(extended)).to_json() == names_of(judging.judge(record)).to_json()
    drawn = next(name for name, layer in judging.layers_of(record).items() if layer == SURE)
    for name in ("nf4", "control"):
        fewer = changed(record, name, lambda one: None if one.item_id == drawn else one)
        with pytest.raises(Incomplete, match=f"{name} lacks answers to 1 items"):
            judging.judge(fewer)


def test_a_run_without_a_control_is_judged_alike(part: RunDir, tiny_llama: Path) -> None:
    """The control is asked the same part, and is not needed for the verdict."""
    record = load_run(part)
    alone = dataclasses.replace(
        record,
        experiment=parse(config(tiny_llama, control=False)),
        answers={name: files for name, files in record.answers.items() if name != "control"},
    )
    one = names_of(judging.judge(alone)).to_json()
    unlike = {key for key, value in names_of(judging.judge(record)).to_json().items() if one[key] != value}
    assert unlike == {"floor_delta", "floor_flips"}


def test_an_edited_confidence_is_caught(part: RunDir, tmp_path: Path) -> None:
    """A changed confidence does not agree with the manifest, and, if it did, would ask for other items."""
    copy = RunDir(shutil.copytree(part.path, tmp_path / "trial"))
    path = copy.results_path("bf16", "names", Shard())
    making.rewrite(path, lambda at, line: line["metrics"].update(confidence=9.0) if at == 0 else None)
    with pytest.raises(NotComparable, match=r"bf16/\*.jsonl: does not agree with manifest.json"):
        load_run(copy)
    record = load_run(part)
    drawn = {name for name, layer in judging.layers_of(record).items() if layer == SURE}

    def unsure(one: Scored) -> Scored:
        if one.item_id in drawn:
            return one
        return dataclasses.replace(one, metrics={**one.metrics, CONFIDENCE: 9.0})

    edited = changed(record, "bf16", lambda one: unsure(one) if isinstance(one.response, ChoiceLogprobs) else one)
    with pytest.raises(Incomplete, match="lacks answers"):
        judging.judge(edited)


def test_a_run_goes_on_where_it_was(part: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """Cut short in a candidate, and in the control, it ends with the same bytes."""
    copy = RunDir(shutil.copytree(part.path, tmp_path / "trial"))
    paths = [copy.results_path(name, "names", Shard()) for name in ("nf4", "control")]
    original = [path.read_bytes() for path in paths]
    for path, text in zip(paths, original, strict=True):
        path.write_bytes(text[: len(text) // 2])
    run(config(tiny_llama), tmp_path)
    assert [path.read_bytes() for path in paths] == original


def test_answers_to_other_items_do_not_stand_for_those_that_are_drawn(
    part: RunDir, tiny_llama: Path, tmp_path: Path
) -> None:
    """As many answers in a unit as there should be, but not those: the unit is asked again."""
    copy = RunDir(shutil.copytree(part.path, tmp_path / "trial"))
    path, base = (copy.results_path(name, "names", Shard()) for name in ("nf4", "bf16"))
    unasked, lines = judging.unasked(load_run(part)), [json.loads(line) for line in path.read_text().splitlines()]
    units = {line["unit"] for line in lines}
    others = (json.loads(line) for line in base.read_text().splitlines())
    other = next(line for line in others if line["item_id"] in unasked and line["unit"] in units)
    del other["check"]
    at = next(at for at, line in enumerate(lines) if line["unit"] == other["unit"])
    making.rewrite(path, lambda number, line: line.update(other) if number == at else None)
    assert lines[at]["item_id"] not in answered(copy, "nf4")
    run(config(tiny_llama), tmp_path)
    assert answered(copy, "nf4") == answered(part, "nf4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"execution": {"looks": 2}}, "execution.looks"),
        ({"execution": {"skip_blind": True}}, "execution.skip_blind"),
        ({"execution": {"divergence": True}}, "execution.divergence"),
        ({"execution": {"control": 0.25}}, "a share in execution.control"),
        ({"sampling": {"samples": 2, "temperature": 1.0}}, "sampling.samples"),
        ({"policy": {"pooled_margin": 0.02, "margin": 0.05}}, "policy.pooled_margin"),
        ({"policy": {"margin": "5%"}}, "a relative margin"),
        ({"policy": {"margins": {"*": "5%"}}}, "a relative margin"),
    ],
)
def test_what_it_cannot_be_combined_with_is_named(tiny_llama: Path, change: dict[str, Any], message: str) -> None:
    """One sentence each, at planning."""
    data = config(tiny_llama)
    data |= {key: {**data.get(key, {}), **value} for key, value in change.items()}
    with pytest.raises(ConfigError) as caught:
        parse(data)
    (problem,) = caught.value.problems
    assert problem.path == "execution.layers"
    assert f"cannot be combined with {message}" in problem.message


@pytest.mark.parametrize(
    "layers", [{"unsure": 0.3}, {"unsure": 0.3, "sure_share": 0}, {"unsure": 1, "sure_share": 0.3}]
)
def test_some_sure_items_are_always_drawn(tiny_llama: Path, layers: dict[str, Any]) -> None:
    """A share of 0, or none, is refused: damage may be where the baseline was sure."""
    with pytest.raises(ConfigError, match=r"execution\.layers"):
        parse(config(tiny_llama, layers=layers))


def test_shared_sources_and_nothing_to_layer_are_refused_at_planning(tiny_llama: Path) -> None:
    """Items that share a source, and a config without choices."""
    data = config(tiny_llama)
    data["slices"] = data["slices"][1:]
    with pytest.raises(ConfigError, match="no stratum consists of choices"):
        run_plan.make_plan(parse(data), "trial.yaml")
    twins = [item(n, cluster=f"text{n // 2}") for n in range(10)]
    with pytest.raises(ConfigError, match="share a source, as in s/all"):
        check_layers(parse(config(tiny_llama)), twins, "trial.yaml")


def test_the_plan_says_what_each_is_asked(tiny_llama: Path) -> None:
    """The baseline's items beside a candidate's; a stratum that could never pass is refused, with what it takes."""
    plan = run_plan.make_plan(parse(config(tiny_llama)), "trial.yaml")
    names, free = plan.power
    assert (names.items, names.expected_items, free.expected_items) == (200, ASKED, 40)
    assert 0.0 < names.pass_power < 1.0
    console = Console(record=True, width=160)
    listings.print_plan(plan, console)
    assert "102" in console.export_text()
    data = config(tiny_llama)
    data["slices"][0]["margin"] = 0.04
    with pytest.raises(ConfigError, match=r"200 items in .* can never pass a margin of 0.04.*: (\d+) are needed"):
        run_plan.make_plan(parse(data), "trial.yaml")


def test_layers_are_one_of_the_routes_where_all_that_gates_is_choices(tiny_llama: Path) -> None:
    """At 2 points the row of docs/verdict.md; the parts of the config if it has some; none beside free text."""
    design = Design((0.02,))
    data = config(tiny_llama, layers={"unsure": 0.3, "sure_share": 0.36})
    own = run_plan.make_plan(parse({**data, "slices": data["slices"][:1]}), "trial.yaml")
    found = layered_route(own.experiment, own.items, design)
    assert found is not None
    assert (found.pool, found.largest) == (2451, 1354)
    both = run_plan.make_plan(parse(data), "trial.yaml")
    assert layered_route(both.experiment, both.items, design) is None
    assert layered_route(own.experiment, own.items, Design((0.02,), pooled=0.02)) is None


@pytest.mark.parametrize("policy", [{"pooled_margin": 0.02, "margin": 0.1}, {"margin": "5%"}])
def test_a_trial_by_another_kind_of_margin_is_refused(part: RunDir, policy: dict[str, Any]) -> None:
    """`compare --margin 5%` on such a run is a usage error, not a wrong number."""
    with pytest.raises(UsageError, match=r"execution\.layers cannot be judged by a pooled or a relative margin"):
        judging.judge(load_run(part), policy)


def item(number: int, stratum: str = "all", **fields: Any) -> Item:
    """A choice of one slice."""
    given = {"cluster": f"c{number}", "kind": "choice", "choices": ("a", "b"), **fields}
    return Item(id=f"t/{number}", slice="s", task="t", prompt="", levels={}, stratum=stratum, **given)


def scored(number: int, gap: float, *, score: float | None = 1.0) -> Scored:
    """An answer to a choice."""
    said = ChoiceLogprobs(f"t/{number}", (-1.0, -1.0 - gap), (1, 1), (True, False), 5)
    return Scored(f"t/{number}", "d", 0, score, {"acc": 1.0, CONFIDENCE: gap}, said, metric="acc")


def test_confidence_is_the_lead_of_the_best_choice_by_the_score_itself() -> None:
    """Of sums, or per character or byte where the metric evens lengths out; free text and a single choice have none."""
    long, said = item(1, choices=("ab", "\u00e9\u00e9\u00e9\u00e9")), scored(1, 3.0).response
    assert confidence(long, said, "acc") == pytest.approx(3.0)
    assert confidence(long, said, "acc_norm,none") == pytest.approx(-0.5 + 1.0)
    assert confidence(long, said, "acc_bytes") == pytest.approx(0.0)
    assert confidence(long, Generation("t/1", "a", (1,), "eos", 3), "acc") is None
    alone = dataclasses.replace(said, logprobs=(-1.0,), token_counts=(1,), greedy=(True,))
    assert confidence(item(1, choices=("a",)), alone, "acc") is None


def test_layers_are_cut_by_rank_and_drawn_by_the_seed() -> None:
    """The least sure first; another seed draws others; the order of the answers and of the items does not matter."""
    items, answers = [item(n) for n in range(100)], [scored(n, gap=float(n)) for n in range(100)]
    found = layering(items, answers, Layers(**LAYERS), 0)
    assert {name for name, layer in found.items() if layer == UNSURE} == {f"t/{n}" for n in range(30)}
    assert [list(found.values()).count(layer) for layer in (UNSURE, SURE, LEFT_OUT)] == [30, 21, 49]
    assert layering(items[::-1], answers[::-1], Layers(**LAYERS), 0) == found
    other = layering(items, answers, Layers(**LAYERS), 1)
    assert other != found
    assert {one for one in other if other[one] == UNSURE} == {one for one in found if found[one] == UNSURE}
    assert layering(items, answers, None, 0) == {}


def test_without_every_confidence_a_stratum_is_asked_in_full() -> None:
    """One free text among the choices is enough; an item that could not be asked is none, and is left to all."""
    items, answers = [item(n) for n in range(20)], [scored(n, gap=float(n)) for n in range(20)]
    text = dataclasses.replace(answers[3], metrics={"acc": 1.0}, response=Generation("t/3", "a", (1,), "eos", 3))
    found = layering(items, [*answers[:3], text, *answers[4:]], Layers(**LAYERS), 0)
    assert found == {}
    assert sentences(items, found, Layers(**LAYERS)) == [
        "asked in full, as not all of the baseline's answers have a confidence: s/all"
    ]
    assert sentences(items, found, None) == []
    unanswered = layering(items, [*answers[:19], scored(19, 99.0, score=None)], Layers(**LAYERS), 0)
    assert unanswered["t/19"] == UNSURE
    assert list(unanswered.values()).count(LEFT_OUT) == 19 - 6 - 4
    one = layering(items[:1], answers[:1], Layers(**LAYERS), 0)
    assert one == {}


def compared(before: Any, after: Any, layers: Any, **policy: float) -> Any:
    """Judge one stratum of a pool in given layers: 0 unsure, 1 drawn, 2 left out."""
    ids = [f"{at}" for at in range(len(layers))]
    base, other = build("a", ids, before), build("b", ids, np.where(np.array(layers) == LEFT_OUT, np.nan, after))
    rules = Rules.from_flags(margin=0.1, **policy)
    found = compare.compare(base, [other], rules, layering=dict(zip(ids, layers, strict=True)))
    return gate.judge(found, rules)


def test_a_drawn_item_without_an_answer_counts_as_all_that_it_stands_for() -> None:
    """One of 50 drawn sure items is 1.4 % of the pool, though 0.9 % of the items asked."""
    layers = np.repeat([0, 1, 2], [60, 50, 90])
    after = np.ones(200)
    assert compared(np.ones(200), after, layers).candidates[0].strata[0].verdict == "pass"
    after[60] = np.nan
    (one,) = compared(np.ones(200), after, layers).candidates[0].strata
    assert one.numbers.one_sided == 2
    after[:1] = np.nan
    after[60:63] = np.nan
    assert compared(np.ones(200), after, layers).candidates[0].strata[0].verdict == "not_judged"


def test_averages_are_those_of_the_pool() -> None:
    """The unsure items, of which the baseline gets half, are three tenths of the mean, as in the pool."""
    layers = np.repeat([0, 1, 2], [60, 70, 70])
    before = np.ones(200)
    before[:30] = 0.0
    after = before.copy()
    after[60:67] = 0.0
    judgement = compared(before, after, layers)
    everything = judgement.candidates[0].averages[0]
    (one,) = judgement.candidates[0].strata
    assert everything.baseline_mean == pytest.approx(0.3 * 0.5 + 0.7)
    assert everything.delta == pytest.approx(one.delta) == pytest.approx(-0.07)
    assert (one.baseline_mean, everything.n) == (pytest.approx(everything.baseline_mean), 130)


def test_the_prices_on_the_page_are_those_of_the_test(repository: Path) -> None:
    """Of each row the numbers are the fewest with which an unchanged candidate passes in 80 %, or a few more."""
    text = (repository / "docs" / "verdict.md").read_text(encoding="utf-8").partition("layers:begin")[2]
    rows = re.findall(
        r"^\| (\d+) points? \| (\d+) % \| (\d+) % \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE
    )
    shares = Layers(unsure=0.3, sure_share=0.36)

    def power(pool: int, margin: float, flips: float, where: float) -> float:
        unsure, drawn, left_out = sizes(pool, shares)
        pools, rates = (unsure, drawn + left_out), (where * flips * pool, (1 - where) * flips * pool)
        each = [min(rate / one, 1.0) for rate, one in zip(rates, pools, strict=True)]
        return layered_power(pools, (unsure, drawn), each, margin, 0.05)

    assert len(rows) == 5
    for row in rows:
        margin, flips, where, plain, pool, asked = (int(one.replace(",", "")) for one in row)
        given = margin / 100, flips / 100, where / 100
        assert plain == items_for_pass(*given[:2])
        assert power(pool, *given) >= 0.8 > power(int(0.99 * pool), *given)
        assert asked == sum(sizes(pool, shares)[:2])
