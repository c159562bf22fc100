"""Runs on a cluster: a real Slurm, what its shards leave, and a manifest for Kubernetes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path

import commands
import pytest
import slurm
import yaml

from harness.errors import ExitCode, UsageError
from harness.run import submitting


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a Slurm with two nodes."""
    if why := slurm.missing():
        pytest.skip(why)
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as env:
        yield env


def real(model: Path) -> dict:
    """A config of a tiny model and a candidate that really run, in seconds."""
    return {
        "name": "tiny",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{"name": "multi_hop_math", "axes": {"hops": [1, 2]}, "items": 6, "gating": False}],
        "execution": {"device": "cpu", "control": False, "unit_items": 2, "threads": 1, "dtype": "float32"},
        "policy": {"refuse_hopeless": False},
    }


def submit(config: Path, folder: Path, *words: object) -> int:
    """Submit a config with what the pretended nodes have."""
    few = ("--shard-options", "--cpus-per-task=1 --mem=1G --gres=gpu:1", "--judge-options", "--mem=1G")
    return commands.call("submit", config, "--slurm", "--output", folder, *few, *words)


def started(env, *words: str) -> str:
    """Submit a script from another folder, and give its job."""
    done = subprocess.run([words[0], "--parsable", *words[1:]], env=env, cwd="/", check=True, capture_output=True)
    return done.stdout.decode().strip()


def ended(env, job: str) -> int:
    """Wait for the end of a job, and give its exit code."""
    over = ("COMPLETED", "FAILED")
    slurm.until(lambda: slurm.job(env, job)["JobState"] in over, f"the end of job {job}", 150)
    return int(slurm.job(env, job)["ExitCode"].partition(":")[0])


@pytest.fixture
def home(tmp_path, monkeypatch, request):
    """The folder, with a name that needs quotes, that jobs are submitted from."""
    folder = tmp_path / "my home, 100%"
    folder.mkdir()
    monkeypatch.chdir(folder)
    if "cluster" in request.fixturenames:
        monkeypatch.setenv("SLURM_CONF", request.getfixturevalue("cluster")["SLURM_CONF"])
    return folder


@pytest.mark.slow
def test_shards_that_are_cancelled_or_killed_are_run_again(cluster, home, tiny_llama, capsys):
    """The judge names what is missing and ends with 4; after the printed retry the bytes are those of a plain run."""
    config = home / "tiny.yaml"
    config.write_text(yaml.safe_dump(real(tiny_llama)))
    assert submit(Path("tiny.yaml"), home / "out", "--shards", 2) == ExitCode.PASS
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    array, judge = (re.search(r"job (\d+)", said[name])[1] for name in ("shards", "judge"))
    subprocess.run(["scancel", f"{array}_1"], env=cluster, check=True)
    folder = home / "out" / "tiny" / "shards"
    lease = folder / "2of2.lease"
    slurm.until(lambda: lease.exists() and len(lease.read_text().split()) > 1, "shard 2", 120)
    os.kill(int(lease.read_text().split()[1]), signal.SIGKILL)
    assert ended(cluster, judge) == ExitCode.NOT_COMPARABLE
    assert "2 of 2 shard(s) incomplete (1/2, 2/2)" in (folder / "judge.log").read_text()

    again = shlex.split(said["retry"].partition("    ")[0].replace("--array=2", "--array=1-2").replace(";", ""))
    place = again.index("sbatch", 1)
    array = started(cluster, *again[:place])
    judge = started(cluster, "sbatch", f"--dependency=afterany:{array}", *again[place + 1 :])
    assert ended(cluster, judge) == ExitCode.INCONCLUSIVE
    assert commands.call("status", folder.parent) == ExitCode.PASS, (folder / "1of2.log").read_text()
    assert commands.call("run", config, "--output", home / "plain", "--quiet") == ExitCode.INCONCLUSIVE
    both = [(home / place / "tiny" / "comparisons.json").read_bytes() for place in ("out", "plain")]
    assert both[0] == both[1]


@pytest.mark.slow
def test_a_shard_that_runs_out_of_time_goes_on_(cluster, home, tiny_llama, capsys):
    """Slurm's signal before the time limit puts a shard back into the queue, where it continues."""
    lost = {"lost": {"nf4/multi_hop_math": 0.5}, "seconds_per_item": 0.1}
    execution = {"device": "cpu", "control": False, "unit_items": 10, "rehearsal": lost}
    config = commands.write(home, tiny_llama, execution=execution)
    assert submit(config, home / "out", "--shards", 1, "--rehearsal-ok") == ExitCode.PASS
    array, judge = re.findall(r"job (\d+)", capsys.readouterr().out)
    timings = home / "out" / "trial" / "bf16" / "timings-1of1.jsonl"
    slurm.until(lambda: timings.exists() and timings.stat().st_size, "the first unit", 120)
    subprocess.run(["scancel", "--signal=INT", "--batch", array], env=cluster, check=True)
    slurm.until(lambda: slurm.job(cluster, array)["JobState"] == "PENDING", "the queue", 60)
    subprocess.run(["scontrol", "update", f"JobId={array}", "StartTime=now+3"], env=cluster, check=True)
    assert ended(cluster, judge) == ExitCode.FAIL
    log = (home / "out" / "trial" / "shards" / "1of1.log").read_text()
    assert "stopped; finished work is kept" in log
    assert "shard 1of1 goes back into the queue" in log
    assert "shard 1of1 is complete" in log


def test_waiting_ends_with_the_exit_code_of_the_judge(cluster, home):
    """The judge's jobs are printed before it starts; a refused submission ends with 2, never with sbatch's own 1."""
    for name, text in (("array", "exit 4"), ("judge", "exit 3")):
        (home / name).write_text(f"#!/bin/sh\n#SBATCH --output=/dev/null\n{text}\n")
    said: list[str] = []
    assert submitting.submit_slurm(home / "array", home / "judge", wait=True, say=said.append) == ExitCode.INCONCLUSIVE
    assert [line.partition(":")[0] for line in said] == ["shards", "judge", "watch", "retry", "cancel"]
    (home / "judge").write_text("#!/bin/sh\n#SBATCH --partition=none\n")
    with pytest.raises(UsageError, match=r"did not take .*judge"):
        submitting.submit_slurm(home / "array", home / "judge", wait=True, say=said.append)
