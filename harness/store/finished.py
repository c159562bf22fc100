"""A run directory as it is read: config, items, looks and units, for whoever judges it or reports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.config import Experiment, parse
from harness.records import Item
from harness.store.rundir import RunDir
from harness.store.units import plan_units

__all__ = ["CONTROL", "FinishedRun", "experiment_of", "read_run", "variant_names"]

CONTROL = "control"
"""The A/A pass of a run; `harness.config_schema.RESERVED` keeps the name free."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run directory, read."""

    directory: RunDir
    """Where it lies."""
    experiment: Experiment
    """Its config."""
    items: tuple[Item, ...]
    """What was asked."""
    looks: Mapping[str, int]
    """Item id to the look that it belongs to."""
    units: Mapping[int, frozenset[str]]
    """Unit to the ids of its items."""


def read_run(directory: RunDir) -> FinishedRun:
    """Read a run directory. Raises StoreError, Incomplete."""
    experiment = experiment_of(directory)
    items = tuple(directory.items())
    execution = experiment.execution
    units = plan_units(items, execution.unit_items, execution.looks)
    return FinishedRun(
        directory,
        experiment,
        items,
        {item.id: unit.look for unit in units for item in unit.items},
        {unit.index: frozenset(item.id for item in unit.items) for unit in units},
    )


def experiment_of(directory: RunDir) -> Experiment:
    """Give the config that a run was made with. Raises StoreError, Incomplete."""
    plan = directory.plan()
    return parse({**plan["config"], "description": plan.get("description", "")}, str(directory.path / "run.json"))


def variant_names(experiment: Experiment) -> list[str]:
    """Give the directories of answers that a run has: the baseline, the control where there is one, the candidates."""
    control = [CONTROL] if experiment.execution.control else []
    return [experiment.baseline.name, *control, *(one.name for one in experiment.candidates)]
