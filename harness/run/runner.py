"""Runs an experiment, one process per variant, into a directory that survives any kill. The only writer of answers."""

import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from harness.config.schema import Variant
from harness.errors import Incomplete, Interrupted, ModelError, NotComparable, RunError, StoreError
from harness.judge import choice_probability, judging
from harness.judge.layers import sentences
from harness.judge.signals import control_items, unusable_strata
from harness.models.devices import usable_cpus
from harness.records import Item, Response, Scored, Settings, Timing
from harness.run.identity import accept, check_files, record_cost, weights_of
from harness.run.plan import Plan
from harness.run.progress import Reporter
from harness.run.worker import Ask, Diverged, Job, Working
from harness.run.worker_process import WorkerHandle, started
from harness.store.divergence import RunTraces, traces_folder
from harness.store.files import RESTORE, write_json
from harness.store.privacy import TextPolicy
from harness.store.record import CONTROL, read_run
from harness.store.rundir import AnswerFiles, RunDir, Shard
from harness.store.shards import Stages
from harness.store.units import Unit, split_units
from harness.store.whole import missing_shards, write_manifest
from harness.suite import code as slices_code
from harness.suite.scorer import Score, Scorer
from harness.suite.tail.detectors import examine

Strata = set[tuple[str, str]]


def run(plan: Plan, directory: RunDir, shard: Shard, progress: Reporter, *, command: str = "") -> None:
    """Answer everything of a shard that is not answered yet, and say in the run directory that it is complete.

    A variant that cannot be loaded leaves a failure file, and the others still run. command: recorded as it was given.
    Raises StoreError, Incomplete (a worker died), Interrupted (Ctrl-C).
    """
    with _working(plan, directory, shard, progress) as work:
        work.all()
        work.finish(command)


def ask_baseline(plan: Plan, directory: RunDir, progress: Reporter) -> None:
    """Answer the baseline's items alone, in a run directory where `run` can go on. Raises what `run` raises."""
    with _working(plan, directory, Shard(), progress) as work:
        work.baseline()


@contextmanager
def _working(plan: Plan, directory: RunDir, shard: Shard, progress: Reporter) -> "Iterator[_Run]":
    """Hold a shard, its plan written; say after Ctrl-C that nothing is lost. Raises Interrupted."""
    try:
        with ExitStack() as stack:
            yield _Run(plan, directory, shard, progress, stack)
    except KeyboardInterrupt:
        text = f"stopped; finished work is kept in {directory.path}: give the same command again to continue"
        raise Interrupted(text) from None


class _Run:
    """One process's work on one shard: holds the shard until `stack` ends, and writes the plan first."""

    def __init__(self, plan: Plan, directory: RunDir, shard: Shard, progress: Reporter, stack: ExitStack) -> None:
        self.plan, self.directory, self.shard, self.progress = plan, directory, shard, progress
        self.execution, sampling = plan.experiment.execution, plan.experiment.sampling
        self.samples = sampling.samples
        if note := stack.enter_context(directory.locked(shard)):
            progress.note(note)
        self.text_policy = TextPolicy(plan.experiment.store_text, directory.erased())
        shard_of = split_units(plan.units, shard.count, self.samples)
        split = {} if shard.count == 1 else {"shard_of": shard_of}
        directory.begin(plan.record() | split, map(self.text_policy.item, plan.items), shard, plan.units)
        self.units = [unit for unit in plan.units if shard_of[unit.index] == shard.index]
        baseline, erased = plan.experiment.baseline.name, self.text_policy.erased
        folder = stack.enter_context(self.text_policy.traces(traces_folder(directory, baseline, shard)))
        self.traces = RunTraces(directory, baseline, shard, plan.tracing.tokens, folder, erased)
        stack.enter_context(progress)
        self.scorer = stack.enter_context(Scorer(plan.items, allow_code=plan.allow_code, thinking=sampling.marks))
        self.stages = Stages(directory, shard, progress.note)
        self.skipped: dict[str, list[int]] = defaultdict(list)
        self.digests = {item.id: item.digest() for item in plan.items}

    def all(self) -> None:
        """Go through the looks, and at each through the variants."""
        baseline, candidates = self.plan.experiment.baseline, self.plan.experiment.candidates
        others = [baseline.model_copy(update={"name": CONTROL}), *candidates] if self.execution.control else candidates
        self.progress.expect(sum(self._cost_of(self._asked(one, self.units)) for one in (baseline, *others)))
        for note in self.plan.notes:
            self.progress.note(note)
        self.stages.restart()
        for look in range(1, self.execution.looks + 1):
            undecided = None  # all strata
            if look > 1:
                self.stages.wait(f"look-{look - 1}")
                undecided = judging.undecided(read_run(self.directory), look - 1)
            units = [unit for unit in self.units if unit.look == look]
            waiting = [(one, self._needed(one, self._asked(one, units), undecided)) for one in others]
            self._variant(baseline, self._needed(baseline, units, undecided), self._untraced(waiting))
            if look == 1:  # say what cannot be measured before any candidate is asked
                found = unusable_strata(self.plan.items, self.directory.all_results(baseline.name))
                for (key, stratum), sentence in found.items():
                    self.progress.note(f"{key}/{stratum} is not measured: {sentence}")
            left_out = self._left_out()
            for variant, wanted in waiting:
                asked = _without(wanted, lambda item, left_out=left_out: item.id not in left_out)  # type: ignore[misc]
                self.progress.skip(self._cost_of(wanted) - self._cost_of(asked))
                self._variant(variant, asked, set())
            self.stages.done(f"look-{look}")

    def baseline(self) -> None:
        """Answer all items with the baseline."""
        self.progress.expect(self._cost_of(self.units))
        self.stages.restart()
        self._variant(self.plan.experiment.baseline, self.units, set())

    def finish(self, command: str) -> None:
        """Say that this shard is complete; the last one to be so writes the manifest."""
        for variant in self.plan.experiment.variants:  # also those that answered hours ago
            self._unchanged(variant, records=False)
        record: dict[str, object] = {"command": command, "config_digest": self.plan.experiment.digest()}
        record |= {"units": [unit.index for unit in self.units], **slices_code.record(self.plan.items)}
        record |= {"skipped": {name: sorted(set(units)) for name, units in self.skipped.items()}}
        write_json(self.directory.path / "shards" / f"{self.shard}.json", record)
        self.traces.finish()
        if not missing_shards(self.directory):
            write_manifest(self.directory)

    def _cost_of(self, units: Sequence[Unit]) -> int:
        """Count tokens of prompts and longest answers."""
        return sum(item.prompt_tokens + item.max_tokens * self.samples for unit in units for item in unit.items)

    def _asked(self, variant: Variant, units: Sequence[Unit]) -> list[Unit]:
        """Give the part of the units that a variant is asked: the control's share, for others all."""
        if variant.name != CONTROL or isinstance(self.execution.control, bool):
            return list(units)
        chosen = control_items(self.plan.items, self.execution.control)
        return _without(units, lambda item: item.id in chosen)

    def _left_out(self) -> frozenset[str]:
        """Give the items that only the baseline is asked, by all of its answers."""
        if not self.execution.skip_blind and self.execution.layers is None:
            return frozenset()
        self.stages.done("baseline")
        self.stages.wait("baseline")
        run = read_run(self.directory)
        for sentence in sentences(run.items, judging.layers_of(run), self.execution.layers):
            self.progress.note(sentence)
        return judging.unasked(run)

    def _needed(self, variant: Variant, units: Sequence[Unit], undecided: Mapping[str, Strata] | None) -> list[Unit]:
        """Leave out of the units what is decided, and put it down; baseline and control serve the other candidates."""
        needed = list(units)
        if undecided is not None:
            wanted = undecided.get(variant.name, set().union(*undecided.values()))
            needed = _without(units, lambda item: (item.slice, item.stratum) in wanted)
        whole = {unit.index: len(unit.items) for unit in needed}
        self.skipped[variant.name] += [unit.index for unit in units if whole.get(unit.index) != len(unit.items)]
        self.progress.skip(self._cost_of(units) - self._cost_of(needed))
        return needed

    def _untraced(self, others: Sequence[tuple[Variant, Sequence[Unit]]]) -> set[int]:
        """Give the units that are yet to be compared with the baseline and have no traces."""
        pending: set[int] = set()
        for variant, units in others if self.traces.tokens else ():
            if variant.name not in self.plan.missing:
                pending |= {unit.index for unit in units} - self._done(variant.name, units)
        return self.traces.missing(pending)

    def _variant(self, variant: Variant, units: Sequence[Unit], again: set[int]) -> None:
        """Answer a variant's units that are not answered yet; those in `again` for their traces alone."""
        self.progress.doing(variant.name, "looking at what is done")
        done = self._done(variant.name, units)
        self.progress.skip(self._cost_of([unit for unit in units if unit.index in done]))
        pending = [unit for unit in units if unit.index not in done or unit.index in again]
        if not pending:
            self._unchanged(variant)
            return
        try:
            if variant.name in self.plan.missing:
                raise ModelError(self.plan.missing[variant.name])
            self._work(variant, pending, done)
        except RunError as error:
            if isinstance(error, StoreError | Incomplete) or variant.name == self.plan.experiment.baseline.name:
                raise
            failure = {"kind": type(error).__name__, "message": str(error)}
            self.directory.record(variant.name, f"failure-{self.shard}.json", failure)
            self.progress.note(f"{variant.name} is not judged: {error}")
            self.progress.skip(self._cost_of([unit for unit in pending if unit.index not in done]))

    def _unchanged(self, variant: Variant, *, records: bool = True) -> None:
        """Refuse a variant if its records are not the manifest's, where that counts, or its files not those then."""
        name, changed = variant.name, "does not agree with manifest.json: it was changed after the run"
        before = (self.directory.recorded("", "manifest.json") or {}).get("variants", {}).get(name, {})
        for key, file in (("identity", "variant.json"), ("calibration", "calibration.json")):
            if records and key in before and before[key] != self.directory.recorded(name, file):
                raise NotComparable(f"{self.directory.path / name / file}: {changed}: {RESTORE}")
        place, answered = self.plan.paths.get(variant.name), self.directory.recorded(variant.name, "variant.json")
        if place and answered:
            check_files(variant, Path(place), answered)

    def _done(self, name: str, units: Sequence[Unit]) -> set[int]:
        """Find the units with all their responses, and drop what the others left. Raises StoreError for a stranger."""
        # A choice has one response, however many samples are asked for.
        wanted = {unit.index: sum(1 if one.kind == "choice" else self.samples for one in unit.items) for unit in units}
        asked = {item.id for unit in units for item in unit.items}
        earlier, measured = {unit.index for unit in self.plan.units} - set(wanted), self.traces.measured(name)
        done: set[int] = set()
        for spec in self.plan.experiment.slices:
            lines = self.directory.results(name, spec.key, self.shard)
            if strangers := [one.item_id for one in lines if self.digests.get(one.item_id) != one.item_digest]:
                text = f"{self.directory.path / name}: holds an answer to another version of item {strangers[0]}"
                raise StoreError(f"{text}: give another --output, or remove that directory")
            counts = Counter(one.unit for one in lines if one.item_id in asked)
            whole = {index for index, count in counts.items() if count == wanted.get(index)}
            own = (whole if measured is None else whole & measured) | earlier
            self.directory.keep(name, spec.key, self.shard, (one for one in lines if one.unit in own))
            done |= own & set(wanted)
        self.traces.keep(name, done | earlier)
        return done

    def _work(self, variant: Variant, units: Sequence[Unit], known: set[int]) -> None:
        """Load the variant in its own process and answer the units; of the `known` ones only traces are wanted."""
        self.progress.doing(variant.name, "loading")
        for earlier in ("comparisons.json", "junit.xml", "report.html", "report.md", "verdict.json"):
            (self.directory.path / earlier).unlink(missing_ok=True)  # of answers that are not all there now
        log = self.directory.path / variant.name / f"worker-{self.shard}.log"
        place = Path(self.plan.paths[variant.name])
        before = {"weights": weights_of(variant, place)}
        with self.text_policy.log(log) as own_log, started(self._job(variant, own_log)) as ask:
            ready = ask.receive()
            check_files(variant, place, before)  # one that was written while it was read is a mixture
            accept(self.plan, self.directory, variant, ready, self.progress.note)
            with AnswerFiles(self.directory, variant.name, self.shard) as files:
                self._answer(variant.name, units, known, ask, files)
            accept(self.plan, self.directory, variant, ready, lambda _: None)  # another shard may have begun as early
            usage = ask.close()
        record_cost(self.directory, variant.name, self.shard, ready, usage)

    def _job(self, variant: Variant, log: Path) -> Job:
        """Say what to load for a variant; the control is the baseline in other batches."""
        plan, execution, control = self.plan, self.execution, variant.name == CONTROL
        largest = variant.engine.concurrency if variant.engine.served else execution.max_batch
        fewer = 2 if variant.engine.served and largest == 1 else max(1, largest // 2 - 1)
        # The number of threads of the earlier part of the run, if there is one: sums keep their order.
        recorded = (self.directory.recorded(variant.name, "variant.json") or {}).get("threads")
        return Job(
            *(variant, plan.paths[variant.name], plan.paths[plan.experiment.baseline.name]),
            *(plan.experiment.compute_dtype(variant), plan.device, fewer if control else largest),
            attention=execution.attention,
            batch_tokens=execution.batch_tokens,
            threads=execution.threads or (recorded and min(recorded, usable_cpus())),
            log=log,
            rehearsal=execution.rehearsal,
            traces=self.traces if self.traces.tokens else None,
            choices=any(item.kind == "choice" for item in plan.items),
            requests=self.directory.path / variant.name / f"requests-{self.shard}.log",
            key=os.environ.get(variant.engine.api_key_env or "", ""),
        )

    def _answer(self, name: str, units: Sequence[Unit], known: set[int], ask: WorkerHandle, files: AnswerFiles) -> None:
        """Keep one unit in work and one waiting; of the `known` units nothing but traces is wanted."""
        sampling, spent = self.plan.experiment.sampling, 0
        settings = Settings(sampling.temperature, sampling.top_p, sampling.samples, self.plan.experiment.seed)
        waiting = (Ask(unit.index, unit.items, settings, unit.index in known) for unit in units)
        for question in itertools.islice(waiting, 2):
            ask.send(question)
        for unit in units:
            # One that is only traced was counted before.
            timing = self._take(name, unit, ask, files, 0 if unit.index in known else self._cost_of([unit]), spent)
            spent += timing.prompt_tokens + timing.output_tokens
            for question in itertools.islice(waiting, 1):
                ask.send(question)

    def _take(self, name: str, unit: Unit, ask: WorkerHandle, files: AnswerFiles, cost: int, before: int) -> Timing:
        """Score and append what comes of a unit, and show how far it is: `cost` tokens, `before` of earlier units."""
        running: list[tuple[Item, Response, Future[Score]]] = []  # whose code is run next to the worker
        self.progress.doing(name, unit.slice)
        shown = 0
        while not isinstance(message := ask.receive(), Timing):
            if isinstance(message, Response):
                item = next(item for item in unit.items if item.id == message.item_id)
                if (future := self.scorer.start(item, message)) is not None:
                    running.append((item, message, future))
                else:
                    self._write(files, unit, item, message, self.scorer.score(item, message))
            elif isinstance(message, Working):
                reached = max(shown, min(message.tokens - before, cost))
                self.progress.advance(reached - shown)
                shown = reached
            elif isinstance(message, Diverged):
                self.traces.take(name, unit.index, message.items, message.why)
        for item, response, future in running:
            self._write(files, unit, item, response, future.result())
        files.finish(unit.slice, message)
        self.progress.advance(cost - shown, len(unit.items) if cost else 0)
        return message

    def _write(self, files: AnswerFiles, unit: Unit, item: Item, response: Response, score: Score) -> None:
        answer, thought = self.scorer.answered(item, response)
        seen = examine(item, answer, score.value, score.metrics, thought)
        lead = choice_probability.confidence(item, response, score.metric) if self.execution.layers else None
        metrics = score.metrics if lead is None else {**score.metrics, choice_probability.CONFIDENCE: lead}
        found = (self.digests[item.id], unit.index, score.value, metrics, response, seen.signs, seen.length)
        scored = Scored(item.id, *found, choice_probability.of_answer(item, response), score.metric)
        files.append(unit.slice, self.text_policy.scored(scored))


def _without(units: Sequence[Unit], keep: Callable[[Item], bool]) -> list[Unit]:
    """Give the units with only those items that are kept, without the units that lose all."""
    return [unit for unit in (replace(unit, items=tuple(filter(keep, unit.items))) for unit in units) if unit.items]
