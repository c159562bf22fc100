"""The program: runs one command, and turns its result, or any exception, into an exit code.

Commands import nothing before it is needed, so that ``--help`` is quick and judging never loads torch.
"""

import io
import os
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO, cast

import click

from harness import __version__
from harness.cli import judge, models, run
from harness.cli.shared import EPILOG
from harness.errors import ExitCode, QuantcliffError

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


def main() -> None:
    """Run the command line and leave with the exit code that the result means."""
    sys.stdout, sys.stderr = _unbroken(sys.stdout), _unbroken(sys.stderr)
    code = _run(sys.argv[1:])
    sys.stdout.flush()
    if failure := getattr(getattr(sys.stdout.buffer, "raw", None), "failure", ""):
        click.echo(f"quantcliff: the output cannot be written: {failure}; give the command again", err=True)
        code = ExitCode.NOT_COMPARABLE
    sys.exit(code)


class _Pipe(io.FileIO):
    """An output whose reader may close it: the rest is dropped, and the command goes on."""

    failure = ""  # why the output could not be written, other than by a closed pipe

    def write(self, data: Any) -> int:
        """Write bytes; to nowhere from the first failure on."""
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.failure = error.strerror or str(error)
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


def _unbroken(stream: TextIO | None) -> TextIO:
    """Return a stream that survives a closed pipe, so that `quantcliff compare ... | head` keeps its exit code."""
    if stream is None:  # closed before the start, as by `>&-`
        return Path(os.devnull).open("w", encoding="utf-8")
    raw, buffered = _Pipe(stream.fileno(), "w", closefd=False), stream.isatty() or stream is sys.stderr
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, None, buffered, buffered)


def _run(arguments: list[str]) -> int:
    """Run one command and return its exit code: that of a pass if the command gives none."""
    try:
        result = commands.main(args=arguments, prog_name="quantcliff", standalone_mode=False, obj=tuple(arguments))
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except Exception as error:
        return _failed(error)
    except SystemExit:  # click's exit of 1 for a broken pipe, which would read as "fail"
        return ExitCode.NOT_COMPARABLE
    except KeyboardInterrupt:
        click.echo("quantcliff: stopped", err=True)
        return ExitCode.NOT_COMPARABLE
    return int(result) if isinstance(result, int) else ExitCode.PASS


def _failed(error: Exception) -> int:
    """Print what went wrong, and return the exit code for it: never 1, the code of a failed candidate."""
    text, code = "this is a bug in quantcliff; finished work is kept. Please report it.", ExitCode.NOT_COMPARABLE
    if isinstance(error, click.ClickException):
        error.show()
        return ExitCode.USAGE
    if isinstance(error, QuantcliffError):
        text, code = str(error), error.exit_code
    elif isinstance(error, ModuleNotFoundError) and not (error.name or "harness").startswith("harness"):
        text = f"the package {error.name} is not installed; running models needs pip install 'quantcliff[run]'"
    elif isinstance(error, OSError) and error.filename:  # such as a folder in a file's place
        text = f"{error.filename}: {error.strerror}: remove or restore it, or give another place"
    elif isinstance(error, click.Abort):
        text = "stopped"
    else:
        traceback.print_exception(error)
    click.echo(f"quantcliff: {text}", err=True)
    return code


class _Commands(click.Group):
    """Commands of which each option is given once, unless it may be repeated."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command. Raises click.UsageError if it is given an option twice: the last would count silently."""
        name, command, rest = found = cast("Any", super().resolve_command(ctx, args))
        own = click.Context(command or self, ctx, name)
        given = [] if ctx.resilient_parsing else command.make_parser(own).parse_args(list(rest))[2]  # of a completion
        for one in given:
            if isinstance(one, click.Option) and not (one.multiple or one.is_flag) and given.count(one) > 1:
                raise click.UsageError(f"{one.opts[0]} is given {given.count(one)} times: give it once", own)
        return found


@click.group(cls=_Commands, epilog=EPILOG, context_settings=_HELP)
@click.version_option(__version__, prog_name="quantcliff")
def commands() -> None:
    """Does the quantized build still answer the long tail as the baseline does?

    quantcliff runs a baseline and its int8/int4 candidates over stratified tail slices, pairs their answers item by
    item, and gives a verdict per stratum: pass, fail or inconclusive, with known error rates.
    """


for _command in (
    *(run.run, run.plan, run.slices, run.demo, run.init, run.submit, run.status),
    *(judge.compare, judge.gate, judge.report, judge.show, judge.erase, judge.history, judge.verify),
    *(models.doctor, models.quantize, models.localize, models.repair),
):
    commands.add_command(_command)
