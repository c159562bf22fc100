"""A run read once, each line checked; `harness.store.whole.load_run` also checks that it is whole."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.config.loading import parse
from harness.config.schema import Experiment
from harness.errors import ConfigError, StoreError
from harness.records import Item, Scored
from harness.store.files import read_json
from harness.store.rundir import SCHEMA, RunDir, Shard
from harness.store.units import plan_units

CONTROL = "control"  # the A/A pass of a run; `harness.config.schema.RESERVED` keeps the name free
Answers = Mapping[str, Mapping[Path, tuple[Scored, ...]]]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run in memory: everything that judging may look at."""

    directory: RunDir
    plan: Mapping[str, Any]  # run.json, as recorded
    experiment: Experiment
    items: tuple[Item, ...]
    digests: Mapping[str, str]  # item id to `Item.digest`
    unit_of: Mapping[str, int]  # item id to its work unit
    look_of: Mapping[str, int]  # item id to the interim look, from 1, that it belongs to
    answers: Answers  # variant to file to its lines, in the order of the config's slices and of the shards; see `of`
    identities: Mapping[str, Mapping[str, Any]]  # variant to variant.json; one that was never loaded is absent
    failures: Mapping[str, tuple[str, ...]]  # variant to the reasons why it could not be run, if there is one
    calibrated: Mapping[str, Mapping[str, Any]]  # candidate to calibration.json, if its texts overlap with items
    shards: Mapping[str, Mapping[str, Any]]  # shard, as in 1of2, to its record; one that is not complete is absent
    erased: frozenset[str]  # ids of the items whose texts were erased

    def of(self, variant: str) -> list[Scored]:
        """Return a variant's answers from every shard."""
        return [one for lines in self.answers[variant].values() for one in lines]

    @property
    def schema(self) -> int:
        """Version of the layout, 0 for runs made before there was one."""
        return int(self.plan.get("schema", 0))


def read_run(directory: RunDir, *, whole: bool = False) -> RunRecord:
    """Read a run as far as it is, each file once. whole: refuse a file that ends within a line. Raises StoreError."""
    plan = directory.plan()
    experiment = recorded_experiment(directory, plan)
    names, parts, sealed = variant_names(experiment), Shard.all(plan["shards"]), bool(plan.get("schema", 0))
    paths = {str(shard): directory.path / "shards" / f"{shard}.json" for shard in parts}
    shards = {name: read_json(path) for name, path in paths.items() if path.is_file()}
    strict = {"whole": whole and len(shards) == len(parts), "seals": sealed}
    placed = [one for name in plan["slices"] for one in directory.placed_items(name, seals=sealed)]
    items, places = tuple(item for item, _ in placed), {item.id: place for item, place in placed}
    files = [(key, shard) for key in plan["slices"] for shard in parts]
    answers: Answers = {
        name: {
            directory.results_path(name, key, shard): tuple(directory.results(name, key, shard, **strict))
            for key, shard in files
        }
        for name in names
    }
    if not sealed:
        items, answers = _upgrade_lines(items, answers)
        units = plan_units(items, experiment.execution.unit_items, experiment.execution.looks)
        places = {item.id: {"unit": unit.index, "look": unit.look} for unit in units for item in unit.items}
    failures = {name: tuple(said) for name in names if (said := directory.failures(name))}
    digests = {item.id: item.digest() for item in items}
    unit_of, look_of = ({item_id: place[name] for item_id, place in places.items()} for name in ("unit", "look"))
    identities, calibrated = (_recorded(directory, names, f"{one}.json") for one in ("variant", "calibration"))
    kept = (answers, identities, failures, calibrated, shards, directory.erased())
    return RunRecord(directory, plan, experiment, items, digests, unit_of, look_of, *kept)


def _recorded(directory: RunDir, names: list[str], file: str) -> dict[str, Mapping[str, Any]]:
    return {name: record for name in names if (record := directory.recorded(name, file)) is not None}


def recorded_experiment(directory: RunDir, plan: Mapping[str, Any]) -> Experiment:
    """Return the config that run.json holds. Raises StoreError."""
    source = str(directory.path / "run.json")
    try:
        return parse(upgrade(plan, directory.path), source, recorded=True)
    except ConfigError as error:
        raise StoreError(f"{source}: its config was changed, or was made by another version: {error}") from error


def upgrade(plan: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the config that a run recorded, of whatever version, as today's `harness.config.loading.parse` reads it.

    A key that a version did not have takes today's default, so a new key whose default changes a verdict is set here to
    what it was. Raises StoreError for a run of a version whose layout is not known.
    """
    schema = plan.get("schema", 0)
    if schema not in (0, SCHEMA):
        text = f"its layout (schema {schema}) is that of another version of quantcliff"
        raise StoreError(f"{path}: {text}: update this one, or use that one")
    config = {**plan["config"], "description": plan.get("description", "")}
    execution = config.get("execution")
    if isinstance(execution, dict):  # with what divergence was measured; its results are stored either way
        config["execution"] = {key: value for key, value in execution.items() if key != "divergence_with"}
    return config


def _upgrade_lines(items: tuple[Item, ...], answers: Answers) -> tuple[tuple[Item, ...], Answers]:
    """Fill in the right choice, and a score's metric: the first that equals it in every answer of its task."""
    task_of = {item.id: item.task for item in items}
    fitting: dict[str, dict[str, None]] = {}
    for one in (one for files in answers.values() for lines in files.values() for one in lines):
        if one.score is not None and (task := task_of.get(one.item_id)) is not None:
            names = fitting.get(task, dict.fromkeys(sorted(one.metrics)))
            fitting[task] = {name: None for name in names if one.metrics.get(name) == one.score}
    metric_of = {item_id: next(iter(fitting.get(task, ())), "") for item_id, task in task_of.items()}

    def with_metric(one: Scored) -> Scored:
        return one if one.score is None else replace(one, metric=metric_of.get(one.item_id, ""))

    def with_gold(item: Item) -> Item:
        right = [at for at, choice in enumerate(item.choices) if choice.strip() == item.target.strip()]
        return replace(item, gold=right[0]) if len(right) == 1 else item

    marked = {name: {path: tuple(map(with_metric, own[path])) for path in own} for name, own in answers.items()}
    return tuple(map(with_gold, items)), marked


def variant_names(experiment: Experiment) -> list[str]:
    """Return the directories of answers that a run has: the baseline, the control if any, the candidates."""
    control = [CONTROL] if experiment.execution.control else []
    return [experiment.baseline.name, *control, *(one.name for one in experiment.candidates)]
