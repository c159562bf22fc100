"""Writes the jobs that run an experiment on a cluster: batch scripts for Slurm, a manifest for Kubernetes.

A job depends on no folder and no variable. Slurm's scripts put a shard back into the queue that was stopped by its time
limit and has made progress, or that waits for shards which have no GPU yet.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from harness.errors import UsageError
from harness.store.files import atomic_write

_ARRAY = """\
#!/usr/bin/env bash
#SBATCH --job-name={job}
#SBATCH --array=1-{shards}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:INT@120
{options}
# The shards of {run}, written by `quantcliff submit`.
# Submit it with --array=I to run shard I again; then submit judge.sbatch.
{check}
set -m  # so that the shard hears an interrupt
folder={run}/shards shard=${{SLURM_ARRAY_TASK_ID}}of{shards}
answered() {{ cat {run}/*/timings-"$shard".jsonl 2>/dev/null | wc -l; }}
before=$(answered) stopped=
trap 'stopped=1; kill -INT "$child" 2>/dev/null' INT
{command} --shard "$SLURM_ARRAY_TASK_ID/{shards}" &
child=$!
wait "$child"; code=$?
while [ -n "$stopped" ] && kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
[ -z "$stopped" ] || [ "$code" = 0 ] || code=4
if [ "$code" = 4 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
  if [ -e "$folder/$shard.waiting" ] || {{ [ -n "$stopped" ] && [ "$(answered)" -gt "$before" ]; }}; then
    echo "quantcliff: shard $shard goes back into the queue, to continue"
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
  fi
fi
exit "$code"
"""
_JUDGE = """\
#!/usr/bin/env bash
#SBATCH --job-name={job}-judge
#SBATCH --output={log}
#SBATCH --open-mode=append
{options}
# Judges {run}, written by `quantcliff submit`. Its exit code is the verdict's.
{check}
{command}
code=$?
[ "$code" != 4 ] || {status}
exit "$code"
"""
_CHECK = """\
{python} -c 'import harness.cli' || {{
  echo "quantcliff: $(uname -n) does not have the environment of {python}: put it on a shared disk" >&2
  exit 2
}}"""
RESTARTS = 50  # so often a shard puts itself back into the queue


class Cluster(NamedTuple):
    """An experiment as a cluster is to run it."""

    name: str  # of the run
    shards: int  # jobs with a GPU that share the work
    run: tuple[str, ...]  # arguments of the shards' command, `run` first
    judge: tuple[str, ...] = ()  # options of the judge's command


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
    common |= {"check": _CHECK.format(python=shlex.quote(sys.executable)), "status": _command("status", str(directory))}
    paths = folder / "array.sbatch", folder / "judge.sbatch"
    for path, script, log, words, command in (
        (paths[0], _ARRAY, f"%aof{cluster.shards}.log", options[0], _command(*cluster.run)),
        (paths[1], _JUDGE, "judge.log", options[1], judged),
    ):
        text = script.format(**common, log=f'"{logs}/{log}"', options=_options(words), command=command)
        atomic_write(path, text)
    atomic_write(folder / "submitted", f"{cluster.shards}\n")
    return paths


def submit_slurm(array: Path, judge: Path, *, wait: bool, say: Callable[[str], None]) -> int:
    """Submit both scripts; return an exit code, with `wait` the judge's. Raises UsageError.

    The judge starts whether the shards ended well or not, and names those that are missing. If it is refused, the
    shards are cancelled. say: called with each line.
    """
    with _slurm("sbatch", "--parsable", str(array)) as process:
        shards = _job(process, array)
    words = ["--parsable", f"--dependency=afterany:{shards}", *(["--wait"] if wait else []), str(judge)]
    with _slurm("sbatch", *words) as process:
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
    return process.returncode


def _slurm(command: str, *words: str) -> subprocess.Popen[str]:
    if (path := shutil.which(command)) is None:
        raise UsageError(f"this machine has no {command}: submit from a login node of a Slurm cluster")
    return subprocess.Popen([path, *words], stdout=subprocess.PIPE, text=True)


def _job(process: subprocess.Popen[str], script: Path) -> str:
    """Return the job that sbatch prints, which with --wait it does long before it ends."""
    job = process.stdout.readline().strip().partition(";")[0] if process.stdout else ""  # on a federation: "id;cluster"
    if not job:
        raise UsageError(
            f"sbatch did not take {script}, see above: change --shards, --shard-options or --judge-options"
        )
    return job


def _options(words: str) -> str:
    """Return words of sbatch as lines of a script, with the folder in which a config's paths are found."""
    return "\n".join(f"#SBATCH {one}" for one in [f'--chdir="{Path.cwd()}"', *shlex.split(words)])


def _command(*words: str) -> str:
    return shlex.join([sys.executable, "-m", "harness", *words])


def kubernetes_manifest(cluster: Cluster, config: str, *, image: str, claim: str, mount: str) -> str:
    """Return the Indexed Job of the shards, the Job that judges and the config as YAML. claim: of the disk."""
    name = f"quantcliff-{cluster.name}".lower().replace("_", "-").replace(".", "-")[:50].strip("-")
    run = shlex.join([*cluster.run, "--output", mount])
    place = shlex.quote(f"{mount}/{cluster.name}")
    shard = f"exec quantcliff {run} --shard $((JOB_COMPLETION_INDEX + 1))/{cluster.shards}"
    verdict = f"quantcliff status {place} --wait && exec quantcliff compare {place} {shlex.join(cluster.judge)}"

    def pod(command: str, **more: Any) -> dict[str, Any]:
        """Return a pod that runs a command next to the shared disk, in which the hub's cache is."""
        mounts = [{"name": "shared", "mountPath": mount}, {"name": "config", "mountPath": CONFIG_FOLDER}]
        container = {"name": "quantcliff", "image": image, "command": ["sh", "-c", command], "volumeMounts": mounts}
        container |= {"env": [{"name": "HF_HOME", "value": f"{mount}/hub"}], **more}
        shared = {"name": "shared", "persistentVolumeClaim": {"claimName": claim}}
        volumes = [shared, {"name": "config", "configMap": {"name": f"{name}-config"}}]
        return {"spec": {"restartPolicy": "Never", "containers": [container], "volumes": volumes}}

    disrupted = {"type": "DisruptionTarget", "status": "True"}  # the cluster took the node: no failure of the shard
    rules = [{"action": "Ignore", "onPodConditions": [disrupted]}]
    indexed = {"completionMode": "Indexed", "completions": cluster.shards, "parallelism": cluster.shards}
    indexed |= {"backoffLimitPerIndex": 3, "podFailurePolicy": {"rules": rules}}
    indexed |= {"template": pod(shard, resources={"limits": {"nvidia.com/gpu": 1}})}
    judge = {"backoffLimit": 0, "template": pod(verdict.strip())}
    parts: Sequence[dict[str, Any]] = (
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-config"}, "data": {"run.yaml": config}},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": indexed},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": f"{name}-judge"}, "spec": judge},
    )
    return str(yaml.safe_dump_all(parts, sort_keys=False, allow_unicode=True, width=1000))


CONFIG_FOLDER = "/etc/quantcliff"  # where a pod finds the config, as `run.yaml`
