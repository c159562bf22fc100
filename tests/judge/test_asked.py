"""What control and candidates are asked: a share of the items, and no stratum in which the baseline shows no signal."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.config.loading import parse
from harness.errors import ConfigError, Incomplete
from harness.judge import judging
from harness.judge.rules import Rules
from harness.judge.signals import blind_strata, control_items
from harness.records import Item
from harness.run import plan as run_plan
from harness.run import runner
from harness.run.progress import Reporter
from harness.store.rundir import RunDir, Shard
from harness.store.whole import load_run


def config(model: Path, **execution: Any) -> dict[str, Any]:
    """A rehearsal at 80 % right; half of chance and a margin of 50 points leave `typical` without signal."""
    return {
        "name": "trial",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [
            {"name": "multi_hop_math", "axes": {"hops": [1, 2]}, "items": 60, "margin": 0.1},
            {"name": "typical", "tasks": ["quantcliff_facts"], "items": 60, "margin": 0.5, "gating": False},
        ],
        "execution": {"unit_items": 16, "device": "cpu", "rehearsal": {}, **execution},
    }


def run(data: dict[str, Any], folder: Path, shard: Shard | None = None) -> RunDir:
    """Run a config in this process."""
    directory = RunDir(folder / "trial")
    runner.run(run_plan.make_plan(parse(data), "trial.yaml", check=False), directory, shard or Shard(), Reporter())
    return directory


def answered(directory: RunDir, name: str) -> Counter[str]:
    """Answers of a variant by slice."""
    return Counter(
        line["item_id"].split("/")[0]
        for path in (directory.path / name).glob("*-1of1.jsonl")
        if not path.name.startswith("timings")
        for line in map(json.loads, path.read_text().splitlines())
    )


@pytest.fixture(scope="module")
def part(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with both options."""
    return run(config(tiny_llama, control=0.25, skip_blind=True), tmp_path_factory.mktemp("part"))


def test_only_the_baseline_is_asked_where_it_shows_no_signal(part: RunDir) -> None:
    """Control and candidate have no answer in the blind stratum, and all that is due of them elsewhere."""
    per_task = {name: answered(part, name) for name in ("bf16", "nf4", "control")}
    assert sum(per_task["bf16"].values()) == 180
    assert sum(per_task["nf4"].values()) == 120
    assert not any("facts" in task for name in ("nf4", "control") for task in per_task[name])
    assert sum(per_task["control"].values()) == 2 * 15


def test_a_stratum_that_was_not_asked_has_no_signal_and_never_passes(part: RunDir, tiny_llama: Path) -> None:
    """Its verdict is `no_signal` with the baseline's score, as in a run that asks everybody."""
    judgement = judging.judge(load_run(part))
    verdicts = {one.slice: one for one in judgement.candidates[0].strata}
    blind = verdicts["typical"]
    assert (blind.verdict, blind.n, blind.candidate_mean, blind.items_planned) == ("no_signal", 0, None, 60)
    assert blind.baseline_mean is not None
    assert blind.baseline_mean > 0.5
    assert "not asked" in blind.reason
    assert verdicts["multi_hop_math"].verdict == "pass"
    assert judgement.exit_code == 0
    whole = run(config(tiny_llama), part.path.parent / "whole")
    same = next(one for one in judging.judge(load_run(whole)).candidates[0].strata if one.slice == "typical")
    assert (same.verdict, same.baseline_mean) == ("no_signal", blind.baseline_mean)


def test_a_gating_stratum_that_was_not_asked_is_inconclusive(part: RunDir, tiny_llama: Path) -> None:
    """What was not asked is never a pass."""
    data = config(tiny_llama, control=0.25, skip_blind=True)
    del data["slices"][1]["gating"]
    assert judging.judge(dataclasses.replace(load_run(part), experiment=parse(data))).exit_code == 3


def test_an_answer_missing_elsewhere_is_still_missed(part: RunDir, tmp_path: Path) -> None:
    """A line taken out of the candidate's, or of the control's, answers is an incomplete run."""
    for name in ("nf4", "control"):
        copy = RunDir(shutil.copytree(part.path, tmp_path / name / "trial"))
        path = copy.results_path(name, "multi_hop_math", Shard())
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
        with pytest.raises(Incomplete, match=name):
            judging.judge(load_run(copy))


def test_a_run_with_shares_goes_on_where_it_was(part: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """Cut short and given again, it ends with the same bytes."""
    copy = RunDir(shutil.copytree(part.path, tmp_path / "trial"))
    path = copy.results_path("control", "multi_hop_math", Shard())
    original = path.read_bytes()
    path.write_bytes(original[: len(original) // 2])
    run(config(tiny_llama, control=0.25, skip_blind=True), tmp_path)
    assert path.read_bytes() == original


def test_a_tolerance_of_tail_events_keeps_a_stratum_asked(tiny_llama: Path, tmp_path: Path) -> None:
    """Without signal in its scores, a stratum of free text with a tolerance is asked of everybody."""
    data = config(tiny_llama, skip_blind=True)
    data["execution"]["rehearsal"] = {"accuracy": 0.05}
    data["slices"][0]["tail_events"] = {"empty": 0.2}
    directory = run(data, tmp_path)
    assert {name: sum(answered(directory, name).values()) for name in ("bf16", "nf4")} == {"bf16": 180, "nf4": 120}


def test_where_no_stratum_has_signal_nobody_else_is_loaded(tiny_llama: Path, tmp_path: Path) -> None:
    """The run is whole without the others' proofs, and says that there is no signal."""
    data = config(tiny_llama, skip_blind=True)
    data["execution"]["rehearsal"] = {"accuracy": 0}
    found = judging.judge(load_run(run(data, tmp_path)))
    assert {one.verdict for one in found.candidates} == {"no_signal"}


def test_looks_are_refused_together_with_it(tiny_llama: Path) -> None:
    """A look sees a part of the baseline's answers only."""
    with pytest.raises(ConfigError, match=r"execution\.skip_blind: cannot be combined with looks"):
        parse(config(tiny_llama, skip_blind=True, looks=2))


@pytest.mark.parametrize("share", [0, 1.5, -0.2, "half"])
def test_a_share_is_true_false_or_a_proportion(tiny_llama: Path, share: Any) -> None:
    """Anything else is named with its place."""
    with pytest.raises(ConfigError, match=r"execution\.control: .* is not a share"):
        parse(config(tiny_llama, control=share))


def item(number: int, stratum: str = "all", **fields: Any) -> Item:
    """An item of one slice."""
    given = {"cluster": f"c{number}", "chance": 0.0, "prompt": "", "kind": "generate", **fields}
    return Item(id=f"t/{number}", slice="s", task="t", levels={}, stratum=stratum, **given)


def test_the_control_takes_whole_groups_in_a_lasting_order() -> None:
    """At least the share of every stratum, never half of a text's questions, and more items keep the choice."""
    items = [item(n, "a", prefix_group=f"text{n // 4}") for n in range(40)] + [item(n, "b") for n in range(100, 107)]
    chosen = control_items(items, 0.25)
    by_text = Counter(one.prefix_group for one in items if one.id in chosen and one.stratum == "a")
    assert set(by_text.values()) == {4}
    assert 10 <= sum(by_text.values()) < 14
    assert sum(one.id in chosen for one in items if one.stratum == "b") == 2
    assert control_items(items, 1.0) == {one.id for one in items}


def test_a_stratum_is_blind_by_the_test_of_the_verdict() -> None:
    """10 of 40 right is not shown to be above a margin of 0.2 (p 0.27), 16 of 40 is (p 0.003)."""
    rules = Rules.from_flags(margin=0.2)
    few = [item(n, "few") for n in range(40)]
    many = [item(n, "many") for n in range(100, 140)]
    scores = {one.id: float(at < 10) for at, one in enumerate(few)} | {
        one.id: float(at < 16) for at, one in enumerate(many)
    }
    silent = [item(n, "silent") for n in range(200, 210)]
    assert blind_strata([*few, *many, *silent], scores, rules) == {("s", "few")}
