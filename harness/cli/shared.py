"""What the commands share: options, a console, finding a config, printing a judgement."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from harness.errors import ConfigError, ExitCode, Problem, QuantcliffError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config.schema import Experiment
    from harness.judge.verdicts import Judgement
    from harness.store.rundir import RunDir

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]
EPILOG = """\b
Exit codes: 0 pass, 1 fail, 2 bad usage or config, 3 inconclusive or no signal,
4 the run is incomplete or not comparable."""
"""The help of every command that ends in a verdict."""
FLAGS = tomllib.loads(Path(__file__).with_name("flags.toml").read_text("utf-8"))


class Number(click.FloatRange):
    """A finite number in a range, in digits: ``nan``, ``inf`` and ``0_1``, which float() accepts, are refused."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number. Raises click.BadParameter."""
        if isinstance(value, str) and not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value, re.ASCII):
            self.fail(f"{value!r} is not a number such as 0.02", param, ctx)
        return float(super().convert(value, param, ctx))

    def _describe_range(self) -> str:  # what click's help shows
        return "" if self.min is None and self.max is None else super()._describe_range()


class RunPath(click.Path):
    """The path of a run directory, given as a `harness.store.rundir.RunDir`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the run directory, which need not exist."""
        from harness.store.rundir import RunDir

        return RunDir(Path(str(super().convert(value, param, ctx))))


class OutputOptions(NamedTuple):
    """How a result is printed, and what the caller accepts on the way to it."""

    as_json: bool = False
    quiet: bool = False
    no_color: bool = False
    allow_identical: bool = False
    rehearsal_ok: bool = False
    allow_code_execution: bool = False

    def exit_code(self, code: int, *, rehearsal: bool) -> int:
        """Return the exit code of a verdict: a rehearsal measured no model, so it is not 0 unless allowed to be."""
        if not rehearsal or self.rehearsal_ok or code != ExitCode.PASS:
            return code
        text = "this was a rehearsal with made-up answers, which is not a pass; use --rehearsal-ok to exit with 0"
        click.echo(f"quantcliff: {text}", err=True)
        return ExitCode.NOT_COMPARABLE


def output_options(*, trust: bool = False, code: bool = False, printed: bool = True) -> Decorator:
    """Add a command's flags as one `options`. trust: it judges a run. code: it may execute code. printed: it prints."""
    names = ["allow_code_execution"] * code + ["allow_identical", "rehearsal_ok"] * trust
    names += ["as_json", "quiet", "no_color"] * printed
    told = [(name, *FLAGS["output"][name]) for name in names]
    flags = [click.option(*spelled, name, is_flag=True, help=text) for name, *spelled, text in told]
    return _packed("options", OutputOptions, names, flags)


_KINDS: dict[str, Callable[..., Any]] = {"path": functools.partial(click.Path, path_type=Path), "number": Number}
_KINDS |= {"whole": click.IntRange, "choice": click.Choice}


def _listed(command: str) -> list[Decorator]:
    """Return the options that flags.toml lists for a command."""
    made = list[Decorator]()
    for name, said in FLAGS["options"][command].items():
        kind = next((make(**said[key]) for key, make in _KINDS.items() if key in said), None)
        more = {key: value for key, value in said.items() if key not in {"flags", *_KINDS}}
        more |= {"help": said["help"].format(**FLAGS)} if "help" in said else {}
        made.append(click.option(*said.get("flags", [f"--{name.replace('_', '-')}"]), name, type=kind, **more))
    return made


def own_options(command: str) -> Decorator:
    """Add the options that flags.toml lists for a command, each as an argument of its own."""
    return functools.partial(_added, _listed(command))


def _added(options: Sequence[Decorator], command: Command) -> Command:
    return functools.reduce(lambda own, option: option(own), reversed(options), command)


def _packed(name: str, pack: Callable[..., Any], fields: Sequence[str], options: Sequence[Decorator]) -> Decorator:
    """Return a decorator that adds options to a command, which gets them as one argument."""

    def add(function: Command) -> Command:
        @functools.wraps(function)
        def packed(*args: Any, **given: Any) -> Any:
            return function(*args, **{name: pack(**{one: given.pop(one) for one in fields}), **given})

        return _added(options, packed)

    return add


class ConfigChanges(NamedTuple):
    """What flags change in a config."""

    only: tuple[str, ...] = ()
    limit: int | None = None
    device: str | None = None


config_options = _packed("changes", ConfigChanges, ConfigChanges._fields, _listed("changes"))


def make_console(*, no_color: bool = False, stderr: bool = False) -> Console:
    """Return a console for standard output or error."""
    from rich.console import Console

    return Console(no_color=no_color or None, stderr=stderr, highlight=False)


def progress(options: OutputOptions) -> Any:
    """Return what shows the progress of a run on standard error."""
    from harness.run.progress import Reporter

    return Reporter(None if options.quiet or options.as_json else make_console(no_color=options.no_color, stderr=True))


def print_json(value: object, *, allow_nan: bool = True) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=allow_nan))


def command_line() -> str:
    """Return the command as it was given, to be given again."""
    return shlex.join(("quantcliff", *(click.get_current_context().find_root().obj or ())))


def load_experiment(config: str, changes: ConfigChanges) -> tuple[Experiment, Path]:
    """Load a config, by its path or by the name of one that ships, with the changes that the flags ask for."""
    from harness.config.loading import load, with_overrides

    path = find_config(config)
    return with_overrides(load(path), str(path), **changes._asdict()), path


def find_config(config: str) -> Path:
    """Find a config by its path, or by the name of one that ships. Raises ConfigError if there is none."""
    from harness.config.resources import shipped

    path, packed = Path(config), shipped("configs") / f"{config}.yaml"
    if path.exists():
        return path
    if "/" not in config and packed.is_file():
        return packed
    names = ", ".join(sorted(one.stem for one in shipped("configs").glob("*.yaml")))
    raise ConfigError(config, [Problem("", f"there is no such file. Shipped configs: {names}")])


@contextlib.contextmanager
def no_stale_reports(run: RunDir) -> Iterator[None]:
    """If work on a run fails, and its record cannot be judged, delete its verdict and reports: they may say pass."""
    try:
        yield
    except QuantcliffError as error:
        from harness import report  # late: most commands do not fail
        from harness.judge import judging
        from harness.store.rundir import SCHEMA
        from harness.store.whole import load_run

        try:  # unless it is of another version, which can judge it
            if (run.exists() or (run.path / "manifest.json").is_file()) and run.plan().get("schema", 0) in (0, SCHEMA):
                judging.judge(load_run(run), allow_identical=True)
        except QuantcliffError:
            with contextlib.suppress(QuantcliffError):  # of a folder that is for reading alone
                if report.remove(run.path):
                    error.args = (f"{error} (its earlier verdict and reports were deleted)",)
        raise


def judge_run(run: RunDir, options: OutputOptions, given: Any = None, *, write: bool = True, track: Any = None) -> int:
    """Compare, gate and report a finished run, and return its exit code. track: see `harness.report.trackers`."""
    from harness import report
    from harness.judge import gate, judging
    from harness.report import run_evidence
    from harness.store.whole import load_run

    with no_stale_reports(run) if write and not given else contextlib.nullcontext():
        record = load_run(run)
        judgement = judging.judge(record, given, allow_identical=options.allow_identical)
    code = options.exit_code(judgement.exit_code, rehearsal=record.experiment.execution.rehearsal is not None)
    judgement = judgement if code == judgement.exit_code else gate.rehearsed(judgement)
    evidence = run_evidence.evidence(record, judgement)
    if write and not given:  # a verdict under another policy is not the run's own
        judging.write(run, judgement)
        report.write(run.path, judgement, evidence)
    print_judgement(judgement, evidence, options)
    if track:
        from harness.report import trackers

        for line in trackers.send(run.path, judgement, evidence, track):
            click.echo(f"quantcliff: {line}", err=True)
    return judgement.exit_code


def print_judgement(judgement: Judgement, evidence: Any, options: OutputOptions) -> None:
    """Print a judgement as JSON, in one line per candidate, or whole."""
    from harness import report

    if options.as_json:
        print_json(judgement.to_json(), allow_nan=False)
    elif options.quiet:
        for one in judgement.candidates:
            click.echo(f"{one.name}: {one.verdict}")
    else:
        report.terminal(judgement, make_console(no_color=options.no_color), evidence)
