"""Commands about models: doctor checks what works on a machine, quantize makes checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.shared import make_console
from harness.errors import ExitCode

__all__ = ["doctor", "quantize"]


@click.command()
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
@click.option("--prove", is_flag=True, help="Quantize and run a tiny model with every method.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def doctor(device: str, prove: bool, as_json: bool) -> int:
    """Show the device, its memory, the methods that work here and why the others do not."""
    from harness.models import doctor as examination

    found = examination.examine(device, prove=prove)
    if as_json:
        click.echo(json.dumps(examination.to_json(found), indent=1))
    else:
        click.echo(examination.describe(found))
    return ExitCode.PASS


@click.command()
@click.argument("source")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(["gptq", "auto-gptq", "awq"]), default="gptq", show_default=True)
@click.option("--bits", type=click.Choice(["2", "3", "4", "8"]), default="4", show_default=True)
@click.option("--group-size", type=int, default=128, show_default=True, help="Must divide the columns of every weight.")
@click.option(
    "--calibration",
    default="builtin",
    show_default=True,
    help="`builtin`, or a file: one text per line, or JSONL with `text`.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 ...")
def quantize(source: str, out: Path, method: str, bits: str, group_size: int, calibration: str, device: str) -> int:
    """Make a GPTQ or AWQ checkpoint of SOURCE (a directory, a hub id, or smollm2) in the new directory OUT."""
    from harness.models import checkpoints
    from harness.models import resolve as models
    from harness.models.devices import resolve_device

    errors = make_console(no_color=False, stderr=True)
    checkpoints.make_checkpoint(
        models.resolve(source, None),
        out,
        method=method,
        bits=int(bits),
        group_size=group_size,
        calibration=checkpoints.calibration(calibration),
        device=resolve_device(device),
        progress=lambda text: errors.print(text, markup=False),
    )
    click.echo(f"{out}: a {method} int{bits} checkpoint of {source}; give it as a candidate's `model`")
    return ExitCode.PASS
