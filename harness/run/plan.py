"""Everything that is decided before a model is loaded: items, units, power, where the models lie, what is traced.

Loads the baseline's tokenizer and config and no weights. The same config gives the same plan, on every machine that has
the same data. It runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import errors
from harness.config.schema import Experiment, Variant
from harness.errors import RunError
from harness.models import resolve as models
from harness.models.devices import bfloat16_speedup, native_dtype, resolve_device
from harness.models.resolve import tokenizer_place
from harness.records import Item, digest
from harness.run.fitting import check_fit
from harness.run.planning import Power, check_power, power_table
from harness.run.planning_events import check_events
from harness.run.served_plan import check_choices, check_engines, files_of, served_notes
from harness.run.tracing import plan_tracing
from harness.store import privacy
from harness.store.divergence import TracePlan
from harness.store.rundir import RunDir
from harness.store.units import Unit, plan_units
from harness.suite.items import template_notes
from harness.suite.scorer import load_items

__all__ = ["Plan", "make_plan", "recorded_dtype"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything decided before a model is loaded."""

    experiment: Experiment
    """The config."""
    items: tuple[Item, ...]
    """Every item of the suite."""
    units: tuple[Unit, ...]
    """The work, for one variant."""
    power: tuple[Power, ...]
    """What each stratum can decide."""
    paths: Mapping[str, str]
    """Variant to model directory; a variant whose model is not there is absent."""
    missing: Mapping[str, str]
    """Variant to the reason why it cannot run."""
    device: str
    """Resolved."""
    tracing: TracePlan
    """What is kept of the baseline to measure divergence."""
    allow_code: bool = False
    """Whether what models write may be run: never the config's to say, see `slices_code`."""
    allow_identical: bool = False
    """Whether a candidate may be the baseline itself, which a server may show before its items are asked."""
    notes: tuple[str, ...] = ()
    """What a person should know before the run starts: the compute dtype and the reason for it."""

    def record(self) -> dict[str, Any]:
        """Give what run.json holds: the same plan gives the same record."""
        config = self.experiment.model_dump(mode="json", exclude={"output", "description", "track"})
        return {
            "config": privacy.stored_config(config, self.experiment.store_text),
            "config_digest": self.experiment.digest(),
            "description": self.experiment.description,
            "slices": [spec.key for spec in self.experiment.slices],
            "items_digest": digest([item.digest() for item in self.items]),
            "items": len(self.items),
            "units": len(self.units),
            "device": self.device.split(":")[0],
        }


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

    recorded_dtype: the compute dtype with which the run was begun, if it was: ``execution.dtype: auto`` then means it.
    allow_code: whether what models write may be run, shut away, where a slice is scored so. allow_identical: whether a
    candidate may be the baseline itself.
    Raises ConfigError for what the config gets wrong, ModelError where the baseline's model is not there.
    """
    privacy.check(experiment.store_text, source)
    check_engines(experiment, source)
    device = resolve_device(experiment.execution.device)
    experiment, notes = _settle_dtype(experiment, device, recorded_dtype)
    paths, missing = _resolve(experiment)
    base = Path(paths[experiment.baseline.name])
    tokenizer, config = _tokenizer(experiment.baseline, base)
    experiment = experiment.model_copy(
        update={"notes": (*experiment.notes, *template_notes(tokenizer, experiment.sampling))}
    )
    items = tuple(load_items(experiment, tokenizer, context_limit=models.context_limit(config), source=source))
    check_choices(experiment, items, source)
    power = tuple(power_table(experiment, items))
    if check:
        check_power(experiment, power, source)
        check_events(experiment, items, source)
    execution, samples = experiment.execution, experiment.sampling.samples
    units = plan_units(items, execution.unit_items, execution.looks, unit_tokens=execution.unit_tokens, samples=samples)
    text = config.get_text_config()
    tracing = plan_tracing(experiment, items, text.hidden_size, text.vocab_size, source)
    check_fit(experiment, paths, device, text, items, source)
    here = any(variant.engine.here for variant in experiment.variants)
    notes = (*served_notes(experiment), *(notes if here else ()))
    allowed = {"allow_code": allow_code, "allow_identical": allow_identical}
    return Plan(experiment, items, tuple(units), power, paths, missing, device, tracing, notes=notes, **allowed)


def recorded_dtype(directory: RunDir) -> str | None:
    """The compute dtype with which a run was begun; None if there is no run. Raises StoreError."""
    return directory.plan()["config"].get("execution", {}).get("dtype") if directory.exists() else None


def _settle_dtype(experiment: Experiment, device: str, recorded: str | None) -> tuple[Experiment, tuple[str, ...]]:
    """Put a dtype in the place of ``auto``, one for all variants, and say which and why; warn of a slow bfloat16."""
    execution = experiment.execution
    asked = experiment.compute_dtype(experiment.baseline)
    notes: tuple[str, ...] = ()
    if execution.rehearsal is not None:
        chosen = "bfloat16" if asked == "auto" else asked
    elif asked != "auto":
        chosen, notes = asked, _slow_bfloat16(asked, device)
    elif recorded in ("bfloat16", "float16", "float32"):
        chosen, notes = recorded, (f"dtype: {recorded}, with which this run was begun",)
    else:
        chosen, reason = native_dtype(device)
        notes = (f"dtype: {chosen} (execution.dtype is auto: {reason})",)
    settled = execution.model_copy(update={"dtype": chosen if execution.dtype == "auto" else execution.dtype})
    return experiment.model_copy(update={"execution": settled}), notes


def _slow_bfloat16(dtype: str, device: str) -> tuple[str, ...]:
    """Warn if a config asks for bfloat16 on a CPU that computes it slower than float32."""
    if dtype != "bfloat16" or device != "cpu" or (speedup := bfloat16_speedup()) >= 1.0:
        return ()
    factor = f"{1 / speedup:.1f} times as slow as float32 ones on this CPU"
    return (f"execution.dtype: bfloat16 products are {factor}: `dtype: auto` would take float32",)


def _tokenizer(baseline: Variant, path: Path) -> tuple[Any, Any]:
    """Load the baseline's tokenizer, with which every prompt is made and counted, and its model's config."""
    from transformers import AutoConfig, AutoTokenizer

    more: dict[str, Any] = {"trust_remote_code": baseline.trust_remote_code}
    path, gguf = tokenizer_place(path)
    more |= gguf
    if baseline.quantization.gguf_file:
        more["gguf_file"] = baseline.quantization.gguf_file
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), **more)
        config = AutoConfig.from_pretrained(str(path), **more)
    except Exception as error:  # libraries in Rust and a model's own code raise anything
        raise errors.ModelError(f"{path}: its tokenizer or config does not load: {errors.one_line(error)}") from error
    return tokenizer, config


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
    return paths, missing
