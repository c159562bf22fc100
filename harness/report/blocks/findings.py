"""What a reader must act on: all that does not pass, in sentences, what the averages hide, and tail events by kind."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from harness.judge.summaries import TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.records import LATENCY_KINDS, TAIL_KINDS
from harness.report import words
from harness.report.evidence import Evidence
from harness.report.section import Block, Cell, Items, Row, Section, names, numbers, texts

MEANINGS = TAIL_KINDS | LATENCY_KINDS
_OPEN: tuple[Verdict, ...] = ("fail", "inconclusive", "no_signal", "not_judged")


def verdicts(judgement: Judgement) -> Section:
    """Return each candidate's verdict and what decides it."""
    rows = tuple((one.name, Cell("", verdict=one.verdict), words.headline(one)) for one in judgement.candidates)
    return Section("Verdicts", names("candidate") + texts("verdict", "what decides"), rows)


def hidden_by_averages(judgement: Judgement) -> Section:
    """Return what each candidate's average hides."""
    hidden = (f"{one.name}: {words.hidden(one)}" for one in judgement.candidates if one.hidden)
    return Section.listed("What the average hides", hidden)


def _findings(judgement: Judgement, evidence: Evidence) -> Iterator[Section]:
    base, everyone = judgement.baseline, judgement.candidates
    judged = [candidate for candidate in everyone if candidate.verdict != "not_judged"]

    def found(verdict: Verdict, *, gating: bool = True) -> list[tuple[str, StratumVerdict]]:
        return [(one.name, stratum) for one in judged for stratum in words.strata_with(one, verdict, gating=gating)]

    def rates(title: str, verdict: Verdict) -> Section:
        return Section.listed(title, (rate_sentence(one, each.name) for each, one in gated(everyone, verdict)))

    def failing(title: str, *, gating: bool) -> Section:
        strata = found("fail", gating=gating)
        return Section.listed(title, (words.stratum_sentence(one, name, base) for name, one in strata))

    blind = [one for gating in (True, False) for _, one in found("no_signal", gating=gating)]
    silent = ((name, words.place(one), one.reason or "no figures to judge") for name, one in found("not_judged"))
    yield Section.listed("Two promises", (line for one in judged for line in words.promises(one)))
    yield replace(failing("Failing strata", gating=True), quiet_note=" ".join(next_steps(found("fail"), evidence)))
    yield rates("Tail events beyond their tolerance", "fail")
    yield failing("Below the margin, advisory", gating=False)
    yield Section.listed("Undecided", (words.undecided_sentence(one, name) for name, one in found("inconclusive")))
    yield rates("Tail events undecided", "inconclusive")
    yield Section.listed("No signal", dict.fromkeys(words.no_signal_sentence(one, base) for one in blind))
    yield Section.listed("Not judged", (f"{name} in {place}: {why}" for name, place, why in silent))
    yield rates("Tail events without signal", "no_signal")
    yield rates("Tail events not judged", "not_judged")


def next_steps(failed: Iterable[tuple[str, object]], evidence: Evidence) -> Iterator[str]:
    """Name the command that finds the modules which cost the lost items, for quantized candidates of a run."""
    for name in dict.fromkeys(name for name, _ in failed):
        if evidence.path and evidence.proofs.get(name, {}).get("quantized_modules"):
            yield f"Which modules cost the items of {name}: quantcliff localize {evidence.path} {name}."


def gated(candidates: Sequence[CandidateVerdict], *verdicts: Verdict) -> list[tuple[CandidateVerdict, TailRate]]:
    """Return the gated rates with these verdicts, in the order of the verdicts, the furthest above tolerance first."""
    found = []
    for verdict in verdicts:
        for each in candidates:
            own = (one for one in each.tail_events if one.verdict == verdict)
            found += [(each, one) for one in sorted(own, key=words.excess, reverse=True)]
    return found


def passes(candidate: CandidateVerdict, stratum: StratumVerdict) -> bool:
    """Return whether a candidate was judged, and its scores and all gated rates of a stratum and its slice pass."""
    own = (one for one in candidate.tail_events if one.slice == stratum.slice)
    held = any(one.stratum in (stratum.stratum, "all") and one.verdict not in (None, "pass") for one in own)
    return candidate.verdict != "not_judged" and stratum.verdict == "pass" and not held


def rate_name(one: TailRate) -> str:
    """Name a rate: ``empty in typical, task=facts``."""
    return f"{one.kind} in {words.place(one)}"


def rate_items(one: TailRate, candidate: str) -> Items:
    """Return which answers a rate counts."""
    return Items(candidate, "" if one.stratum == "all" else f"{one.slice}: {one.stratum}", one.kind)


def _percent(value: float | None, apart_from: float | None = None) -> str:
    """Return a rate as a percentage with two significant digits; more if it would read like an unequal `apart_from`."""
    if value is None:
        return "-"
    texts_ = (f"{100 * value:.{digits}g} %" for digits in range(2, 7))
    return next((one for one in texts_ if value == apart_from or one != _percent(apart_from)), f"{100 * value} %")


def _limits(one: TailRate) -> str:
    if one.low is None and one.high is None:
        return "-"
    return f"{_percent(one.low, one.tolerance)} to {_percent(one.high, one.tolerance)}"


def rate_sentence(one: TailRate, candidate: str) -> str:
    """Return how often, how sure and against which tolerance, with the place."""
    return f"{candidate}: {rate_name(one)} ({MEANINGS.get(one.kind, one.kind)}): {rate_figures(one)}"


def rate_figures(one: TailRate) -> str:
    """Return how often, how sure and against which tolerance; the reason if no answer was checked."""
    if not one.n:
        return f"{one.reason}."
    found = f"{one.events} of {one.n} items ({_percent(one.rate)}, limits {_limits(one)})"
    own = "" if one.baseline_rate is None else f"; the baseline itself: {_percent(one.baseline_rate)}"
    more = f" About {one.items_to_decide:,} more items would decide it." if one.items_to_decide else ""
    return f"{found}, tolerated {_percent(one.tolerance)}{own}.{more}"


def kinds_section(judgement: Judgement) -> Section:
    """Return the table of events by kind; kinds that were checked for and not found are its quiet rows."""
    candidates, base = judgement.candidates, judgement.baseline
    gating = {one.kind for candidate in candidates for one in candidate.tail_events if one.verdict}
    said, quiet = list[Row](), dict[str, Row]()
    for kind, what in MEANINGS.items():
        rates = [[rate for rate in one.tail_events if rate.kind == kind] for one in candidates]
        widest = max(rates, key=lambda own: sum(one.n for one in own), default=[])
        if not any(one.n for one in widest):
            continue
        control = [one for one in judgement.control.tail_events if one.kind == kind] if judgement.control else []
        known = [(one.baseline_rate, one.n) for one in widest if one.baseline_rate is not None]
        cells = [_cell([(round(share * n), n) for share, n in known]), _cell([(one.events, one.n) for one in control])]
        for one, own in zip(candidates, rates, strict=True):
            cells.append(_cell([(rate.events, rate.n) for rate in own], Items(one.name, kind=kind)))
        row = (Cell(kind, note=what), *cells)
        if kind in gating or any(cell.strong for cell in cells):
            said.append(row)
        else:
            quiet[kind] = row
    title = "Tail events (answers with an event that the baseline's do not have, of all answers)"
    note = words.NOTES["tail_events"].format(baseline=base)
    columns = texts("event") + numbers(f"{base} itself", "A/A", *(one.name for one in candidates))
    counted = f"Checked for and not found: {', '.join(quiet)}." if quiet else ""
    return Section(title, columns, tuple(said), note=note, quiet=tuple(quiet.values()), quiet_note=counted)


def _cell(counts: Sequence[tuple[int, int]], items: Items | None = None) -> Cell:
    """Return the events, and the answers that were checked for them, added up."""
    events, n = (sum(part) for part in zip((0, 0), *counts, strict=True))
    if not n:
        return Cell("-")
    return Cell(f"{events}/{n}", strong=bool(events), value=events / n, items=items if events else None)


def _rates(judgement: Judgement) -> Section:
    """Return the table of the gated rates; those that pass are its quiet rows."""
    said, quiet = list[Row](), list[Row]()
    for candidate, one in gated(judgement.candidates, *_OPEN, "pass"):
        figures, items = f"{_limits(one)}, tolerated {_percent(one.tolerance)}", rate_items(one, candidate.name)
        cell = Cell(f"{one.events}/{one.n}", figures, strong=True, value=one.rate, items=items)
        why = "" if one.verdict in ("pass", "fail") else one.reason
        if one.verdict == "inconclusive" and one.items_to_decide:
            why = f"about {one.items_to_decide:,} more items would decide it"
        row = (Cell(candidate.name, verdict=one.verdict), Cell(rate_name(one), note=why), cell)
        (quiet if one.verdict == "pass" else said).append(row)
    shown = names("candidate", "event") + numbers("rate, limits"), tuple(said)
    counted = f"{len(quiet)} gated rates are within their tolerance." if quiet else ""
    return Section("Gated rates", *shown, quiet=tuple(quiet), quiet_note=counted, formats=("page",))


def _tail(judgement: Judgement, _: Evidence) -> list[Section]:
    return [kinds_section(judgement), _rates(judgement)]


_ABSENT = "No answer was checked for tail events."
BLOCKS = (
    Block("findings", "What does not pass", _findings, {"terminal": 30, "markdown": 10}),
    Block("tail", "Tail events", _tail, {"terminal": 40, "markdown": 50, "page": 60}, absent=_ABSENT),
    # Page and Markdown show answers in their own ways.
    Block("flips", "What changed, answer by answer", lambda *_: (), {"markdown": 60, "page": 80}, "Answers"),
)
