"""`quantcliff init`: writes a commented config that decides within a budget of hours."""

from __future__ import annotations

from pathlib import Path

import click

from harness.cli.shared import Number
from harness.errors import ExitCode, UsageError

__all__ = ["init"]


@click.command()
@click.argument("model")
@click.option("--candidates", default="int8,nf4", show_default=True, help="Methods to try, separated by commas.")
@click.option("--hours", type=Number(0, min_open=True), required=True, help="Hours that the whole run may take.")
@click.option(
    "--rate",
    type=Number(0, min_open=True),
    default=6000,
    show_default=True,
    help="Items an hour that the model answers.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="File to write, which must not exist; MODEL.yaml by default.",
)
def init(model: str, candidates: str, hours: float, rate: float, output: Path | None) -> int:
    """Write a config that decides within a number of hours, for you to read and change.

    It asks for the strictest promise that the hours allow: every stratum within a margin, or a pooled margin with a
    larger one for each stratum. `quantcliff run FILE --limit 20` shows how fast your machine answers.
    """
    from harness.run.starting import config_text

    name = Path(model).name or model
    path = output or Path(f"{name}.yaml")
    text = config_text(model, [one.strip() for one in candidates.split(",") if one.strip()], hours, rate)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}; give another --output") from error
    click.echo(f"{path}: read it, then `quantcliff plan {path}` and `quantcliff run {path}`")
    return ExitCode.PASS
