"""How the variants behave: the same texts or others, the KV cache in use, how long they think, what a solution costs.

Filled from a judgement and its evidence; a run that changes none of these has no such section.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.judge.verdicts import Judgement
from harness.records import QUANTITIES, Generation, Item, Scored
from harness.report.evidence import ChurnRow, Evidence
from harness.report.section import Block, Cell, Row, Section, names, numbers, strata, texts
from harness.report.words import place

__all__ = ["BLOCKS", "churn"]


def churn(items: Sequence[Item], baseline: Iterable[Scored], candidate: Iterable[Scored], name: str) -> list[ChurnRow]:
    """Count, slice by slice, whose free text is the baseline's to the last token, and whose score differs."""
    before = {(one.item_id, one.response.sample): one for one in baseline}
    slices, found = {item.id: item.slice for item in items}, dict[str, list[tuple[bool, bool]]]()
    for one in candidate:
        other = before.get((one.item_id, one.response.sample))
        if isinstance(one.response, Generation) and other is not None and isinstance(other.response, Generation):
            same, flipped = one.response.token_ids == other.response.token_ids, one.score != other.score
            found.setdefault(slices[one.item_id], []).append((same, flipped))
    return [ChurnRow(name, key, len(own), *map(sum, zip(*own, strict=True))) for key, own in found.items()]


def _behaviour(judgement: Judgement, evidence: Evidence) -> list[Section]:
    """Return the tables of this section; none if no variant changes how it decodes and none thinks."""
    changed = {name for name, proof in evidence.proofs.items() if proof.get("kv_cache") or proof.get("decoding")}
    rows: tuple[Row, ...] = tuple(
        (one.candidate, one.slice, f"{one.compared:,}", f"{one.same:,}", f"{one.flips:,}",
         f"{100 * (one.compared - one.same) / one.compared:.1f} %")
        for one in evidence.churn
        if one.candidate in changed
    )  # fmt: skip
    same = Section(
        "How it behaves: the same answer?",
        names("candidate", "slice") + numbers("texts", "same to the token", "flips", "churn"),
        rows,
        note="Churn is the share of texts that differ from the baseline's; a flip is another score.",
    )
    return [same, _caches(evidence), _quantities(judgement)]


def _caches(evidence: Evidence) -> Section:
    known = ((name, proof["kv_cache"]) for name, proof in evidence.proofs.items() if proof.get("kv_cache"))
    rows = tuple(
        (name, f"{one['layers']} ({one['backend']})", str(one["bits"]), f"{one['bytes_per_token']:,.0f}",
         f"{one['plain_bytes_per_token']:,.0f}")
        for name, one in known
    )  # fmt: skip
    columns = names("variant") + texts("KV cache") + numbers("bits", "bytes per token", "unquantized")
    return Section("How it behaves: KV caches, as measured", columns, rows)


def _quantities(judgement: Judgement) -> Section:
    rows: list[Row] = []
    for candidate in judgement.candidates:
        for one in candidate.quantities:
            means = ("-" if value is None else f"{value:,.0f}" for value in (one.baseline, one.candidate))
            ratio = "-" if one.ratio is None else f"{one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}]"
            tolerated = "-" if one.tolerance is None else f"{one.tolerance:g}"
            kind, verdict = QUANTITIES.get(one.kind, one.kind), Cell("", verdict=one.verdict)
            rows.append((candidate.name, place(one), kind, *means, ratio, tolerated, verdict))
    columns = names("candidate") + strata("stratum") + texts("quantity")
    figures = numbers(judgement.baseline, "candidate's", "ratio [limits]", "tolerated")
    return Section("How it behaves: thinking and writing", columns + figures + texts("verdict"), tuple(rows))


BLOCKS = (Block("behaviour", "How it behaves", _behaviour, {"terminal": 55, "markdown": 75, "page": 85}, "Behaviour"),)
