"""The judgement as Markdown for a pull-request comment and for GitHub's step summary.

Verdicts and failing strata first, everything long in collapsible details, and never above `LIMIT` bytes: a list that
does not fit ends in "and N more". All text from outside is escaped: no markup, HTML, link or mention survives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict, Verdict
from harness.report import costs, tail, words
from harness.report.choices import CHOICE_HEADINGS, CHOICE_NOTE, CHOICE_TITLE, choice_rows
from harness.report.diff import around_difference
from harness.report.evidence import Evidence, FlipPair
from harness.report.sanitize import clip, markdown, markdown_code

__all__ = ["LIMIT", "markdown_report"]

LIMIT = 60_000
"""Bytes; GitHub refuses a comment above 65,536 characters."""

_TAIL = 400
"""Bytes kept free for what closes an open list: its "and N more" and its tags."""

_MOST_SENTENCES = 20
_MOST_FLIPS = 5
_LONGEST_NAME = 120
_LONGEST_SENTENCE = 1500
_LONGEST_ANSWER = 300


class _Page:
    """Markdown that counts its bytes and stops in time."""

    def __init__(self, limit: int) -> None:
        self._parts: list[str] = []
        self._left = limit - _TAIL

    def add(self, text: str) -> bool:
        """Append a line if it fits; say whether it did."""
        size = len(text.encode()) + 1
        if size > self._left:
            return False
        self._left -= size
        self._parts.append(text)
        return True

    def listed(self, lines: Sequence[str], most: int) -> None:
        """Append lines up to `most` or to the end of the room, and count the rest."""
        for index, line in enumerate(lines):
            if index >= most or not self.add(line):
                self._parts.append(f"\nand {len(lines) - index:,} more")
                return

    def table(self, headings: Sequence[str], right: range, rows: Iterable[Sequence[str]]) -> None:
        """Append a table, its columns of index in `right` aligned right."""
        bars = ("---:" if index in right else "---" for index in range(len(headings)))
        lines = [f"| {' | '.join(row)} |" for row in rows]
        if self.add(f"| {' | '.join(headings)} |\n| {' | '.join(bars)} |"):
            self.listed(lines, len(lines))

    def details(self, summary: str) -> bool:
        """Open a collapsible part if there is room for one; `close` ends it."""
        return self.add(f"\n<details><summary>{summary}</summary>\n")

    def close(self) -> None:
        """End a collapsible part."""
        self._parts.append("\n</details>")
        self._left -= len("\n</details>\n")

    def __str__(self) -> str:
        """Give the text."""
        return "\n".join(self._parts) + "\n"


def markdown_report(judgement: Judgement, evidence: Evidence, limit: int = LIMIT) -> str:
    """Give the report as GitHub Markdown of at most `limit` bytes."""
    page = _Page(limit)
    _head(page, judgement, evidence)
    _sentences(page, judgement)
    _averages(page, judgement)
    _choices(page, judgement)
    for candidate in judgement.candidates:
        _strata(page, judgement, candidate)
    _tail_events(page, judgement)
    _flips(page, evidence)
    _costs(page, judgement, evidence)
    _power(page, evidence)
    _provenance(page, judgement, evidence)
    return str(page)


def _name(text: str) -> str:
    return markdown_code(clip(text, _LONGEST_NAME))


def _sentence(text: str) -> str:
    return markdown(clip(text, _LONGEST_SENTENCE))


def _verdict(verdict: Verdict) -> str:
    return f"{words.SYMBOLS[verdict]} {words.word(verdict)}"


def _head(page: _Page, judgement: Judgement, evidence: Evidence) -> None:
    name = f" of {_name(evidence.name)}" if evidence.name else ""
    page.add(f"## {_verdict(judgement.verdict)}: quantcliff{name}\n")
    if evidence.description:
        page.add(f"{_sentence(evidence.description)}\n")
    meaning = words.exit_meaning(judgement)
    page.add(f"Exit code {judgement.exit_code}, {meaning}. Baseline: {_name(judgement.baseline)}.\n")
    for warning in judgement.warnings[:_MOST_SENTENCES]:
        page.add(f"> **Warning:** {_sentence(warning)}\n")
    rows = [(_name(one.name), _verdict(one.verdict), _sentence(words.headline(one))) for one in judgement.candidates]
    page.table(("candidate", "verdict", "what decides"), range(0), rows)
    hidden = [f"- {_name(one.name)}: {_sentence(one.hidden)}" for one in judgement.candidates if one.hidden]
    if hidden:
        page.add("\n**What the average hides**\n")
        page.listed(hidden, _MOST_SENTENCES)
    for note in evidence.notes[:_MOST_SENTENCES]:
        page.add(f"\n> {_sentence(note)}")


def _sentences(page: _Page, judgement: Judgement) -> None:
    base = judgement.baseline

    failing = [words.stratum_sentence(one, c.name, base) for c, one in words.told(judgement, "fail")]
    undecided = [words.undecided_sentence(one, c.name) for c, one in words.told(judgement, "inconclusive")]
    signalless = words.told(judgement, "no_signal")
    blind = {(one.slice, one.stratum): words.no_signal_sentence(one, base) for _, one in signalless}
    for title, sentences in (
        ("Fails", failing),
        ("Tail events beyond their tolerance", _rates(judgement, "fail")),
        ("Undecided", undecided),
        ("Tail events undecided", _rates(judgement, "inconclusive", "no_signal", "not_judged")),
        ("No signal", [*blind.values()]),
    ):
        if sentences and page.add(f"\n### {title}\n"):
            page.listed([f"- {_sentence(one)}" for one in sentences], _MOST_SENTENCES)
    if any(candidate.strata for candidate in judgement.candidates):
        measured = words.floor(judgement)
        page.add(f"\n**A/A noise:** {_sentence(str(measured)) if measured else 'not measured.'}")


def _rates(judgement: Judgement, *verdicts: Verdict) -> list[str]:
    return [tail.rate_sentence(one, candidate.name) for candidate, one in tail.gated(judgement, *verdicts)]


def _averages(page: _Page, judgement: Judgement) -> None:
    rows = [
        (
            _name(candidate.name),
            _name(one.slice),
            str(one.n),
            words.score(one.baseline_mean),
            words.score(one.candidate_mean),
            words.points(one.delta),
            f"**{words.points(one.worst_delta)}**",
            _name(one.worst_stratum),
        )
        for candidate in judgement.candidates
        for one in words.averages(candidate)
    ]
    if rows and page.add("\n### Averages beside the worst stratum (points)\n"):
        headings = ("candidate", "slice", "n", "baseline", "candidate", "change", "worst", "in stratum")
        page.table(headings, range(2, 7), rows)


def _choices(page: _Page, judgement: Judgement) -> None:
    rows = [(_name(row[0]), _name(row[1]), *row[2:]) for row in choice_rows(judgement)]
    if rows and page.details(CHOICE_TITLE):
        page.add(f"\n{CHOICE_NOTE}\n")
        page.table(CHOICE_HEADINGS, range(2, 6), rows)
        page.close()


def _strata(page: _Page, judgement: Judgement, candidate: CandidateVerdict) -> None:
    if not candidate.strata:
        return
    title = f"All {len(candidate.strata)} strata of {_name(candidate.name)}, {words.limits_label(judgement)}"
    if not page.details(title):
        return
    rows = [
        (
            _name(one.slice),
            _name(one.stratum),
            f"{_verdict(one.verdict)}{'' if one.gating else ' (advisory)'}",
            str(one.n),
            words.score(one.baseline_mean),
            words.score(one.candidate_mean),
            words.change(one),
            words.points(one.margin, sign=False),
            f"{one.lost}/{one.gained}",
        )
        for one in _by_importance(candidate)
    ]
    headings = ("slice", "stratum", "verdict", "n", "baseline", "candidate", "change", "margin", "lost/gained")
    page.table(headings, range(3, 9), rows)
    page.close()


def _by_importance(candidate: CandidateVerdict) -> list[StratumVerdict]:
    """Failing first, so that what does not fit is what matters least."""
    order: tuple[Verdict, ...] = ("fail", "inconclusive", "no_signal", "not_judged", "pass")
    return sorted(candidate.strata, key=lambda one: (order.index(one.verdict), not one.gating))


def _tail_events(page: _Page, judgement: Judgement) -> None:
    """Say which tail events were found."""
    rows, quiet = tail.shown_rows(judgement)
    if not (rows or quiet) or not page.add("\n### Tail events\n"):
        return
    if rows:
        names = [_name(one.name) for one in judgement.candidates]
        headings = ("event", "what", f"{_name(judgement.baseline)} itself", "A/A", *names)
        cells = [(row.kind, tail.meaning(row.kind), row.baseline, row.control, *row.candidates) for row in rows]
        page.table(headings, range(2, len(headings)), cells)
    if quiet:
        page.add(f"\nLooked for and not found: {', '.join(quiet)}.")


def _flips(page: _Page, evidence: Evidence) -> None:
    if not evidence.flips:
        return
    lost = [one for one in evidence.flips if one.candidate_score < one.baseline_score] or [*evidence.flips]
    total = len(evidence.flips) + evidence.flips_left_out
    if not page.details(f"{min(len(lost), _MOST_FLIPS)} of {total:,} flips"):
        return
    if note := words.texts_note(evidence):
        page.add(f"{_sentence(note)}\n")
    for pair in lost[:_MOST_FLIPS]:
        if not page.add(_flip(pair)):
            break
    page.close()


def _flip(pair: FlipPair) -> str:
    where = f"{_name(pair.slice)} {_name(pair.stratum)} {_name(pair.item_id)}"
    baseline, answer = around_difference(pair.baseline_text, pair.candidate_text, _LONGEST_ANSWER)
    answers = (("right", clip(pair.target, _LONGEST_ANSWER)), ("baseline", baseline), (pair.candidate, answer))
    lines = [f"  - {markdown(clip(who, _LONGEST_NAME))}: {markdown_code(text)}" for who, text in answers if text]
    return "\n".join([f"- {where}", *lines])


def _costs(page: _Page, judgement: Judgement, evidence: Evidence) -> None:
    rows = costs.rows_of(judgement, evidence)
    if rows and page.add("\n### Cost\n"):
        page.table(costs.HEADINGS, range(1, len(costs.HEADINGS)), [(_name(row[0]), *row[1:]) for row in rows])


def _power(page: _Page, evidence: Evidence) -> None:
    if not evidence.power or not page.details("Power of the plan (points, 80 % power)"):
        return
    rows = [
        (
            _name(one.slice),
            _name(one.stratum),
            f"{one.items:,}",
            words.points(one.smallest_drop, sign=False),
            "-" if one.items_for_pass is None else f"{one.items_for_pass:,}",
        )
        for one in evidence.power
    ]
    page.table(("slice", "stratum", "items", "smallest drop seen", "items for a pass"), range(2, 5), rows)
    page.close()


def _provenance(page: _Page, judgement: Judgement, evidence: Evidence) -> None:
    facts = words.flat({**judgement.provenance, **evidence.provenance})
    if evidence.path:
        facts = {"results": evidence.path, **facts}
    if not facts or not page.details("How it was measured"):
        return
    page.table(("what", "value"), range(0), [(_name(key), _name(value)) for key, value in facts.items()])
    page.close()
