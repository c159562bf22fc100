"""From a config to the items to ask, with lm_eval's prompts, and from an answer to the score that lm_eval prints."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self

from harness.config.schema import Experiment, Sampling, Thinking
from harness.errors import ConfigError, Problem, UsageError
from harness.records import ChoiceLogprobs, Generation, Item, Response
from harness.suite import tasks as slices_tasks
from harness.suite.build import SliceBuilder
from harness.suite.code import refuse_code, runs_code
from harness.suite.items import LETTER_KEY, METRIC_KEY, prompting
from harness.suite.toolkit.scoring import BEYOND, limited, noted
from harness.suite.toolkit.thinking import split

NOTHING, TRIED = ("", "\ue000"), 20  # answers without content, and items of a stratum that are scored with them
AT_ONCE = 2  # executions at the same time, each of two processes that take turns
_LETTER = re.compile(Path(__file__).with_name("letter.txt").read_text("utf-8"), re.VERBOSE)


class Score(NamedTuple):
    """What scoring one response gives."""

    value: float | None  # in [0, 1]; None if the item went unanswered
    metrics: dict[str, float]  # every metric of the task, by name
    metric: str = ""  # the name of the metric that is the score; empty if the item went unanswered


def load_items(
    experiment: Experiment, tokenizer: Any, *, context_limit: int | None = None, source: str = "config"
) -> list[Item]:
    """Give the items of all slices, in the config's order. Raises ConfigError with every problem."""
    how = prompting(tokenizer, experiment.sampling, tools_apart=experiment.baseline.engine.tools)
    problems = _template_problems(experiment.sampling, tokenizer, used=how.template)
    items: list[Item] = []
    for index, spec in enumerate(experiment.slices):
        items += SliceBuilder(spec, f"slices[{index}]", problems, how, experiment.seed).build(context_limit)
    owner: dict[str, str] = {}  # answers are kept by item, so each may stand in one slice only
    shared = Counter((owner.setdefault(item.id, item.slice), item.slice) for item in items)
    for (one, other), count in shared.items():
        if one != other:
            text = f"{one!r} and {other!r} ask {count} of the same items: keep their tasks or axes apart"
            problems.append(Problem("slices", text))
    twice = [one for one, count in Counter(item.id for item in items).items() if count > 1]
    if twice and not problems:
        problems.append(Problem("slices", f"several items have the id {twice[0]!r}: give each its own `id`"))
    if problems:
        raise ConfigError(source, problems)
    return _above_nothing(items)


def _above_nothing(items: Sequence[Item]) -> list[Item]:
    """Return items whose chance is at least what answers without content score in their stratum."""
    tried: dict[Any, list[Item]] = defaultdict(list)
    for item in items:
        if item.kind == "generate" and not runs_code(item):
            tried[item.task, item.stratum].append(item)
    tried = {place: own[:: -(-len(own) // TRIED)] for place, own in tried.items()}  # files may be sorted
    best: dict[Any, float] = {}
    with Scorer([item for own in tried.values() for item in own]) as scorer:
        for (place, own), text in product(tried.items(), NOTHING):
            with suppress(Exception):  # of a scorer that takes such a text for a fault, and so does not credit it
                found = [scorer.score(one, Generation(one.id, text, (), "eos", 0)).value or 0.0 for one in own]
                best[place] = max(best.get(place, 0.0), sum(found) / max(len(found), 1))
    return [replace(one, chance=max(one.chance, best.get((one.task, one.stratum), 0.0))) for one in items]


def _template_problems(sampling: Sampling, tokenizer: Any, *, used: bool) -> list[Problem]:
    """Find a chat template that is asked for and missing, and a system message that nothing would carry."""
    found = []
    if sampling.chat_template is True and not getattr(tokenizer, "chat_template", None):
        text = "true, but the baseline's tokenizer has no chat template: write auto or false, or take an instruct model"
        found.append(Problem("sampling.chat_template", text))
    unused = "{} given, but no chat template is used to {}: leave {} out, or use a model that has one".format
    if sampling.chat_template_kwargs and not used:
        found.append(Problem("sampling.chat_template_kwargs", unused("are", "read them", "them")))
    if sampling.system is not None and not used:
        found.append(Problem("sampling.system", unused("is", "carry it", "it")))
    return found


class Scorer:
    """Scores answers as lm_eval does. Made from the items alone: neither hub nor generator is needed."""

    def __init__(self, items: Sequence[Item], *, allow_code: bool = False, thinking: Thinking = "auto") -> None:
        """Take the items whose answers will come. Raises UsageError if scoring would run code that may not run."""
        refuse_code(items, allowed=allow_code)
        self._thinking = thinking
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sandbox")  # no thread before the first execution
        self._docs: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for item in items:
            self._docs[item.task].append(item.doc)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Start no further execution, and wait for those that are under way."""
        self._pool.shutdown(cancel_futures=True)

    def start(self, item: Item, response: Response) -> Future[Score] | None:
        """Begin to score an answer that takes a while, because it is run; None for all others: `score` is quick."""
        if not runs_code(item):
            return None
        self._task(item.task)  # built here once, not by several threads
        return self._pool.submit(self.score, item, response)

    def _task(self, name: str) -> Any:
        if name not in self._tasks:
            if name not in self._docs:
                raise UsageError(f"no item of {name!r} was given to this scorer")
            self._tasks[name] = slices_tasks.from_docs(name, self._docs[name])
        return self._tasks[name]

    def score(self, item: Item, response: Response) -> Score:
        """Return the item's score and every metric of the task.

        A metric is named as lm_eval names it, with its filter where there is more than one (``exact_match,strict``).
        Two are ours: ``thinking_characters``, left out of an answer that has none, and ``scoring_limit``, 1 if scoring
        reached a limit of time or depth, so that the answer counts as wrong. Raises UsageError if it is no proportion.
        """
        response, thought = self.answered(item, response)
        if not isinstance(response, Generation | ChoiceLogprobs):
            return Score(None, {})
        own = {"thinking_characters": float(len(thought))} if thought else {}
        if isinstance(response, Generation) and LETTER_KEY in item.doc:
            found = _LETTER.match(response.text)
            value = float(found is not None and found["letter"] == item.doc[LETTER_KEY])
            return Score(value, own | {"letter": value}, "letter")
        task = self._task(item.task)
        metrics: dict[str, float] = {}
        with noted() as limits:
            try:
                with limited():
                    metrics.update(_measured(task, item, response))
            except BEYOND:
                name = _metric(item, task, metrics) or "score"
                return Score(0.0, metrics | own | {name: 0.0, "scoring_limit": 1.0}, name)
            except Exception as error:
                if (text := slices_tasks.describe_task_error(error)) is None:
                    raise
                raise UsageError(f"{item.task}: the answer to {item.id} cannot be scored: {text}") from error
        name = _metric(item, task, metrics)
        if name not in metrics:
            raise UsageError(f"{item.task} has no metric {name!r} for one item; it has {', '.join(metrics) or 'none'}")
        if task.higher_is_better().get(name.partition(",")[0]) is not True:
            raise UsageError(f"{item.task}: of {name} less is better (no higher_is_better: true): set options.metric")
        if not 0 <= metrics[name] <= 1:
            raise UsageError(f"{name} of {item.id} is {metrics[name]:g}, not in [0, 1]; choose with options.metric")
        return Score(metrics[name], metrics | own | ({"scoring_limit": 1.0} if limits else {}), name)

    def answered(self, item: Item, response: Response) -> tuple[Response, str]:
        """The response without what the model wrote while it thought, and that."""
        if not isinstance(response, Generation):
            return response, ""
        answer, thought = split(response.text, self._thinking, item.prompt)
        return (response if answer == response.text else replace(response, text=answer)), thought


def _measured(task: Any, item: Item, response: Generation | ChoiceLogprobs) -> Iterator[tuple[str, float]]:
    """Run the task's filters over one response, as `Task.apply_filters` does, and its scorer; name and value each."""
    from lm_eval.api.instance import Instance

    results: list[Any]
    if isinstance(response, Generation):
        kind, results = "generate_until", [response.text]
    else:
        kind, results = "loglikelihood", [*zip(response.logprobs, response.greedy, strict=True)]
    doc = deepcopy(dict(item.doc))  # a scorer may change it, and the next variant is scored by it too
    made = [Instance(kind, doc, (item.prompt,), at, (item.task, 0, 1), [one]) for at, one in enumerate(results)]
    for pipeline in task._filters:  # noqa: SLF001 - lm_eval offers no other way to filter one document
        pipeline.apply(made)
    for name in made[0].filtered_resps:
        for key, value in task.process_results(doc, [one.filtered_resps[name] for one in made]).items():
            if isinstance(value, int | float) or (hasattr(value, "item") and getattr(value, "shape", None) == ()):
                yield key if name == "none" else f"{key},{name}", float(value)


def _metric(item: Item, task: Any, metrics: Mapping[str, float]) -> str:
    """Return the name of the metric that is the score: the config's choice, else the task's, else its first."""
    own = task.config.metadata if isinstance(task.config.metadata, dict) else {}
    first = next(iter(task.aggregation()), "")  # the same for all answers, also where a scorer leaves it out
    named = next((one for one in metrics if one.partition(",")[0] == first), first)
    return str(item.doc.get(METRIC_KEY) or own.get("metric") or named)
