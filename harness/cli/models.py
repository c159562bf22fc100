"""Commands about models: doctor, quantize, and the search for the damage of a finished run, localize and repair."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click import option

from harness.cli import shared
from harness.cli.shared import OutputOptions, RunPath

if TYPE_CHECKING:
    from harness.judge.verdicts import Judgement
    from harness.store.record import RunRecord
    from harness.store.rundir import RunDir

_BYTES = "What may be restored, as a share of the candidate's bytes."


@click.command()
@shared.own_options("doctor")
def doctor(device: str, prove: bool, as_json: bool) -> None:
    """Show the device, its memory, the methods that work here and why the others do not."""
    from harness.config.methods import METHODS
    from harness.models import doctor as examination
    from harness.records import to_json

    methods = METHODS if prove else ()
    found = examination.examine(device, prove=methods, progress=lambda said: click.echo(said, err=True))
    if as_json:
        shared.print_json(to_json(found))
    else:
        click.echo(examination.describe(found))


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@shared.own_options("quantize")
def quantize(source: str, out: Path, method: str, bits: str, group_size: int, calibration: str, device: str) -> None:
    """Make a GPTQ or AWQ checkpoint of SOURCE (a directory, a hub id, or smollm2) in the new directory OUT."""
    from harness.models import checkpoints
    from harness.models import resolve as models
    from harness.models.calibration import built_in, from_file
    from harness.models.devices import resolve_device

    texts = built_in() if calibration == "builtin" else from_file(Path(calibration).expanduser())
    how: dict[str, Any] = {"method": method, "bits": int(bits), "group_size": group_size, "calibration": texts}
    say = functools.partial(shared.make_console(stderr=True).print, markup=False)
    checkpoints.make_checkpoint(models.resolve(source, None), out, **how, device=resolve_device(device), progress=say)
    click.echo(f"{out}: a {method} int{bits} checkpoint of {source}; give it as a candidate's `model`")


def _share(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    """Return the share that a percentage such as ``10%`` is. Raises click.BadParameter."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value)
    if not found or not 0 < (share := float(found[1]) / 100) <= 1:
        raise click.BadParameter(f"{value!r} is not a share such as 10%, with its sign")
    return share


def _search_options(function: Callable[..., Any]) -> Callable[..., Any]:
    function = shared.output_options()(function)
    function = option("--minutes", type=click.FloatRange(min=0), default=12, help="For the search.")(function)
    function = option("--bytes", "share", metavar="PERCENT", callback=_share, default="10%", help=_BYTES)(function)
    return click.argument("run", type=RunPath())(click.argument("candidate")(function))


def _localized(
    run: RunDir, candidate: str, share: float, minutes: float, options: OutputOptions, bits: int | None, *, again: bool
) -> tuple[RunRecord, Judgement, dict[str, Any]]:
    """Search, or go on with a stopped search. again: also if this share was done. bits: that must be possible."""
    from harness.damage import commands
    from harness.judge import judging
    from harness.run.identity import check_files
    from harness.run.plan import files_of
    from harness.store.files import read_json
    from harness.store.whole import load_run

    record = load_run(run)
    judgement = judging.judge(record)
    variant, _ = commands.lost_variant(record, judgement, candidate)
    commands.check_bits(variant, bits)
    for one in (record.experiment.baseline, variant):
        check_files(one, files_of(one, None), record.identities[one.name])
    say = shared.progress(options).note
    known = not again and (done := commands.damage_path(record, candidate)).is_file() and read_json(done)
    if known and commands.searched(record, share).items() <= known.items():
        return record, judgement, known
    return record, judgement, commands.localize(record, judgement, candidate, share, minutes, say, proof=not again)


def _print(summary: dict[str, Any], options: OutputOptions) -> None:
    from harness.report.damage import sentences

    if options.as_json:
        shared.print_json(summary)
    else:
        click.echo("\n".join(sentences(summary)))


@click.command()
@_search_options
def localize(run: RunDir, candidate: str, share: float, minutes: float, options: OutputOptions) -> None:
    """Find the modules that cost a candidate its lost items.

    On the items that the run lost in failing strata, and as many kept ones, groups of modules are put back to the
    baseline's weights: the page damage-CANDIDATE.html in the run ranks them by items won back per byte. Give the same
    command again to continue a search that was stopped, or to search longer.
    """
    _, _, summary = _localized(run, candidate, share, minutes, options, None, again=True)
    _print(summary, options)


@click.command(epilog=shared.EPILOG)
@_search_options
@shared.own_options("repair")
def repair(
    run: RunDir, candidate: str, share: float, minutes: float, options: OutputOptions, module_bits: int | None
) -> int:
    """Leave the fewest bytes unquantized that win the lost items back, and gate that on items never seen before.

    Searches as `localize` does, if that was not done, and runs the repaired variant on held-out items of the failing
    strata, next to what divergence alone and chance would have chosen. repair-CANDIDATE.yaml in the run holds the
    variant for a config; the exit code is that of its verdict.
    """
    from harness.damage import commands

    record, judgement, summary = _localized(run, candidate, share, minutes, options, module_bits, again=False)
    progress, command = shared.progress(options), shared.command_line()
    summary, code = commands.repair(record, judgement, summary, progress, command=command, bits=module_bits)
    _print(summary, options)
    return code
