"""Tail events counted: what the candidate's answers show and the baseline's to the same items do not.

With several samples of an item, it is an event where any sample of the candidate shows the sign and no sample of the
baseline does. Late answers, later than `policy.latency` where the baseline's was not, are counted like other signs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from harness.errors import NotComparable
from harness.judge.rules import Rules, by_stratum
from harness.records import LATENCY_KINDS, TAIL_KINDS, Generation, Item, Scored
from harness.store.units import grouped

BLOW_UP = "blow_up"  # the one kind that only a pair shows
TIMES_LONGER = 4
TOKENS_LONGER = 64
"""An answer blew up if it is at least so many times as long as the baseline's and so many tokens longer, as written.

Source: own. Limits: a candidate that reasons longer and is right is an event too; where the token limit is near the
baseline's length nothing can blow up, and "truncated" says it.
"""


@dataclass(slots=True)
class Cell:
    """One kind of event in one stratum: a column per item that both sides answered and that was looked at for it."""

    slice: str
    stratum: str
    kind: str  # one of `harness.records.TAIL_KINDS`
    items: list[str] = field(default_factory=list)  # ids
    clusters: list[str] = field(default_factory=list)  # the source of each
    events: list[bool] = field(default_factory=list)  # whether the candidate's answer shows it and the baseline's not
    baseline: list[bool] = field(default_factory=list)  # whether the baseline's answer shows it; never for `BLOW_UP`
    unseen: int = 0  # items whose answers were written before anyone looked for tail events
    one_sided: int = 0  # items that one side alone answered
    unasked: int = 0  # items that were spared one side, because the stratum was decided early
    asked: int = 0  # items that both sides were asked, answered or not


class _Side(NamedTuple):
    """What one variant's answers to one item show together."""

    signs: Mapping[str, bool]
    length: int
    seen: bool
    answered: bool


def _sides(scored: Iterable[Scored]) -> dict[str, _Side]:
    found = {}
    for item_id, samples in grouped((one.item_id, one) for one in scored).items():
        texts = [one for one in samples if isinstance(one.response, Generation)]
        shown = [one.signs for one in texts if one.signs is not None]
        signs = {kind: any(own.get(kind, False) for own in shown) for kind in set[str]().union(*shown)}
        signs[BLOW_UP] = False
        length = max((one.length or 0 for one in texts), default=0)
        found[item_id] = _Side(signs, length, len(shown) == len(texts), len(texts) == len(samples))
    return found


def cells(
    items: Sequence[Item], baseline: Iterable[Scored], candidate: Iterable[Scored], kinds: Iterable[str] = TAIL_KINDS
) -> list[Cell]:
    """Count the events of a candidate in every stratum, in the order of the items and of the kinds.

    Strata without free text have none. A stratum whose answers nobody looked at has its cells without items, so that
    whoever holds it to a tolerance finds that nothing is known.
    """
    before, after, kinds = _sides(baseline), _sides(candidate), tuple(kinds)
    free = by_stratum(item for item in items if item.kind == "generate")
    return [cell for own in free.values() for cell in _stratum(own, before, after, kinds)]


def _stratum(
    items: Sequence[Item], baseline: Mapping[str, _Side], candidate: Mapping[str, _Side], kinds: Iterable[str]
) -> Iterator[Cell]:
    asked = [item for item in items if item.id in baseline and item.id in candidate]
    pairs = [(item, baseline[item.id], candidate[item.id]) for item in asked]
    answered = [(item, was, now) for item, was, now in pairs if was.answered and now.answered]
    seen = [(item, was.signs, _signs(was, now)) for item, was, now in answered if was.seen and now.seen]
    one_sided = sum(before.answered != after.answered for _, before, after in pairs)
    unseen, unasked = len(answered) - len(seen), len(items) - len(asked)
    for kind in kinds:
        own = [(item, was.get(kind, False), now.get(kind, False)) for item, was, now in seen if kind in {*was, *now}]
        # Where nothing could be compared, an empty cell says so: it is not judged, and so never passes.
        if own or unseen or one_sided or (asked and not answered) or kind in LATENCY_KINDS:
            ids, clusters = [item.id for item, _, _ in own], [item.cluster for item, _, _ in own]
            events, shown = [now and not was for _, was, now in own], [was for _, was, _ in own]
            place = items[0].slice, items[0].stratum
            yield Cell(*place, kind, ids, clusters, events, shown, unseen, one_sided, unasked, len(asked))


def _signs(before: _Side, after: _Side) -> dict[str, bool]:
    return {**after.signs, BLOW_UP: after.length >= max(TIMES_LONGER * before.length, before.length + TOKENS_LONGER)}


def showing(answers: Iterable[Scored], kind: str) -> Scored | None:
    """Return the first of an item's answers that shows a sign, the first of all for a kind that only pairs show."""
    given = sorted(answers, key=lambda one: one.response.sample)
    if kind == BLOW_UP:
        return max(given, key=lambda one: one.length or 0, default=None)
    return next((one for one in given if one.signs and one.signs.get(kind)), None)


_TIMES = {"slow_first_token": "first", "slow_tokens": "per_token"}  # kind of late answer to the time that shows it


def undefined(rules: Rules) -> list[str]:
    """Return the kinds of late answers that have a tolerance while `policy.latency` does not say what is late."""
    tolerances = [rules.policy.tail_events, *(one.tail_events or {} for one in rules.slices.values())]
    return sorted(set().union(*tolerances) & set(_TIMES) - set(rules.policy.latency))


def with_late(
    sides: Sequence[Iterable[Scored]], times: Sequence[Sequence[Mapping[str, Any]]], latency: Mapping[str, float]
) -> list[list[Scored]]:
    """Add to both sides' answers whether they were late, if both were timed by a warm server to which they were new.

    times: of each side's requests. An answer without text is not late, and one that came in a single piece or token has
    no time for each further token. Raises NotComparable if a side has no times.
    """
    if not all(times):
        raise NotComparable("policy.latency needs the times of all variants: run them with engine.stream: true")
    fit = ([line for line in own if (line["state"], line["cache"]) == ("warm", "uncached")] for own in times)
    timed = [{(line["item"], line["sample"]): line for line in own} for own in fit]

    def marked(one: Scored, own: Mapping[tuple[str, int], Mapping[str, Any]]) -> Scored:
        key = one.item_id, one.response.sample
        if one.signs is None or not all(key in side for side in timed):
            return one
        known = [kind for kind in latency if kind != "slow_tokens" or all(side[key]["per_token"] for side in timed)]
        late = {kind: (own[key][_TIMES[kind]] or 0.0) > latency[kind] for kind in known}
        return replace(one, signs={**one.signs, **late})

    return [[marked(one, own) for one in side] for side, own in zip(sides, timed, strict=True)]
