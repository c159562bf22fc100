"""How the variants behave: divergence, churn, KV caches, how long they think, how fast they stream.

Filled from a judgement and its evidence. No verdict reads a divergence, which is an explanation and an alarm.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from harness.judge.decisions import points
from harness.judge.verdicts import Judgement
from harness.records import QUANTITIES, Generation, Item, Scored
from harness.report.evidence import DivergenceRow, Evidence
from harness.report.section import Block, Cell, Chart, Line, Row, Section, names, numbers, strata, texts
from harness.report.words import number_text, place, score
from harness.stats.divergence import Divergence, summarise
from harness.store.record import CONTROL, RunRecord

_EVERYTHING = "all"  # a slice's strata taken together
_DRAWN = 12  # pictures at most: the slices with the largest divergence
_STARTS = (0, 1, 4, 16, 64, 256, 1024, 4096)
"""First token of each bucket of positions: divergence grows with the answer, and most of it early on."""
_BUCKETS = {
    **{str(start) if end == start + 1 else f"{start}-{end - 1}": (start, end) for start, end in pairwise(_STARTS)},
    f"{_STARTS[-1]} and on": (_STARTS[-1], None),
}

_Place = tuple[str, str, str]  # slice, stratum, bucket of positions; empty over all positions
_Lines = dict[str, list[Mapping[str, Any]]]
_FIGURES = {
    "first": "s to the first token",
    "per_token": "s per further token",
    "longest_gap": "s in the longest gap",
    "output_tokens": "tokens",
    "preamble": "tokens before the right answer",
    "reasoning": "tokens of reasoning",
}
_WARM = "new prompt"
_CONDITIONS = (_WARM, "known prompt", "prompt perhaps known", "after its start", "after idle time")
_NOTE = (
    "Seconds as the client saw them, with as many requests in flight as the config says. Limits (95 %) are order "
    "statistics, exact for independent answers, which answers in flight together are not quite. 'New prompt': a warm "
    "server that did not know the prompt, which is what a tolerance is held against."
)


def divergence_rows(
    items: Sequence[Item], found: Mapping[str, Sequence[Divergence]], *, control: str
) -> tuple[DivergenceRow, ...]:
    """Return the rows of every variant in `found`; `control` names the A/A pass, whose mean KL each row repeats."""
    by_id, clusters = {item.id: item for item in items}, {item.id: item.cluster for item in items}
    parts = {name: _parts(by_id, some) for name, some in found.items()}
    order = {place: number for number, place in enumerate(_places(items))}
    noise = {place: summarise(some).kl for place, some in parts.get(control, {}).items()}
    return tuple(
        DivergenceRow(name, *place, summarise(mine[place], clusters), noise.get(place))
        for name, mine in parts.items()
        for place in sorted(mine, key=order.__getitem__)
    )


def _places(items: Sequence[Item]) -> Iterator[_Place]:
    """Yield every place in the order of the items: a slice's strata, the slice, the slice by positions."""
    for name in dict.fromkeys(item.slice for item in items):
        inside = dict.fromkeys(item.stratum for item in items if item.slice == name)
        yield from ((name, stratum, "") for stratum in inside if stratum != _EVERYTHING)
        yield from ((name, _EVERYTHING, bucket) for bucket in ("", *_BUCKETS))


def _parts(items: Mapping[str, Item], found: Sequence[Divergence]) -> dict[_Place, list[Divergence]]:
    """Deal divergences out; the tokens of choices stand in no order, so only free text is dealt out by position."""
    parts: dict[_Place, list[Divergence]] = defaultdict(list)
    for one in found:
        item = items[one.item_id]
        for stratum in {item.stratum, _EVERYTHING}:
            parts[item.slice, stratum, ""].append(one)
        for bucket, (start, end) in _BUCKETS.items() if item.kind == "generate" else ():
            if len(one.kl) > start:
                columns = ("kl", "reverse_kl", "same_top", "baseline_logprob", "candidate_logprob")
                part = replace(one, **{name: getattr(one, name)[start:end] for name in columns})
                parts[item.slice, _EVERYTHING, bucket].append(part)
    return parts


def divergence(rows: Sequence[DivergenceRow], baseline: str) -> Section:
    """Return the divergence of each slice, stratum and position, drawn by position."""
    token = f"probability of {baseline}'s token"
    columns = names("slice", "candidate") + strata("stratum") + texts("positions")
    columns += numbers("KL, nats/token", "A/A noise", "reverse KL", "same top token", token, "tokens")
    charts = _charts(rows)
    note = (
        f"Mean KL divergence from {baseline}: an alarm and an explanation, never a pass. Choices have no token "
        "positions; they are in the table alone."
    )
    if (more := len(charts) - _DRAWN) > 0:
        note += f" Drawn are the {_DRAWN} slices with the largest; {more} more are in the table."
    folded = "divergence by slice, stratum and position"
    cells = tuple(map(_row, rows))
    return Section("Divergence", columns, cells, (), note, folded, charts=charts[:_DRAWN], y="nats per token")


def _row(one: DivergenceRow) -> Row:
    kl, kl_error, noise, reverse = (
        number_text(value, ".3g")
        for value in (one.summary.kl, one.summary.kl_error, one.control_kl, one.summary.reverse_kl)
    )
    top, error = f"{score(one.summary.same_top)} %", score(one.summary.same_top_error)
    first = Cell(kl, note="" if kl_error == "-" else f"± {kl_error}")
    same = Cell(top, note="" if error == "-" else f"± {error}")
    change, tokens = points(one.summary.probability_change), f"{one.summary.tokens:,}"
    return one.slice, one.candidate, one.stratum, one.position or "all", first, noise, reverse, same, change, tokens


def _charts(rows: Sequence[DivergenceRow]) -> tuple[Chart, ...]:
    """Return a picture per slice that has positions, the one with the largest divergence first."""
    candidates = [*dict.fromkeys(one.candidate for one in rows)]
    made = []
    for label in dict.fromkeys(one.slice for one in rows if one.position):
        own = [one for one in rows if one.slice == label and one.position]
        lines = tuple(Line(name, tuple(_means([r for r in own if r.candidate == name]))) for name in candidates)
        made.append(Chart(label, "token position", lines))
    made.sort(key=lambda one: -max((y for line in one.lines for _, y in line.points), default=0.0))
    return tuple(made)


def _means(rows: Sequence[DivergenceRow]) -> Iterator[tuple[str, float]]:
    """Yield the mean by position, over strata by their tokens if a slice's own rows are not there."""
    whole = [one for one in rows if one.stratum == _EVERYTHING] or rows
    for position in dict.fromkeys(one.position for one in whole):
        part = [one for one in whole if one.position == position]
        if tokens := sum(one.summary.tokens for one in part):
            yield position, max(math.fsum(one.summary.tokens * one.summary.kl for one in part) / tokens, 0.0)


def _divergence(judgement: Judgement, evidence: Evidence) -> list[Section]:
    return [divergence(evidence.divergence, judgement.baseline)] if evidence.divergence else []


def churn(
    items: Sequence[Item], baseline: Sequence[Scored], candidate: Sequence[Scored], name: str
) -> Iterator[tuple[str, ...]]:
    """Count, slice by slice, whose free text is the baseline's to the last token, and whose score differs."""
    before = {(one.item_id, one.response.sample): one for one in baseline}
    slices, found = {item.id: item.slice for item in items}, dict[str, list[tuple[bool, bool]]]()
    for one in candidate:
        other = before.get((one.item_id, one.response.sample))
        if isinstance(one.response, Generation) and other is not None and isinstance(other.response, Generation):
            same, flipped = one.response.token_ids == other.response.token_ids, one.score != other.score
            found.setdefault(slices[one.item_id], []).append((same, flipped))
    for label, own in found.items():
        counts = len(own), *map(sum, zip(*own, strict=True))
        yield name, label, *(f"{count:,}" for count in counts), f"{100 * (counts[0] - counts[1]) / counts[0]:.1f} %"


def _behaviour(judgement: Judgement, evidence: Evidence) -> list[Section]:
    """Return the tables of this section; none if no variant changes how it decodes and none thinks."""
    changed = {name for name, proof in evidence.proofs.items() if proof.get("kv_cache") or proof.get("decoding")}
    same = Section(
        "How it behaves: the same answer?",
        names("candidate", "slice") + numbers("texts", "same to the token", "flips", "churn"),
        tuple(row for row in evidence.churn if row[0] in changed),
        note="Churn is the share of texts that differ from the baseline's; a flip is another score.",
    )
    return [same, _caches(evidence), _quantities(judgement)]


def _caches(evidence: Evidence) -> Section:
    rows: list[Row] = []
    for name, proof in evidence.proofs.items():
        if one := proof.get("kv_cache"):
            sizes = (f"{one[key]:,.0f}" for key in ("bytes_per_token", "plain_bytes_per_token"))
            rows.append((name, f"{one['layers']} ({one['backend']})", str(one["bits"]), *sizes))
    columns = names("variant") + texts("KV cache") + numbers("bits", "bytes per token", "unquantized")
    return Section("How it behaves: KV caches, as measured", columns, tuple(rows))


def _quantities(judgement: Judgement) -> Section:
    rows: list[Row] = []
    for candidate in judgement.candidates:
        for one in candidate.quantities:
            means = " → ".join("-" if value is None else f"{value:,.0f}" for value in (one.baseline, one.candidate))
            ratio = "-" if one.ratio is None else f"{one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}]"
            tolerated = "-" if one.tolerance is None else f"{one.tolerance:g}"
            kind, verdict = QUANTITIES.get(one.kind, one.kind), Cell("", verdict=one.verdict)
            rows.append((f"{candidate.name}: {place(one)}", kind, means, ratio, tolerated, verdict))
    columns = strata("candidate and stratum") + names("quantity") + numbers("means", "ratio [limits]", "tolerated")
    return Section(
        "How it behaves: thinking and writing",
        columns + texts("verdict"),
        tuple(rows),
        note=f"Means: {judgement.baseline} → candidate.",
        grouped=True,
    )


def latency_rows(run: RunRecord, variants: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield times and lengths of the whole run and of its strata, by condition and figure, the variants together.

    The control is left out: it is asked at another concurrency, which changes every time.
    """
    places = {item.id: (item.slice, item.stratum) for item in run.items}
    groups: dict[tuple[str, str, str], _Lines] = defaultdict(lambda: defaultdict(list))
    for name in variants:
        for line in run.directory.request_times(name) if name != CONTROL else ():
            for where in (("", ""), places.get(line["item"])):
                if where is not None:
                    groups[*where, _condition(line)][name].append(line)
    for where in dict.fromkeys(key[:2] for key in groups):
        stratum = ", ".join(one for one in where if one not in {"", "all"})
        for condition in (one for one in _CONDITIONS if (*where, one) in groups):
            for figure in _FIGURES if condition == _WARM else ("first",):  # lengths are the same under any condition
                for name, lines in groups[*where, condition].items():
                    values = [line[figure] for line in lines if line[figure] is not None]
                    if any(values):
                        ends = (_quantile(values, share) for share in (0.5, 0.95))
                        yield name, stratum, f"{_FIGURES[figure]}, {condition}", f"{len(values):,}", *ends


def _condition(line: Mapping[str, Any]) -> str:
    if line["state"] != "warm":
        return "after its start" if line["state"] == "start" else "after idle time"
    return {"uncached": _WARM, "cached": "known prompt"}.get(line["cache"], "prompt perhaps known")


def _quantile(values: Sequence[float], share: float) -> str:
    """Return a quantile with its limits; "?" for one that so few values do not have."""
    import numpy as np
    from scipy import stats

    limits: Any = stats.quantile_test(values, p=share).confidence_interval(0.95)
    low, high = ("?" if math.isnan(one) else f"{one:.3g}" for one in (limits.low, limits.high))
    return f"{np.quantile(values, share):.3g} ({low} to {high})"


def _latency(_: Judgement, evidence: Evidence) -> list[Section]:
    head, figures = names("variant"), texts("figure") + numbers("n", "median", "95th percentile")
    whole = tuple((name, *rest) for name, stratum, *rest in evidence.latency if not stratum)
    columns, own = head + strata("stratum") + figures, tuple(row for row in evidence.latency if row[1])
    title, folded = "Times and lengths by stratum", "times and lengths by stratum"
    return [
        Section("Times and lengths of streamed answers", head + figures, whole, note=_NOTE),
        Section(title, columns, own, folded=folded, formats=("markdown", "page")),
    ]


BLOCKS = (
    Block("divergence", "Divergence", _divergence, {"page": 70}, "", "Not measured in this run."),
    Block("behaviour", "How it behaves", _behaviour, {"terminal": 55, "markdown": 75, "page": 85}, "Behaviour"),
    Block("times", "Times and lengths", _latency, {"terminal": 75, "markdown": 78, "page": 105}, "Times"),
)
