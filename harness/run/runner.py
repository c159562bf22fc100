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
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from harness.config.schema import Variant
from harness.errors import Incomplete, Interrupted, ModelError, RunError, StoreError
from harness.judge import choice_probability, judging
from harness.judge.layers import sentences
from harness.judge.signals import control_items, unusable_strata
from harness.models.devices import usable_cpus
from harness.records import Item, Response, Scored, Settings, Timing
from harness.run.identity import accept, record_cost
from harness.run.plan import Plan
from harness.run.progress import Reporter
from harness.run.worker import Ask, Diverged, Job, Working
from harness.run.worker_process import WorkerHandle, started
from harness.store.divergence import RunTraces, traces_folder
from harness.store.files import atomic_write
from harness.store.privacy import TextPolicy
from harness.store.record import CONTROL, read_run
from harness.store.rundir import AnswerFiles, RunDir, Shard
from harness.store.shards import Stages
from harness.store.units import Unit, split_units
from harness.store.whole import missing_shards, write_manifest
from harness.suite import code as slices_code
from harness.suite.scorer import Score, Scorer
from harness.suite.tail import examine


def run(plan: Plan, directory: RunDir, shard: Shard, progress: Reporter, *, command: str = "") -> None:
    """Answer everything of a shard that is not answered yet, and say in the run directory that it is complete.

    command: the command line that asked for it, kept for the report's provenance.
    Raises StoreError, Incomplete (a worker died), Interrupted (Ctrl-C). Variants that cannot be loaded leave a failure
    file, and the others still run.
    """
    with _stoppable(directory), contextlib.ExitStack() as stack:
        work = _Run(plan, directory, shard, progress, stack)
        work.all()
        work.finish(command)


def ask_baseline(plan: Plan, directory: RunDir, progress: Reporter) -> None:
    """Answer the baseline's items alone, in a run directory where `run` can go on.

    Raises what `run` raises.
    """
    with _stoppable(directory), contextlib.ExitStack() as stack:
        _Run(plan, directory, Shard(), progress, stack).baseline()


@contextlib.contextmanager
def _stoppable(directory: RunDir) -> Iterator[None]:
    """Say after Ctrl-C that nothing is lost. Raises Interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        text = f"stopped; finished work is kept in {directory.path}: give the same command again to continue"
        raise Interrupted(text) from None


class _Run:
    """One process's work on one shard: holds the shard until `stack` ends, and writes the plan first."""

    def __init__(
        self, plan: Plan, directory: RunDir, shard: Shard, progress: Reporter, stack: contextlib.ExitStack
    ) -> None:
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
        control = [baseline.model_copy(update={"name": CONTROL})] if self.execution.control else []
        others = [*control, *candidates]
        self.progress.expect(sum(self._cost_of(self._asked(one, self.units)) for one in (baseline, *others)))
        for note in self.plan.notes:
            self.progress.note(note)
        self._begin_again()
        for look in range(1, self.execution.looks + 1):
            undecided = self._undecided(look)
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
        self._begin_again()
        self._variant(self.plan.experiment.baseline, self.units, set())

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

    def _begin_again(self) -> None:
        """Forget which stages were done and what failed when this shard was run before."""
        self.stages.restart()
        for path in self.directory.path.glob(f"*/failure-{self.shard}.json"):
            path.unlink()

    def _cost_of(self, units: Sequence[Unit]) -> int:
        """Count tokens of prompts and longest answers."""
        items = (item for unit in units for item in unit.items)
        return sum(item.prompt_tokens + item.max_tokens * self.samples for item in items)

    def _asked(self, variant: Variant, units: Sequence[Unit]) -> list[Unit]:
        """Give the part of the units that a variant is asked: the control's share, for others all."""
        if variant.name != CONTROL or isinstance(self.execution.control, bool):
            return list(units)
        chosen = control_items(self.plan.items, self.execution.control)
        return _without(units, lambda item: item.id in chosen)

    def _undecided(self, look: int) -> Mapping[str, set[tuple[str, str]]] | None:
        """Give the strata that each candidate still needs; None at the first look, where that is all of them."""
        if look == 1:
            return None
        self.stages.wait(f"look-{look - 1}")
        return judging.undecided(read_run(self.directory), look - 1)

    def _needed(
        self, variant: Variant, units: Sequence[Unit], undecided: Mapping[str, set[tuple[str, str]]] | None
    ) -> list[Unit]:
        """Leave out of the units what is decided, and put it down; baseline and control serve the other candidates."""
        needed = list(units)
        if undecided is not None:
            wanted = undecided.get(variant.name, set().union(*undecided.values()))
            needed = _without(units, lambda item: (item.slice, item.stratum) in wanted)
        whole = {unit.index: len(unit.items) for unit in needed}
        self.skipped[variant.name] += [unit.index for unit in units if whole.get(unit.index) != len(unit.items)]
        self.progress.skip(self._cost_of(units) - self._cost_of(needed))
        return needed

    def _left_out(self) -> frozenset[str]:
        """Give the items that only the baseline is asked, from all of its answers."""
        if not self.execution.skip_blind and self.execution.layers is None:
            return frozenset()
        self.stages.done("baseline")
        self.stages.wait("baseline")
        run = read_run(self.directory)
        for sentence in sentences(run.items, judging.layers_of(run), self.execution.layers):
            self.progress.note(sentence)
        return judging.unasked(run)

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
            return
        try:
            if variant.name in self.plan.missing:
                raise ModelError(self.plan.missing[variant.name])
            self._work(variant, pending, done)
        except (StoreError, Incomplete):
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
        # A choice has one response, however many samples are asked for.
        wanted = {unit.index: sum(1 if one.kind == "choice" else self.samples for one in unit.items) for unit in units}
        asked = {item.id for unit in units for item in unit.items}
        earlier = {unit.index for unit in self.plan.units} - set(wanted)
        measured = self.traces.measured(name)
        done: set[int] = set()
        for spec in self.plan.experiment.slices:
            lines = self.directory.results(name, spec.key, self.shard)
            for one in lines:
                if self.digests.get(one.item_id) != one.item_digest:
                    text = f"holds an answer to another version of item {one.item_id}"
                    remedy = "give another --output, or remove that directory"
                    raise StoreError(f"{self.directory.path / name}: {text}: {remedy}")
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
        log = self.directory.path / variant.name / f"worker-{self.shard}.log"
        with self.text_policy.log(log) as own_log, started(self._job(variant, own_log)) as ask:
            ready = ask.receive()
            accept(self.plan, self.directory, variant, ready, self.progress.note)
            with contextlib.closing(AnswerFiles(self.directory, variant.name, self.shard)) as files:
                self._answer(variant, units, known, ask, files)
            usage = ask.close()
        record_cost(self.directory, variant.name, self.shard, ready, usage)

    def _job(self, variant: Variant, log: Path) -> Job:
        """Say what to load for a variant; the control is the baseline in other batches."""
        plan, execution, control = self.plan, self.execution, variant.name == CONTROL
        baseline = plan.paths[plan.experiment.baseline.name]
        largest = variant.engine.concurrency if variant.engine.served else execution.max_batch
        fewer = 2 if variant.engine.served and largest == 1 else max(1, largest // 2 - 1)
        # The number of threads of the earlier part of the run, if there is one: sums keep their order.
        recorded = (self.directory.recorded(variant.name, "variant.json") or {}).get("threads")
        return Job(
            variant=variant,
            path=baseline if control else plan.paths[variant.name],
            dtype=plan.experiment.compute_dtype(variant),
            concurrency=fewer if control else largest,
            device=plan.device,
            attention=execution.attention,
            batch_tokens=execution.batch_tokens,
            threads=execution.threads or (recorded and min(recorded, usable_cpus())),
            log=log,
            rehearsal=execution.rehearsal,
            traces=self.traces if self.traces.tokens else None,
            prompts=baseline,
            choices=any(item.kind == "choice" for item in plan.items),
            requests=self.directory.path / variant.name / f"requests-{self.shard}.log",
            key=os.environ.get(variant.engine.api_key_env or "", ""),
        )

    def _answer(
        self, variant: Variant, units: Sequence[Unit], known: set[int], ask: WorkerHandle, files: AnswerFiles
    ) -> None:
        """Keep one unit in work and one waiting; score and append what comes, but for the `known` units."""
        sampling = self.plan.experiment.sampling
        settings = Settings(sampling.temperature, sampling.top_p, sampling.samples, self.plan.experiment.seed)
        waiting = (Ask(unit.index, unit.items, settings, unit.index in known) for unit in units)
        for question in itertools.islice(waiting, 2):
            ask.send(question)
        writer = _AnswerWriter(files, self.scorer, self.text_policy, self.digests)
        writer.layers = self.execution.layers is not None
        left, shown, spent = list(units), 0, 0  # units, and tokens: of the first unit, and of those before it

        def reach(tokens: int, items: int = 0) -> None:
            """Count what is done of the first unit up to `tokens`; one that is only traced was counted before."""
            nonlocal shown
            if left[0].index not in known:
                self.progress.advance(max(0, tokens - shown), items)
                shown = max(tokens, shown)

        while left:
            message, unit = ask.receive(), left[0]
            if isinstance(message, Response):
                writer.take(unit, message)
            elif isinstance(message, Working):
                reach(min(message.tokens - spent, self._cost_of([unit])))
            elif isinstance(message, Diverged):
                self.traces.take(variant.name, unit.index, message.items, message.why)
            elif isinstance(message, Timing):
                writer.settle()
                files.finish(unit.slice, message)
                self.progress.doing(variant.name, unit.slice)
                reach(self._cost_of([unit]), len(unit.items))
                left.pop(0)
                shown, spent = 0, spent + message.prompt_tokens + message.output_tokens
                for question in itertools.islice(waiting, 1):
                    ask.send(question)


class _AnswerWriter:
    """Scores responses as they come and writes them, in the order in which a unit's responses came."""

    layers = False  # whether the confidence in choices is recorded

    def __init__(self, files: AnswerFiles, scorer: Scorer, text_policy: TextPolicy, digests: Mapping[str, str]) -> None:
        self._files, self._scorer, self._text_policy, self._digests = files, scorer, text_policy, digests
        self._pending: list[tuple[Unit, Item, Response, Future[Score]]] = []

    def take(self, unit: Unit, response: Response) -> None:
        """Score and write a response; if its code has to run first, that goes on next to the worker."""
        item = next(item for item in unit.items if item.id == response.item_id)
        if (future := self._scorer.start(item, response)) is not None:
            self._pending.append((unit, item, response, future))
        else:
            self._write(unit, item, response, self._scorer.score(item, response))

    def settle(self) -> None:
        """Write, in their order, the responses whose code was run."""
        for unit, item, response, future in self._pending:
            self._write(unit, item, response, future.result())
        self._pending.clear()

    def _write(self, unit: Unit, item: Item, response: Response, score: Score) -> None:
        answer, thought = self._scorer.answered(item, response)
        seen = examine(item, answer, score.value, score.metrics, thought)
        lead = choice_probability.confidence(item, response, score.metric) if self.layers else None
        scored = Scored(
            item_id=item.id,
            item_digest=self._digests[item.id],
            unit=unit.index,
            score=score.value,
            metrics=score.metrics if lead is None else {**score.metrics, choice_probability.CONFIDENCE: lead},
            metric=score.metric,
            response=response,
            choice_probability=choice_probability.of_answer(item, response),
            signs=seen.signs,
            length=seen.length,
        )
        self._files.append(unit.slice, self._text_policy.scored(scored))


def _without(units: Sequence[Unit], keep: Callable[[Item], bool]) -> list[Unit]:
    """Give the units with only those items that are kept, without the units that lose all."""
    kept = (replace(unit, items=tuple(filter(keep, unit.items))) for unit in units)
    return [unit for unit in kept if unit.items]
