"""What a loaded variant was found to be: checked against its baseline and its own earlier part, and recorded."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.config.schema import Variant
from harness.errors import NotComparable, StoreError
from harness.models import resolve as models
from harness.models.calibration import calibration_overlap
from harness.models.compatibility import check_candidate, check_software, replaced, same_server
from harness.records import proof_from_json, to_json
from harness.run.plan import Plan
from harness.run.worker import Closed, Ready
from harness.store.files import explained
from harness.store.record import CONTROL
from harness.store.rundir import RunDir, Shard

_MAY_CHANGE = frozenset({"device", "threads"})  # what of a variant's identity may change when a run is continued
_LATER = frozenset({"served", "kv_cache", "decoding"})  # of a proof: left out if not there, as before there were any


def accept(plan: Plan, directory: RunDir, variant: Variant, ready: Ready, note: Callable[[str], None]) -> None:
    """Check a loaded variant, and record its identity the first time. note: gets a sentence for the person who waits.

    Raises StoreError if it is not what answered before, NotComparable or ModelError if it does not fit the baseline.
    """
    experiment, baseline = plan.experiment, plan.experiment.baseline.name
    cross_engine, control = experiment.execution.cross_engine, variant.name == CONTROL
    against, path = directory.recorded(baseline, "variant.json"), Path(plan.paths[variant.name])
    identity: dict[str, Any] = {"weights": weights_of(variant, path), "engine": ready.engine_version}
    identity |= {"versions": dict(ready.versions), "device": ready.device_name}
    identity |= {} if ready.threads is None else {"threads": ready.threads}
    proof = to_json(ready.proof).items()
    identity["proof"] = {key: value for key, value in proof if key not in _LATER or value is not None}
    if variant.name != baseline and against is not None and experiment.execution.rehearsal is None:
        before, writes = proof_from_json(against["proof"]), any(item.kind == "generate" for item in plan.items)
        check_candidate(before, ready.proof, variant, writes=writes, cross_engine=cross_engine)
        if ready.proof.served is None and not cross_engine:
            check_software(against, identity, variant.name)
        shown = "" if control or cross_engine or plan.allow_identical else same_server(before, ready.proof)
        if shown:  # said before its items are asked
            remedy = "look at the address and the model, or give --allow-identical for an A/A comparison"
            raise NotComparable(f"{variant.name} is the baseline itself ({shown}): {remedy}")
    if variant.engine.here and (overlaps := calibration_overlap(path, [item.prompt for item in plan.items])):
        ids = [plan.items[at].id for at in overlaps]
        directory.record(variant.name, "calibration.json", {"items": ids})
        note(f"{variant.name}: {len(ids)} items share a passage with its calibration texts: {ids[0]} ...")
    if (known := directory.recorded(variant.name, "variant.json")) is None:
        directory.record(variant.name, "variant.json", identity)
        return
    record = json.loads(json.dumps(identity))
    canaries = [(one["proof"].get("served") or {}).get("canary", ()) for one in (known, record)]
    record, known = _lasting(record), _lasting(known)
    differing = [key for key in record if known.get(key) != record[key]]
    if changed := ", ".join(differing + ["log-probabilities"] * replaced(*canaries)):
        why = f"cannot be continued: {changed} of this variant differ from those of the earlier answers"
        remedy = "Give another --output, or remove that directory to start again"
        raise StoreError(f"{directory.path / variant.name}: {why}. {remedy}")


def _lasting(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an identity may not change; a server's log-probabilities may, as other replicas round."""
    kept = {key: value for key, value in identity.items() if key not in _MAY_CHANGE}
    if served := kept["proof"].get("served"):
        kept["proof"] = kept["proof"] | {"served": {key: value for key, value in served.items() if key != "canary"}}
    return kept


def check_files(variant: Variant, path: Path, identity: Mapping[str, Any]) -> None:
    """Raise NotComparable if a variant's files are no longer those that answered."""
    if identity["weights"] != weights_of(variant, path):
        raise NotComparable(f"{path}: was changed since {variant.name} read it: give another --output or name")


def weights_of(variant: Variant, path: Path) -> str:
    """Identify a variant's weights; those of a model that runs elsewhere are only as known as its name."""
    if not variant.engine.here:
        return f"not seen: {variant.engine.url or variant.engine.name} {variant.engine.model}"
    with explained(path, "read"):
        return models.weights_digest(path)


def record_cost(directory: RunDir, name: str, shard: Shard, ready: Ready, closed: Closed) -> None:
    """Record what a variant cost in a shard: load time in seconds, and the largest memory of all its processes."""
    before = directory.recorded(name, f"cost-{shard}.json") or {"peak_bytes": 0}
    peak, seconds = max(closed.usage.peak_bytes, before["peak_bytes"]), round(ready.load_seconds, 3)
    told = {"notes": list(closed.usage.notes), "device": ready.device_name, **closed.hardware}
    directory.record(name, f"cost-{shard}.json", {"load_seconds": seconds, "peak_bytes": peak, **told})
