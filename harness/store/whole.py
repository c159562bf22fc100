"""Whether a run is whole and itself, by digests without texts, which may be erased: they find edits, but no forger."""

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import Incomplete, NotComparable
from harness.records import ChoiceLogprobs, Item, Scored, canonical_json, digest
from harness.store.files import RESTORE, read_json, write_json
from harness.store.record import RunRecord, read_run
from harness.store.rundir import ITEMS, RunDir, Shard
from harness.store.shards import damage_of

PLACES = "places_digest"  # what the manifest says of where the items belong
FILES: dict[str, str] = tomllib.loads(Path(__file__).with_name("manifest.toml").read_text("utf-8"))


def load_run(directory: RunDir) -> RunRecord:
    """Read a finished run and check that it is whole and what was run. Raises Incomplete, NotComparable, StoreError."""
    run = read_run(directory, whole=True)
    count, path = run.plan["shards"], run.directory.path / "manifest.json"
    if missing := [shard.label for shard in Shard.all(count) if str(shard) not in run.shards]:
        what = "give `quantcliff run` again to finish it" if count == 1 else "run them with --shard"
        raise Incomplete(f"{path.parent}: {len(missing)} of {count} shard(s) incomplete ({', '.join(missing)}): {what}")
    for one in Shard.all(count):
        if damage := damage_of(path.parent / "shards" / f"{one}.json", run.plan):
            raise NotComparable(damage)
    if not path.is_file():
        raise Incomplete(f"{path}: is missing, so the run is not complete: give `quantcliff run` again to finish it")
    _check_plan(run)
    _check_items(run)
    for name in run.answers:
        _check_answers(run, name)
    manifest = read_json(path)
    _check_counts(run, manifest)
    for place in _differences(_manifest(run), manifest):
        text = "does not agree with manifest.json: one of the two was changed after the run"
        raise NotComparable(f"{path.parent / place}: {text}: {RESTORE}")
    return run


def missing_shards(directory: RunDir) -> list[str]:
    """Name the shards that are not complete, as ``2/4``."""
    return [shard.label for shard in directory.shards_without("json", directory.plan()["shards"])]


def write_manifest(directory: RunDir) -> None:
    """Say that the run is complete: what was answered, by what, with a digest of all that a verdict reads."""
    write_json(directory.path / "manifest.json", _manifest(read_run(directory)))


def _manifest(run: RunRecord) -> dict[str, Any]:
    record = {name: run.plan.get(name) for name in ("config_digest", "items_digest")}
    record["variants"] = {name: _variant(run, name) for name in run.answers}
    if run.schema:
        shards = {name: digest(one) for name, one in run.shards.items()}
        record |= {"schema": run.schema, "run_digest": digest(run.plan), "shards": shards}
        record[PLACES] = digest([_placed(run, item) for item in run.items])
    return record


def _placed(run: RunRecord, item: Item) -> list[Any]:
    """Give all of an item that a verdict reads, but its texts: `Item.digest` holds no look, nor what was erased."""
    names = (item.id, item.slice, item.stratum, item.cluster, item.task, item.kind, item.language, dict(item.levels))
    return [*names, item.chance, item.weight, item.max_tokens, item.gold, run.unit_of[item.id], run.look_of[item.id]]


def _variant(run: RunRecord, name: str) -> dict[str, Any]:
    answers, figures = run.of(name), _figures if run.schema else lambda one: [one.item_id, one.score]
    record: dict[str, Any] = {"identity": run.identities.get(name), "answers": len(answers)}
    record["answers_digest"] = digest(sorted(map(figures, answers), key=lambda row: row[:2]))
    record["failures"] = list(run.failures.get(name, ()))
    if run.experiment.policy.latency:
        record["times"] = digest(sorted(map(canonical_json, run.directory.request_times(name))))
    return {**record, "calibration": run.calibrated.get(name)} if run.schema else record


def _figures(one: Scored) -> list[Any]:
    """Return all of an answer but its text."""
    given = one.response
    logprobs = [given.logprobs, given.token_counts, given.greedy] if isinstance(given, ChoiceLogprobs) else []
    place = [one.item_id, given.sample, one.item_digest, one.unit, given.type]
    return [*place, one.score, one.metrics, one.signs, one.length, one.choice_probability, logprobs, one.metric]


def _check_plan(run: RunRecord) -> None:
    """Refuse a run.json that does not agree with itself."""
    plan, config = run.plan, run.plan["config"]
    whole = {key: value for key, value in config.items() if key != "store_text"}
    replaced = config.get("store_text", "full") != "full" and (config.get("sampling") or {}).get("system")
    units = plan.get("units", 0)  # its absence is found where the items are checked
    split = plan.get("shard_of", [1] * units)
    wrong = {
        "shard_of": len(split) != units or not set(split) <= set(range(1, plan["shards"] + 1)),
        "config": not replaced and digest(whole) != plan.get("config_digest"),
        "slices": plan["slices"] != [spec.key for spec in run.experiment.slices],
    }
    _refuse_plan(run, [name for name in wrong if wrong[name]])


def _refuse_plan(run: RunRecord, changed: list[str]) -> None:
    if changed:
        text = f"{', '.join(changed)}: not what the run recorded, it was changed after the run"
        raise NotComparable(f"{run.directory.path / 'run.json'}: {text}: {RESTORE}")


def _placed_lines(run: RunRecord) -> Iterator[tuple[Item, str]]:
    count: dict[str, int] = defaultdict(int)
    for item in run.items:
        count[item.slice] += 1
        yield item, f"{run.directory.items_path(item.slice)}: line {count[item.slice]}"


def _check_items(run: RunRecord) -> None:
    """Refuse items that are not those that were planned, naming the first that differs."""
    seen: set[str] = set()
    for item, line in _placed_lines(run):
        if item.id in seen:
            raise NotComparable(f"{line}: item {item.id} is there twice: {RESTORE}")
        seen.add(item.id)
    if digest([run.digests[item.id] for item in run.items]) != run.plan.get("items_digest"):
        raise NotComparable(f"{_first_difference(run)}: {RESTORE}")
    _refuse_plan(run, ["units"] if len(set(run.unit_of.values())) != run.plan.get("units") else [])


def _first_difference(run: RunRecord) -> str:
    """Name the first item that is not the one that was answered, or say in general that items differ."""
    files = [one for own in run.answers.values() for one in own.items()]
    asked = {one.item_id: (one.item_digest, path) for path, lines in files for one in lines}
    count, planned = len(run.items), run.plan.get("items")
    for item, line in _placed_lines(run):
        if item.id in asked and asked[item.id][0] != run.digests[item.id]:
            return f"{line}: item {item.id} is not the one that was answered"
        if item.id not in asked and count != planned:
            return f"{line}: item {item.id} was not planned"
    for item_id, (_, path) in asked.items():
        if item_id not in run.digests:
            name = path.name.rpartition("-")[0]
            return f"{run.directory.items_path(name)}: item {item_id} is missing, and {path} holds an answer to it"
    return f"{run.directory.path / ITEMS}: its {count} items are not the {planned} of run.json, or in another order"


def _check_answers(run: RunRecord, name: str) -> None:
    """Refuse an answer to anything but a planned item, and a second one."""
    items, samples = {item.id: item for item in run.items}, run.experiment.sampling.samples
    wanted = {item.id: 1 if item.kind == "choice" else samples for item in run.items}
    seen: dict[tuple[str, int], str] = {}
    for path, answers in run.answers[name].items():
        for number, one in enumerate(answers, start=1):
            line, key = f"{path}: line {number}", (one.item_id, one.response.sample)
            why = _misplaced(run, name, path, one, items.get(one.item_id))
            if not why and (key in seen or not 0 <= key[1] < wanted[one.item_id]):
                first = seen.get(key, "the samples that were planned")
                why = f"item {one.item_id} is answered more than once (besides {first})"
            if why:
                raise NotComparable(f"{line}: {why}: {RESTORE}")
            seen[key] = line
    strangers = {path for path in (run.directory.path / name).glob("*-*of*.jsonl") if path.name[:8] != "timings-"}
    for path in sorted(strangers - set(run.answers[name])):
        raise NotComparable(f"{path}: is not a file of this run: {RESTORE}")


def _misplaced(run: RunRecord, name: str, path: Path, one: Scored, item: Item | None) -> str:
    """Return what is wrong with an answer's place; empty if nothing is."""
    if item is None:
        return f"it answers {one.item_id}, which is not an item of this run"
    if one.item_digest != run.digests[item.id]:
        return f"it answers another version of item {item.id} than {run.directory.items_path(item.slice)} holds"
    unit = run.unit_of[item.id]
    right = run.directory.results_path(name, item.slice, Shard.of(unit, run.plan))
    wrong = (one.unit, path) != (unit, right)
    return f"the answer to {item.id} belongs to unit {unit} in {right.name}" if wrong else ""


def _check_counts(run: RunRecord, manifest: Mapping[str, Any]) -> None:
    """Refuse a variant with fewer answers than when the run was complete, naming the files. Raises Incomplete."""
    for name in run.answers:
        before, count = manifest.get("variants", {}).get(name, {}).get("answers"), len(run.of(name))
        if isinstance(before, int) and count < before:
            seen = {one.item_id for one in run.of(name)}
            slices = dict.fromkeys(item.slice for item in run.items if item.id not in seen)
            places = ", ".join(f"{name}/{key}-*.jsonl" for key in slices) or name
            text = f"{name} lacks answers to {before - count} items in {places}"
            raise Incomplete(f"{run.directory.path}: {text}: give `quantcliff run` again to finish it")


def _differences(now: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[str]:
    """Name the files of which a manifest says something else, the most exact first."""
    for group in ("shards", "variants"):
        sides = now.get(group, {}), there.get(group, {})
        for name in {**sides[0], **sides[1]}:
            one, other = (side.get(name) for side in sides)
            if one != other and group == "shards":
                yield f"shards/{name}.json"
            elif one != other:
                files = (file for key, file in FILES.items() if (one or {}).get(key) != (other or {}).get(key))
                yield f"{name}/{next(files, '')}"
    if now.get(PLACES) != there.get(PLACES):
        yield f"{ITEMS}/*.jsonl"
    rest = {"variants": 0, "shards": 0, PLACES: 0}
    if {**now, **rest} != {**there, **rest}:
        yield "run.json"
