"""Commands on stored results: compare, gate, report, show, erase, history, verify. None of them needs torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from harness.cli import shared
from harness.cli.shared import OutputOptions, RunPath
from harness.errors import ExitCode, Incomplete, QuantcliffError, UsageError

if TYPE_CHECKING:
    from harness.config.engines import EngineSpec
    from harness.run.verifying import Verification
    from harness.store.rundir import RunDir


@click.command(epilog=shared.EPILOG)
@click.argument("run", required=False, type=RunPath())
@shared.own_options("compare")
@shared.output_options(trust=True)
def compare(
    run: RunDir | None, baseline: Path | None, candidates: tuple[str, ...], options: OutputOptions, **flags: Any
) -> int:
    """Judge a finished run again, or compare results of other tools.

    `quantcliff compare results/demo` recomputes everything from the run's files; with --margin or --alpha the result
    is only printed, and the run's own verdict stays. With --baseline and --candidate it reads lm_eval `samples_*.jsonl`
    directories, Inspect logs and plain tables, joins them by item, and gives the same verdict. A field is one of
    lm_eval's doc or Inspect's metadata; [TASK=]NAME is for all tasks or for one, and may be repeated.
    """
    if run is not None and baseline is None and not candidates:
        _refuse_table_flags(run)
        changed = {key: flags[key] for key in ("margin", "alpha") if flags[key] is not None}
        return shared.judge_run(run, options, changed)
    if run is not None or baseline is None or not candidates:
        raise UsageError("give a run directory, or --baseline PATH with at least one --candidate [NAME=]PATH")
    from harness import report as reports
    from harness.judge import judging
    from harness.judge.imported import judge_imported
    from harness.report.evidence import Evidence
    from harness.store.rundir import RunDir

    if (output := flags.pop("output")) is not None and RunDir(output).exists():
        raise UsageError(f"--output {output}: already contains a quantcliff run; give another directory")
    if output is not None and (output / "verdict.json").is_file():  # of an earlier comparison: these may be refused
        reports.remove(output)
    judgement = judge_imported(baseline, candidates, {**flags, "allow_identical": options.allow_identical})
    evidence = Evidence(name="comparison", path=str(output or ""), provenance=judgement.provenance)
    if output is not None:
        judging.write(RunDir(output), judgement)
        reports.write(output, judgement, evidence)
    shared.print_judgement(judgement, evidence, options)
    return judgement.exit_code


def _refuse_table_flags(run: RunDir) -> None:
    """Refuse a flag that has no effect on a run directory. Raises UsageError."""
    context, own = click.get_current_context(), {"run", "margin", "alpha", *OutputOptions._fields}
    others = [one for one in context.command.params if one.name not in own]
    given = [one for one in others if context.get_parameter_source(str(one.name)) is ParameterSource.COMMANDLINE]
    if names := [one.opts[0] for one in given]:
        text = f"{', '.join(names)}: for files of other tools (--baseline, --candidate)"
        raise UsageError(f"{text}; the strata, scores and reports of a run are in its directory, {run.path}")


@click.command(epilog=shared.EPILOG)
@click.argument("run", type=RunPath())
@shared.own_options("gate")
@shared.output_options(trust=True)
def gate(run: RunDir, policy: Path | None, options: OutputOptions, **flags: Any) -> int:
    """Judge a finished run under another policy; its files stay as they are."""
    from harness.config.loading import policy_overrides

    overrides = policy_overrides(policy) if policy is not None else {}
    overrides |= {key: value for key, value in flags.items() if value is not None}
    overrides |= {} if flags["margin"] is None else {"margins": {}}  # one for all strata
    return shared.judge_run(run, options, overrides, write=False)


@click.command(epilog=shared.EPILOG)
@click.argument("run", type=RunPath())
@shared.own_options("report")
@shared.output_options(trust=True)
def report(run: RunDir, track: tuple[str, ...], options: OutputOptions) -> int:
    """Judge a finished run by its own policy and write its reports again."""
    from harness.report import trackers

    places = dict(one.split("=", 1) for one in track if one.partition("=")[0] in trackers.TRACKERS and "=" in one)
    if len(places) < len(track):
        raise UsageError(f"--track: give NAME=PLACE, each NAME once: {', '.join(trackers.TRACKERS)}")
    trackers.check(places)
    return shared.judge_run(run, options, track=places)


@click.command()
@click.argument("run", type=RunPath())
@click.argument("item")
@shared.own_options("show")
def show(run: RunDir, item: str, candidate: str | None, no_color: bool) -> None:
    """Show both answers to an item side by side, with what differs marked."""
    from harness import report
    from harness.report import run_evidence
    from harness.store.record import read_run

    console = shared.make_console(no_color=no_color)
    for name, one, before, after in run_evidence.both_answers(read_run(run), item, candidate):
        console.rule(name, style="dim")
        report.side_by_side(one, before, after, console)
        console.print(f"score: baseline {before.score}, {name} {after.score}", markup=False)


@click.command()
@click.argument("run", type=RunPath())
@shared.own_options("erase")
def erase(run: RunDir, items: tuple[str, ...], clusters: tuple[str, ...]) -> None:
    """Remove the texts of items from a run: questions, answers, logs, reports.

    Scores stay, so the verdict can still be recomputed, byte for byte.
    """
    from harness import report as reports
    from harness.judge import judging
    from harness.judge.gate import rehearsed
    from harness.report import run_evidence
    from harness.store import erasing
    from harness.store.files import read_json
    from harness.store.whole import load_run

    if not items and not clusters:
        raise UsageError("nothing to erase: give --item ID or --cluster NAME, as often as needed")
    for line in erasing.erase(run, erasing.select_items(run, items, clusters)):
        click.echo(line)
    if not (run.path / "comparisons.json").is_file():
        return
    try:
        record, told = load_run(run), read_json(run.path / "verdict.json")
        # As it was judged: an identical candidate, and a rehearsal, pass again only if they were accepted.
        judged = all(one.get("verdict", "not_judged") != "not_judged" for one in told["candidates"])
        judgement = judging.judge(record, allow_identical=judged)
        judgement = judgement if judged else rehearsed(judgement)
    except QuantcliffError as error:
        gone = ", ".join(path.name for path in reports.remove(run.path))
        click.echo(f"deleted, as the run cannot be judged again: {gone} ({error})")
        return
    written = reports.write(run.path, judgement, run_evidence.evidence(record, judgement))
    click.echo(f"written again without them: {', '.join(path.name for path in written)}")


@click.command()
@click.argument("runs", nargs=-1, metavar="[NAME=]DIR...")
@shared.own_options("history")
def history(runs: tuple[str, ...], db: Path | None, since: str | None, output: Path | None, **flags: bool) -> int:
    """Show runs over time: trends, what changed, and what regressed since a run.

    DIR is a finished run, or a folder in which all finished runs are taken, in the order of their paths. The order of
    runs is that in which they are given; with --db it goes on from those that the file holds. See docs/history.md.
    """
    from harness.history import changes, sections
    from harness.history.database import History
    from harness.report.terminal import Pen
    from harness.store.rundir import RunDir

    found, left_out, named = History(db), list[Path](), [*_named(runs)]
    for name, path in named:
        try:
            found.add(name, RunDir(path))
        except Incomplete as error:
            click.echo(f"quantcliff: left out: {error}", err=True)
            left_out.append(path)
    if not found.rows("SELECT 1 FROM runs"):
        raise UsageError("there is no finished run: give directories that `quantcliff run` made, or --db FILE")
    names = changes.newest(found, [name for name, _ in named])
    told = {name: changes.since(found, since, name) for name in (names[-1:] if since else names)}
    compared, known = told[names[-1]], [one for one in told.values() if one is not None]
    pen = Pen(shared.make_console(no_color=flags["no_color"]), rest="listed in history.md")
    blocks = reversed(sections.blocks(found, compared))  # the most important last, where a terminal ends
    for section in (one for _, shown in blocks for one in shown):
        pen.section(section)
    pen.console.print()
    said = [text for name, one in told.items() for text in sections.headline(found, one, name)]
    for sentence in said:
        pen.console.print(pen.text(sentence))
    for written in sections.write(output, found, told, said) if output is not None else ():
        click.echo(written)
    if not flags["fail_on_regression"]:
        return ExitCode.PASS
    if compared is None:
        click.echo("quantcliff: no earlier run of this config to compare with: name one with --since", err=True)
    unknown = compared is None or left_out or any(one.left_out for one in known)
    code = ExitCode.NOT_COMPARABLE if unknown else ExitCode.PASS
    return ExitCode.FAIL if any(one.regressed for one in known) else code


def _named(given: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    """Return name and path of each run: what was given, or the path below a folder of runs."""
    from harness.judge.outcomes import natural_key

    for text in given:
        label, _, rest = text.rpartition("=") if not Path(text).exists() else ("", "", text)
        folder = Path(rest)
        if (folder / "run.json").is_file():
            yield label or folder.resolve().name, folder
            continue
        begun = (path for name in ("run.json", "items") for path in folder.rglob(name))  # killed early: no run.json
        runs = {path.parent for path in begun if not (path.parents[1] / "run.json").is_file()}
        inside = sorted(runs, key=lambda one: natural_key(str(one)))  # without what `repair` proved inside of a run
        if not inside:
            raise UsageError(f"{rest}: holds no run; give a directory that `quantcliff run` made, or one above it")
        for path in inside:
            name = path.relative_to(folder).as_posix()
            yield f"{label}/{name}" if label else name, path


@click.command(epilog="Exit codes: 0 same, 1 other or drifted, 2 bad usage, 3 inconclusive, 4 no answer.")
@click.argument("run", type=RunPath())
@shared.own_options("verify")
def verify(run: RunDir, candidate: str | None, as_json: bool, **endpoint: Any) -> int:
    """Ask an endpoint whether it serves what a finished run gated.

    Some 300 tokens of the run's own questions are asked again. The counts of all calls are kept in
    verify-<candidate>.json in the run, so that daily calls have one false-alarm rate together; remove it after a new
    deployment.
    """
    from harness.run import verifying
    from harness.store.whole import load_run

    record = load_run(run)
    variant = verifying.choose_variant(record, candidate)
    spec = _engine_spec(next(one.engine for one in record.experiment.variants if one.name == variant), endpoint)
    found = verifying.verify(record, variant, spec, os.environ.get(spec.api_key_env or "", ""))
    if as_json:
        shared.print_json({**dataclasses.asdict(found), "exit_code": int(found.exit_code)})
    else:
        click.echo("\n  ".join(_sentences(found)))
    return found.exit_code


def _engine_spec(recorded: EngineSpec, endpoint: dict[str, Any]) -> EngineSpec:
    """Return how the endpoint is asked: as flags say, and else as in the run. Raises UsageError."""
    from pydantic import ValidationError

    from harness.config.engines import EngineSpec

    own = recorded.model_dump(include={"model", "api", "tools"}) if recorded.name == "openai" else {"model": None}
    given = {name: value for name, value in endpoint.items() if value is not None}
    if not (given.get("model") or own["model"]):
        raise UsageError("give --model NAME: the run does not know what the endpoint calls the model")
    try:
        spec = EngineSpec.model_validate({**own, **given, "name": "openai"})
    except ValidationError as error:
        raise UsageError("; ".join(str(one["msg"]) for one in error.errors())) from error
    if spec.api_key_env and not os.environ.get(spec.api_key_env):
        raise UsageError(f"--api-key-env: the environment has no {spec.api_key_env}")
    return spec


def _sentences(found: Verification) -> Iterator[str]:
    like = f"; its answers are those of {found.looks_like}" if found.looks_like else ""
    if found.verdict in {"other", "drifted"} and found.parts and not like:
        like = "; its answers are those of no other variant of this run"
    yield f"{found.variant} at {found.endpoint}: {found.verdict}{like}"
    yield from found.reasons
    for part in found.parts:
        least = f"from {part.alarm_at} on" if part.alarm_at <= part.asked else "after further calls"
        kind = {"generate": "answers in text", "choice": "items with choices"}[part.kind]
        yield f"{kind}: {part.differ} of {part.asked} differ; noise {part.limit}; alarm {least}"
    if found.parts:
        calls = "1 call" if found.calls == 1 else f"{found.calls} calls"
        yield f"evidence of {calls}: {found.evidence:.3g}, an alarm at {found.threshold:.0f}"
        yield f"chance of a false alarm over all calls, on the run's engine: at most {found.false_alarm_rate:.0%}"
