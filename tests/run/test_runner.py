"""Whole runs: killed, resumed, sharded, refused; and always the same answer at the end.

Most of these are rehearsals: the engine is made up, everything else (processes, files, scoring, judging) is real.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import making
import processes
import pytest
import yaml
from commands import call

from harness.config.loading import parse
from harness.errors import ExitCode, Incomplete, Interrupted, ModelError, NotComparable, StoreError
from harness.judge import judging
from harness.run import plan as run_plan
from harness.run import runner, worker, worker_process
from harness.run.progress import Reporter
from harness.store import rundir, shards
from harness.store.rundir import RunDir, Shard
from harness.store.shards import shard_status
from harness.store.whole import load_run

JUDGED = ("comparisons.json", "verdict.json", "manifest.json")
NF4 = [{"name": "nf4", "quantization": "bnb-nf4"}]


def config(model: Path, **changes: Any) -> dict[str, Any]:
    """A rehearsal over two slices: nf4 loses a third of its arithmetic, int8 nothing."""
    execution = {"unit_items": 10, "device": "cpu", **changes.pop("execution", {})}
    execution.setdefault("rehearsal", {"lost": {"nf4/multi_hop_math": 0.33}})
    return {
        "name": "trial",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "int8", "quantization": "bnb-int8"}, {"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [
            {"name": "multi_hop_math", "axes": {"hops": [1, 2]}, "items": 60, "margin": 0.1},
            {"name": "typical", "items": 60, "margin": 0.1},
        ],
        "execution": execution,
        **changes,
    }


def run(data: dict[str, Any], folder: Path, shard: Shard | None = None) -> RunDir:
    """Run a config in this process; a worker has its own if it loads a model or if `seconds_per_item` is not 0."""
    experiment = parse(data)
    directory = RunDir(folder / experiment.name)
    runner.run(run_plan.make_plan(experiment, "trial.yaml"), directory, shard or Shard(), Reporter())
    return directory


def judge(directory: RunDir) -> dict[str, bytes]:
    """Judge a run, and give the bytes of what was written."""
    judging.write(directory, judging.judge(load_run(directory)))
    return judged_files(directory)


def judged_files(directory: RunDir) -> dict[str, bytes]:
    """The bytes of what judging wrote, and what the manifest says of the variants."""
    variants = json.loads((directory.path / "manifest.json").read_bytes())["variants"]
    files = {name: (directory.path / name).read_bytes() for name in JUDGED}
    return files | {"manifest.json": json.dumps(variants).encode()}


@pytest.fixture(scope="module")
def whole(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The trial run, never interrupted, and judged."""
    directory = run(config(tiny_llama), tmp_path_factory.mktemp("whole"))
    judge(directory)
    return directory


def test_a_run_tells_the_damaged_candidate_from_the_sound_one(whole: RunDir) -> None:
    """nf4 fails in the slice where it lost answers and passes in the other; int8 passes; the gate fails."""
    judgement = judging.judge(load_run(whole))
    verdicts = {(one.name, stratum.slice): stratum.verdict for one in judgement.candidates for stratum in one.strata}
    assert {one.name: one.verdict for one in judgement.candidates} == {"int8": "pass", "nf4": "fail"}
    assert verdicts["nf4", "multi_hop_math"] == "fail"
    assert verdicts["nf4", "typical"] == "pass"
    assert (judgement.verdict, judgement.exit_code) == ("fail", 1)
    assert any("rehearsal" in warning for warning in judgement.warnings)


def test_progress_names_the_slice_that_is_answered(tiny_llama: Path, tmp_path: Path) -> None:
    """From its first answer on: who waits for a slow server is not told that it loads."""
    seen: dict[str, list[str]] = {}

    class Looking(Reporter):
        def doing(self, variant: str, what: str) -> None:
            seen.setdefault(variant, []).append(what)
            super().doing(variant, what)

        def advance(self, tokens: int, items: int = 0) -> None:
            assert seen[list(seen)[-1]][-1] in {"multi_hop_math", "typical"}
            super().advance(tokens, items)

    experiment = parse(config(tiny_llama, candidates=NF4, execution={"control": False}))
    runner.run(run_plan.make_plan(experiment, "trial.yaml"), RunDir(tmp_path / "trial"), Shard(), Looking())
    assert list(seen) == ["bf16", "nf4"]
    for told in seen.values():
        assert list(dict.fromkeys(told)) == ["looking at what is done", "loading", "multi_hop_math", "typical"]


def test_a_finished_run_given_again_changes_nothing(
    whole: RunDir, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is answered twice: not a byte of any answer changes, and no worker is started."""
    before = {path: path.read_bytes() for path in sorted(whole.path.glob("*/*.jsonl"))}
    monkeypatch.setattr(runner, "started", lambda job: pytest.fail(f"{job.model.variant.name} is started again"))
    run(config(tiny_llama), whole.path.parent)
    assert {path: path.read_bytes() for path in sorted(whole.path.glob("*/*.jsonl"))} == before


@pytest.mark.parametrize("done", ["all", "the candidate"])
def test_a_checkpoint_that_was_made_again_is_no_longer_what_answered(
    done: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """The verdict of the earlier build is not given for another one that lies in its place."""
    made = Path(shutil.copytree(tiny_llama, tmp_path / "nf4"))
    data = config(tiny_llama, candidates=[{**NF4[0], "model": str(made)}], execution={"control": False})
    directory = run(data, tmp_path)
    if done == "the candidate":
        (directory.path / "manifest.json").unlink()
        (directory.path / "shards" / "1of1.json").unlink()
    assert run(data, tmp_path).path == directory.path
    with (made / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(NotComparable, match="nf4: was changed since nf4 read it: give another --output"):
        run(data, tmp_path)


@pytest.mark.parametrize("moment", ["while the baseline is read", "while it answers", "before the candidate is read"])
def test_a_model_that_is_written_over_during_a_run_gives_no_verdict(
    moment: str, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a training job does with its latest checkpoint: baseline and candidate would be builds of two models."""
    model = Path(shutil.copytree(tiny_llama, tmp_path / "latest"))
    data = config(model, candidates=NF4, execution={"control": False, "rehearsal": {}})
    original, answer = runner.started, runner._Run._answer

    def write() -> None:
        with (model / "model.safetensors").open("ab") as file:
            file.write(b" ")

    def started(job: worker.Job) -> Any:
        if moment == f"{'while' if job.variant.name == 'bf16' else 'before'} the {place(job)} is read":
            write()
        return original(job)

    def place(job: worker.Job) -> str:
        return "baseline" if job.variant.name == "bf16" else "candidate"

    def answered(self: Any, *words: Any) -> None:
        answer(self, *words)
        if moment == "while it answers":
            write()

    monkeypatch.setattr(runner, "started", started)
    monkeypatch.setattr(runner._Run, "_answer", answered)
    with pytest.raises(
        (NotComparable, StoreError), match=r"was changed since bf16 read it|weights of this variant differ"
    ):
        run(data, tmp_path)
    with pytest.raises(Incomplete, match="1 of 1 shard"):
        load_run(RunDir(tmp_path / "trial"))


def test_two_shards_that_load_different_builds_at_one_time_are_not_one_run(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's own copy of a checkpoint may be an old one; each finds no record of the other, and writes its own."""
    data = config(tiny_llama, candidates=NF4, execution={"control": False})
    answer = runner._Run._answer

    def answered(self: Any, *words: Any) -> None:
        answer(self, *words)
        path = self.directory.path / "bf16" / "variant.json"
        path.write_text(path.read_text().replace('"weights": "', '"weights": "0'))

    monkeypatch.setattr(runner._Run, "_answer", answered)
    with pytest.raises(StoreError, match="bf16: cannot be continued: weights of this variant differ"):
        run(data, tmp_path, Shard(1, 2))


def test_shards_join_to_the_same_verdict(whole: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """Three jobs on one directory give byte for byte the comparisons of one job; a missing one is named."""
    directory = run(config(tiny_llama), tmp_path, Shard(1, 3))
    run(config(tiny_llama), tmp_path, Shard(3, 3))
    with pytest.raises(Incomplete, match=r"1 of 3 shard\(s\) incomplete \(2/3\)"):
        judging.judge(load_run(directory))
    assert not (directory.path / "manifest.json").exists()
    run(config(tiny_llama), tmp_path, Shard(2, 3))
    assert judge(directory) == judged_files(whole)


def test_a_line_cut_short_and_a_lost_unit_are_answered_again(whole: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """Whatever a kill leaves of a results file, the run ends with the bytes of one that was not killed."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "trial"))
    path = copy.results_path("nf4", "multi_hop_math", Shard())
    original = path.read_bytes()
    path.write_bytes(original[: len(original) // 2])
    (copy.path / "shards" / "1of1.json").unlink()
    with pytest.raises(Incomplete, match="1 of 1 shard"):
        judging.judge(load_run(copy))
    run(config(tiny_llama), tmp_path)
    assert path.read_bytes() == original
    assert judge(copy) == judged_files(whole)


def test_a_run_that_goes_on_leaves_no_verdict_of_earlier_answers(
    whole: RunDir, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another build answers in the place of the first and is killed: no file says that it passed."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "trial"))
    names = ("comparisons.json", "junit.xml", "report.html", "report.md", "verdict.json")
    for name in names:
        (copy.path / name).write_text("pass")
    run(config(tiny_llama), tmp_path)
    assert all((copy.path / name).exists() for name in names)
    shutil.rmtree(copy.path / "nf4")

    def killed(*_: object) -> None:
        raise Incomplete("killed")

    monkeypatch.setattr(runner._Run, "_answer", killed)
    with pytest.raises(Incomplete, match="killed"):
        run(config(tiny_llama), tmp_path)
    assert not any((copy.path / name).exists() for name in names)


def test_missing_answers_are_never_judged(whole: RunDir, tmp_path: Path) -> None:
    """A run that says it is complete but lacks a line is refused, with variant and number."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "trial"))
    path = copy.results_path("int8", "typical", Shard())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]))
    with pytest.raises(Incomplete, match=r"int8 lacks answers to 3 items"):
        judging.judge(load_run(copy))


def test_a_config_changed_between_is_refused_and_loses_nothing(whole: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """Other margins are another experiment; the answers of the first stay."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "trial"))
    changed = config(tiny_llama)
    changed["slices"][0]["margin"] = 0.2
    before = {path: path.read_bytes() for path in sorted(copy.path.rglob("*.jsonl"))}
    with pytest.raises(StoreError, match=r"results of another config \(slices changed\)"):
        run(changed, tmp_path)
    assert {path: path.read_bytes() for path in sorted(copy.path.rglob("*.jsonl"))} == before


def test_answers_to_another_version_of_an_item_are_refused(whole: RunDir, tiny_llama: Path, tmp_path: Path) -> None:
    """An answer whose item has changed since is not counted for the new item."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "trial"))
    path = copy.results_path("nf4", "typical", Shard())
    making.rewrite(path, lambda at, line: line.update(item_digest="0" * 16) if at == 0 else None)
    with pytest.raises(StoreError, match="another version of item"):
        run(config(tiny_llama), tmp_path)


@pytest.mark.parametrize(
    "execution",
    [{"looks": 2}, {"skip_blind": True}, {"layers": {"unsure": 0.3, "sure_share": 0.4}}],
    ids=lambda one: next(iter(one)),
)
def test_shards_wait_for_each_other_and_join_to_the_same_verdict(
    execution: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    """What is decided on all answers is decided alike: the same items asked, the same bytes as of one process."""
    data = config(tiny_llama, execution=execution, candidates=NF4)
    data["slices"][1]["margin"] = 0.2  # which a part of the items can show
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(run, data, tmp_path / "shards", Shard(index, 2)) for index in (1, 2)]
        (directory, _) = [one.result(timeout=120) for one in both]
    assert judge(directory) == judge(run(data, tmp_path / "whole"))
    assert not list((directory.path / "shards").glob("*.waiting"))


def test_a_shard_does_not_wait_for_ever(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a process that works on the others it gives its GPU back, and the mark tells the scheduler why."""
    monkeypatch.setattr(shards, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.01)
    data = config(tiny_llama, execution={"looks": 3})
    with pytest.raises(Incomplete, match=r"no process works on shard\(s\) 2/2, which have not done look-1"):
        run(data, tmp_path, Shard(1, 2))
    found = {one.shard: one for one in shard_status(RunDir(tmp_path / "trial"))}
    assert (tmp_path / "trial" / "shards" / "1of2.waiting").exists()
    assert (found["1/2"].state, found["2/2"].state) == ("stopped", "not started")
    assert 0.3 < found["1/2"].done < 0.4
    assert found["1/2"].eta_seconds is not None


def test_a_control_that_could_not_run_lets_nothing_pass(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the baseline agrees with itself is not known then: exit code 4, with what stopped the control."""
    start = runner.started

    def started(job: worker.Job) -> Any:
        if job.variant.name == "control":
            raise ModelError("the server does not start")
        return start(job)

    monkeypatch.setattr(runner, "started", started)
    data = config(tiny_llama, candidates=[{"name": "int8", "quantization": "bnb-int8"}], execution={"rehearsal": {}})
    judgement = judging.judge(load_run(run(data, tmp_path)))
    assert (judgement.verdict, judgement.exit_code) == ("not_judged", 4)
    assert "the A/A control cannot be compared with the baseline: the server does not start" in judgement.warnings


def test_a_candidate_that_is_not_there_stays_so_at_every_look(tiny_llama: Path, tmp_path: Path) -> None:
    """Its failure of the first look is still known when the run is judged."""
    absent = {"name": "absent", "model": str(tmp_path / "nowhere"), "quantization": "gptq"}
    data = config(tiny_llama, execution={"looks": 2, "control": False}, candidates=[*NF4, absent])
    judgement = judging.judge(load_run(run(data, tmp_path)))
    assert next(one for one in judgement.candidates if one.name == "absent").verdict == "not_judged"


def test_decided_strata_stop_receiving_items(tiny_llama: Path, tmp_path: Path) -> None:
    """With three looks a candidate that lost a third of a stratum is found early: fewer items, the same verdict."""
    slices = [{"name": "multi_hop_math", "axes": {"hops": [1, 2]}, "items": 180, "margin": 0.1}]
    data = config(tiny_llama, execution={"looks": 3}, slices=slices, candidates=NF4)
    directory = run(data, tmp_path)
    judgement = judging.judge(load_run(directory))
    (nf4,) = judgement.candidates
    assert {stratum.verdict for stratum in nf4.strata} == {"fail"}
    assert all(stratum.n < stratum.items_planned == 180 for stratum in nf4.strata)
    answered = {one.item_id for one in directory.all_results("nf4")}
    assert len(answered) == sum(stratum.n for stratum in nf4.strata)
    before = {path: path.read_bytes() for path in sorted(directory.path.glob("*/*.jsonl"))}
    run(data, tmp_path)
    assert {path: path.read_bytes() for path in sorted(directory.path.glob("*/*.jsonl"))} == before


def test_a_candidate_that_cannot_be_loaded_is_not_judged_and_the_others_are(tiny_llama: Path, tmp_path: Path) -> None:
    """A model that is not there, for one candidate: exit code 4, with its reason; the sound one has its verdict."""
    data = config(tiny_llama)
    data["execution"]["rehearsal"] = {}
    data["candidates"][1] = {"name": "gptq", "model": str(tmp_path / "absent"), "quantization": "gptq"}
    directory = run(data, tmp_path)
    judgement = judging.judge(load_run(directory))
    assert {one.name: one.verdict for one in judgement.candidates} == {"int8": "pass", "gptq": "not_judged"}
    assert judgement.exit_code == 4
    assert "there is no such directory" in judgement.candidates[1].reasons[0]


def _start(path: Path, folder: Path) -> ForkServerProcess:
    return processes.start(["run", path, "--output", folder, "--quiet"], folder / "said")


def _answers(folder: Path) -> int:
    paths = [path for path in folder.glob("trial/*/*of1.jsonl") if not path.name.startswith("timings")]
    return sum(path.read_bytes().count(b"\n") for path in paths)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    whole: RunDir, tiny_llama: Path, tmp_path: Path
) -> None:
    """SIGKILL to the whole process group, twice at random amounts of work done; then finished and compared."""
    data = config(tiny_llama)
    data["execution"]["rehearsal"] = {**data["execution"]["rehearsal"], "seconds_per_item": 0.004}
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    chance = random.Random(20)
    total = _answers(whole.path.parent)
    for _ in range(2):
        process = _start(path, tmp_path)
        goal = min(total - 1, _answers(tmp_path) + 1 + chance.randrange(total // 4))
        while process.exitcode is None and _answers(tmp_path) < goal:
            time.sleep(0.005)
        assert process.exitcode is None, "the run ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    directory = run(data, tmp_path)
    judge(directory)
    for name in ("int8", "nf4", "bf16", "control"):
        for file in sorted((whole.path / name).glob("*_*of1.jsonl")):
            assert (directory.path / name / file.name).read_bytes() == file.read_bytes()
    mine, other = (json.loads((one.path / "comparisons.json").read_text()) for one in (directory, whole))
    assert mine["candidates"] == other["candidates"]


@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_says_how_to_continue(tiny_llama: Path, tmp_path: Path) -> None:
    """SIGINT ends in exit code 4 and a sentence; the next run goes on from there."""
    data = config(tiny_llama)
    data["execution"]["rehearsal"] = {"seconds_per_item": 0.02}
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    process = _start(path, tmp_path)
    while process.exitcode is None and _answers(tmp_path) < 30:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    process.join(60)
    said = (tmp_path / "said").read_bytes()
    assert process.exitcode == 4
    assert b"finished work is kept" in said
    assert b"give the same command again to continue" in said
    assert b"Traceback" not in said
    kept = _answers(tmp_path)
    assert kept >= 30


def test_ctrl_c_in_this_process_becomes_an_interruption(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A KeyboardInterrupt while answers are taken leaves the lock free and the answers on disk."""
    data = config(tiny_llama, execution={"control": False}, candidates=NF4)
    taken = 0
    append = rundir.AnswerFiles.append

    def interrupted(self: Any, *arguments: Any) -> None:
        nonlocal taken
        append(self, *arguments)
        taken += 1
        if taken == 25:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rundir.AnswerFiles, "append", interrupted)
        with pytest.raises(Interrupted, match="give the same command again to continue"):
            run(data, tmp_path)
    assert _answers(tmp_path) == 25
    run(data, tmp_path)


def test_a_worker_that_is_killed_is_said_and_the_run_goes_on_from_there(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL to the worker, as the kernel does when memory runs out: Incomplete names variant, signal and log."""
    import multiprocessing

    append = rundir.AnswerFiles.append

    def killing(self: Any, *arguments: Any) -> None:
        append(self, *arguments)
        for child in multiprocessing.active_children():
            os.kill(int(child.pid or 0), signal.SIGKILL)

    lost = {"lost": {"nf4/multi_hop_math": 0.33}, "seconds_per_item": 0.01}
    data = config(tiny_llama, execution={"control": False, "rehearsal": lost}, candidates=NF4)
    with monkeypatch.context() as patch:
        patch.setattr(rundir.AnswerFiles, "append", killing)
        with pytest.raises(Incomplete, match=r"bf16: the process that ran it ended with signal 9"):
            run(data, tmp_path)
    assert judging.judge(load_run(run(data, tmp_path))).verdict == "fail"


def test_nan_logits_stop_that_variant_with_the_items_id(tiny_llama: Path, tmp_path: Path) -> None:
    """A candidate whose embedding of "?" is NaN is not judged, and the reason names an item; a model, really run."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = tmp_path / "broken"
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, tie_word_embeddings=False)
    model.get_input_embeddings().weight.data[tokenizer.encode("?")[-1]] = float("nan")
    model.save_pretrained(broken)
    tokenizer.save_pretrained(broken)
    data = config(tiny_llama, execution={"rehearsal": None, "control": False, "dtype": "float32"})
    data["candidates"] = [{"name": "broken", "model": str(broken)}]
    data["slices"] = [{"name": "typical", "items": 5, "gating": False}]
    directory = run(data, tmp_path)
    (candidate,) = judging.judge(load_run(directory)).candidates
    assert candidate.verdict == "not_judged"
    assert "quantcliff_" in candidate.reasons[0]


def test_several_answers_to_an_item_are_one_score(tiny_llama: Path, tmp_path: Path) -> None:
    """Four samples per item: the item's mean is its score, items stay the unit, and an undamaged side answers alike."""
    data = config(tiny_llama, sampling={"temperature": 0.7, "samples": 4})
    data["slices"] = data["slices"][:1]
    directory = run(data, tmp_path)
    judge(directory)
    kept = list(directory.all_results("bf16"))
    by_item: dict[str, list[float]] = {}
    for one in kept:
        by_item.setdefault(one.item_id, []).append(one.score or 0.0)
    assert {len(scores) for scores in by_item.values()} == {4}
    assert any(0.0 < sum(scores) < 4.0 for scores in by_item.values())
    mean = sum(sum(scores) / 4 for scores in by_item.values()) / len(by_item)
    int8, nf4 = judging.judge(load_run(directory)).candidates
    assert sum(one.n for one in int8.strata) == len(by_item) == 120
    assert sum((one.baseline_mean or 0.0) * one.n for one in int8.strata) / 120 == pytest.approx(mean)
    # One answer of the four taken away is an answer that is missing.
    path = next(directory.path.glob("nf4/multi_hop_math-*.jsonl"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(Incomplete, match="nf4 lacks answers to 1 items"):
        judging.judge(load_run(directory))
    path.write_bytes(b"".join(lines))
    # The same seed on both sides: what is not damaged answers the same, sample by sample.
    assert [(one.lost, one.gained, one.verdict) for one in int8.strata] == [(0, 0, "pass")] * 2
    assert {one.verdict for one in nf4.strata} == {"fail"}
    assert all("graded" in one.method or "bootstrap" in one.method for one in nf4.strata)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"is not JSON \(line 1\)"),
        ("{}", "is not the record of a shard of this run"),
        ("[1]", "holds a list, not an object"),
        ('{"skipped": {"nf4": 5}}', r"skipped\.nf4: "),
    ],
)
def test_a_damaged_shard_is_not_shown_as_complete(
    whole: RunDir, tiny_llama: Path, tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` names the file and the remedy and ends with 4; after the remedy the shard is complete again."""
    copy = RunDir(shutil.copytree(whole.path, tmp_path / "trial"))
    record = copy.path / "shards" / "1of1.json"
    before = record.read_bytes()
    record.write_text(text, encoding="utf-8")
    assert call("status", "--wait", copy.path) == ExitCode.NOT_COMPARABLE
    shown = capsys.readouterr()
    assert re.search(rf"1/1 damaged: \S*shards/1of1\.json: {said}.*: remove it and give the shard's `quan", shown.out)
    assert "1 of 1 shard(s) incomplete (1/1)" in shown.err
    if text:
        return
    record.unlink()
    run(config(tiny_llama), tmp_path)
    assert record.read_bytes() == before
    assert call("status", copy.path) == ExitCode.PASS
    (copy.path / "run.json").write_text("{", encoding="utf-8")
    assert call("status", "--wait", copy.path) == ExitCode.NOT_COMPARABLE  # it would wait for ever
    assert "run.json: is not JSON" in capsys.readouterr().err


def test_progress_moves_within_a_unit_and_ends_at_the_whole(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker reports while it answers; what is counted in the end is what was planned, each item once."""
    moved: list[tuple[int, int]] = []

    class Counting(Reporter):
        def advance(self, tokens: int, items: int = 0) -> None:
            moved.append((tokens, items))
            super().advance(tokens, items)

    monkeypatch.setattr(worker, "PULSE_SECONDS", 0.02)
    monkeypatch.setattr(runner, "started", worker_process._thread)  # a process would not know the line above
    execution = {"control": False, "unit_items": 30, "rehearsal": {"seconds_per_item": 0.01}}
    slices = [{"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": 0.1}]
    experiment = parse(config(tiny_llama, execution=execution, candidates=NF4, slices=slices))
    plan = run_plan.make_plan(experiment, "trial.yaml")
    runner.run(plan, RunDir(tmp_path / "trial"), Shard(), Counting())
    assert any(tokens and not items for tokens, items in moved)
    assert sum(tokens for tokens, _ in moved) == 2 * sum(one.prompt_tokens + one.max_tokens for one in plan.items)
    assert sum(items for _, items in moved) == 2 * len(plan.items)
