"""How the variants behave: the same texts or others, the KV cache in use, how long they think, what a solution costs.

Filled from a judgement and its evidence; a run that changes none of these has no such section.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.judge.verdicts import Judgement
from harness.records import QUANTITIES, Generation, Item, Scored
from harness.report.evidence import ChurnRow, Evidence
from harness.report.section import Block, Cell, Row, Section, names, numbers, strata, texts
from harness.report.words import place

__all__ = ["BLOCKS", "behaviour", "churn"]


@dataclass(slots=True)
class _Count:
    compared: int = 0
    same: int = 0
    flips: int = 0


def churn(items: Sequence[Item], baseline: Iterable[Scored], candidate: Iterable[Scored], name: str) -> list[ChurnRow]:
    """Count, slice by slice, whose free text is the baseline's to the last token, and whose score differs."""
    before = {(one.item_id, one.response.sample): one for one in baseline}
    slices, found = {item.id: item.slice for item in items}, dict[str, _Count]()
    for one in candidate:
        other = before.get((one.item_id, one.response.sample))
        if isinstance(one.response, Generation) and other is not None and isinstance(other.response, Generation):
            count = found.setdefault(slices[one.item_id], _Count())
            count.compared += 1
            count.same += one.response.token_ids == other.response.token_ids
            count.flips += one.score != other.score
    return [ChurnRow(name, key, one.compared, one.same, one.flips) for key, one in found.items()]


def behaviour(judgement: Judgement, evidence: Evidence) -> list[Section]:
    """Return the tables of this section; none if no variant changes how it decodes and none thinks."""
    changed = {name for name, proof in evidence.proofs.items() if proof.get("kv_cache") or proof.get("decoding")}
    rows: tuple[Row, ...] = tuple(
        (one.candidate, one.slice, f"{one.compared:,}", f"{one.same:,}", f"{one.flips:,}", _share(one))
        for one in evidence.churn
        if one.candidate in changed
    )
    same = Section(
        "How it behaves: the same answer?",
        names("candidate", "slice") + numbers("texts", "same to the token", "flips", "churn"),
        rows,
        note="Churn is the share of texts that differ from the baseline's; a flip is another score.",
    )
    return [same, _caches(evidence), _quantities(judgement)]


def _share(one: ChurnRow) -> str:
    return f"{100 * (one.compared - one.same) / one.compared:.1f} %"


def _caches(evidence: Evidence) -> Section:
    known = ((name, proof["kv_cache"]) for name, proof in evidence.proofs.items() if proof.get("kv_cache"))
    rows = tuple(
        (
            name,
            f"{one['layers']} ({one['backend']})",
            str(one["bits"]),
            f"{one['bytes_per_token']:,.0f}",
            f"{one['plain_bytes_per_token']:,.0f}",
        )
        for name, one in known
    )
    columns = names("variant") + texts("KV cache") + numbers("bits", "bytes per token", "unquantized")
    return Section("How it behaves: KV caches, as measured", columns, rows)


def _quantities(judgement: Judgement) -> Section:
    rows: tuple[Row, ...] = tuple(
        (
            candidate.name,
            place(one),
            QUANTITIES.get(one.kind, one.kind),
            *("-" if value is None else f"{value:,.0f}" for value in (one.baseline, one.candidate)),
            "-" if one.ratio is None else f"{one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}]",
            "-" if one.tolerance is None else f"{one.tolerance:g}",
            Cell("", verdict=one.verdict),
        )
        for candidate in judgement.candidates
        for one in candidate.quantities
    )
    columns = names("candidate") + strata("stratum") + texts("quantity")
    figures = numbers(judgement.baseline, "candidate's", "ratio [limits]", "tolerated")
    return Section("How it behaves: thinking and writing", columns + figures + texts("verdict"), rows)


BLOCKS = (Block("behaviour", "How it behaves", behaviour, {"terminal": 55, "markdown": 75, "page": 85}, "Behaviour"),)
