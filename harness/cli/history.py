"""The command that shows finished runs over time. It needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli import shared
from harness.errors import ExitCode, Incomplete, UsageError

if TYPE_CHECKING:
    from harness.history.changes import Since
    from harness.history.database import History

__all__ = ["history"]


@click.command()
@click.argument("runs", nargs=-1, metavar="[NAME=]DIR...")
@click.option("--db", type=click.Path(path_type=Path, dir_okay=False), help="SQLite file that keeps the runs.")
@click.option("--since", metavar="RUN", help="Run to compare the newest with; by default the last of its config.")
@click.option(
    "--fail-on-regression",
    is_flag=True,
    help="Exit with 1 if a gating stratum regressed, and with 4 if one, or a whole run, cannot be compared.",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder for page, Markdown and badge.")
@click.option("--no-color", is_flag=True, help="No colour (NO_COLOR does the same).")
def history(
    runs: tuple[str, ...],
    db: Path | None,
    since: str | None,
    fail_on_regression: bool,
    output: Path | None,
    no_color: bool,
) -> int:
    """Show runs over time: trends, what changed, and what regressed since a run.

    DIR is a finished run, or a folder in which all finished runs are taken, in the order of their paths. The order of
    runs is that in which they are given; with --db it goes on from those that the file holds. See docs/history.md.
    """
    from harness.history import changes, files
    from harness.history.database import History

    found = History(db)
    left_out = [path for name, path in _named(runs) if not _add(found, name, path)]
    if not found.rows("SELECT 1 FROM runs"):
        raise UsageError("there is no finished run: give directories that `quantcliff run` made, or --db FILE")
    compared = changes.since(found, since)
    _print(found, compared, no_color=no_color)
    for path in files.write(output, found, compared) if output is not None else ():
        click.echo(path)
    if not fail_on_regression:
        return ExitCode.PASS
    if compared is None:
        click.echo(
            "quantcliff: there is no earlier run of this config to compare with: name one with --since", err=True
        )
        return ExitCode.NOT_COMPARABLE
    if compared.regressed:
        return ExitCode.FAIL
    return ExitCode.NOT_COMPARABLE if compared.left_out or left_out else ExitCode.PASS


def _print(found: History, since: Since | None, *, no_color: bool) -> None:
    """Print the sections, the most important last, where a terminal ends."""
    from harness.history import sections
    from harness.report.terminal import Pen

    pen = Pen(shared.make_console(no_color=no_color), rest="listed in history.md")
    for _, shown in reversed(sections.blocks(found, since)):
        for section in shown:
            pen.section(section)
    pen.console.print()
    for sentence in sections.headline(found, since):
        pen.console.print(pen.text(sentence))


def _named(given: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Return name and path of each run: what was given, or the path below a folder of runs."""
    from harness.judge.outcomes import natural_key

    for text in given:
        label, _, rest = text.rpartition("=") if not Path(text).exists() else ("", "", text)
        folder = Path(rest)
        if (folder / "run.json").is_file():
            yield label or folder.resolve().name, folder
            continue
        inside = sorted((path.parent for path in folder.rglob("run.json")), key=lambda one: natural_key(str(one)))
        if not inside:
            raise UsageError(f"{rest}: holds no run; give a directory that `quantcliff run` made, or one above it")
        for path in inside:
            name = path.relative_to(folder).as_posix()
            yield f"{label}/{name}" if label else name, path


def _add(found: History, name: str, path: Path) -> bool:
    """Add a run, and return whether it was added; one that is not finished is left out, and named."""
    from harness.store.rundir import RunDir

    try:
        found.add(name, RunDir(path))
    except Incomplete as error:
        click.echo(f"quantcliff: left out: {error}", err=True)
        return False
    return True
