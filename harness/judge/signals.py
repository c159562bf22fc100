"""What a baseline's own answers say of a stratum before any candidate is asked, and who is asked what because of it.

Strata without signal may be left out for all but the baseline (``execution.skip_blind``), and the control may be asked
a share of the items (``execution.control: 0.25``): pure functions of the config, the items and the baseline's answers,
so that the runner and the judge come to the same items.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness import stats
from harness.config.fields import allowed
from harness.config.schema import Policy
from harness.judge.outcomes import Floats
from harness.judge.rules import Place, Rules, by_stratum
from harness.records import Generation, Item, Scored
from harness.stats.units import above_chance_p
from harness.store.units import grouped
from harness.suite.tail.detectors import number_of, unparsed
from harness.suite.toolkit.seeded import hash_order

CERTAIN = 0.99  # probability of the right choice from which on an answer is taken as certain
NEARLY_ALL = 0.8  # share of a stratum's answers from which on they are called unusable ...
LEAST = 5  # ... if it has that many answers

_FORMS = {
    "empty": ("empty", "check sampling.chat_template and the stop texts"),
    "truncated": ("cut at the token limit", "check the task's token limit and sampling.chat_template"),
    "invalid_json": ("no JSON", "check the prompts and sampling.chat_template"),
    "code_syntax": ("code that does not parse", "check the prompts and sampling.chat_template"),
    "unparsed": ("without the number asked for", "check the prompts and sampling.chat_template"),
}
"""Sign to what is said of such answers, and the advice; an answer counts for the first that it shows."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One stratum as the baseline answered it."""

    slice: str
    stratum: str
    items: int  # answered
    sources: int  # independent ones that they come from
    gating: bool
    baseline_mean: float | None  # None if nothing was answered
    chance: float  # the score that guessing would give
    right: int  # items with a score above 0, which a candidate can lose
    choice_probability: float | None  # mean probability of the right choice; None if there are no choices
    blind: tuple[str, ...]  # why damage could not be seen there, a sentence each; empty if it could
    notes: tuple[str, ...] = ()  # what else a reader should know, a sentence each


def signals(
    items: Sequence[Item],
    scores: Mapping[str, float],
    probabilities: Mapping[str, float],
    rules: Rules,
    unusable: Mapping[Place, str] | None = None,
) -> list[Signal]:
    """Look at every stratum, in the order of the items; unusable: see `unusable_strata`. Raises StatisticsError."""
    found = []
    for place, members in by_stratum(items).items():
        answered, own, sources, chance = _columns(members, scores)
        weighed = np.array([probabilities[item.id] for item in answered if item.id in probabilities])
        mean = float(own.mean()) if own.size else None
        blind, notes = _findings(own, sources, weighed, chance, allowed(rules.margin(*place), mean or 0), rules.policy)
        if blind and unusable and place in unusable:
            blind = [f"not measured: {unusable[place]}"]
        count, right = int(sources.max()) + 1 if own.size else 0, int(np.count_nonzero(own > 0))
        likely = float(weighed.mean()) if weighed.size else None
        gating, said = rules.gating(*place), (tuple(blind), tuple(notes))
        found.append(Signal(*place, own.size, count, gating, mean, chance, right, likely, *said))
    return found


def _columns(among: Sequence[Item], scores: Mapping[str, float]) -> tuple[list[Item], Floats, NDArray[np.int32], float]:
    """Return a stratum's answered items, with their scores and sources, and the score that guessing would give."""
    answered = [item for item in among if math.isfinite(scores.get(item.id, math.nan))]
    sources = np.unique([item.cluster for item in answered], return_inverse=True)[1].astype(np.int32)
    chance = float(np.mean([item.chance for item in among]))
    return answered, np.array([scores[item.id] for item in answered]), sources, chance


def _findings(
    own: Floats, sources: NDArray[np.int32], weighed: Floats, chance: float, margin: float, policy: Policy
) -> tuple[list[str], list[str]]:
    """Return why damage could not be seen, and what else is to be known."""
    if not own.size:
        return ["nothing was answered"], []
    blind, notes = [], []
    above = above_chance_p(own, sources, chance + margin)
    if above is None or above >= policy.chance_alpha:
        line = f"guessing ({chance:.1%}) plus the margin ({margin:.1%})"
        blind.append(f"chance level: {own.mean():.1%} is not shown to be above {line}")
    if stats.paired_test(-own, sources, margin=margin, alpha=policy.alpha).p_fail >= policy.alpha:
        right = int(np.count_nonzero(own > 0))
        blind.append(f"too few items that the baseline gets right: losing all {right} would not show a fail")
    if not stats.can_ever_pass(own.size, margin, policy.alpha, clusters=sources):
        notes.append("too few items: it cannot pass even if no answer changes")
    if own.min() == 1.0 and weighed.size == own.size and weighed.min() >= CERTAIN:
        blind.append("ceiling without margin: every choice is right and certain, so only gross damage would show")
    elif own.min() == 1.0:
        notes.append("ceiling: every answer is right; damage too small to flip one does not show")
    return blind, notes


def unusable_strata(items: Sequence[Item], answers: Iterable[Scored]) -> dict[Place, str]:
    """Give (slice, stratum) to a sentence if nearly all the answers there are unusable, and score 0."""
    asked = {item.id: item for item in items}
    forms: dict[Place, Counter[str]] = defaultdict(Counter)
    for one in answers:
        item = asked.get(one.item_id)
        if item is not None and one.signs is not None:
            forms[item.slice, item.stratum][_form(one, item)] += 1
    found = {}
    for place, counts in forms.items():
        total, usable = counts.total(), counts.pop("", 0)
        if total >= LEAST and total - usable >= NEARLY_ALL * total:
            shown = [form for form in sorted(_FORMS, key=lambda form: -counts[form]) if counts[form]]
            listed = ", ".join(f"{counts[form]} of {total} answers are {_FORMS[form][0]}" for form in shown)
            found[place] = f"{listed}: they say nothing of what the model can do; {_FORMS[shown[0]][1]}"
    return found


def _form(one: Scored, item: Item) -> str:
    """Return the first form of `_FORMS` that an answer has; empty for a usable one, or a text that was not kept."""
    if one.score or one.signs is None:
        return ""
    text = one.response.text if isinstance(one.response, Generation) else ""
    signs = {**one.signs, "unparsed": bool(text) and number_of(item.target) is not None and unparsed(text)}
    return next((form for form in _FORMS if signs.get(form)), "")


def control_items(items: Sequence[Item], share: float) -> frozenset[str]:
    """The ids of the items that the control is asked: of each stratum the given share, rounded up.

    share: in (0, 1]. Items with a common prefix or cluster are taken together, in an order that depends on their names
    alone, so that a text is read for all of its questions and adding items keeps the choice.
    """
    chosen: set[str] = set()
    for members in by_stratum(items).values():
        groups = grouped((item.prefix_group or item.cluster, item.id) for item in members)
        wanted, taken = math.ceil(share * len(members)), 0
        for name in sorted(groups, key=lambda name: hash_order(name, "control")):
            if taken < wanted:
                chosen.update(groups[name])
                taken += len(groups[name])
    return frozenset(chosen)


def blind_strata(items: Sequence[Item], scores: Mapping[str, float], rules: Rules) -> frozenset[Place]:
    """The strata in which the baseline's own answers show no signal, by the test that the verdict uses.

    scores: item id to the baseline's mean score in [0, 1], NaN for unanswered items. Strata with a tolerance of tail
    events are never among them, and neither are those about which the test says nothing: no answer, a single source.
    """
    found = set()
    for place, members in by_stratum(items).items():
        _, own, sources, chance = _columns(members, scores)
        if not own.size or (rules.tolerances(*place) and any(item.kind == "generate" for item in members)):
            continue
        p = above_chance_p(own, sources, chance + allowed(rules.margin(*place), float(own.mean())))
        if p is not None and p >= rules.policy.chance_alpha:
            found.add(place)
    return frozenset(found)


def blind_to_cache(items: Iterable[Item]) -> frozenset[Place]:
    """The strata whose scores come from reading the prompt once: choices, and answers of a single token.

    A KV cache is used from the second token of an answer on, so however it is damaged, they show nothing.
    """
    strata = by_stratum(items).items()
    return frozenset(place for place, own in strata if all(one.kind == "choice" or one.max_tokens <= 1 for one in own))
