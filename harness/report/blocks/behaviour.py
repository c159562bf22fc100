"""How the variants behave: divergence, churn, KV caches, tool calls, thoughts, how fast they stream."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby, pairwise
from typing import Any

from harness.judge.decisions import points
from harness.judge.outcomes import natural_key
from harness.judge.summaries import Quantity
from harness.judge.tail_counts import cells
from harness.judge.verdicts import CandidateVerdict, Judgement
from harness.records import QUANTITIES, TAIL_KINDS, Generation, Item, Scored
from harness.report.evidence import DivergenceRow, Evidence, Share
from harness.report.section import Block, Cell, Chart, Dot, Line, Row, Section, dotted, names, numbers, strata, texts
from harness.report.words import NOTES, SENTENCES, number_text, place, score
from harness.stats.divergence import Divergence, summarise
from harness.stats.events import event_rate
from harness.store.record import CONTROL, RunRecord

_CALLS, _THOUGHTS = "tool_", "thought_"  # how their kinds of tail event begin
_SHARE, _EACH = "% of answers, limits", "Of the answers that were looked at for it, each variant by itself."
_EVERYTHING = "all"  # a slice's strata taken together
_DRAWN = 12  # pictures at most: the slices with the largest divergence
_STARTS = (0, 1, 4, 16, 64, 256, 1024, 4096)  # first token of each bucket of positions: most of it grows early on
_BUCKETS = {
    **{str(start) if end == start + 1 else f"{start}-{end - 1}": (start, end) for start, end in pairwise(_STARTS)},
    f"{_STARTS[-1]} and on": (_STARTS[-1], None),
}
_Place = tuple[str, str, str]  # slice, stratum, bucket of positions; empty over all positions
_Lines = dict[str, list[Mapping[str, Any]]]
_FIGURES, _WARM = SENTENCES["times"], "new prompt"
_CONDITIONS = (_WARM, "known prompt", "prompt perhaps known", "after its start", "after idle time")


def divergence_rows(
    items: Sequence[Item], found: Mapping[str, Sequence[Divergence]], *, control: str
) -> tuple[DivergenceRow, ...]:
    """Return the rows of every variant in `found`; `control` names the A/A pass, whose mean KL each row repeats."""
    clusters = {item.id: item.cluster for item in items}
    parts = {name: _parts(items, some) for name, some in found.items()}
    noise = {place: summarise(some).kl for place, some in parts.get(control, {}).items()}
    flat = ((name, place, some) for name, mine in parts.items() for place, some in mine.items())
    return tuple(DivergenceRow(name, *place, summarise(some, clusters), noise.get(place)) for name, place, some in flat)


def _parts(items: Sequence[Item], found: Sequence[Divergence]) -> dict[_Place, list[Divergence]]:
    """Deal divergences out over strata, then their slice, then, of free text, its positions, as the items come."""
    parts: dict[_Place, list[Divergence]] = {}
    for name in dict.fromkeys(item.slice for item in items):
        inside = dict.fromkeys(item.stratum for item in items if item.slice == name)
        parts |= {(name, stratum, ""): [] for stratum in inside if stratum != _EVERYTHING}
        parts |= {(name, _EVERYTHING, bucket): [] for bucket in ("", *_BUCKETS)}
    known = {item.id: item for item in items}
    for one in found:
        item = known[one.item_id]
        for stratum in {item.stratum, _EVERYTHING}:
            parts[item.slice, stratum, ""].append(one)
        for bucket, (start, end) in _BUCKETS.items() if item.kind == "generate" else ():
            if len(one.kl) > start:
                columns = ("kl", "reverse_kl", "same_top", "baseline_logprob", "candidate_logprob")
                part = replace(one, **{name: getattr(one, name)[start:end] for name in columns})
                parts[item.slice, _EVERYTHING, bucket].append(part)
    return {place: some for place, some in parts.items() if some}


def divergence(judgement: Judgement, evidence: Evidence) -> Section:
    """Return the divergence of each slice, stratum and position, and by position as pictures, the largest first."""
    judged, baseline = {one.name for one in judgement.candidates}, judgement.baseline
    rows = sorted(evidence.divergence, key=lambda one: one.candidate not in judged)  # the control last
    columns = names("slice", "candidate") + strata("stratum") + texts("positions")
    columns += numbers("KL, nats/token", "A/A noise", "reverse KL", "same top token")
    columns += numbers(f"probability of {baseline}'s token", "tokens")
    drawn: dict[str, dict[str, list[tuple[str | float, float]]]] = {}
    for one in (one for one in rows if one.position and one.stratum == _EVERYTHING):
        lines = drawn.setdefault(one.slice, {each.candidate: [] for each in rows})
        lines[one.candidate].append((one.position, max(one.summary.kl, 0.0)))
    found = {label: tuple(Line(name, tuple(own)) for name, own in lines.items()) for label, lines in drawn.items()}
    charts = [Chart(label, "token position", lines) for label, lines in found.items()]
    charts.sort(key=lambda one: -max((y for line in one.lines for _, y in line.points), default=0.0))
    note = NOTES["divergence"].format(baseline=baseline)
    if (more := len(charts) - _DRAWN) > 0:
        note += f" Drawn are the {_DRAWN} slices with the largest; {more} more are in the table."
    folded, shown = "divergence by slice, stratum and position", tuple(charts[:_DRAWN])
    return Section("Divergence", columns, tuple(map(_row, rows)), (), note, folded, charts=shown, y="nats per token")


def _row(one: DivergenceRow) -> Row:
    found = one.summary
    means = found.kl, found.kl_error, one.control_kl, found.reverse_kl
    kl, kl_error, noise, reverse = (number_text(value, ".3g") for value in means)
    error, first = score(found.same_top_error), Cell(kl, note="" if kl_error == "-" else f"± {kl_error}")
    same = Cell(f"{score(found.same_top)} %", note="" if error == "-" else f"± {error}")
    change, tokens = points(found.probability_change), f"{found.tokens:,}"
    return one.slice, one.candidate, one.stratum, one.position or "all", first, noise, reverse, same, change, tokens


def shares(items: Sequence[Item], answers: Mapping[str, Sequence[Scored]]) -> Iterator[Share]:
    """Count each variant's texts that differ from the first one's by slice, and its signs of calls and thoughts."""
    known, (base, *_) = {item.id: item for item in items}, answers
    before = {(one.item_id, one.response.sample): one for one in answers[base]}
    kinds = [kind for kind in TAIL_KINDS if kind.startswith((_CALLS, _THOUGHTS))]
    for name, own in answers.items():
        found: dict[tuple[str, str], list[tuple[bool, str]]] = defaultdict(list)
        for one in own if name != base else ():
            other, item = before.get((one.item_id, one.response.sample)), known[one.item_id]
            if other is not None and (text := _text(one)) and (was := _text(other)):
                found["differs", item.slice].append((text != was, item.cluster))
                found["flips", item.slice].append((one.score != other.score, item.cluster))
        for cell in cells(items, own, own, kinds):  # against itself: every answer with the sign
            for item_id, cluster, shown in zip(cell.items, cell.clusters, cell.baseline, strict=True):
                offered = known[item_id].levels.get("offered", "?")
                where = offered if cell.kind.startswith(_CALLS) else TAIL_KINDS[cell.kind]
                found[cell.kind, where].append((shown, cluster))
        for (what, where), seen in found.items():
            rate = event_rate(*zip(*seen, strict=True))
            yield Share(name, what, where, rate.events, rate.n, rate.low, rate.high)


def _text(one: Scored) -> tuple[object, ...] | None:
    """Return what two texts are compared by; None of choices and of a text that is not stored."""
    found = (one.response.token_ids, one.response.text) if isinstance(one.response, Generation) else (None,)
    return found if any(found) or (len(found) > 1 and not one.length) else None


def _behaviour(judgement: Judgement, evidence: Evidence) -> list[Section]:
    """Return the tables and pictures of this section; none if no variant changes how it decodes, calls or thinks."""
    calls, thoughts = (_signs(judgement, evidence, begin) for begin in (_CALLS, _THOUGHTS))
    return [_same(judgement, evidence), _caches(judgement, evidence), calls, _quantities(judgement), thoughts]


def _lines(variants: Iterable[str], found: Iterable[Share]) -> tuple[Line, ...]:
    """Return the shares in per cent with their limits, a line a variant, by place."""
    own: dict[str, list[Dot]] = {name: [] for name in variants}
    for one in (one for one in found if one.variant in own):
        own[one.variant].append((one.place, 100 * one.count / one.n, 100 * one.low, 100 * one.high))
    return dotted(own)


def _differing(evidence: Evidence) -> list[Share]:
    """Return whose texts differ, of the variants that find their tokens in another way."""
    changed = {name for name, proof in evidence.proofs.items() if proof.get("kv_cache") or proof.get("decoding")}
    return [one for one in evidence.shares if one.what == "differs" and one.variant in changed]


def _same(judgement: Judgement, evidence: Evidence) -> Section:
    differing, rows = _differing(evidence), list[Row]()
    flips = {(one.variant, one.place): one.count for one in evidence.shares if one.what == "flips"}
    for one in differing:
        counts = (f"{count:,}" for count in (one.n, one.n - one.count, flips[one.variant, one.place]))
        rows.append((one.variant, one.place, *counts, f"{100 * one.count / one.n:.1f} %"))
    lines, title = _lines((one.variant for one in differing), differing), f"differ from {judgement.baseline}'s"
    columns = names("candidate", "slice") + numbers("texts", "same to the token", "flips", "churn")
    note = "Churn is the share of texts that differ from the baseline's; a flip is another score."
    charts = (Chart(f"Texts that {title}", _SHARE, lines, across=True),) if lines else ()
    return Section("How it behaves: the same answer?", columns, tuple(rows), (), note, charts=charts)


def _caches(judgement: Judgement, evidence: Evidence) -> Section:
    rows, sizes = list[Row](), dict[str, float]()
    for name, proof in evidence.proofs.items():
        if one := proof.get("kv_cache"):
            own, plain = one["bytes_per_token"], one["plain_bytes_per_token"]
            sizes |= {judgement.baseline: plain, name: own}
            rows.append((name, f"{one['layers']} ({one['backend']})", str(one["bits"]), f"{own:,.0f}", f"{plain:,.0f}"))
    charts = []
    for title, key in (("Average change", "delta"), ("Change in the worst stratum", "worst_delta")):
        changes = {one.name: getattr(one.averages[0], key) for one in judgement.candidates if one.averages}
        known = {judgement.baseline: 0.0} | {name: 100 * x for name, x in changes.items() if x is not None}
        lines = tuple(Line(name, ((size, known[name]),)) for name, size in sizes.items() if name in known)
        charts += [Chart(title, "bytes of the KV cache per token", lines, scatter=True)] if len(lines) > 1 else []
    columns = names("variant") + texts("KV cache") + numbers("bits", "bytes per token", "unquantized")
    return Section("How it behaves: KV caches, as measured", columns, tuple(rows), charts=tuple(charts), y="points")


def _signs(judgement: Judgement, evidence: Evidence, begin: str) -> Section:
    """Return how often each class of failed tool calls comes, by the tools offered, or each sign of a bad thought."""
    variants = [judgement.baseline, *(one.name for one in judgement.candidates if one.verdict != "not_judged")]
    shown, rows = sorted(evidence.shares, key=lambda one: natural_key(one.place)), list[Row]()
    found = {kind: [one for one in shown if one.what == kind] for kind in TAIL_KINDS if kind.startswith(begin)}
    found = {kind: own for kind, own in found.items() if any(one.count for one in own)}
    for kind, own in found.items():
        for offered, some in groupby(own, lambda one: one.place):
            counts = {one.variant: f"{one.count}/{one.n}" for one in some}
            name = Cell(kind, TAIL_KINDS[kind] if offered == own[0].place else "")
            rows.append((name, *([offered] * (begin == _CALLS)), *(counts.get(one, "-") for one in variants)))
    if begin == _CALLS:
        charts = [Chart(TAIL_KINDS[kind], "tools offered", _lines(variants, own)) for kind, own in found.items()]
        columns = texts("class") + numbers("tools offered", *variants)
        title, y = "How it behaves: tool calls", "% of answers with limits"
        return Section(title, columns, tuple(rows), note=_EACH, charts=tuple(charts), y=y)
    lines, columns = _lines(variants, chain(*found.values())), texts("sign") + numbers(*variants)
    charts = [Chart("Signs in the thoughts", _SHARE, lines, across=True)] if found else []
    return Section("How it behaves: thoughts", columns, tuple(rows), note=_EACH, charts=tuple(charts))


def _quantities(judgement: Judgement) -> Section:
    rows, drawn = list[Row](), dict[str, dict[str, list[Dot]]]()
    tolerated: dict[str, dict[str | float, float]] = defaultdict(dict)
    for candidate in judgement.candidates:
        for one in candidate.quantities:
            means = " → ".join("-" if value is None else f"{value:,.0f}" for value in (one.baseline, one.candidate))
            kind, verdict = QUANTITIES.get(one.kind, one.kind), Cell("", verdict=one.verdict)
            limit = "-" if one.tolerance is None else f"{one.tolerance:g}"
            rows.append((f"{candidate.name}: {place(one)}", kind, means, _ratio(one), limit, verdict))
            if one.ratio is not None and one.low is not None and one.high is not None:
                own = drawn.setdefault(kind, {each.name: [] for each in judgement.candidates})
                own[candidate.name].append((place(one), one.ratio, one.low, one.high))
                tolerated[kind] |= {} if one.tolerance is None else {place(one): one.tolerance}
    x = f"ratio to {judgement.baseline}'s, limits"
    charts = (
        Chart(kind[:1].upper() + kind[1:], x, dotted(own), rule=1.0, across=True, tolerated=tolerated[kind])
        for kind, own in drawn.items()
    )
    columns = strata("candidate and stratum") + names("quantity") + numbers("means", "ratio [limits]", "tolerated")
    shown = columns + texts("verdict"), tuple(rows), (), f"Means: {judgement.baseline} → candidate."
    return Section("How it behaves: thinking and writing", *shown, grouped=True, charts=tuple(charts))


def _ratio(one: Quantity) -> str:
    return "-" if one.ratio is None else f"{one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}]"


def worst(judgement: Judgement, evidence: Evidence, candidate: CandidateVerdict) -> str:
    """Return what is worst in how a candidate thinks, calls tools and repeats the baseline; empty if nothing is."""
    said, base = [], judgement.baseline
    if known := [one for one in candidate.quantities if one.ratio is not None]:
        most = max(known, key=lambda one: (one.ratio or 0.0) / (one.tolerance or 1.0))
        tolerated = "" if most.tolerance is None else f", tolerated {most.tolerance:g}"
        said.append(f"{QUANTITIES[most.kind]} {_ratio(most)} times {base}'s in {place(most)}{tolerated}")
    if signs := [one for one in candidate.tail_events if one.kind.startswith((_CALLS, _THOUGHTS)) and one.events]:
        rate = max(signs, key=lambda one: (one.rate or 0.0) - (one.tolerance or 0.0))
        said.append(f"{TAIL_KINDS[rate.kind]} in {rate.events} of {rate.n} answers in {place(rate)}")
    if own := [one for one in _differing(evidence) if one.variant == candidate.name and one.count]:
        share = max(own, key=lambda one: one.count / one.n)
        said.append(f"{share.count} of {share.n} texts in {share.place} differ from {base}'s")
    return "; ".join(said)


def latency_rows(run: RunRecord, variants: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield times and lengths of the whole run and of its strata, by condition and figure, the variants together."""
    places = {item.id: (item.slice, item.stratum) for item in run.items}
    groups: dict[tuple[str, str, str], _Lines] = defaultdict(lambda: defaultdict(list))
    for name in variants:  # without the control, which is asked at another concurrency: that changes every time
        for line in run.directory.request_times(name) if name != CONTROL else ():
            for where in (one for one in (("", ""), places.get(line["item"])) if one is not None):
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
        Section("Times and lengths of streamed answers", head + figures, whole, note=NOTES["times"]),
        Section(title, columns, own, folded=folded, formats=("markdown", "page")),
    ]


BLOCKS = (
    Block("divergence", "Divergence", divergence, {"page": 70}, absent="Not measured in this run."),
    Block("behaviour", "How it behaves", _behaviour, {"terminal": 55, "markdown": 75, "page": 85}, "Behaviour"),
    Block("times", "Times and lengths", _latency, {"terminal": 75, "markdown": 78, "page": 105}, "Times"),
)
