"""Commands that judge and show what lies on disk: compare, gate, report, show, erase. None of them needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness.cli.shared import EPILOG, Look, Number, judge_run, make_console, output_options, show_judgement
from harness.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from harness.judge.verdicts import Judgement

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
@output_options
def compare(
    run: Path | None,
    baseline: Path | None,
    candidates: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    quiet: bool,
    no_color: bool,
    **options: Any,
) -> int:
    """Judge a finished run again, or two sides that other tools ran.

    `quantcliff compare results/demo` recomputes everything from the run's files; only --margin and --alpha apply. With
    --baseline and --candidate it reads lm_eval `samples_*.jsonl` directories, Inspect logs and plain tables, joins them
    by item, and gives the same verdict.
    """
    from harness.run.store import RunDir

    look = Look(as_json, quiet, no_color)
    if run is not None and output is not None:
        raise UsageError(f"--output is for files of other tools: the reports of a run lie in {run}")
    if run is not None and baseline is None and not candidates:
        _check_run_options()
        return judge_run(
            RunDir(run), look, {key: options[key] for key in ("margin", "alpha") if options[key] is not None}
        )
    if run is not None or baseline is None or not candidates:
        msg = "give a run directory, or --baseline PATH with at least one --candidate [NAME=]PATH"
        raise UsageError(msg)
    from harness.judge import foreign

    if output is not None and RunDir(output).exists():
        raise UsageError(f"--output {output}: a run lies there, and its own comparison: give another directory")
    judgement, evidence = foreign.judge(baseline, candidates, options)
    if output is not None:
        evidence = _write_foreign(output, judgement, evidence)
    show_judgement(judgement, evidence, look)
    return judgement.exit_code


def _check_run_options() -> None:
    """Refuse the options that say how files of other tools are read. Raises UsageError."""
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name not in ("run", "margin", "alpha", "as_json", "quiet", "no_color"):
            raise UsageError(f"{option.opts[0]} is for files of other tools, and does not apply to a run")


def _write_foreign(output: Path, judgement: Judgement, evidence: Any) -> Any:
    """Leave the comparison and its reports in a directory, and give the evidence with its place."""
    from dataclasses import replace

    from harness import report
    from harness.judge import judging
    from harness.run.store import RunDir

    placed = replace(evidence, path=str(output))
    judging.write(RunDir(output), judgement)
    report.write(output, judgement, placed)
    return placed


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--policy", type=click.Path(path_type=Path), help="YAML with a `policy` section, or a policy alone.")
@click.option("--margin", type=Number(), help="One margin for every stratum.")
@click.option("--alpha", type=Number(), help="Chance of a wrong pass and of a wrong fail.")
@click.option("--inconclusive", type=click.Choice(["hold", "fail"]), help="What an undecided stratum does.")
@output_options
def gate(
    run: Path,
    policy: Path | None,
    margin: float | None,
    alpha: float | None,
    inconclusive: str | None,
    as_json: bool,
    quiet: bool,
    no_color: bool,
) -> int:
    """Judge a finished run under another policy; its files stay as they are."""
    from harness.config import policy_overrides
    from harness.run.store import RunDir

    overrides = policy_overrides(policy) if policy is not None else {}
    named = {"margin": margin, "alpha": alpha, "inconclusive": inconclusive}
    overrides |= {key: value for key, value in named.items() if value is not None}
    return judge_run(RunDir(run), Look(as_json, quiet, no_color), overrides, write=False)


@click.command(epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@output_options
def report(run: Path, as_json: bool, quiet: bool, no_color: bool) -> int:
    """Write a judged run's reports again, from its comparisons.json."""
    from harness import report as reports
    from harness.judge import judging, run_evidence
    from harness.run.store import RunDir

    directory = RunDir(run)
    judgement = judging.judged(directory)
    evidence = run_evidence.evidence(directory, judgement)
    reports.write(directory.path, judgement, evidence)
    show_judgement(judgement, evidence, Look(as_json, quiet, no_color))
    return judgement.exit_code


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("item")
@click.option("--candidate", help="Which candidate; all unless given.")
@click.option("--no-color", is_flag=True, help="No colour.")
def show(run: Path, item: str, candidate: str | None, no_color: bool) -> int:
    """Show both answers to an item side by side, with what differs marked."""
    from harness import report
    from harness.judge import run_evidence
    from harness.run.store import RunDir

    console = make_console(no_color=no_color)
    for one, sides in run_evidence.answers(RunDir(run), item, candidate):
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
    from harness import report as reports
    from harness.judge import judging, run_evidence
    from harness.run import erasing
    from harness.run.store import RunDir

    if not items and not clusters:
        raise UsageError("say what to erase: --item ID or --cluster NAME, either as often as needed")
    directory = RunDir(run)
    done = erasing.erase(directory, erasing.chosen(directory, items, clusters))
    for line in erasing.told(done):
        click.echo(line)
    if (directory.path / "comparisons.json").is_file():
        judgement = judging.judged(directory)
        written = reports.write(directory.path, judgement, run_evidence.evidence(directory, judgement))
        click.echo(f"written again without them: {', '.join(path.name for path in written)}")
    return ExitCode.PASS
