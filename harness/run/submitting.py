"""Writes the jobs that run an experiment on a cluster: batch scripts for Slurm, a manifest for Kubernetes."""

import hashlib
import math
import secrets
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml

from harness.errors import ExitCode, UsageError
from harness.store.files import atomic_write, read_json

RESTARTS = 50  # so often a shard puts itself back into the queue


class _Script(string.Template):
    """A batch script in this folder, in which ``@name`` stands for a value and ``@@`` for the sign itself."""

    delimiter = "@"


class Cluster(NamedTuple):
    """An experiment as a cluster is to run it."""

    name: str  # of the run
    shards: int  # jobs that share the work
    run: tuple[str, ...]  # arguments of the shards' command, `run` first
    judge: tuple[str, ...] = ()  # options of the judge's command
    gpus: int = 1  # of each shard; for Slurm the words for sbatch say it


def write_slurm(cluster: Cluster, directory: Path, options: tuple[str, str]) -> tuple[Path, Path]:
    """Write the scripts of the shards and of the judge, and return their paths. options: words for sbatch, of each.

    Raises StoreError, and UsageError for paths and words that sbatch cannot read.
    """
    directory = directory.absolute()
    paths_and_words = [(str(directory), '"\\\r\n'), (str(Path.cwd()), '"\\\r\n'), *((one, "\r\n") for one in options)]
    if bad := [text for text, refused in paths_and_words if set(text) & set(refused)]:
        raise UsageError(f"{bad[0]!r}: sbatch reads no quote, backslash or line break here: use another folder")
    folder, logs = directory / "shards", str(directory / "shards").replace("%", "%%")  # which begins a pattern
    judged, run = _command("compare", str(directory), *cluster.judge), shlex.quote(str(directory))
    common = {"job": f"quantcliff-{cluster.name}", "run": run, "shards": cluster.shards, "restarts": RESTARTS}
    read = hashlib.sha256(Path(cluster.run[1]).read_bytes()).hexdigest()  # the shards read it when they start
    common |= {"config": shlex.quote(cluster.run[1]), "read": read, "mark": shlex.quote(f"{read} {cluster.run}")}
    common |= {"python": shlex.quote(sys.executable), "status": _command("status", str(directory))}
    paths = folder / "array.sbatch", folder / "judge.sbatch"
    for path, log, words, command in (
        (paths[0], f"%aof{cluster.shards}.log", options[0], _command(*cluster.run)),
        (paths[1], "judge.log", options[1], judged),
    ):
        script = _Script(Path(__file__).with_name(path.name).read_text(encoding="utf-8"))
        lines = [f"#SBATCH {one}" for one in (f'--chdir="{Path.cwd()}"', *shlex.split(words))]
        own = {"log": f'"{logs}/{log}"', "options": "\n".join(lines), "command": command}
        atomic_write(path, script.substitute(common, **own))
    for earlier in (*folder.glob("*of*.json"), directory / "verdict.json"):  # of a run that may be another
        earlier.unlink(missing_ok=True)
    atomic_write(folder / "submitted", f"{cluster.shards}\n")
    return paths


def submit_slurm(array: Path, judge: Path, *, wait: bool, say: Callable[[str], None]) -> int:
    """Submit both scripts; return an exit code, with `wait` the judge's. Raises UsageError.

    The judge starts whether the shards ended well or not, and names those that are missing. If it is refused, the
    shards are cancelled. say: called with each line.
    """
    with _slurm("sbatch", "--parsable", str(array)) as process:
        shards = _job(process, array)
    with _slurm("sbatch", "--parsable", f"--dependency=afterany:{shards}", *["--wait"] * wait, str(judge)) as process:
        try:
            job = _job(process, judge)
        except UsageError:
            _slurm("scancel", shards).communicate()  # nobody would judge them
            raise
        folder, quoted = array.parent, shlex.quote(str(array.parent))
        say(f"shards: job {shards}, logs {folder}/*.log")
        say(f"judge:  job {job}, after the shards; its exit code is the verdict's, its log {judge.with_suffix('.log')}")
        say(f"watch:  quantcliff status {shlex.quote(str(folder.parent))}")
        again = f"$(sbatch --parsable --array=1 {quoted}/array.sbatch)"
        say(f"retry:  sbatch --dependency=afterany:{again} {quoted}/judge.sbatch    (shard 1, and a verdict)")
        say(f"cancel: scancel {shards} {job}")
    if not wait or process.returncode not in (ExitCode.PASS, ExitCode.FAIL):
        return process.returncode
    # Of a judge that was cancelled, killed or out of time sbatch says one of these, too.
    said = [read_json(path).get("exit_code") for path in folder.parent.iterdir() if path.name == "verdict.json"]
    return process.returncode if said == [process.returncode] else ExitCode.NOT_COMPARABLE


def _slurm(command: str, *words: str) -> subprocess.Popen[str]:
    if (path := shutil.which(command)) is None:
        raise UsageError(f"this machine has no {command}: submit from a login node of a Slurm cluster")
    return subprocess.Popen([path, *words], stdout=subprocess.PIPE, text=True)


def _job(process: subprocess.Popen[str], script: Path) -> str:
    """Return the job that sbatch prints, which with --wait it does long before it ends."""
    job = process.stdout.readline().strip().partition(";")[0] if process.stdout else ""  # on a federation: "id;cluster"
    if not job:
        remedy = "change --shards, --shard-options or --judge-options"
        raise UsageError(f"sbatch did not take {script}, see above: {remedy}")
    return job


def _command(*words: str) -> str:
    return shlex.join([sys.executable, "-m", "harness", *words])


def kubernetes_manifest(cluster: Cluster, config: str, *, image: str, claim: str, mount: str) -> str:
    """Return the Indexed Job of the shards, the Job that judges and the config as YAML. claim: of the disk."""
    name = f"quantcliff-{cluster.name}".lower().replace("_", "-").replace(".", "-")[:50].strip("-")
    run = shlex.join([*cluster.run, "--output", mount])
    texts = {"config": config, "image": image, "claim": claim, "mount": mount, "hub": f"{mount}/hub"}
    texts |= {"shard": f"exec quantcliff {run} --shard $((JOB_COMPLETION_INDEX + 1))/{cluster.shards}"}
    values = {key: yaml.safe_dump(text, default_style='"', width=math.inf).strip() for key, text in texts.items()}
    values |= {"place": shlex.quote(f"{mount}/{cluster.name}"), "judge": shlex.join(cluster.judge)}
    template = string.Template(Path(__file__).with_name("kubernetes.yaml.in").read_text(encoding="utf-8"))
    return template.substitute(values, name=name, folder=CONFIG_FOLDER, shards=cluster.shards, gpus=cluster.gpus)


CONFIG_FOLDER = f"/etc/quantcliff-{secrets.token_hex(4)}"  # where a pod finds the config, as `run.yaml`
