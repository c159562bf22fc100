"""What the commands share: options, a console, finding a config, showing a judgement.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import ConfigError, ExitCode, Problem

if TYPE_CHECKING:
    from rich.console import Console

    from harness.config.schema import Experiment
    from harness.judge.verdicts import Judgement

__all__ = [
    "EPILOG",
    "Look",
    "Number",
    "config_options",
    "find_config",
    "judge_run",
    "load_experiment",
    "make_console",
    "output_dir_option",
    "output_options",
    "show_judgement",
    "trust_options",
]

EPILOG = """\b
Exit codes: 0 pass, 1 fail, 2 bad usage or config, 3 inconclusive or no signal,
4 the run is incomplete or not comparable."""
"""What every command that ends in a verdict says of its exit code."""


class Number(click.FloatRange):
    """A finite number in a range, in digits: ``nan``, ``inf`` and ``0_1``, which float() takes, are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number. Raises click.BadParameter."""
        if isinstance(value, str) and not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value, re.ASCII):
            self.fail(f"{value!r} is not a number such as 0.02", param, ctx)
        return float(super().convert(value, param, ctx))


def output_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that prints a judgement takes."""
    function = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")(function)
    function = click.option("--quiet", "-q", is_flag=True, help="Print the verdict lines only; no progress.")(function)
    return click.option("--no-color", is_flag=True, help="No colour (NO_COLOR does the same).")(function)


def trust_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that judges a run takes: what the caller accepts in it."""
    function = click.option("--rehearsal-ok", is_flag=True, help="Let a rehearsal that passes end in exit code 0.")(
        function
    )
    return click.option(
        "--allow-identical", is_flag=True, help="Accept a candidate that is the baseline itself (an A/A comparison)."
    )(function)


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what every command that reads a config takes."""
    options = [
        click.option("--only", multiple=True, metavar="NAME", help="Only this slice or candidate; may be repeated."),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            help="At most so many items per stratum: a smoke test, not a verdict.",
        ),
        click.option("--device", help="cpu, cuda, cuda:1 ...; the config's unless given."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def output_dir_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that says where the run directory is made."""
    text = "Where the run directory is made; the config's `output` by default."
    return click.option("--output", "-o", help=text)(function)


def make_console(*, no_color: bool, stderr: bool = False) -> Console:
    """Give a console for standard output or error."""
    from rich.console import Console

    return Console(no_color=no_color or None, stderr=stderr, highlight=False)


def load_experiment(
    config: str, only: tuple[str, ...], limit: int | None, device: str | None
) -> tuple[Experiment, Path]:
    """Load a config, by path or by the name of one that ships, and narrow it as the flags say."""
    from harness.config.loading import load, with_overrides

    path = find_config(config)
    experiment = load(path)
    return with_overrides(experiment, only=only, limit=limit, device=device, source=str(path)), path


def find_config(config: str) -> Path:
    """Find a config by its path, or by the name of one that ships. Raises ConfigError where there is none."""
    from harness.config.resources import configs_dir

    path = Path(config)
    shipped = configs_dir() / f"{config}.yaml"
    if not path.exists() and "/" not in config and shipped.is_file():
        return shipped
    if not path.exists():
        names = ", ".join(sorted(one.stem for one in configs_dir().glob("*.yaml")))
        raise ConfigError(config, [Problem("", f"there is no such file. Configs that ship, by name: {names}")])
    return path


class Look:
    """How results are shown, and what the caller allows on the way to them."""

    def __init__(
        self,
        as_json: bool,
        quiet: bool,
        no_color: bool,
        *,
        allow_code: bool = False,
        allow_identical: bool = False,
        rehearsal_ok: bool = False,
    ) -> None:
        self.as_json, self.quiet, self.no_color, self.allow_code = as_json, quiet, no_color, allow_code
        self.allow_identical, self.rehearsal_ok = allow_identical, rehearsal_ok

    def exit_code(self, code: int, *, rehearsal: bool) -> int:
        """Give the exit code of a verdict: a rehearsal measured no model, so it does not end in 0 unless allowed to."""
        if not rehearsal or self.rehearsal_ok or code != ExitCode.PASS:
            return code
        text = "the answers of this rehearsal were made up, so it is not a pass; --rehearsal-ok ends it in 0"
        click.echo(f"quantcliff: {text}", err=True)
        return ExitCode.NOT_COMPARABLE


def judge_run(directory: Any, look: Look, overrides: dict[str, Any] | None = None, *, write: bool = True) -> int:
    """Compare and gate a finished run, report it, and give its exit code.

    Only the run's own verdict is written: one under another policy is shown.
    """
    from harness import report
    from harness.judge import judging
    from harness.report import run_evidence
    from harness.store.whole import load_run

    run = load_run(directory)
    judgement = judging.judge(run, overrides, allow_identical=look.allow_identical)
    evidence = run_evidence.evidence(run, judgement)
    if write and not overrides:
        judging.write(directory, judgement)
        report.write(directory.path, judgement, evidence)
    show_judgement(judgement, evidence, look)
    return look.exit_code(judgement.exit_code, rehearsal=run.experiment.execution.rehearsal is not None)


def show_judgement(judgement: Judgement, evidence: Any, look: Look) -> None:
    """Print a judgement as JSON, in one line per candidate, or whole."""
    from harness import report

    if look.as_json:
        click.echo(json.dumps(judgement.to_json(), indent=1, ensure_ascii=False, allow_nan=False))
    elif look.quiet:
        for one in judgement.candidates:
            click.echo(f"{one.name}: {one.verdict}")
    else:
        report.terminal(judgement, make_console(no_color=look.no_color), evidence)
