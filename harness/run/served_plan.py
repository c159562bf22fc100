"""What is decided of served variants before anything runs: where their files are, what cannot work, what is said.

Asks no server. Reads of the environment only whether a key is there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.config.engines import NO_LOGPROBS
from harness.config.schema import Experiment, Variant
from harness.errors import ConfigError, NoSuchModel, NotComparable, Problem
from harness.judge.rules import Rules
from harness.judge.tail_counts import undefined
from harness.models import resolve as models
from harness.models.compatibility import cross_engine_note
from harness.records import Item

__all__ = ["check_choices", "check_engines", "files_of", "served_notes"]

_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def check_engines(experiment: Experiment, source: str) -> None:
    """Refuse a config whose servers cannot be asked, or whose engines cannot be compared.

    Raises ConfigError if a key is not in the environment or times cannot be held to `policy.latency`, NotComparable if
    engines differ without `cross_engine`.
    """
    if experiment.execution.rehearsal is not None:
        return
    problems = [
        Problem(
            f"{variant.name}.engine.api_key_env",
            f"the environment has no {variant.engine.api_key_env}: export the key of {variant.engine.url}",
        )
        for variant in experiment.variants
        if variant.engine.api_key_env and not os.environ.get(variant.engine.api_key_env)
    ]
    for kind in undefined(Rules.from_experiment(experiment)):
        text = f"tail_events has a tolerance for {kind}, and latency does not say what is late: add {kind}, in seconds"
        problems.append(Problem("policy.latency", text))
    if experiment.policy.latency:
        problems += _untimed(experiment)
    if problems:
        raise ConfigError(source, problems)
    names = {variant.name: variant.engine.name for variant in experiment.variants}
    if len(set(names.values())) > 1 and not experiment.execution.cross_engine:
        said = ", ".join(f"{name} on {engine}" for name, engine in names.items())
        raise NotComparable(
            f"{source}: {said}: another engine changes answers as much as int8 does, so the comparison would measure"
            " the engine. Give all variants one engine, or set execution.cross_engine: true if that is the question"
        )


def _untimed(experiment: Experiment) -> list[Problem]:
    """Name the variants whose times cannot be compared with the baseline's."""
    base = experiment.baseline.engine.concurrency
    text = "policy.latency needs stream: true, and the same concurrency for all variants"
    return [
        Problem(f"{one.name}.engine", text)
        for one in experiment.variants
        if not one.engine.stream or one.engine.concurrency != base
    ]


def check_choices(experiment: Experiment, items: Sequence[Item], source: str) -> None:
    """Refuse slices with choices if an engine is known to give no log-probabilities of a prompt. Raises ConfigError."""
    unable = [one for one in experiment.variants if one.engine.name in NO_LOGPROBS or one.engine.api == "chat"]
    if experiment.execution.rehearsal is not None or not unable:
        return
    asked = {item.slice for item in items if item.kind == "choice"}
    what = f"the server of {unable[0].name} ({unable[0].engine.name}) gives no log-probabilities of a prompt"
    remedy = (
        "set options: {as_text: true}, which asks for the letter in text, leave the slice out, keep its tasks that are"
        " answered in text, or serve the model with vllm or sglang"
    )
    problems = [
        Problem(f"slices[{at}]", f"{spec.key!r} weighs choices, and {what}: {remedy}")
        for at, spec in enumerate(experiment.slices)
        if spec.key in asked
    ]
    if problems:
        raise ConfigError(source, problems)


def files_of(variant: Variant, baseline: Path | None) -> Path:
    """Find the files of a variant: a checkpoint, a GGUF file, or the tokenizer alone if the model is elsewhere.

    baseline: those of the baseline, for a candidate. Raises ModelError, NoSuchModel.
    """
    local = Path(variant.model).expanduser()
    if variant.engine.name == "llama-cpp":
        if local.suffix != ".gguf" or not local.is_file():
            raise NoSuchModel(f"model {variant.model!r}: llama-cpp serves a GGUF file: give the path of one")
        return local.absolute()
    if variant.engine.here:
        return models.resolve(variant.model, variant.revision)
    if baseline is not None:
        return baseline
    if local.is_dir() and any((local / name).is_file() for name in _TOKENIZER):
        return local.absolute()  # the weights need not be here
    return models.resolve(variant.model, variant.revision)


def served_notes(experiment: Experiment) -> list[str]:
    """Say what a person should know of the engines before the run starts."""
    served = [one for one in experiment.variants if one.engine.served]
    if not served or experiment.execution.rehearsal is not None:
        return []
    notes = [cross_engine_note(experiment)] if experiment.execution.cross_engine else []
    for one in served:
        where = f" at {one.engine.url}" if one.engine.url else ""
        timed = ", streamed and timed" if one.engine.stream else ""
        many = one.engine.concurrency
        notes.append(f"{one.name}: answers come from {one.engine.name}{where}, {many} at a time{timed}")
    if experiment.execution.divergence:
        notes.append("divergence is not measured: a server does not show the probabilities of every token")
    return notes
