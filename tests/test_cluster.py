"""Runs on a cluster: a real Slurm, what its shards leave, and a manifest for Kubernetes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import commands
import pytest
import random_models
import slurm
import yaml
from conftest import make_tokenizer
from paths import SCRIPTS

from harness.errors import ExitCode, UsageError
from harness.run import submitting
from harness.store.locks import alive


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The environment of a Slurm with two nodes."""
    if why := slurm.missing():
        pytest.skip(why)
    with slurm.slurm(tmp_path_factory.mktemp("slurm")) as env:
        yield env


@pytest.fixture(scope="module")
def tiny_neox(tmp_path_factory):
    """A checkpoint folder: a GPT-NeoX with random weights, whose config imports half of what a Llama's does.

    Every shard loads that config anew, in seconds of processor time, and its model in milliseconds.
    """
    folder = tmp_path_factory.mktemp("tiny-neox")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    random_models.make("gpt_neox", {**sizes, "max_position_embeddings": 2048}).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def real(model: Path) -> dict:
    """A config of a tiny model and a candidate that really run, in seconds."""
    return {
        "name": "tiny",
        "baseline": {"name": "bf16", "model": str(model)},
        "candidates": [{"name": "nf4", "quantization": "bnb-nf4"}],
        "slices": [{"name": "typical", "tasks": ["quantcliff_groups"], "items": 12, "gating": False}],
        "execution": {"device": "cpu", "control": False, "unit_items": 2, "threads": 1, "dtype": "float32"},
        "policy": {"refuse_hopeless": False},
    }


def submit(config: Path, folder: Path, *words: object) -> int:
    """Submit a config with what the pretended nodes have."""
    few = () if "--shard-options" in words else ("--shard-options", "--cpus-per-task=1 --mem=1G --gres=gpu:1")
    judge = ("--judge-options", "--mem=1G")
    return commands.call("submit", config, "--slurm", "--output", folder, *few, *judge, *words)


def ended(env, job: str) -> int:
    """Wait for the end of a job, and give its exit code."""
    over = ("COMPLETED", "FAILED")
    slurm.until(lambda: slurm.job(env, job)["JobState"] in over, f"the end of job {job}", 240)
    return int(slurm.job(env, job)["ExitCode"].partition(":")[0])


@pytest.fixture(scope="module")
def limited(cluster, tmp_path_factory, tiny_neox):
    """A run directory and the jobs of a shard that needs longer than its time limit, and of its judge.

    Slurm looks at time limits every 30 s: they are submitted before the other tests, which run in the meantime.
    """
    home = tmp_path_factory.mktemp("limited")
    rehearsal = {"lost": {"nf4/multi_hop_math": 0.5}, "seconds_per_item": 0.05}  # 5.5 s without the first unit
    execution = {"device": "cpu", "control": False, "unit_items": 10, "rehearsal": rehearsal}
    config = commands.write(home, tiny_neox, execution=execution)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
        patch.setenv("SLURM_CONF", cluster["SLURM_CONF"])
        words = ("--shards", 1, "--rehearsal-ok", "--shard-options", "--mem=1G --time=60")
        assert submit(config, home / "out", *words) == ExitCode.PASS
    folder, (array, judge) = home / "out" / "trial", re.findall(r"job (\d+)", said.getvalue())
    threading.Thread(target=run_out_of_time, args=(cluster, array, folder), daemon=True).start()
    return folder, array, judge


def run_out_of_time(env, job: str, folder: Path) -> None:
    """Bring the time limit of a shard near when it has an answer, and do not wait when it is back in the queue.

    The shard stands still until Slurm's signal is there, however long that takes; then it has time again.
    """
    timings = folder / "bf16" / "timings-1of1.jsonl"
    slurm.until(lambda: timings.exists() and timings.stat().st_size, "the first unit", 200)
    shard = process(folder / "shards" / "1of1.lease")
    os.kill(shard, signal.SIGSTOP)
    hours, minutes, _ = map(int, slurm.job(env, job)["RunTime"].split(":"))
    update(env, job, f"TimeLimit={60 * hours + minutes + 2}")
    slurm.until(lambda: interrupted(shard), "the signal", 90)
    update(env, job, "TimeLimit=60")
    os.kill(shard, signal.SIGCONT)
    slurm.until(lambda: slurm.job(env, job)["JobState"] == "PENDING", "the queue", 200)
    update(env, job, "StartTime=now+3")  # a node does not take a job again in the second in which it ended there


def update(env, job: str, change: str) -> None:
    """Change what Slurm knows of a job."""
    subprocess.run(["scontrol", "update", f"JobId={job}", change], env=env, check=True)


def process(lease: Path) -> int:
    """The process that a lease names; 0 if there is none yet."""
    words = lease.read_text().split() if lease.exists() else []
    return int(words[1]) if len(words) > 1 else 0


def interrupted(pid: int) -> bool:
    """Whether an interrupt waits for a process that stands still."""
    pending = re.search(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    return bool(int(pending, 16) >> (signal.SIGINT - 1) & 1)


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
@pytest.mark.usefixtures("limited")
def test_shards_that_are_cancelled_or_killed_are_run_again(cluster, home, tiny_neox, capsys):
    """The judge names what is missing and ends with 4; after the printed retry the bytes are those of a plain run."""
    config = home / "tiny.yaml"
    config.write_text(yaml.safe_dump(real(tiny_neox)))
    assert submit(Path("tiny.yaml"), home / "out", "--shards", 2) == ExitCode.PASS
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    array, judge = (re.search(r"job (\d+)", said[name])[1] for name in ("shards", "judge"))
    subprocess.run(["scancel", f"{array}_1"], env=cluster, check=True)
    folder = home / "out" / "tiny" / "shards"
    slurm.until(lambda: process(folder / "2of2.lease"), "shard 2", 240)
    os.kill(process(folder / "2of2.lease"), signal.SIGKILL)
    assert ended(cluster, judge) == ExitCode.NOT_COMPARABLE
    assert "2 of 2 shard(s) incomplete (1/2, 2/2)" in (folder / "judge.log").read_text()

    again = said["retry"].partition("    ")[0].replace("--array=1", "--array=1-2")
    judge = subprocess.check_output(["bash", "-c", again], cwd="/", text=True).split()[-1]
    assert commands.call("run", config, "--output", home / "plain", "--quiet") == ExitCode.INCONCLUSIVE
    assert ended(cluster, judge) == ExitCode.INCONCLUSIVE
    assert commands.call("status", folder.parent) == ExitCode.PASS, (folder / "1of2.log").read_text()
    both = [(home / place / "tiny" / "comparisons.json").read_bytes() for place in ("out", "plain")]
    assert both[0] == both[1]


def test_waiting_ends_with_the_exit_code_of_the_judge(cluster, home):
    """The jobs are printed before they start. A judge that is refused ends in 2, not sbatch's 1; no shard is left."""
    for name, text in (("array", "exit 4"), ("judge", "exit 3")):
        (home / name).write_text(f"#!/bin/sh\n#SBATCH --output=/dev/null\n{text}\n")
    said: list[str] = []
    assert submitting.submit_slurm(home / "array", home / "judge", wait=True, say=said.append) == ExitCode.INCONCLUSIVE
    assert [line.partition(":")[0] for line in said] == ["shards", "judge", "watch", "retry", "cancel"]
    (home / "array").write_text("#!/bin/sh\n#SBATCH --output=/dev/null --job-name=alone\nsleep 60\n")
    (home / "judge").write_text("#!/bin/sh\n#SBATCH --partition=none\n")
    with pytest.raises(UsageError, match=r"did not take .*judge"):
        submitting.submit_slurm(home / "array", home / "judge", wait=True, say=said.append)
    alone = re.compile(r"JobName=alone .*JobState=CANCELLED")
    slurm.until(lambda: alone.search(slurm.said(cluster, "scontrol", "-o", "show", "job")), "the end of the shards", 30)


def test_a_judge_that_was_cancelled_is_no_pass(cluster, home):
    """By the command that `submit` prints, say: sbatch waited for it, and ends in 0. With a verdict 0 is a pass."""
    (home / "shards").mkdir()
    array, judge = home / "shards" / "array", home / "shards" / "judge"
    array.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\nsleep 60\n")
    judge.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\nexit 0\n")

    def cancel(line):
        if line.startswith("cancel: "):
            subprocess.run(line.removeprefix("cancel: ").split(), env=cluster, check=True)

    assert submitting.submit_slurm(array, judge, wait=True, say=cancel) == ExitCode.NOT_COMPARABLE
    array.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\n")
    (home / "verdict.json").write_text('{"exit_code": 0, "candidates": []}')
    assert submitting.submit_slurm(array, judge, wait=True, say=lambda _: None) == ExitCode.PASS
    judge.write_text("#!/bin/sh\n#SBATCH --output=/dev/null\nkill -9 $$\n")  # sbatch says 1, which would be a fail
    assert submitting.submit_slurm(array, judge, wait=True, say=lambda _: None) == ExitCode.NOT_COMPARABLE


def test_the_script_for_hand_use_finds_its_checkout_from_any_folder(cluster, home):
    """`sbatch` runs a copy of gpu_job.sh; from a folder without an environment it still finds its own."""
    log = home / "log"
    words = ("--output=log", str(SCRIPTS / "gpu_job.sh"), "none.yaml")
    env = {**cluster, "PATH": "/usr/bin:/bin"}
    job = subprocess.run(["sbatch", "--parsable", *words], env=env, cwd=home, check=True, capture_output=True)
    assert ended(cluster, job.stdout.decode().strip()) == ExitCode.USAGE
    assert f"{SCRIPTS.parent}/.venv/bin/quantcliff run none.yaml" in log.read_text()


@pytest.mark.slow
def test_a_shard_that_runs_out_of_time_goes_on(cluster, limited):
    """Slurm's signal before the time limit puts a shard back into the queue, where it continues."""
    folder, array, judge = limited
    assert ended(cluster, judge) == ExitCode.FAIL
    assert slurm.job(cluster, array)["Restarts"] == "1"
    log = (folder / "shards" / "1of1.log").read_text()
    assert "stopped; finished work is kept" in log
    assert "shard 1of1 goes back into the queue" in log
    assert "shard 1of1 is complete" in log


def test_a_run_with_another_number_of_shards_is_not_submitted(home, tiny_neox, capsys):
    """What the shards would refuse is refused at once, with the number to give; and so is a cluster without a name."""
    config = commands.write(home, tiny_neox)
    assert commands.call("run", config, "--output", home, "--shard", "1/3", "--quiet") == ExitCode.NOT_COMPARABLE
    assert submit(config, home, "--shards", 2) == ExitCode.USAGE
    assert "split into 3 shard(s): give --shards 3" in capsys.readouterr().err
    assert commands.call("submit", config) == ExitCode.USAGE
    assert "--slurm or --kubernetes" in capsys.readouterr().err
    assert commands.call("status", home / "trial") == ExitCode.NOT_COMPARABLE
    shown = capsys.readouterr()
    assert "1/3    complete" in shown.out
    assert "2/3    not started" in shown.out
    assert "2 of 3 shard(s) incomplete (2/3, 3/3)" in shown.err


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\ntouch x\nb"])
def test_a_folder_that_sbatch_cannot_read_is_refused(tmp_path, name):
    """A line break in a name would end the comment that it stands in, and the rest would run."""
    (tmp_path / "x.yaml").write_text("")
    words = submitting.Cluster("trial", 2, ("run", str(tmp_path / "x.yaml")))
    with pytest.raises(UsageError, match="sbatch reads no quote"):
        submitting.write_slurm(words, tmp_path / name, ("--mem=1G", "--mem=1G"))
    with pytest.raises(UsageError, match="sbatch reads no quote"):
        submitting.write_slurm(words, tmp_path / "run", ("--mem=1G\ntouch x", "--mem=1G"))


@pytest.mark.parametrize("text", ["", "four", "0", "-3", "1e3", "\u0663", "99999999999"])
def test_the_number_of_shards_that_were_submitted_is_a_number(tmp_path, text, capsys):
    """A damaged file is said, and is not a run of which every shard is complete."""
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "submitted").write_text(text, encoding="utf-8")
    assert commands.call("status", tmp_path) == ExitCode.NOT_COMPARABLE
    assert "is no number of shards" in capsys.readouterr().err


def test_a_lease_that_is_no_text_is_a_sign_of_life_all_the_same(tmp_path):
    """Bytes of another writer, or of a broken disk."""
    lease = tmp_path / "1of1.lease"
    lease.write_bytes(b"\xff\xfe node")
    now = lease.stat().st_mtime
    assert alive(lease, now)
    assert not alive(lease, now - 86_400)  # from tomorrow: nobody would ever take it for dead


def manifest(home: Path, model: Path, capsys, *more: object) -> list[dict]:
    """The objects that `submit --kubernetes` prints."""
    words = ("--shards", 4, "--image", "registry/quantcliff:1", "--claim", "scratch", "--limit", 20, *more)
    assert commands.call("submit", commands.write(home, model), "--kubernetes", *words) == ExitCode.PASS
    return list(yaml.safe_load_all(capsys.readouterr().out))


def test_a_kubernetes_manifest_is_what_the_published_schema_allows(home, capsys):
    """The config, an Indexed Job and a judge, each valid without a key that Kubernetes does not know."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for one in manifest(home, Path("m"), capsys, "--gpus", 2):
        kubernetes_validate.validate(one, "1.33", strict=True)
        one.get("spec", one)["unknown"] = True
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(one, "1.33", strict=True)


def test_the_pods_of_a_kubernetes_manifest_are_the_shards_and_the_judge(home, capsys):
    """The commands, as each pod's shell runs them, with the pod's index counted from 0."""
    config, shards, judge = manifest(home, Path("m"), capsys, "--mount", home / "disk")
    assert yaml.safe_load(config["data"]["run.yaml"])["name"] == "trial"
    assert (shards["spec"]["completionMode"], shards["spec"]["completions"]) == ("Indexed", 4)
    rule = shards["spec"]["podFailurePolicy"]["rules"][0]
    assert (rule["action"], rule["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    (home / "quantcliff").write_text('#!/bin/sh\necho "$*"\n')
    (home / "quantcliff").chmod(0o755)
    env = {"PATH": f"{home}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": "2"}
    pods = [job["spec"]["template"]["spec"]["containers"][0] for job in (shards, judge)]
    how = {"env": env, "capture_output": True, "text": True}
    folder = next(one["mountPath"] for one in pods[0]["volumeMounts"] if one["name"] == "config")
    said = subprocess.run(pods[0]["command"], check=True, **how).stdout
    assert said == f"run {folder}/run.yaml --limit 20 --output {home}/disk --shard 3/4\n"

    place = home / "disk" / "trial-limit-20"
    (place / "shards").mkdir(parents=True)
    records = [place / "shards" / f"{at}of4.json" for at in range(1, 5)]
    for record in records:
        record.write_text('{"command": "quantcliff run /etc/quantcliff-0a1b2c3d/run.yaml"}')
    with pytest.raises(subprocess.TimeoutExpired) as waiting:  # a finished run of another submission is not judged
        subprocess.run(pods[1]["command"], check=True, timeout=1, **how)
    assert b"compare" not in waiting.value.stdout
    for record in records:
        record.write_text(json.dumps({"command": said}))
    said = subprocess.run(pods[1]["command"], check=True, **how).stdout
    assert said == f"status {place} --wait\ncompare {place}\n"


def test_a_run_that_is_submitted_again_is_judged_by_what_its_shards_say_now(tmp_path):
    """Of a finished run of another config in the folder, which the shards refuse, the judge would say pass."""
    (tmp_path / "shards").mkdir()
    for at in (1, 2):
        (tmp_path / "shards" / f"{at}of2.json").write_text("{}")
    (tmp_path / "x.yaml").write_text("")
    words = submitting.Cluster("trial", 2, ("run", str(tmp_path / "x.yaml")))
    (tmp_path / "verdict.json").write_text("{}")
    array, _ = submitting.write_slurm(words, tmp_path, ("--mem=1G", "--mem=1G"))
    assert not list(tmp_path.rglob("*.json"))
    (tmp_path / "shards" / "2of2.json").write_text("{}")  # so is one that is submitted by hand
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path.cwd()), "SLURM_ARRAY_TASK_ID": "2"}
    assert subprocess.run(["bash", array], env=env, cwd=tmp_path, capture_output=True, check=False).returncode == 2
    assert not list((tmp_path / "shards").glob("*.json"))


def test_only_what_was_submitted_is_judged(home, tiny_neox, monkeypatch):
    """Not a config that was edited while its jobs were in the queue, nor a run that another submission completed."""
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(Path(submitting.__file__).parents[2]))
    (home / "sbatch").write_text("#!/bin/sh\necho 1\n")
    (home / "sbatch").chmod(0o755)
    scripts = home / "out" / "trial" / "shards"

    def end(name, shard="1"):
        env = {**os.environ, "SLURM_ARRAY_TASK_ID": shard}
        done = subprocess.run(["bash", scripts / name], env=env, cwd=home, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    def submitted(margin, shards=1):
        slices = [{"name": "multi_hop_math", "axes": {"hops": [1]}, "items": 60, "margin": margin}]
        config = commands.write(home, tiny_neox, slices=slices)
        assert submit(config, home / "out", "--shards", shards, "--rehearsal-ok") == ExitCode.PASS
        return config

    config = submitted(0.5)
    first = (scripts / "array.sbatch").read_text()
    text = config.read_text()
    config.write_text(text.replace("0.5", "0.1"))
    code, said = end("array.sbatch")
    assert (code, "was changed since it was submitted" in said) == (ExitCode.USAGE, True)
    for shards in (2, 1):  # the jobs of the earlier submission go on, and would be judged as the later one
        submitted(0.1, shards)
        assert end("judge.sbatch")[0] == ExitCode.NOT_COMPARABLE
        (scripts / "array.sbatch").write_text(first)
        config.write_text(text)
        assert end("array.sbatch")[0] == ExitCode.PASS
        code, said = end("judge.sbatch")
        assert (code, "1of1.json was not written by this submission" in said) == (ExitCode.NOT_COMPARABLE, True)
    submitted(0.5)
    assert end("array.sbatch")[0] == end("judge.sbatch")[0] == ExitCode.PASS


@pytest.mark.parametrize(
    ("device", "asked", "gpus"),
    [
        ("cpu", (), 0),
        ("auto", (), 1),
        ("auto", ("--gpus", 0), 0),
        ("cuda:0,cuda:1", (), 2),
        ("cuda:all", ("--gpus", 4), 4),
    ],
)
def test_a_pod_gets_the_gpus_of_its_device(home, capsys, device, asked, gpus):
    """None for a CPU, several for a model that is spread over them; how many `cuda:all` means has to be said."""
    _, shards, judge = manifest(home, Path("m"), capsys, "--device", device, *asked)
    limits = shards["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {"nvidia.com/gpu": gpus}
    assert "resources" not in judge["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--kubernetes --wait --shard-options --mem=1G", "--kubernetes takes no --shard-options, --wait: give --gpus"),
        ("--kubernetes --output .", "--kubernetes takes no --output: "),
        ("--kubernetes --slurm", "name one cluster, --slurm or --kubernetes"),
        ("--slurm --gpus 2 --mount /data", "--slurm takes no --mount, --gpus: give GPUs in --shard-options"),
        ("--kubernetes --image i --claim c --device cuda:0,cuda:1 --gpus 1", "'cuda:0,cuda:1' needs 2"),
    ],
)
def test_options_of_the_other_cluster_are_refused(home, capsys, words, said):
    """They would change nothing, and the jobs would not be what was asked for."""
    assert commands.call("submit", commands.write(home, Path("m")), *words.split()) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert said in shown.err
    assert not shown.out
    assert not (home / "results").exists()


@pytest.mark.parametrize(
    ("device", "asked"), [("cpu", ""), ("auto", "--gres=gpu:1"), ("cuda:0,cuda:1", "--gres=gpu:2")]
)
def test_a_shard_of_slurm_asks_for_the_gpus_of_its_device(home, capsys, monkeypatch, device, asked):
    """Unless its options are given; here there is no sbatch to take the script."""
    monkeypatch.setenv("PATH", str(home))
    words = ("--slurm", "--device", device, "--output", home)
    assert commands.call("submit", commands.write(home, Path("m")), *words) == ExitCode.USAGE
    assert "this machine has no sbatch" in capsys.readouterr().err
    lines = (home / "trial" / "shards" / "array.sbatch").read_text().splitlines()
    assert [one for one in lines if "gres" in one] == ([f"#SBATCH {asked}"] if asked else [])
    assert "#SBATCH --mem=64G" in lines
