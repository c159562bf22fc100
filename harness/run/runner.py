"""Runs an experiment: baseline, control and candidates, one process each, into a run directory that survives any kill.

The runner is the only writer of answers. It asks a worker for one unit at a time (and one ahead, so that the device
never waits), scores each response as it comes and appends it. It never loads a model itself and judges nothing but
which strata need no more items, for which it asks `harness.judge.judging`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness import errors
from harness.config.schema import Variant
from harness.errors import Incomplete, Interrupted, RunError
from harness.judge import judging
from harness.judge.signals import control_items, unusable_strata
from harness.models.devices import usable_cpus
from harness.records import Item, Scored, Settings
from harness.run.answer_writer import AnswerWriter
from harness.run.identity import accept, record_cost
from harness.run.messages import Answered, Ask, Diverged, Finished, Job, Model, Traces, Working
from harness.run.plan import Plan
from harness.run.progress import Reporter
from harness.run.stages import Stages
from harness.run.worker_process import WorkerHandle, started
from harness.store.divergence import RunTraces, traces_folder
from harness.store.files import atomic_write
from harness.store.privacy import TextPolicy
from harness.store.record import CONTROL, read_run
from harness.store.rundir import AnswerFiles, RunDir, Shard
from harness.store.units import Unit, split_units
from harness.store.whole import missing_shards, write_manifest
from harness.suite import code as slices_code
from harness.suite.scorer import Scorer

__all__ = ["ask_baseline", "run"]


def run(plan: Plan, directory: RunDir, shard: Shard, progress: Reporter, *, command: str = "") -> None:
    """Answer everything of a shard that is not answered yet, and say in the run directory that it is complete.

    command: the command line that asked for it, kept for the report's provenance.
    Raises StoreError, Incomplete (a worker died), Interrupted (Ctrl-C). Variants that cannot be loaded leave a failure
    file, and the others still run.
    """
    with _opened(plan, directory, shard, progress) as work:
        with _stoppable(directory), progress, work.scorer:
            work.all()
        work.finish(command)


def ask_baseline(plan: Plan, directory: RunDir, progress: Reporter) -> None:
    """Answer the baseline's items alone, in a run directory where `run` can go on.

    Raises what `run` raises.
    """
    with _opened(plan, directory, Shard(), progress) as work, _stoppable(directory), progress, work.scorer:
        work.baseline()


@contextlib.contextmanager
def _opened(plan: Plan, directory: RunDir, shard: Shard, progress: Reporter) -> Iterator[_Run]:
    """Hold a shard of the run directory, with the plan written, and the traces' folder while it is needed."""
    with directory.locked(shard) as note:
        if note:
            progress.note(note)
        text_policy = TextPolicy(plan.experiment.store_text, directory.erased())
        split = {} if shard.count == 1 else {"shard_of": _shard_of(plan, shard)}
        directory.begin(plan.record() | split, map(text_policy.item, plan.items), shard, plan.units)
        baseline = plan.experiment.baseline.name
        with text_policy.traces(traces_folder(directory, baseline, shard)) as folder:
            traces = RunTraces(directory, baseline, shard, plan.tracing, folder)
            yield _Run(plan, directory, shard, progress, text_policy, traces)


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
        text_policy: TextPolicy,
        traces: RunTraces,
    ) -> None:
        self.plan, self.directory, self.shard, self.progress = plan, directory, shard, progress
        self.text_policy, self.traces = text_policy, traces
        thinking = plan.experiment.sampling.marks
        self.scorer = Scorer(plan.items, allow_code=plan.allow_code, thinking=thinking)
        shard_of = _shard_of(plan, shard)
        self.units = [unit for unit in plan.units if shard_of[unit.index] == shard.index]
        self.stages = Stages(directory, shard, progress)
        self.skipped: dict[str, list[int]] = defaultdict(list)
        execution = plan.experiment.execution
        self.control = execution.control
        self.samples = plan.experiment.sampling.samples
        self.digests = {item.id: item.digest() for item in plan.items}

    def all(self) -> None:
        """Go through the looks, and at each through the variants."""
        baseline, *others = self._variants()
        self.progress.expect(sum(self._cost_of(self._asked(one, self.units)) for one in (baseline, *others)))
        for note in self.plan.notes:
            self.progress.note(note)
        self._begin_again()
        for look in range(1, self.plan.experiment.execution.looks + 1):
            undecided = self._undecided(look)
            units = [unit for unit in self.units if unit.look == look]
            waiting = [(one, self._needed(one, self._asked(one, units), undecided)) for one in others]
            needed = self._needed(baseline, units, undecided)
            self._spare(baseline, units, needed)
            self._variant(baseline, needed, self._untraced(waiting))
            if look == 1:
                self._say_unusable(baseline.name)
            if skips := self.plan.experiment.execution.skip_blind:
                self.stages.done("baseline")
                self.stages.wait("baseline")
            blind = judging.not_asked(read_run(self.directory)) if skips else frozenset()
            for variant, wanted in waiting:
                asked = _without(wanted, lambda item, blind=blind: (item.slice, item.stratum) not in blind)  # type: ignore[misc]
                self.progress.skip(self._cost_of(wanted) - self._cost_of(asked))
                self._spare(variant, self._asked(variant, units), wanted)
                self._variant(variant, asked, set())
            self.stages.done(f"look-{look}")

    def _begin_again(self) -> None:
        """Forget which stages were done and what failed when this shard was run before."""
        self.stages.restart()
        for path in self.directory.path.glob(f"*/failure-{self.shard}.json"):
            path.unlink()

    def baseline(self) -> None:
        """Answer all items with the baseline."""
        self.progress.expect(self._cost_of(self.units))
        self._begin_again()
        self._variant(self.plan.experiment.baseline, self.units, set())

    def _say_unusable(self, name: str) -> None:
        """Say which strata the baseline's answers cannot measure, before any candidate is asked."""
        found = unusable_strata(self.plan.items, self.directory.all_results(name))
        for (key, stratum), sentence in found.items():
            self.progress.note(f"{key}/{stratum} is not measured: {sentence}")

    def _cost_of(self, units: Sequence[Unit]) -> int:
        return sum(_tokens(unit, self.samples) for unit in units)

    def _asked(self, variant: Variant, units: Sequence[Unit]) -> list[Unit]:
        """Give the part of the units that a variant is asked: the control's share, for others all."""
        if variant.name != CONTROL or isinstance(self.control, bool):
            return list(units)
        chosen = control_items(self.plan.items, self.control)
        return _without(units, lambda item: item.id in chosen)

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
        self.stages.wait(f"look-{look - 1}")
        return judging.undecided(read_run(self.directory), look - 1)

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
        return _without(units, lambda item: (item.slice, item.stratum) in wanted)

    def _spare(self, variant: Variant, units: Sequence[Unit], needed: Sequence[Unit]) -> None:
        """Put down of which units something was left out because it is decided."""
        whole = {unit.index: len(unit.items) for unit in needed}
        self.skipped[variant.name] += [unit.index for unit in units if whole.get(unit.index) != len(unit.items)]
        self.progress.skip(self._cost_of(units) - self._cost_of(needed))

    def _variant(self, variant: Variant, units: Sequence[Unit], again: set[int]) -> None:
        """Answer a variant's units that are not answered yet; those in `again` for their traces alone."""
        self.progress.doing(variant.name, "looking at what is done")
        done = self._done(variant.name, units)
        self.progress.skip(self._cost_of([unit for unit in units if unit.index in done]))
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
            failure = {"kind": type(error).__name__, "message": str(error)}
            self.directory.record(variant.name, f"failure-{self.shard}.json", failure)
            self.progress.note(f"{variant.name} is not judged: {error}")
            self.progress.skip(self._cost_of([unit for unit in pending if unit.index not in done]))

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
        with self.text_policy.log(log) as own_log, started(self._job(variant, own_log)) as ask:
            ready = ask.receive()
            accept(self.plan, self.directory, variant, ready, self.progress.note)
            files = AnswerFiles(self.directory, variant.name, self.shard)
            with contextlib.closing(files):
                self._answer(variant, units, known, ask, files)
            usage = ask.close()
        record_cost(self.directory, variant.name, self.shard, ready, usage)

    def _job(self, variant: Variant, log: Path) -> Job:
        execution, plan = self.plan.experiment.execution, self.plan
        return Job(
            model=self._model(variant),
            device=plan.device,
            attention=execution.attention,
            batch_tokens=execution.batch_tokens,
            threads=self._threads(variant),
            log=str(log),
            rehearsal=execution.rehearsal,
            traces=self._traces(variant.name),
            prompts=plan.paths[plan.experiment.baseline.name],
            choices=any(item.kind == "choice" for item in plan.items),
            requests=str(self.directory.path / variant.name / f"requests-{self.shard}.log"),
            key=os.environ.get(variant.engine.api_key_env or "", ""),
        )

    def _threads(self, variant: Variant) -> int | None:
        """Give the config's number of threads, else that of the earlier part of the run: sums keep their order."""
        recorded = (self.directory.recorded(variant.name, "variant.json") or {}).get("threads")
        return self.plan.experiment.execution.threads or (recorded and min(recorded, usable_cpus()))

    def _model(self, variant: Variant) -> Model:
        """Say what to load for a variant; the control is the baseline in other batches."""
        execution, paths = self.plan.experiment.execution, self.plan.paths
        smaller = variant.name == CONTROL
        largest = variant.engine.concurrency if variant.engine.served else execution.max_batch
        fewer = 2 if variant.engine.served and largest == 1 else max(1, largest // 2 - 1)
        return Model(
            variant=variant,
            path=paths[self.plan.experiment.baseline.name if smaller else variant.name],
            dtype=self.plan.experiment.compute_dtype(variant),
            max_batch=fewer if smaller else largest,
        )

    def _traces(self, name: str) -> Traces | None:
        traces = self.traces
        if not traces.on:
            return None
        writes = not traces.compared(name)
        return Traces(str(traces.folder), traces.tracing.tokens, writes, self.text_policy.erased)

    def _answer(
        self, variant: Variant, units: Sequence[Unit], known: set[int], ask: WorkerHandle, files: AnswerFiles
    ) -> None:
        """Keep one unit in work and one waiting; score and append what comes, but for the `known` units."""
        settings = self._settings()
        waiting = (Ask(unit.index, unit.items, settings, unit.index in known) for unit in units)
        for question in itertools.islice(waiting, 2):
            ask.send(question)
        by_index = {unit.index: unit for unit in units}
        shown = dict.fromkeys(by_index, 0)
        writer = AnswerWriter(files, self.scorer, self.text_policy, self.digests)
        left = len(units)

        def reach(unit: Unit, tokens: int, items: int = 0) -> None:
            """Count what is done of a unit up to `tokens`; units that are only traced were counted before."""
            if unit.index not in known:
                self.progress.advance(max(0, tokens - shown[unit.index]), items)
                shown[unit.index] = max(tokens, shown[unit.index])

        while left:
            message = ask.receive()
            if isinstance(message, Answered):
                writer.take(by_index[message.unit], message.response)
            elif isinstance(message, Working):
                unit = by_index[message.unit]
                reach(unit, min(message.tokens, _tokens(unit, self.samples)))
            elif isinstance(message, Diverged):
                self.traces.take(variant.name, message.unit, message.items, message.why)
            elif isinstance(message, Finished):
                left -= 1
                writer.settle()
                unit = by_index[message.timing.unit]
                files.finish(unit.slice, message.timing)
                self.progress.doing(variant.name, unit.slice)
                reach(unit, _tokens(unit, self.samples), len(unit.items))
                for question in itertools.islice(waiting, 1):
                    ask.send(question)

    def _settings(self) -> Settings:
        sampling, seed = self.plan.experiment.sampling, self.plan.experiment.seed
        return Settings(sampling.temperature, sampling.top_p, sampling.samples, seed)

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
        if not missing_shards(self.directory):
            write_manifest(self.directory)


def _shard_of(plan: Plan, shard: Shard) -> list[int]:
    return split_units(plan.units, shard.count, plan.experiment.sampling.samples)


def _without(units: Sequence[Unit], keep: Callable[[Item], bool]) -> list[Unit]:
    """Give the units with only those items that are kept, without the units that lose all."""
    kept = (replace(unit, items=tuple(filter(keep, unit.items))) for unit in units)
    return [unit for unit in kept if unit.items]


def _responses(unit: Unit, samples: int) -> int:
    """Responses that make a unit whole; a choice has one, however many samples are asked for."""
    return sum(1 if item.kind == "choice" else samples for item in unit.items)


def _cost(item: Item, samples: int) -> int:
    return item.prompt_tokens + item.max_tokens * samples


def _tokens(unit: Unit, samples: int) -> int:
    return sum(_cost(item, samples) for item in unit.items)
