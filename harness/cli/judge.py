"""Commands that judge and show what lies on disk: compare, gate, report, show, erase. None of them needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness.cli.shared import (
    EPILOG,
    Look,
    Number,
    judge_run,
    make_console,
    output_options,
    show_judgement,
    trust_options,
)
from harness.errors import ExitCode, QuantcliffError, UsageError

if TYPE_CHECKING:
    from harness.judge.verdicts import Judgement
    from harness.report.evidence import Evidence

__all__ = ["compare", "erase", "gate", "report", "show"]


@click.command(epilog=EPILOG)
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    help="Results of the baseline: lm_eval or Inspect logs, CSV, JSON lines, Parquet.",
)
@click.option(
    "--candidate",
    "candidates",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Results of a candidate; may be repeated.",
)
@click.option("--item", help="Column that names the item (plain tables).")
@click.option("--score", help="Column that holds the score, in [0, 1] (plain tables).")
@click.option(
    "--stratum",
    "strata",
    multiple=True,
    help="Column, or field of lm_eval's doc or Inspect's metadata, that splits; may be repeated.",
)
@click.option("--cluster", help="Column or field that names the source that items share.")
@click.option("--slice", help="Column that names the slice (plain tables).")
@click.option("--prompt", help="Column with what was asked, or its hash: items asked differently do not match.")
@click.option("--weight", help="Column with the share of traffic (plain tables).")
@click.option(
    "--chance", type=Number(0, 1, max_open=True), help="Score of guessing; by default from the choices, or 0."
)
@click.option(
    "--filter",
    multiple=True,
    metavar="[TASK=]NAME",
    help="Filter of lm_eval logs, for every task that has it or for some; a task's first by default. May be repeated.",
)
@click.option(
    "--repeats",
    type=click.Choice(["refuse", "mean"]),
    help="What to do with an item that has several scores (tables, lm_eval); refuse by default.",
)
@click.option(
    "--metric",
    multiple=True,
    metavar="[TASK=]NAME",
    help="Metric of lm_eval logs or scorer of Inspect logs, in the same way.",
)
@click.option("--margin", type=Number(), help="Largest tolerated drop, a proportion such as 0.02.")
@click.option("--alpha", type=Number(), help="Chance of a wrong pass and of a wrong fail; 0.05 unless given.")
@click.option(
    "--allow-unmatched",
    type=Number(0, 1),
    default=0.01,
    show_default=True,
    help="Largest share of items without a partner.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Directory for the reports on files that other tools wrote; none are written unless given.",
)
@trust_options
@output_options
def compare(  # noqa: PLR0917
    run: Path | None,
    baseline: Path | None,
    candidates: tuple[str, ...],
    output: Path | None,
    allow_identical: bool,
    rehearsal_ok: bool,
    as_json: bool,
    quiet: bool,
    no_color: bool,
    **options: Any,
) -> int:
    """Judge a finished run again, or two sides that other tools ran.

    `quantcliff compare results/demo` recomputes everything from the run's files; with --margin or --alpha the result
    is shown and the run's own verdict stays. With --baseline and --candidate it reads lm_eval `samples_*.jsonl`
    directories, Inspect logs and plain tables, joins them by item, and gives the same verdict.
    """
    from harness.store.rundir import RunDir

    look = Look(as_json, quiet, no_color, allow_identical=allow_identical, rehearsal_ok=rehearsal_ok)
    if run is not None and baseline is None and not candidates:
        _refuse_foreign_flags(run)
        changed = {key: options[key] for key in ("margin", "alpha") if options[key] is not None}
        return judge_run(RunDir(run), look, changed)
    if run is not None or baseline is None or not candidates:
        msg = "give a run directory, or --baseline PATH with at least one --candidate [NAME=]PATH"
        raise UsageError(msg)
    from harness.judge.imported import judge_imported
    from harness.report.evidence import Evidence

    if output is not None and RunDir(output).exists():
        raise UsageError(f"--output {output}: a run lies there, and its own comparison: give another directory")
    judgement = judge_imported(baseline, candidates, {**options, "allow_identical": allow_identical})
    evidence = Evidence(name="comparison", path=str(output or ""), provenance=judgement.provenance)
    if output is not None:
        _write_foreign(output, judgement, evidence)
    show_judgement(judgement, evidence, look)
    return judgement.exit_code


OF_A_RUN = frozenset({"run", "margin", "alpha", "allow_identical", "rehearsal_ok", "as_json", "quiet", "no_color"})
"""The parameters of `compare` that apply to a run directory; the others are for files of other tools."""


def _refuse_foreign_flags(run: Path) -> None:
    """Refuse a flag that has no effect on a run directory. Raises UsageError."""
    context = click.get_current_context()
    given = ParameterSource.COMMANDLINE
    names = [
        one.opts[0]
        for one in context.command.params
        if context.get_parameter_source(str(one.name)) is given and one.name not in OF_A_RUN
    ]
    if names:
        text = f"{', '.join(names)}: for files of other tools (--baseline, --candidate)"
        raise UsageError(f"{text}; the strata, scores and reports of a run are in its directory, {run}")


def _write_foreign(output: Path, judgement: Judgement, evidence: Evidence) -> None:
    """Write the comparison and its reports into a directory."""
    from harness import report
    from harness.judge import judging
    from harness.store.rundir import RunDir

    judging.write(RunDir(output), judgement)
    report.write(output, judgement, evidence)


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--policy", type=click.Path(path_type=Path), help="YAML with a `policy` section, or a policy alone.")
@click.option("--margin", type=Number(), help="One margin for every stratum.")
@click.option("--alpha", type=Number(), help="Chance of a wrong pass and of a wrong fail.")
@click.option("--inconclusive", type=click.Choice(["hold", "fail"]), help="What an undecided stratum does.")
@trust_options
@output_options
def gate(  # noqa: PLR0917
    run: Path,
    policy: Path | None,
    margin: float | None,
    alpha: float | None,
    inconclusive: str | None,
    allow_identical: bool,
    rehearsal_ok: bool,
    as_json: bool,
    quiet: bool,
    no_color: bool,
) -> int:
    """Judge a finished run under another policy; its files stay as they are."""
    from harness.config.loading import policy_overrides
    from harness.store.rundir import RunDir

    overrides = policy_overrides(policy) if policy is not None else {}
    named = {"margin": margin, "alpha": alpha, "inconclusive": inconclusive}
    overrides |= {key: value for key, value in named.items() if value is not None}
    look = Look(as_json, quiet, no_color, allow_identical=allow_identical, rehearsal_ok=rehearsal_ok)
    return judge_run(RunDir(run), look, overrides, write=False)


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@trust_options
@output_options
def report(run: Path, allow_identical: bool, rehearsal_ok: bool, as_json: bool, quiet: bool, no_color: bool) -> int:
    """Judge a finished run by its own policy and write its reports again."""
    from harness.store.rundir import RunDir

    look = Look(as_json, quiet, no_color, allow_identical=allow_identical, rehearsal_ok=rehearsal_ok)
    return judge_run(RunDir(run), look)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("item")
@click.option("--candidate", help="Which candidate; all unless given.")
@click.option("--no-color", is_flag=True, help="No colour.")
def show(run: Path, item: str, candidate: str | None, no_color: bool) -> int:
    """Show both answers to an item side by side, with what differs marked."""
    from harness import report
    from harness.report import run_evidence
    from harness.store.record import read_run
    from harness.store.rundir import RunDir

    console = make_console(no_color=no_color)
    for one, sides in run_evidence.answers(read_run(RunDir(run)), item, candidate):
        console.rule(f"{sides.candidate}", style="dim")
        before, after = sides.baseline_answer, sides.candidate_answer
        report.side_by_side(one, before, after, console)
        console.print(f"score: baseline {before.score}, {sides.candidate} {after.score}", markup=False)
    return ExitCode.PASS


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--item", "items", multiple=True, metavar="ID", help="An item's whole id; may be repeated.")
@click.option("--cluster", "clusters", multiple=True, metavar="NAME", help="All items of a source; may be repeated.")
def erase(run: Path, items: tuple[str, ...], clusters: tuple[str, ...]) -> int:
    """Take the texts of items out of a run for good: questions, answers, logs, reports.

    Scores stay, so the verdict can still be computed again, byte for byte.
    """
    from harness.store import erasing
    from harness.store.rundir import RunDir

    if not items and not clusters:
        raise UsageError("say what to erase: --item ID or --cluster NAME, either as often as needed")
    directory = RunDir(run)
    done = erasing.erase(directory, erasing.select_items(directory, items, clusters))
    for line in erasing.describe_erasure(done):
        click.echo(line)
    if (directory.path / "comparisons.json").is_file():
        click.echo(_report_without(directory))
    return ExitCode.PASS


def _report_without(directory: Any) -> str:
    """Write the reports again after an erasure, or remove them if the run cannot be judged; say which."""
    from harness import report as reports
    from harness.judge import judging
    from harness.report import run_evidence
    from harness.store.whole import load_run

    try:
        record = load_run(directory)
        judgement = judging.judge(record, allow_identical=True)
    except QuantcliffError as error:
        gone = reports.remove(directory.path)
        return f"deleted, as the run cannot be judged again: {', '.join(path.name for path in gone)} ({error})"
    written = reports.write(directory.path, judgement, run_evidence.evidence(record, judgement))
    return f"written again without them: {', '.join(path.name for path in written)}"
