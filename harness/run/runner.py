"""Runs an experiment: baseline, control and candidates, one process each, into a run directory that survives any kill.

The runner is the only writer of answers. It asks a worker for one unit at a time (and one ahead, so that the device
never waits), scores each response as it comes and appends it. It never loads a model itself and judges nothing but
which strata need no more items, for which it asks `harness.judge.judging`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from harness import errors, models
from harness.config import Variant
from harness.errors import Incomplete, Interrupted, RunError
from harness.judge import choice_probability, judging
from harness.judge.finished import CONTROL
from harness.judge.planning import Unit
from harness.privacy import Keeper
from harness.proof import check_candidate
from harness.quantize.calibration import calibration_overlap
from harness.records import Item, Proof, Response, Scored, Settings, to_json
from harness.run.files import AnswerFiles
from harness.run.plan import Plan
from harness.run.progress import Reporter
from harness.run.store import RunDir, Shard, atomic_write
from harness.run.tracing import RunTraces, traces_folder
from harness.run.worker import Answered, Ask, Closed, Diverged, Finished, Job, Model, Ready, Traces
from harness.run.worker_process import Asker, started
from harness.slices import Scorer
from harness.slices import code as slices_code
from harness.tail_events import examine

__all__ = ["ask_baseline", "run"]


def run(plan: Plan, directory: RunDir, shard: Shard, progress: Reporter, *, command: str = "") -> None:
    """Answer everything of a shard that is not answered yet, and say in the run directory that it is complete.

    command: the command line that asked for it, kept for the report's provenance.
    Raises StoreError, Incomplete (a worker died), Interrupted (Ctrl-C). Variants that cannot be loaded leave a failure
    file, and the others still run.
    """
    if shard.count > 1 and plan.experiment.execution.looks > 1:
        msg = "execution.looks above 1 needs every score at each look: run without --shard, or set looks: 1"
        raise errors.UsageError(msg)
    with directory.locked(shard):
        keeper = Keeper(plan.experiment.store_text, directory.erased())
        directory.begin(plan.record(), map(keeper.item, plan.items), shard)
        baseline = plan.experiment.baseline.name
        with keeper.traces(traces_folder(directory, baseline, shard)) as folder:
            traces = RunTraces(directory, baseline, shard, plan.tracing, folder)
            work = _Run(plan, directory, shard, progress, keeper, traces)
            with _stoppable(directory), progress, work.scorer:
                work.all()
            work.finish(command)


def ask_baseline(plan: Plan, directory: RunDir, progress: Reporter) -> None:
    """Answer the baseline's items alone, in a run directory where `run` can go on.

    Raises what `run` raises.
    """
    with directory.locked(Shard()):
        keeper = Keeper(plan.experiment.store_text, directory.erased())
        directory.begin(plan.record(), map(keeper.item, plan.items), Shard())
        baseline = plan.experiment.baseline.name
        with keeper.traces(traces_folder(directory, baseline, Shard())) as folder:
            traces = RunTraces(directory, baseline, Shard(), plan.tracing, folder)
            work = _Run(plan, directory, Shard(), progress, keeper, traces)
            with _stoppable(directory), progress, work.scorer:
                work.baseline()


@contextlib.contextmanager
def _stoppable(directory: RunDir) -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost. Raises Interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        msg = f"stopped; finished work is kept in {directory.path}: give the same command again to continue"
        raise Interrupted(msg) from None


class _Run:
    """One process's work on one shard."""

    def __init__(
        self,
        plan: Plan,
        directory: RunDir,
        shard: Shard,
        progress: Reporter,
        keeper: Keeper,
        traces: RunTraces,
    ) -> None:
        self.plan, self.directory, self.shard, self.progress = plan, directory, shard, progress
        self.keeper, self.traces = keeper, traces
        self.scorer = Scorer(plan.items, allow_code=plan.allow_code)
        self.late: list[tuple[Unit, Item, Response, AnswerFiles, Future[tuple[float | None, dict[str, float]]]]] = []
        self.units = [unit for unit in plan.units if shard.has(unit.index)]
        self.skipped: dict[str, list[int]] = defaultdict(list)
        self.lost: list[str] = []
        execution = plan.experiment.execution
        self.control = execution.control
        self.samples = plan.experiment.sampling.samples
        self.digests = {item.id: item.digest() for item in plan.items}
        self.proofs: dict[str, Proof] = {}

    def all(self) -> None:
        """Go through the looks, and at each through the variants."""
        names = [variant.name for variant in self._variants()]
        self.progress.expect(sum(_tokens(unit, self.samples) for unit in self.units) * len(names))
        for look in range(1, self.plan.experiment.execution.looks + 1):
            undecided = self._undecided(look)
            own = [unit for unit in self.units if unit.look == look]
            needed = [(variant, self._needed(variant, own, undecided)) for variant in self._variants()]
            for place, (variant, units) in enumerate(needed):
                self._variant(variant, units, self._untraced(needed[1:]) if place == 0 else set())

    def baseline(self) -> None:
        """Answer all items with the baseline."""
        self.progress.expect(sum(_tokens(unit, self.samples) for unit in self.units))
        self._variant(self.plan.experiment.baseline, self.units, set())

    def _untraced(self, others: Sequence[tuple[Variant, Sequence[Unit]]]) -> set[int]:
        """Give the units that are yet to be compared with the baseline and have no traces."""
        pending = {
            unit.index
            for variant, units in others
            if variant.name not in self.plan.missing and self.traces.on
            for unit in units
            if unit.index not in self._done(variant.name, units)
        }
        return self.traces.missing(pending)

    def _variants(self) -> list[Variant]:
        experiment = self.plan.experiment
        control = [experiment.baseline.model_copy(update={"name": CONTROL})] if self.control else []
        return [experiment.baseline, *control, *experiment.candidates]

    def _undecided(self, look: int) -> Mapping[str, set[tuple[str, str]]] | None:
        """Give the strata that each candidate still needs; None at the first look, where that is all of them."""
        if look == 1:
            return None
        return judging.undecided(self.directory, self.plan.experiment, look - 1)

    def _needed(
        self,
        variant: Variant,
        units: Sequence[Unit],
        undecided: Mapping[str, set[tuple[str, str]]] | None,
    ) -> list[Unit]:
        """Leave out of the units what is decided; baseline and control serve the candidates that are not."""
        if undecided is None:
            return list(units)
        everyone = set().union(*undecided.values()) if undecided else set()
        wanted = undecided.get(variant.name, everyone)
        needed = []
        for unit in units:
            items = tuple(item for item in unit.items if (item.slice, item.stratum) in wanted)
            if items:
                needed.append(replace(unit, items=items))
            if len(items) < len(unit.items):
                gone = sum(_cost(item, self.samples) for item in unit.items if item not in items)
                self.progress.advance(gone)
                self.skipped[variant.name].append(unit.index)
        return needed

    def _variant(self, variant: Variant, units: Sequence[Unit], again: set[int]) -> None:
        """Answer a variant's units that are not answered yet; those in `again` for their traces alone."""
        failure = f"failure-{self.shard}.json"
        (self.directory.path / variant.name / failure).unlink(missing_ok=True)
        self.progress.doing(variant.name, "looking at what is done")
        done = self._done(variant.name, units)
        self.progress.advance(sum(_tokens(unit, self.samples) for unit in units if unit.index in done))
        pending = [unit for unit in units if unit.index not in done or unit.index in again]
        if not pending:
            return
        try:
            if variant.name in self.plan.missing:
                raise errors.ModelError(self.plan.missing[variant.name])
            self._work(variant, pending, done)
        except (errors.StoreError, Incomplete):
            raise
        except RunError as error:
            if variant.name == self.plan.experiment.baseline.name:
                raise
            self.directory.record(variant.name, failure, {"kind": type(error).__name__, "message": str(error)})
            self.progress.note(f"{variant.name} is not judged: {error}")
            self.progress.advance(sum(_tokens(unit, self.samples) for unit in pending))

    def _done(self, name: str, units: Sequence[Unit]) -> set[int]:
        """Find the units that have all their responses, and drop from the files what the others left.

        Raises StoreError where an answer is to another item than the one in the plan.
        """
        wanted = {unit.index: _responses(unit, self.samples) for unit in units}
        earlier = {unit.index for unit in self.plan.units} - set(wanted)
        measured = self.traces.measured(name)
        done: set[int] = set()
        for key in self.plan.record()["slices"]:
            found: dict[int, int] = defaultdict(int)
            for one in self.directory.results(name, key, self.shard):
                self._same_item(one, name)
                found[one.unit] += 1
            whole = {index for index, count in found.items() if count == wanted.get(index)}
            own = (whole if measured is None else whole & measured) | earlier
            self.directory.keep_units(name, key, self.shard, lambda one, own=own: one.unit in own)  # type: ignore[misc]
            done |= own & set(wanted)
        self.traces.keep(name, done | earlier)
        return done

    def _same_item(self, one: Scored, name: str) -> None:
        if self.digests.get(one.item_id) != one.item_digest:
            msg = (
                f"{self.directory.path / name}: holds an answer to another version of item {one.item_id}: "
                "give another --output, or remove that directory"
            )
            raise errors.StoreError(msg)

    def _work(self, variant: Variant, units: Sequence[Unit], known: set[int]) -> None:
        """Load the variant in its own process and answer the units; of the `known` ones only traces are wanted."""
        self.progress.doing(variant.name, "loading")
        log = self.directory.path / variant.name / f"worker-{self.shard}.log"
        with self.keeper.log(log) as own_log, started(self._job(variant, own_log)) as ask:
            ready = ask.receive()
            self._accept(variant, ready)
            files = AnswerFiles(self.directory, variant.name, self.shard)
            with contextlib.closing(files):
                self._answer(variant, units, known, ask, files)
            usage = ask.close()
        self._cost(variant.name, ready, usage)

    def _job(self, variant: Variant, log: Path) -> Job:
        execution, plan = self.plan.experiment.execution, self.plan
        return Job(
            model=self._model(variant),
            device=plan.device,
            attention=execution.attention,
            batch_tokens=execution.batch_tokens,
            threads=execution.threads,
            log=str(log),
            rehearsal=execution.rehearsal,
            traces=self._traces(variant.name),
        )

    def _model(self, variant: Variant) -> Model:
        """Say what to load for a variant; the control is the baseline in smaller batches."""
        execution, paths = self.plan.experiment.execution, self.plan.paths
        smaller = variant.name == CONTROL
        return Model(
            variant=variant,
            path=paths[self.plan.experiment.baseline.name if smaller else variant.name],
            dtype=variant.dtype or execution.dtype,
            max_batch=max(1, execution.max_batch // 2 - 1) if smaller else execution.max_batch,
        )

    def _traces(self, name: str) -> Traces | None:
        traces = self.traces
        writes = not traces.compared(name)
        if not traces.on or (writes and traces.tracing.beside):
            return None
        beside = self._model(self.plan.experiment.baseline) if traces.tracing.beside else None
        return Traces(str(traces.folder), traces.tracing.tokens, writes, self.keeper.erased, beside)

    def _accept(self, variant: Variant, ready: Ready) -> None:
        """Check what was loaded against the baseline and against an earlier part of the run; put it down."""
        baseline = self.plan.experiment.baseline.name
        self.proofs[variant.name] = ready.proof
        against = self.directory.recorded(baseline, "variant.json")
        measured = self.plan.experiment.execution.rehearsal is None
        if variant.name != baseline and against is not None and measured:
            before = Proof(**{**against["proof"], "notes": tuple(against["proof"]["notes"])})
            writes = any(item.kind == "generate" for item in self.plan.items)
            check_candidate(before, ready.proof, variant, writes=writes)
        source = baseline if variant.name == CONTROL else variant.name
        self._calibrated_on(variant.name, Path(self.plan.paths[source]))
        identity = {
            "weights": models.weights_digest(Path(self.plan.paths[source])),
            "engine": ready.engine_version,
            "versions": dict(ready.versions),
            "device": ready.device_name,
            "proof": to_json(ready.proof),
        }
        known = self.directory.recorded(variant.name, "variant.json")
        record = json.loads(json.dumps(identity))
        if known is not None and {**known, "device": ""} != {**record, "device": ""}:
            changed = ", ".join(key for key in record if known.get(key) != record[key])
            msg = (
                f"{self.directory.path / variant.name}: the variant is not what answered before ({changed} changed): "
                "give another --output, or remove that directory"
            )
            raise errors.StoreError(msg)
        if known is None:
            self.directory.record(variant.name, "variant.json", identity)

    def _calibrated_on(self, name: str, checkpoint: Path) -> None:
        """Say which items share a passage with what a checkpoint was calibrated on: they flatter it."""
        overlaps = calibration_overlap(checkpoint, [item.prompt for item in self.plan.items])
        if overlaps:
            ids = [self.plan.items[one.prompt].id for one in overlaps]
            self.directory.record(name, "calibration.json", {"items": ids})
            self.progress.note(f"{name}: {len(ids)} items share a passage with its calibration texts: {ids[0]} ...")

    def _answer(self, variant: Variant, units: Sequence[Unit], known: set[int], ask: Asker, files: AnswerFiles) -> None:
        """Keep one unit in work and one waiting; score and append what comes, but for the `known` units."""
        settings, said = self._settings(), self._baseline_said(variant.name)
        waiting = (Ask(unit.index, unit.items, settings, unit.index in known, said(unit)) for unit in units)
        for question in itertools.islice(waiting, 2):
            ask.send(question)
        by_index = {unit.index: unit for unit in units}
        left = len(units)
        while left:
            message = ask.receive()
            if isinstance(message, Answered):
                self._take(by_index[message.unit], message.response, files)
            elif isinstance(message, Diverged):
                self.traces.take(variant.name, message.unit, message.items, message.why)
            elif isinstance(message, Finished):
                left -= 1
                self._settle()
                unit = by_index[message.timing.unit]
                files.finish(unit.slice, message.timing)
                self.progress.doing(variant.name, unit.slice)
                self.progress.advance(0 if unit.index in known else _tokens(unit, self.samples))
                for question in itertools.islice(waiting, 1):
                    ask.send(question)

    def _baseline_said(self, name: str) -> Callable[[Unit], tuple[Response, ...]]:
        """Give what gives the baseline's answers to a unit, where a variant is compared with the baseline beside it."""
        found: dict[int, list[Response]] = defaultdict(list)
        if self.traces.tracing.beside and self.traces.compared(name):
            for key in self.plan.record()["slices"]:
                for one in self.directory.results(self.plan.experiment.baseline.name, key, self.shard):
                    found[one.unit].append(one.response)
        return lambda unit: tuple(found[unit.index])

    def _take(self, unit: Unit, response: Response, files: AnswerFiles) -> None:
        item = next(item for item in unit.items if item.id == response.item_id)
        if (future := self.scorer.start(item, response)) is not None:
            self.late.append((unit, item, response, files, future))
        else:
            self._keep(unit, item, response, files, self.scorer.score(item, response))

    def _settle(self) -> None:
        """Keep, in their order, the answers of a unit whose code was run beside the worker."""
        for unit, item, response, files, future in self.late:
            self._keep(unit, item, response, files, future.result())
        self.late.clear()

    def _keep(
        self,
        unit: Unit,
        item: Item,
        response: Response,
        files: AnswerFiles,
        found: tuple[float | None, dict[str, float]],
    ) -> None:
        score, metrics = found
        seen = examine(item, response, score, metrics)
        scored = Scored(
            item_id=item.id,
            item_digest=self.digests[item.id],
            unit=unit.index,
            score=score,
            metrics=metrics,
            response=response,
            choice_probability=choice_probability.of_answer(item, response),
            signs=seen.signs,
            length=seen.length,
        )
        files.append(unit.slice, self.keeper.scored(scored))

    def _settings(self) -> Settings:
        sampling, seed = self.plan.experiment.sampling, self.plan.experiment.seed
        return Settings(sampling.temperature, sampling.top_p, sampling.samples, seed)

    def _cost(self, name: str, ready: Ready, usage: Closed) -> None:
        """Put down what the variant cost; the largest memory of all its processes."""
        before = self.directory.recorded(name, f"cost-{self.shard}.json") or {"peak_bytes": 0}
        cost = {
            "load_seconds": round(ready.load_seconds, 3),
            "peak_bytes": max(usage.usage.peak_bytes, before["peak_bytes"]),
            "notes": list(usage.usage.notes),
            "device": ready.device_name,
        }
        self.directory.record(name, f"cost-{self.shard}.json", cost)

    def finish(self, command: str) -> None:
        """Say that this shard is complete; the last one to be so writes the manifest."""
        record = {
            "command": command,
            "config_digest": self.plan.experiment.digest(),
            "units": [unit.index for unit in self.units],
            "skipped": {name: sorted(set(units)) for name, units in self.skipped.items()},
            **slices_code.record(self.plan.items),
        }
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        atomic_write(self.directory.path / "shards" / f"{self.shard}.json", text)
        self.traces.finish()
        missing = judging.missing_shards(self.directory)
        if not missing:
            judging.write_manifest(self.directory)


def _responses(unit: Unit, samples: int) -> int:
    """Responses that make a unit whole; a choice has one, however many samples are asked for."""
    return sum(1 if item.kind == "choice" else samples for item in unit.items)


def _cost(item: Item, samples: int) -> int:
    return item.prompt_tokens + item.max_tokens * samples


def _tokens(unit: Unit, samples: int) -> int:
    return sum(_cost(item, samples) for item in unit.items)
