"""What is decided before a model is loaded, by config and data alone: items, units, power, paths, traces."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config.engines import NO_LOGPROBS
from harness.config.schema import Experiment, Variant
from harness.errors import ConfigError, ModelError, NoSuchModel, NotComparable, Problem, RunError, one_line
from harness.judge.rules import Rules
from harness.judge.tail_counts import undefined
from harness.models import resolve as models
from harness.models.compatibility import cross_engine_note, serving_notes
from harness.models.devices import bfloat16_speedup, native_dtype, resolve_device
from harness.models.resolve import tokenizer_place
from harness.records import Item, digest
from harness.run.fitting import TracePlan, check_fit, plan_tracing
from harness.run.planning import Power, check_events, check_layers, check_power, power_table
from harness.store import privacy
from harness.store.record import CONTROL
from harness.store.rundir import RunDir
from harness.store.units import Unit, plan_units
from harness.suite.code import untestable
from harness.suite.items import template_notes
from harness.suite.scorer import load_items
from harness.suite.tasks import scored_by

_TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before a model is loaded."""

    experiment: Experiment
    items: tuple[Item, ...]  # every item of the suite
    units: tuple[Unit, ...]  # the work, for one variant
    power: tuple[Power, ...]  # what each stratum can decide
    paths: Mapping[str, str]  # variant, or control, to model directory; a variant whose model is not there is absent
    missing: Mapping[str, str]  # variant to the reason why it cannot run
    device: str  # resolved
    tracing: TracePlan  # what is kept of the baseline to measure divergence
    allow_code: bool = False  # whether what models write may be run: never the config's to say, see `slices_code`
    allow_identical: bool = False  # whether a candidate may be the baseline itself, which a server may show early
    notes: tuple[str, ...] = ()  # what a person should know before the run starts: the compute dtype and why

    def record(self) -> dict[str, Any]:
        """Give what run.json holds: the same plan gives the same record."""
        experiment, items = self.experiment, self.items
        config = experiment.model_dump(mode="json", exclude={"output", "description", "track"})
        found: dict[str, Any] = {"config": privacy.stored_config(config, experiment.store_text)}
        found |= {"config_digest": experiment.digest(), "description": experiment.description}
        found |= {"slices": [spec.key for spec in experiment.slices]}
        found |= {"items_digest": digest([item.digest() for item in items]), "items": len(items)}
        found |= {"units": len(self.units), "device": self.device.split(":")[0]}
        return found | {"scored_by": scored_by({item.task for item in items})}


def make_plan(
    experiment: Experiment,
    source: str,
    *,
    check: bool = True,
    allow_code: bool = False,
    allow_identical: bool = False,
    recorded_dtype: str | None = None,
) -> Plan:
    """Load the tokenizer, build the items and plan the work; loads no model.

    check: whether items must suffice for a pass. allow_code, allow_identical: as in `Plan`. recorded_dtype: what
    ``execution.dtype: auto`` means, if the run was begun. Raises ConfigError, and ModelError for the baseline's model.
    """
    privacy.check(experiment.store_text, source)
    check_engines(experiment, source)
    device = resolve_device(experiment.execution.device)
    experiment, notes = _settle_dtype(experiment, device, recorded_dtype)
    paths, missing = _resolve(experiment)
    tokenizer, config = _tokenizer(experiment.baseline, Path(paths[experiment.baseline.name]))
    known = (*experiment.notes, *template_notes(tokenizer, experiment.sampling), *serving_notes(CONTROL, paths))
    experiment = experiment.model_copy(update={"notes": known})
    items = tuple(load_items(experiment, tokenizer, context_limit=models.context_limit(config), source=source))
    if problems := untestable(items) if allow_code else []:
        raise ConfigError(source, problems)
    _check_choices(experiment, items, source)
    check_layers(experiment, items, source)
    power = tuple(power_table(experiment, items))
    if check:
        check_power(experiment, power, source)
        check_events(experiment, items, source)
    execution, samples = experiment.execution, experiment.sampling.samples
    units = plan_units(items, execution.unit_items, execution.looks, unit_tokens=execution.unit_tokens, samples=samples)
    text = config.get_text_config()
    tracing = plan_tracing(experiment, items, text.hidden_size, text.vocab_size, source)
    check_fit(experiment, paths, device, text, items, source)
    told = (*_served_notes(experiment), *(notes if any(one.engine.here for one in experiment.variants) else ()))
    told += () if any(row.gating for row in power) else ("no stratum is gating: such a run can report, and never pass",)
    decided = (experiment, items, tuple(units), power, paths, missing, device, tracing, allow_code, allow_identical)
    return Plan(*decided, told)


def recorded_dtype(directory: RunDir) -> str | None:
    """The compute dtype with which a run was begun; None if there is no run. Raises StoreError."""
    return directory.plan()["config"].get("execution", {}).get("dtype") if directory.exists() else None


def _settle_dtype(experiment: Experiment, device: str, recorded: str | None) -> tuple[Experiment, tuple[str, ...]]:
    """Put a dtype in the place of ``auto``, one for all variants, and say which and why; warn of a slow bfloat16."""
    execution, asked = experiment.execution, experiment.compute_dtype(experiment.baseline)
    chosen, note = asked, ""
    if execution.rehearsal is not None:
        chosen = "bfloat16" if asked == "auto" else asked
    elif asked == "bfloat16" and device == "cpu" and (speedup := bfloat16_speedup()) < 1:
        factor = f"{1 / speedup:.1f} times as slow as float32 ones on this CPU"
        note = f"execution.dtype: bfloat16 products are {factor}: `dtype: auto` would take float32"
    elif asked == "auto" and recorded in ("bfloat16", "float16", "float32"):
        chosen, note = recorded, f"dtype: {recorded}, with which this run was begun"
    elif asked == "auto":
        chosen, reason = native_dtype(device)
        note = f"dtype: {chosen} (execution.dtype is auto: {reason})"
    settled = execution.model_copy(update={"dtype": chosen if execution.dtype == "auto" else execution.dtype})
    return experiment.model_copy(update={"execution": settled}), (note,) if note else ()


def _tokenizer(baseline: Variant, path: Path) -> tuple[Any, Any]:
    """Load the baseline's tokenizer, with which every prompt is made and counted, and its model's config."""
    from transformers import AutoConfig, AutoTokenizer

    path, gguf = tokenizer_place(path)
    named = {"gguf_file": file} if (file := baseline.quantization.gguf_file) else {}
    more: dict[str, Any] = {"trust_remote_code": baseline.trust_remote_code, **gguf, **named}
    try:
        return AutoTokenizer.from_pretrained(str(path), **more), AutoConfig.from_pretrained(str(path), **more)
    except Exception as error:  # libraries in Rust and a model's own code raise anything
        raise ModelError(f"{path}: its tokenizer or config does not load: {one_line(error)}") from error


def _resolve(experiment: Experiment) -> tuple[dict[str, str], dict[str, str]]:
    """Find every variant's model; only the baseline's absence is an error here."""
    paths: dict[str, str] = {}
    missing: dict[str, str] = {}
    for variant in experiment.variants:
        try:
            base = paths.get(experiment.baseline.name)
            paths[variant.name] = str(files_of(variant, Path(base) if base else None))
        except RunError as error:
            if variant is experiment.baseline:
                raise
            missing[variant.name] = str(error)
    return paths | {CONTROL: paths[experiment.baseline.name]}, missing


def check_engines(experiment: Experiment, source: str) -> None:
    """Refuse a config whose servers cannot be asked or timed. Raises ConfigError, NotComparable for other engines."""
    if experiment.execution.rehearsal is not None:
        return
    problems, latency, many = [], experiment.policy.latency, experiment.baseline.engine.concurrency
    for kind in undefined(Rules.from_experiment(experiment)):
        text = f"tail_events has a tolerance for {kind}, and latency does not say what is late: add {kind}, in seconds"
        problems.append(Problem("policy.latency", text))
    for place, engine in ((f"{one.name}.engine", one.engine) for one in experiment.variants):
        if (name := engine.api_key_env) and not os.environ.get(name):
            text = f"the environment has no {name}: export the key of {engine.url}"
            problems.append(Problem(f"{place}.api_key_env", text))
        if latency and not (engine.stream and engine.concurrency == many):
            text = "policy.latency needs stream: true, and the same concurrency for all variants"
            problems.append(Problem(place, text))
    if problems:
        raise ConfigError(source, problems)
    names = {variant.name: variant.engine.name for variant in experiment.variants}
    if len(set(names.values())) > 1 and not experiment.execution.cross_engine:
        said = ", ".join(f"{name} on {engine}" for name, engine in names.items())
        why = "another engine changes answers as much as int8 does, so the comparison would measure the engine"
        remedy = "Give all variants one engine, or set execution.cross_engine: true if that is the question"
        raise NotComparable(f"{source}: {said}: {why}. {remedy}")


def _check_choices(experiment: Experiment, items: Sequence[Item], source: str) -> None:
    """Refuse slices with choices if an engine is known to give no log-probabilities of a prompt. Raises ConfigError."""
    unable = [one for one in experiment.variants if one.engine.name in NO_LOGPROBS or one.engine.api == "chat"]
    if experiment.execution.rehearsal is not None or not unable:
        return
    asked = {item.slice for item in items if item.kind == "choice"}
    server = f"the server of {unable[0].name} ({unable[0].engine.name}) gives no log-probabilities of a prompt"
    remedy = "leave the slice out, keep its tasks that are answered in text, or serve the model with vllm or sglang"
    letter = "set options: {as_text: true}, which asks for the letter in text"
    text = f"weighs choices, and {server}: {letter}, {remedy}"
    keys = enumerate(spec.key for spec in experiment.slices)
    if problems := [Problem(f"slices[{at}]", f"{key!r} {text}") for at, key in keys if key in asked]:
        raise ConfigError(source, problems)


def files_of(variant: Variant, baseline: Path | None) -> Path:
    """Find a variant's files; of a model elsewhere, the `baseline`'s or a tokenizer. Raises ModelError."""
    local = Path(variant.model).expanduser()
    if variant.engine.name == "llama-cpp":
        if local.suffix != ".gguf" or not local.is_file():
            raise NoSuchModel(f"model {variant.model!r}: llama-cpp serves a GGUF file: give the path of one")
        return local.absolute()
    if not variant.engine.here:
        if baseline is not None:
            return baseline
        if any((local / name).is_file() for name in _TOKENIZER):
            return local.absolute()  # the weights need not be here
    return models.resolve(variant.model, variant.revision)


def _served_notes(experiment: Experiment) -> list[str]:
    served = [one for one in experiment.variants if one.engine.served]
    if not served or experiment.execution.rehearsal is not None:
        return []
    notes = [cross_engine_note(experiment)] if experiment.execution.cross_engine else []
    for name, engine in ((one.name, one.engine) for one in served):
        where, timed = f" at {engine.url}" if engine.url else "", ", streamed and timed" if engine.stream else ""
        notes.append(f"{name}: answers come from {engine.name}{where}, {engine.concurrency} at a time{timed}")
    if experiment.execution.divergence:
        notes.append("divergence is not measured: a server does not show the probabilities of every token")
    return notes
