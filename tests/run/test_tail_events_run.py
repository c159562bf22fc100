"""Tail events in whole runs: they gate with exit code 1, survive resuming and missing texts, and are read from disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import making
import pytest

from harness import report
from harness.cli import program as cli
from harness.config.loading import parse
from harness.errors import ConfigError, ExitCode, NotComparable, UsageError
from harness.judge import compare, judging
from harness.judge.outcomes import build
from harness.judge.rules import Rules
from harness.judge.verdicts import TailRate
from harness.report import run_evidence
from harness.run import plan as run_plan
from harness.run import runner
from harness.run.progress import Reporter
from harness.store.rundir import RunDir, Shard
from harness.store.whole import load_run, write_manifest


def config(model: Path, **changes: Any) -> dict[str, Any]:
    """A rehearsal whose nf4 answers nothing at all on a fifth of the arithmetic; scores alone do not gate there."""
    execution = {"unit_items": 20, "device": "cpu", "divergence": False, **changes.pop("execution", {})}
    execution.setdefault("rehearsal", {"accuracy": 0.9, "lost": {"nf4/multi_hop_math": 0.2}, "wrong": ""})
    return {
        "name": "tails",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "int8", "quantization": "bnb-int8"}, {"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [
            {
                "name": "multi_hop_math",
                "axes": {"hops": [1]},
                "items": 80,
                "gating": False,
                "tail_events": {"empty": 0.05, "repetition": 0.05},
            },
            {"name": "typical", "items": 60, "margin": 0.1},
        ],
        "execution": execution,
        **changes,
    }


def run(data: dict[str, Any], folder: Path) -> RunDir:
    """Run a config in this process (the workers are processes of their own)."""
    experiment = parse(data)
    directory = RunDir(folder / experiment.name)
    runner.run(run_plan.make_plan(experiment, "tails.yaml"), directory, Shard(), Reporter())
    judging.write(directory, judging.judge(load_run(directory)))
    return directory


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run, judged."""
    return run(config(tiny_llama), tmp_path_factory.mktemp("tails"))


def rates(directory: RunDir, candidate: str, kind: str) -> list[TailRate]:
    """A candidate's rates of a kind."""
    judgement = judging.judge(load_run(directory))
    (found,) = [one for one in (*judgement.candidates, judgement.control) if one and one.name == candidate]
    return [one for one in found.tail_events if one.kind == kind]


def test_a_candidate_fails_by_its_tail_events_alone(whole: RunDir) -> None:
    """nf4 passes every gating score, and fails because a fifth of its answers are empty; int8 passes."""
    judgement = judging.judge(load_run(whole))
    assert (judgement.verdict, judgement.exit_code) == ("fail", 1)
    assert {one.name: one.verdict for one in judgement.candidates} == {"int8": "pass", "nf4": "fail"}
    nf4 = judgement.candidates[1]
    assert all(one.verdict == "pass" for one in nf4.strata if one.gating)
    assert [reason.split(":")[0] for reason in nf4.reasons] == ["multi_hop_math/task=chains,hops=1 fails by empty"]


def test_the_figures_are_those_of_the_answers(whole: RunDir) -> None:
    """Events, items and the baseline's own rate, counted again from the lines of the results files."""
    one = rates(whole, "nf4", "empty")[0]
    texts = {
        name: {
            line["item_id"]: line["response"]["text"]
            for line in map(json.loads, whole.results_path(name, "multi_hop_math", Shard()).read_text().splitlines())
        }
        for name in ("bf16", "nf4")
    }
    events = [item for item, text in texts["nf4"].items() if not text and texts["bf16"][item]]
    assert one.events == len(events) > 10
    assert one.n == len(texts["bf16"]) == 80
    assert one.baseline_rate == pytest.approx(sum(not text for text in texts["bf16"].values()) / 80)
    assert one.low is not None
    assert one.tolerance is not None
    assert one.low > one.tolerance
    assert [
        (one.events, one.verdict) for one in rates(whole, "nf4", "repetition") if one.slice == "multi_hop_math"
    ] == [(0, "pass")]
    assert {one.verdict for one in rates(whole, "nf4", "truncated")} == {None}


def test_the_control_shows_the_floor(whole: RunDir) -> None:
    """The baseline against itself has no event, and it was looked at."""
    floor = rates(whole, "control", "empty")
    assert {one.n for one in floor} >= {80}
    assert {one.events for one in floor} == {0}


def test_resuming_and_judging_again_change_no_byte(whole: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """Answers cut short are answered again with the same signs; `compare` computes the same verdict from disk."""
    shutil.copytree(whole.path, tmp_path / "tails")
    copy = RunDir(tmp_path / "tails")
    path = copy.results_path("nf4", "multi_hop_math", Shard())
    before, said = path.read_bytes(), (whole.path / "comparisons.json").read_bytes()
    path.write_bytes(before[: len(before) // 2])
    run(config(tiny_llama), tmp_path)
    assert path.read_bytes() == before
    (copy.path / "comparisons.json").unlink()
    assert cli._run(["compare", str(copy.path)]) == ExitCode.FAIL
    assert (copy.path / "comparisons.json").read_bytes() == said


def test_without_texts_the_signs_remain(whole: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """store_text none: the same comparisons to the byte, and no answer on the disk."""
    bare = run(config(tiny_llama, store_text="none"), tmp_path)
    assert (bare.path / "comparisons.json").read_bytes() == (whole.path / "comparisons.json").read_bytes()
    lines = bare.results_path("bf16", "multi_hop_math", Shard()).read_text().splitlines()
    assert {json.loads(line)["response"]["text"] for line in lines} == {""}
    assert {json.loads(line)["signs"]["empty"] for line in lines} == {True, False}


def test_answers_that_nobody_looked_at_never_pass(whole: RunDir, tmp_path: Path) -> None:
    """Results without signs, as earlier versions wrote them, still read; a tolerance makes them not judged."""
    shutil.copytree(whole.path, tmp_path / "tails")
    copy = RunDir(tmp_path / "tails")
    for path in copy.path.glob("*/*-1of1.jsonl"):
        if not path.name.startswith("timings"):
            making.rewrite(path, lambda _, line: [line.pop(key) for key in ("signs", "length")])
    write_manifest(copy)
    judgement = judging.judge(load_run(copy))
    assert judgement.exit_code == 4
    assert "before tail events were recorded" in judgement.candidates[0].reasons[0]
    loose = judging.judge(load_run(copy), {"tail_events": {}})
    assert loose.exit_code == 0
    assert all(one.verdict is None for one in loose.candidates[0].tail_events)


def test_a_baseline_that_does_not_repeat_itself_is_named(whole: RunDir, tmp_path: Path) -> None:
    """Gains and losses that cancel fail no control, and yet such a baseline is right more often than it shows."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "copy"))
    assert not any("asked again" in one for one in judging.judge(load_run(copy)).warnings)

    def otherwise(at: int, line: dict[str, Any]) -> None:
        if at % 5 == 0:
            line["metrics"] = {name: 1 - score for name, score in line["metrics"].items()}
            line["score"] = 1 - line["score"]

    for path in copy.path.joinpath("control").glob("*-1of1.jsonl"):
        if not path.name.startswith("timings"):
            making.rewrite(path, otherwise)
    write_manifest(copy)
    (warned,) = [one for one in judging.judge(load_run(copy)).warnings if "when they are asked again" in one]
    assert "though temperature is 0: it draws its answers, or several builds give them" in warned


@pytest.mark.parametrize(("lost", "gained", "served"), [(21, 0, True), (0, 21, True), (21, 0, False), (15, 12, True)])
def test_a_served_baseline_that_is_another_when_asked_again_is_refused(lost: int, gained: int, served: bool) -> None:
    """A rolling deploy behind its address: no rounding loses 21 of 300 items and gains none."""
    ids = [f"q{at}" for at in range(300)]
    scores = [[float(at >= gained) for at in range(300)], [float(at < 300 - lost) for at in range(300)]]
    sides = [build(name, ids, own) for name, own in zip(("bf16", "control"), scores, strict=True)]
    (control,) = compare.compare(sides[0], sides[1:], Rules.from_flags(margin=0.1)).candidates
    experiment = SimpleNamespace(
        baseline=SimpleNamespace(name="bf16", engine=SimpleNamespace(served=served)),
        sampling=SimpleNamespace(temperature=0.0),
    )
    run: Any = SimpleNamespace(experiment=experiment, directory=SimpleNamespace(path="run"))
    if served and lost != 15:
        with pytest.raises(NotComparable, match=f"server loses {lost} items and gains {gained}: two builds answered"):
            list(judging._unsteady(run, control))
    else:
        assert list(judging._unsteady(run, control)) == []


def test_a_tolerance_that_no_answer_of_the_run_can_show_is_refused(whole: RunDir) -> None:
    """`gate` under a policy that would hold nothing: the plan of such a run is refused, too."""
    with pytest.raises(UsageError, match="no answer of this run can show 'invalid_json': leave its tolerance out"):
        judging.judge(load_run(whole), {"tail_events": {"empty": 0.3, "invalid_json": 0.05, "*": 0.3}})


def test_another_policy_gates_the_same_answers(whole: RunDir) -> None:
    """`gate` under other tolerances: none at all and nf4 passes; one for every kind and it fails in each slice."""
    assert judging.judge(load_run(whole), {"tail_events": {}}).exit_code == 0
    strict = judging.judge(load_run(whole), {"tail_events": {"*": 0.3}})
    judged = [one for one in strict.candidates[1].tail_events if one.tolerance is not None]
    assert {one.slice for one in judged} == {"typical"}
    assert {one.verdict for one in judged} == {"pass"}


def test_a_slice_held_to_a_tolerance_is_asked_to_the_end(tiny_llama: Path, tmp_path: Path) -> None:
    """With several looks the stratum whose events gate gets all its items, though scores were decided before."""
    data = config(
        tiny_llama,
        execution={"looks": 4, "rehearsal": {"accuracy": 1.0, "lost": {"nf4/other": 0.9}, "wrong": ""}},
        candidates=[{"name": "nf4", "quantization": "bnb-nf4"}],
    )
    data["slices"][0] |= {"gating": True, "margin": 0.3}
    data["slices"][1] = {"name": "multi_hop_math", "label": "other", "axes": {"hops": [2]}, "items": 200, "margin": 0.1}
    directory = run(data, tmp_path)
    judgement = judging.judge(load_run(directory))
    by_slice = {one.slice: one for one in judgement.candidates[0].strata}
    assert by_slice["other"].n < by_slice["other"].items_planned  # decided early, and spared the rest
    assert by_slice["multi_hop_math"].looks < 4  # decided early by its scores
    (held,) = [one for one in rates(directory, "nf4", "empty") if one.slice == "multi_hop_math"]
    assert (held.n, held.verdict) == (80, "pass")
    spared = judging.judge(load_run(directory), {"tail_events": {"empty": 0.2}}).candidates[0].tail_events
    (open_,) = [one for one in spared if one.slice == "other" and one.kind == "empty"]
    assert open_.verdict == "inconclusive"
    assert "a biased sample" in open_.reason


def test_too_few_items_are_refused_when_planned(tiny_llama: Path) -> None:
    """A tolerance of 1 % needs 299 items, and the plan says so; a kind that no item can show is refused too."""
    data = config(tiny_llama)
    data["slices"][0]["tail_events"] = {"empty": 0.01, "invalid_json": 0.05}
    with pytest.raises(ConfigError) as error:
        run_plan.make_plan(parse(data), "tails.yaml")
    said = str(error.value)
    assert "80 items in task=chains,hops=1 can never show a rate of tail events below 0.01" in said
    assert "299 are needed" in said
    assert "slices[0].tail_events.invalid_json: none of its items" in said


def test_a_tolerance_of_the_policy_that_holds_no_gating_item_is_refused_when_planned(tiny_llama: Path) -> None:
    """The policy's `invalid_json` holds no slice without JSON, and `empty` none of choices alone."""
    data = config(
        tiny_llama, policy={"tail_events": {"invalid_json": 0.02, "empty": 0.05, "thought_cut": 0.05, "*": 0.05}}
    )
    with pytest.raises(ConfigError) as error:
        run_plan.make_plan(parse(data), "tails.yaml")
    assert [problem.path for problem in error.value.problems] == ["policy.tail_events.invalid_json"]
    data["slices"][1]["tasks"] = ["quantcliff_facts"]  # choices alone
    del data["policy"]["tail_events"]["invalid_json"]
    with pytest.raises(ConfigError) as error:
        run_plan.make_plan(parse(data), "tails.yaml")
    assert [problem.path for problem in error.value.problems] == ["policy.tail_events.empty"]
    del data["policy"]["tail_events"]["empty"]
    run_plan.make_plan(parse(data), "tails.yaml")


def test_unknown_kinds_and_tolerances_are_named(tiny_llama: Path) -> None:
    """A typing error in a kind gets its suggestion, a percentage its proportion."""
    data = config(tiny_llama, policy={"tail_events": {"repetitions": 0.01, "empty": 2}})
    with pytest.raises(ConfigError) as error:
        parse(data)
    assert "Did you mean 'repetition'?" in str(error.value)
    assert "Did you mean 0.02?" in str(error.value)


def test_every_report_shows_them(whole: RunDir) -> None:
    """The table of kinds, the failing rate and an offending pair stand in the reports."""
    judgement = judging.judge(load_run(whole))
    report.write(whole.path, judgement, run_evidence.evidence(load_run(whole), judgement))
    text = (whole.path / "report.md").read_text(encoding="utf-8")
    assert "Tail events" in text
    assert "nf4: empty in sums in words, 1 hop (multi_hop_math)" in text.replace("&#95;", "_")
    page = (whole.path / "report.html").read_text(encoding="utf-8")
    assert "says nothing" in page
    junit = (whole.path / "junit.xml").read_text(encoding="utf-8")
    assert 'name="task=chains,hops=1: empty"' in junit
    assert "tail_events.csv" in {path.name for path in whole.path.iterdir()}
