"""Divergence in whole runs: real tiny models in processes of their own, killed, resumed, kept private, erased."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.config.loading import parse
from harness.errors import ConfigError, StoreError
from harness.judge import judging
from harness.report import run_evidence
from harness.run import plan as run_plan
from harness.run import runner
from harness.run.fitting import TracePlan, plan_tracing
from harness.run.progress import Reporter
from harness.stats.divergence import summarise
from harness.store import erasing
from harness.store.divergence import divergences, traces_folder
from harness.store.record import read_run
from harness.store.rundir import RunDir, Shard
from harness.store.whole import load_run

pytestmark = pytest.mark.slow


def config(model: Path, **changes: Any) -> dict[str, Any]:
    """Answers in words and choices; rounded to 4 bits, and to 8 in batches that the plan fixes."""
    return {
        "name": "far",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}, {"name": "int8", "quantization": "bnb-int8"}],
        "slices": [
            {"name": "multi_hop_math", "axes": {"hops": [1, 2]}, "items": 8},
            {"name": "typical", "tasks": ["quantcliff_groups"], "items": 12},
        ],
        "policy": {"refuse_hopeless": False},
        "execution": {"unit_items": 6, "device": "cpu", "threads": 1, "divergence": True, "divergence_tokens": 16},
        **changes,
    }


def run(data: dict[str, Any], folder: Path, shard: Shard | None = None) -> RunDir:
    """Run a config in this process, its workers in theirs."""
    experiment = parse(data)
    directory = RunDir(folder / experiment.name)
    runner.run(run_plan.make_plan(experiment, "far.yaml"), directory, shard or Shard(), Reporter())
    return directory


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run, never interrupted."""
    return run(config(tiny_llama), tmp_path_factory.mktemp("whole"))


def written(directory: RunDir) -> dict[str, bytes]:
    """Every answer and every divergence."""
    return {
        str(path.relative_to(directory.path)): path.read_bytes()
        for path in sorted(directory.path.glob("*/**/*.jsonl"))
        if not path.name.startswith("timings")
    }


def test_every_answer_is_compared_and_the_traces_are_gone(whole: RunDir) -> None:
    """Control and candidates have a divergence for every item, of 16 tokens at most; nothing is left of the traces."""
    items = {item.id: item for item in whole.items()}
    for name in ("control", "nf4", "int8"):
        found, why = divergences(whole, name, 1)
        assert (sorted(one.item_id for one in found), why) == (sorted(items), [])
        assert max(len(one.kl) for one in found) == 16
    assert not list(whole.path.glob("*/traces-*"))
    assert not (whole.path / "bf16" / "divergence").exists()


def test_rounding_diverges_and_the_control_does_not(whole: RunDir) -> None:
    """The A/A pass has a KL of nothing or next to it; 8 bits have more, and 4 bits most."""
    means = {name: summarise(divergences(whole, name, 1)[0]).kl for name in ("control", "int8", "nf4")}
    assert 0 <= means["control"] < means["int8"] < means["nf4"]
    assert means["nf4"] > 3 * means["int8"]


def test_the_report_holds_divergence_by_stratum_and_position(whole: RunDir) -> None:
    """Rows for every stratum with errors by cluster, by position for free text, next to the A/A noise; no verdict."""
    judgement = judging.judge(load_run(whole))
    rows = run_evidence.evidence(load_run(whole), judgement).divergence
    nf4 = {(row.slice, row.stratum, row.position): row for row in rows if row.candidate == "nf4"}
    strata = {(item.slice, item.stratum) for item in whole.items()}
    assert strata <= {place[:2] for place in nf4}
    row = nf4["multi_hop_math", "all", ""]
    math = row.summary
    assert 0 < math.kl_error < math.kl
    assert row.control_kl is not None
    assert row.control_kl < math.kl
    positions = [place for place in nf4 if place[2]]
    assert [place[2] for place in positions] == ["0", "1-3", "4-15"]
    assert {place[0] for place in positions} == {"multi_hop_math"}
    assert sum(nf4[place].summary.tokens for place in positions) == math.tokens
    assert "kl" not in json.dumps(judgement.to_json())


def test_divergence_decides_nothing(whole: RunDir, tmp_path: Path) -> None:
    """Without its files the judgement is the same."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "far"))
    for folder in copy.path.glob("*/divergence"):
        shutil.rmtree(folder)
    assert judging.judge(load_run(copy)) == judging.judge(load_run(whole))
    assert run_evidence.evidence(load_run(copy), judging.judge(load_run(copy))).divergence == ()


def test_a_killed_run_goes_on_to_the_same_bytes(whole: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """Killed in the last candidate between its answers and their divergence, the traces lost as well."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "far"))
    path = copy.path / "int8" / "divergence" / "1of1.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    (copy.path / "shards" / "1of1.json").unlink()
    run(config(tiny_llama), tmp_path)
    assert written(copy) == written(whole)
    assert not list(copy.path.glob("*/traces-*"))


def test_a_finished_run_given_again_loads_nothing(whole: RunDir, tiny_llama: Path) -> None:
    """Its traces are gone, and nobody needs them."""
    before, logs = written(whole), {path: path.stat().st_mtime_ns for path in whole.path.glob("*/worker-*.log")}
    run(config(tiny_llama), whole.path.parent)
    assert written(whole) == before
    assert {path: path.stat().st_mtime_ns for path in whole.path.glob("*/worker-*.log")} == logs


def test_a_key_that_is_gone_is_refused_but_read_in_a_recorded_run(
    whole: RunDir, tiny_llama: Path, tmp_path: Path
) -> None:
    """`divergence_with` is no key of a config any more; a run that was recorded with it can still be judged."""
    data = config(tiny_llama)
    with pytest.raises(ConfigError, match=r"execution\.divergence_with: is not a key here\. Did you mean 'divergence"):
        parse({**data, "execution": {**data["execution"], "divergence_with": "traces"}})
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "far"))
    record = json.loads((copy.path / "run.json").read_text())
    record["config"]["execution"]["divergence_with"] = "baseline"
    (copy.path / "run.json").write_text(json.dumps(record))
    assert read_run(copy).experiment.execution == read_run(whole).experiment.execution


def test_without_texts_no_trace_ever_lies_in_the_run(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Token ids are texts: with store_text none they lie outside of the run, and nowhere once it has ended."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    seen: list[list[str]] = []

    class Looking(Reporter):
        def doing(self, variant: str, what: str) -> None:
            seen.append([str(path) for path in tmp_path.rglob("*.safetensors") if path.parent != tiny_llama])
            super().doing(variant, what)

    changes = {"store_text": "none", "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}]}
    data = config(tiny_llama, **changes)
    data["execution"]["control"] = False
    experiment = parse(data)
    directory = RunDir(tmp_path / "far")
    runner.run(run_plan.make_plan(experiment, "far.yaml"), directory, Shard(), Looking())
    assert any(seen)
    assert all(path.startswith(str(tmp_path / "temporary")) for paths in seen for path in paths)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert len(divergences(directory, "nf4", 1)[0]) == len(directory.items())


def test_an_erasure_takes_the_traces_too(whole: RunDir, tmp_path: Path) -> None:
    """Of a run that was stopped halfway all traces go; it would make those it needs again, but for the erased items."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "far"))
    folder = traces_folder(copy, "bf16", Shard())
    folder.mkdir()
    (folder / "0.safetensors").write_bytes(b"token ids")
    done = erasing.erase(copy, copy.items()[:1])
    assert not folder.exists()
    assert "1 trace(s)" in " ".join(done)
    assert len(divergences(copy, "nf4", 1)[0]) == len(copy.items())


def test_the_plan_bounds_the_disk(tiny_llama: Path) -> None:
    """The stated bytes are those of head and traces; what does not fit is refused, with what would."""
    experiment = parse(config(tiny_llama))
    plan = run_plan.make_plan(experiment, "far.yaml")
    items, width, words = plan.items, 64, 300

    def planned(**changes: Any) -> TracePlan:
        execution = experiment.execution.model_copy(update=changes)
        changed = experiment.model_copy(update={"execution": execution})
        return plan_tracing(changed, items, width, words, "x")

    longest = [16 if one.kind == "generate" else min(16, sum(len(c) + 1 for c in one.choices)) for one in items]
    assert planned().bytes == 2 * width * (words + sum(longest))
    allowance = 2 * width * (words + 5 * len(items)) / 2**30
    with pytest.raises(ConfigError, match=r"do not fit: 16 tokens .* GiB.*divergence_tokens to 5 or less"):
        planned(divergence_gib=allowance)
    assert planned(divergence_gib=allowance, divergence_tokens=5).bytes <= allowance * 2**30
    with pytest.raises(ConfigError, match=r"; raise execution\.divergence_gib, or set execution\.divergence: false"):
        planned(divergence_gib=1e-9)
    off = planned(divergence=False)
    assert (off.tokens, off.bytes) == (0, 0)


def test_a_line_of_another_make_is_refused(whole: RunDir, tmp_path: Path) -> None:
    """The file is named, and what to do."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "far"))
    path = copy.path / "nf4" / "divergence" / "1of1.jsonl"
    path.write_text('{"unit":0,"items":[{"item_id":"x","kl":[1.0],"surprise":1}]}\n')
    with pytest.raises(StoreError, match=r"1of1\.jsonl: a line is not a divergence"):
        divergences(copy, "nf4", 1)
