"""A real Slurm in a folder: a controller and two nodes with one pretended GPU each, all on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["job", "missing", "said", "slurm", "until"]

CONF = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
KillWait=2
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 RealMemory=200000 Gres=gpu:1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 RealMemory=200000 Gres=gpu:1
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no Slurm can be started here; empty if it can."""
    absent = [name for name in ("slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if absent:
        return f"no {absent[0]} on this machine (apt-get install slurm-wlm)"
    return "" if os.geteuid() == 0 else "only root can start slurmd"


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Start the cluster, and give the environment in which its commands find it; stop it at the end."""
    names = ("state", "spool-n1", "spool-n2")
    for name in names:
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(folder=folder, host=host, ports=ports))
    (folder / "gres.conf").write_text("NodeName=n[1-2] Name=gpu Count=1 File=/dev/null\n")
    env = {**os.environ, "SLURM_CONF": str(conf)}
    try:
        for command in (["slurmctld"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            subprocess.run([*command, "-f", str(conf)], env=env, check=True, timeout=30)
        until(lambda: said(env, "sinfo", "-h", "-t", "idle", "-o", "%D").strip() == "2", "two idle nodes", 60)
        yield env
    finally:
        subprocess.run(["scancel", "-f", "-u", "root"], env=env, check=False, timeout=30, capture_output=True)
        with contextlib.suppress(AssertionError):
            until(lambda: not said(env, "squeue", "-h"), "the end of all jobs", 10)
        for path in folder.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(path.read_text()), signal.SIGKILL)


def job(env: dict[str, str], number: str) -> dict[str, str]:
    """What Slurm knows of a job."""
    return dict(word.partition("=")[::2] for word in said(env, "scontrol", "-o", "show", "job", number).split())


def said(env: dict[str, str], *words: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=30).stdout


def until(true, what: str, seconds: float) -> None:
    """Wait until something is true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)
