"""Commands for runs that several machines share: submit starts all shards, status shows how far they are."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import shared
from harness.cli.shared import ConfigChanges, OutputOptions, RunPath
from harness.errors import ExitCode, StoreError, UsageError

if TYPE_CHECKING:
    from harness.run.submitting import Cluster
    from harness.store.rundir import RunDir
    from harness.store.shards import ShardStatus

__all__ = ["status", "submit"]

SHARD = "--gres=gpu:1 --cpus-per-task=8 --mem=64G --time=4:00:00"
JUDGE = "--cpus-per-task=2 --mem=8G --time=0:30:00"
POLL_SECONDS = 5.0


@click.command(epilog=shared.EPILOG)
@click.argument("config")
@click.option("--slurm", "system", flag_value="slurm", help="Submit an array of shards to Slurm, and a judge after it.")
@click.option("--kubernetes", "system", flag_value="kubernetes", help="Print an Indexed Job and a Job that judges.")
@click.option(
    "--shards", default=4, show_default=True, type=click.IntRange(1, 10_000), help="GPUs that share the work."
)
@click.option("--shard-options", default=SHARD, show_default=True, help="Options of sbatch for each shard.")
@click.option("--judge-options", default=JUDGE, show_default=True, help="Options of sbatch for the judge.")
@click.option("--wait", is_flag=True, help="Slurm: wait for the verdict, and exit with its exit code.")
@click.option("--image", help="Kubernetes: a container image that has quantcliff.")
@click.option("--claim", help="Kubernetes: the volume claim of the disk that the pods share.")
@click.option("--mount", default="/results", show_default=True, help="Kubernetes: where the pods see that disk.")
@shared.config_options
@shared.output_dir_option
@shared.output_options(trust=True, code=True, printed=False)
def submit(
    config: str,
    system: str | None,
    changes: ConfigChanges,
    output: str | None,
    options: OutputOptions,
    **settings: Any,
) -> int:
    """Run a config on a cluster, its work shared by several GPUs.

    For Slurm the batch scripts are written into the run directory, which all nodes must see, and submitted. For
    Kubernetes a manifest is printed, for `kubectl apply -f -`.
    """
    from harness.run import submitting
    from harness.store.rundir import RunDir

    experiment, path = shared.load_experiment(config, changes)
    shards = int(settings["shards"] or 1)
    flags, judge = _flags(changes, options)
    if system == "kubernetes":
        words = ("run", f"{submitting.CONFIG_FOLDER}/run.yaml", *flags)
        cluster = submitting.Cluster(experiment.name, shards, words, judge)
        place = {name: str(settings[name] or "") for name in ("image", "claim", "mount")}
        if not all(place.values()):
            raise UsageError("--kubernetes needs --image and --claim")
        click.echo(submitting.kubernetes_manifest(cluster, path.read_text(encoding="utf-8"), **place), nl=False)
        return ExitCode.PASS
    if system is None:
        raise UsageError(
            "name the cluster, --slurm or --kubernetes; without one, give `run --shard I/N` to each machine"
        )
    folder = Path(output or experiment.output).absolute()
    words = ("run", str(path.absolute()), "--output", str(folder), *flags)
    cluster = submitting.Cluster(experiment.name, shards, words, judge)
    return _slurm(cluster, RunDir(folder / experiment.name), settings)


def _flags(changes: ConfigChanges, options: OutputOptions) -> tuple[list[str], tuple[str, ...]]:
    """Return what a shard's command is given, and the judge's."""
    run = [word for name in changes.only for word in ("--only", name)]
    run += ["--limit", str(changes.limit)] if changes.limit else []
    run += ["--device", changes.device] if changes.device else []
    run += ["--allow-code-execution"] if options.allow_code_execution else []
    rehearsal = ["--rehearsal-ok"] if options.rehearsal_ok else []
    return run + rehearsal, (*rehearsal, *(["--allow-identical"] if options.allow_identical else []))


def _slurm(cluster: Cluster, directory: RunDir, settings: Mapping[str, Any]) -> int:
    """Write the scripts, submit them, and print what a person may do next."""
    from harness.run import submitting

    if directory.exists() and (there := directory.plan()["shards"]) != cluster.shards:
        raise UsageError(f"{directory.path}: its work is split into {there} shard(s): give --shards {there}")
    array, judge = submitting.write_slurm(
        cluster, directory.path, (settings["shard_options"], settings["judge_options"])
    )
    return submitting.submit_slurm(array, judge, wait=settings["wait"], say=click.echo)


@click.command()
@click.argument("run", type=RunPath())
@click.option("--wait", is_flag=True, help="Wait until every shard is complete.")
@shared.output_options()
def status(run: RunDir, wait: bool, options: OutputOptions) -> int:
    """Show the shards of a run: how far each is, at what rate, where, and the log of one that stopped.

    Reads the run directory and asks no scheduler. Exit code 4 while a shard is not complete.
    """
    found = _statuses(run, wait=wait)
    missing = [one for one in found if one.state != "complete"]
    if options.as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=1, ensure_ascii=False))
    elif not options.quiet:
        _print_status(run, found, options)
    if missing:
        names = ", ".join(one.shard for one in missing)
        click.echo(f"quantcliff: {len(missing)} of {len(found)} shard(s) incomplete ({names})", err=True)
    return ExitCode.NOT_COMPARABLE if missing else ExitCode.PASS


def _statuses(directory: RunDir, *, wait: bool) -> list[ShardStatus]:
    """Look at the shards; wait: until all are complete, also if none has begun, or damaged, which stays so."""
    from harness.store.shards import shard_status

    while True:
        with contextlib.suppress(StoreError) if wait else contextlib.nullcontext():
            found = shard_status(directory)
            if not wait or all(one.state in {"complete", "damaged"} for one in found):
                return found
        time.sleep(POLL_SECONDS)


def _print_status(directory: RunDir, found: list[ShardStatus], options: OutputOptions) -> None:
    from rich.table import Table

    from harness.report.sanitize import one_line
    from harness.run.progress import clock

    console = shared.make_console(no_color=options.no_color)
    table = Table(box=None, pad_edge=False)
    for heading, side in (("shard", "left"), ("state", "left"), ("done", "right"), ("items/s", "right")):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]
    table.add_column("ETA", justify="right")
    table.add_column("node")
    for one in found:
        rate = "-" if one.items_per_second is None else f"{one.items_per_second:.2g}"
        eta = "-" if one.eta_seconds is None else clock(one.eta_seconds)
        table.add_row(one.shard, one.state, f"{one.done:.0%}", rate, eta, one_line(one.node))
    console.print(table)
    for one in found:
        if one.state in {"stopped", "damaged"}:
            text = f"{one.shard} {one.state}: {one.last_line or 'it wrote no log'}"
            console.print(one_line(f"{text} (log: {one.log})" if one.log else text), markup=False, soft_wrap=True)
    for name in sorted({path.parent.name for path in directory.path.glob("*/failure-*.json")}):
        console.print(one_line(f"{name} is not judged: {directory.failures(name)[0]}"), markup=False, soft_wrap=True)
