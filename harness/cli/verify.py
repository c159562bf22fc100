"""The command that asks an endpoint whether it still serves what was gated."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import click

from harness.cli.shared import Number, RunPath, print_json
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.config.engines import EngineSpec
    from harness.run.verifying import Verification
    from harness.store.rundir import RunDir

_EPILOG = """\b
Exit codes: 0 same, 1 other or drifted, 2 bad usage, 3 inconclusive,
4 the endpoint gives no answer."""


@click.command(epilog=_EPILOG)
@click.argument("run", type=RunPath())
@click.option("--url", required=True, help="Base URL of the endpoint, such as https://models.example/v1.")
@click.option("--candidate", help="What should be served: a candidate or the baseline; the only candidate by default.")
@click.option("--model", help="What the endpoint calls the model; as in the run by default.")
@click.option("--api", type=click.Choice(["completions", "chat"]), help="As in the run by default.")
@click.option("--api-key-env", metavar="VARIABLE", help="The environment variable that holds the key.")
@click.option("--allow-http", is_flag=True, help="Allow a URL without TLS to another machine.")
@click.option("--retry-seconds", type=Number(0), default=30, show_default=True, help="Time in which to ask again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
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
    recorded = next(one.engine for one in record.experiment.variants if one.name == variant)
    spec = _engine_spec(recorded, endpoint)
    found = verifying.verify(record, variant, spec, os.environ.get(spec.api_key_env or "", ""))
    if as_json:
        print_json({**dataclasses.asdict(found), "exit_code": int(found.exit_code)})
    else:
        _print(found)
    return found.exit_code


def _engine_spec(recorded: EngineSpec, endpoint: dict[str, Any]) -> EngineSpec:
    """Return how the endpoint is asked: as flags say, and else as in the run. Raises UsageError."""
    from pydantic import ValidationError

    from harness.config.engines import EngineSpec

    own = recorded.model_dump(include={"model", "api"}) if recorded.name == "openai" else {"model": None}
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


def _print(found: Verification) -> None:
    like = f"; its answers are those of {found.looks_like}" if found.looks_like else ""
    if found.verdict in {"other", "drifted"} and found.parts and not like:
        like = "; its answers are those of no other variant of this run"
    click.echo(f"{found.variant} at {found.endpoint}: {found.verdict}{like}")
    for reason in found.reasons:
        click.echo(f"  {reason}")
    for part in found.parts:
        least = f"from {part.alarm_at} on" if part.alarm_at <= part.asked else "after further calls"
        kind = {"generate": "answers in text", "choice": "items with choices"}[part.kind]
        click.echo(f"  {kind}: {part.differ} of {part.asked} differ; noise {part.limit}; alarm {least}")
    if found.parts:
        calls = "1 call" if found.calls == 1 else f"{found.calls} calls"
        click.echo(f"  evidence of {calls}: {found.evidence:.3g}, an alarm at {found.threshold:.0f}")
        alarm = f"{found.false_alarm_rate:.0%}"
        click.echo(f"  chance of a false alarm over all calls, on the run's engine: at most {alarm}")
