"""Commands that look for the damage in a finished run: localize finds the modules, repair proves the cheapest cure."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from harness.cli import shared
from harness.cli.shared import OutputOptions, RunPath
from harness.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.judge.verdicts import Judgement
    from harness.store.record import RunRecord
    from harness.store.rundir import RunDir

__all__ = ["localize", "repair"]


class Share(click.ParamType[float]):
    """A share in percent, such as ``10%``."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the share. Raises click.BadParameter."""
        if isinstance(value, float):
            return value
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is not a share such as 10%", param, ctx)
        return share


def _search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what both commands take."""
    for option in (
        shared.output_options(),
        click.option("--minutes", type=click.FloatRange(min=0), default=15, show_default=True, help="For the search."),
        click.option(
            "--bytes", "share", type=Share(), default="10%", show_default=True,
            help="What may be restored, as a share of the candidate's bytes.",
        ),
        click.argument("candidate"),
        click.argument("run", type=RunPath()),
    ):  # fmt: skip
        function = option(function)
    return function


def _localized(
    run: RunDir, candidate: str, share: float, minutes: float, options: OutputOptions, *, again: bool
) -> tuple[RunRecord, Judgement, dict[str, Any]]:
    """Search, or go on with a search that was stopped. again: also if one of this share was done."""
    from harness.damage import localizing
    from harness.judge import judging
    from harness.store.files import read_json
    from harness.store.whole import load_run

    console = shared.make_console(no_color=options.no_color, stderr=True)
    silent = options.quiet or options.as_json

    def say(text: str) -> None:
        if not silent:
            console.print(text, markup=False, soft_wrap=True)

    record = load_run(run)
    judgement = judging.judge(record)
    done = localizing.damage_path(record, candidate)
    if not again and done.is_file() and (summary := read_json(done)).get("share") == share:
        return record, judgement, summary
    summary = localizing.localize(record, judgement, candidate, share=share, minutes=minutes, say=say)
    return record, judgement, summary


def _print(summary: dict[str, Any], options: OutputOptions) -> None:
    from harness.report.damage import sentences

    click.echo(json.dumps(summary, indent=1) if options.as_json else "\n".join(sentences(summary)))


@click.command()
@_search_options
def localize(run: RunDir, candidate: str, share: float, minutes: float, options: OutputOptions) -> int:
    """Find the modules that cost a candidate its lost items.

    On the items that the run lost in failing strata, and as many kept ones, groups of modules are put back to the
    baseline's weights: the page damage-CANDIDATE.html in the run ranks them by items won back per byte. Give the same
    command again to continue a search that was stopped, or to search longer.
    """
    _, _, summary = _localized(run, candidate, share, minutes, options, again=True)
    _print(summary, options)
    return ExitCode.PASS


@click.command(epilog=shared.EPILOG)
@_search_options
def repair(run: RunDir, candidate: str, share: float, minutes: float, options: OutputOptions) -> int:
    """Leave the fewest bytes unquantized that win the lost items back, and gate that on items never seen before.

    Searches as `localize` does, if that was not done, and runs the repaired variant on held-out items of the failing
    strata, next to what divergence alone and chance would have chosen. repair-CANDIDATE.yaml in the run holds the
    variant for a config; the exit code is that of its verdict.
    """
    from harness.damage import repairing
    from harness.run.progress import Reporter

    record, judgement, summary = _localized(run, candidate, share, minutes, options, again=False)
    console = shared.make_console(no_color=options.no_color, stderr=True)
    progress = Reporter(None if options.quiet or options.as_json else console)
    command = shlex.join(("quantcliff", *(click.get_current_context().find_root().obj or ())))
    summary, code = repairing.repair(record, judgement, summary, progress, command=command)
    _print(summary, options)
    return code
