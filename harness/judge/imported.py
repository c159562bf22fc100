"""`quantcliff compare --baseline ... --candidate ...`: judges what other tools ran, by the command line's flags."""

import dataclasses
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from harness.errors import NotComparable, UsageError
from harness.judge import compare, gate, importers
from harness.judge.importers import ImportOptions
from harness.judge.importers.json_text import below, unwritten
from harness.judge.importers.tables import other_questions, sources
from harness.judge.outages import FAILURE, Told, outages
from harness.judge.outcomes import Outcomes, Said, joined
from harness.judge.rules import Rules
from harness.judge.summaries import Comparison
from harness.judge.verdicts import Judgement
from harness.suite.toolkit.thinking import split

_EXPECTED = 5  # items right, or wrong, on both sides by chance, from which on their number shows whether it is chance
_RELATED = 0.01  # level at which the right answers of both sides must coincide
_UNRELATED = (
    "the candidate is right on other items than the baseline, as if both guessed or their ids named other questions: "
    "look at the ids, and say with --chance what guessing scores (0 if nothing)"
)
_GRADES = 20  # so many different scores are of graded answers, which are equal in all items only if the answers are
_GRADES_IN_PART = 100  # the same of one task or stratum, where a good build may give some short answers alike
_IN_GRADES, _SEVERAL = 0.05, 5  # share of scores between 0 and 1, and number, that show partial credit of one side
_GRADED = "the scores of one side are right or wrong, and those of the other between, too: score both by one metric"
_LISTED = re.compile(r"""\[\s*(["'\[{]|null\b|None\b)|\{"\d+":""")  # how a cell of answers begins
_MOMENT = re.compile(r"T\d\d-\d\d-\d\d\.\d{4,6}\.[jp]")  # in a file's name: no other run begins in that microsecond
_UNEVEN = 1.5  # mean size of an item's question from which on a table has clearly fewer questions than items
_LONG, _IN_ALL = 100, 50_000  # characters of a long answer, and of so many: another build writes some word differently


def judge_imported(baseline: Path, candidates: Sequence[str], options: Mapping[str, Any]) -> Judgement:
    """Read both sides, compare and gate them. Raises UsageError, NotComparable.

    candidates: ``PATH`` or ``NAME=PATH``. options: the flags of `compare`, None or empty if not given.
    """
    named = _named(candidates)
    known = [one.name for one in dataclasses.fields(ImportOptions) if options.get(one.name) not in (None, ())]
    reading = ImportOptions(**{name: options[name] for name in known})
    used = [importers.format_of(one, reading) for one in (baseline, *(path for _, path in named))]
    importers.check_options(["stratum" if name == "strata" else name for name in known], used)
    rules = Rules.from_flags(**{key: options[key] for key in ("margin", "alpha") if options[key] is not None})
    base, *sides = [importers.load(path, reading, name) for name, path in (("baseline", baseline), *named)]
    for side in [one for one in sides if one.chance.max(initial=0.0) > base.chance.min(initial=1.0)]:
        # Which answers are right may be known of one side alone.
        own, theirs = joined(base, side)
        np.maximum.at(chance := base.chance.copy(), own, side.chance[theirs])
        base = replace(base, chance=chance)
    same = {} if options.get("allow_identical") else _copies([base, *sides], [baseline, *(path for _, path in named)])
    if same and len(same) == len(sides):
        raise NotComparable(next(iter(same.values())))
    judged, warnings = [one for one in sides if one.name not in same], list[str]()
    if reading.prompt is None and set(used) == {"table"}:
        asked, paths = sources([baseline, *(path for _, path in named)], reading), dict(named)
        other = [{}, *(other_questions((baseline, paths[one.name]), reading) for one in judged)]
        for one, odd in zip(judged, other[1:], strict=True):
            warnings += [
                f"{one.name}: {len(own)} items have another {column!r} than in baseline"
                ": if it holds answers, give --prompt with what was asked"
                for column, own in odd.items()
            ]
        if asked or any(other):
            both = zip((base, *judged), (set[str]().union(*odd.values()) for odd in other), strict=True)
            told = [(one, [asked.get(item, 0) ^ (item in odd) for item in one.items]) for one, odd in both]
            base, *judged = [replace(one, fingerprint=np.array(prints, np.uint64)) for one, prints in told]
        counts = Counter(asked.values())
        if sum(count**2 for count in counts.values()) > _UNEVEN * len(asked):
            text = f"{len(asked)} items ask {len(counts)} questions, of which each counts as one source"
            warnings.append(f"{text}: --prompt with the column of ids says that each item is another question")
    several = 1 if reading.repeats == "mean" else 2 if set(used) != {"table"} else math.inf
    tasks = {item: base.slice[at] for at, item in enumerate(base.items)} if base.said() else {}
    found = outages((_in_words(one, several) for one in (base, *judged)) if tasks else (), tasks)
    if found.errors:
        base = replace(base, score=np.where([one in found.errors for one in base.items], math.nan, base.score))
    once = reading.repeats is None and set(used) == {"table"}  # and so of one answer each
    review = partial(_related, once=once) if options["chance"] is None else None
    material = compare.compare(base, judged, rules, allow_unmatched=options["allow_unmatched"], review=review)
    provenance = {"baseline": str(baseline), "candidates": {name: str(path) for name, path in named}}
    order, said = [name for name, _ in named], (*warnings, *found.warnings(base.name))
    return gate.judge(material, rules, not_judged=same, order=order, warnings=said, provenance=provenance)


def _named(candidates: Sequence[str]) -> list[tuple[str, Path]]:
    """Return the name and the path of each candidate. Raises UsageError."""
    named: list[tuple[str, Path]] = []
    for text in candidates:
        name, equals, place = text.partition("=")
        if equals and not (name and place):
            raise UsageError(f"--candidate {text}: write NAME=PATH, or PATH alone")
        named.append((name, Path(place)) if equals else (Path(text).stem or text, Path(text)))
    if len({"baseline", *dict(named)}) <= len(named):
        raise UsageError("each variant needs a different name, and not `baseline`: give --candidate NAME=PATH")
    return named


def _in_words(side: Outcomes, several: float) -> Iterator[Told]:
    """Give all answers, without text if they were not answered in text.

    several: from so many texts of an item on, they are several answers, of which the mean alone is known.
    """
    told = side.said()
    for item, score in zip(side.items, np.nan_to_num(side.score).tolist(), strict=True):
        said = {one for one in told.get(item, ()) if not one[1]}
        texts = {part.strip() for text, _ in said for part in _parts(text)}
        least = min(several, 2) if any(_LISTED.match(text) for text, _ in said) else several
        for text in sorted(texts) or ["" if said else "(no text)"]:
            yield Told(item, text, score, alone=max(len(texts), 1) < least)


def _parts(told: object) -> Iterator[str]:
    """Give the answers of a cell: the text that it is, or all that it lists, as JSON or as Python writes lists."""
    if isinstance(told, str) and _LISTED.match(told):
        told = unwritten(told)
    if isinstance(told, dict):  # a part, such as a message or a thought; or the epochs
        known = sorted((told[key] for key in ("text", "content") if key in told), key=lambda one: one is None)[:1]
        told = known or [one for one in told.values() if isinstance(one, list)]
    if isinstance(told, list):
        for one in told:  # but for a thought between them, which Parquet gives an empty text
            if not (isinstance(one, dict) and one.get("type") and one.get("text") is one.get("content") is None):
                yield from _parts(one)
    else:
        yield "" if told is None or told == "none" else split(str(told))[0]


def _related(index: compare.Index, side: Outcomes, found: Comparison, *, once: bool) -> Comparison:
    """Withdraw the signal of strata in which both sides score as two that guess: on items that have nothing in common.

    Fisher's exact test (1935, Journal of the Royal Statistical Society 98:39-82) by its normal law, which holds for
    graded scores and items of shared sources, too: where enough items should be right, or wrong, on both sides by
    chance, and the scores spread by more than the margin, so that other questions could hide a loss. once: no score is
    a mean, so that one side in grades next to one that is right or wrong has partial credit, which hides a loss, too.
    """
    base, count, strata = index.baseline, len(index.places), list(found.strata)
    own, theirs = joined(base, side)
    rows = ~np.isnan(base.score[own] + side.score[theirs]) & (base.fingerprint[own] == side.fingerprint[theirs])
    own, x, y = own[rows], base.score[own[rows]], side.score[theirs[rows]]
    cells, each, chance = index.place[own], np.ones(own.size), np.zeros(count)
    total: Any = partial(np.bincount, cells, minlength=count)  # of values, one an item: their sum in each stratum
    n, before, after, xx, yy, both = map(total, (each, x, y, x * x, y * y, x * y))
    spread, step = n * xx - before**2, 0.5 * ((xx == before) & (yy == after))  # Yates' correction
    with np.errstate(all="ignore"):  # a side with one score for all items is unrelated, too
        if index.cluster is not None:  # the products of two items of one source vary as well
            keys = cells * np.int64(2 * len(base)) + index.cluster[own]
            first, source = np.unique(keys, return_index=True, return_inverse=True)[1:]
            moves = each, x - (before / n)[cells], y - (after / n)[cells]
            sums = (np.bincount(cells[first], np.bincount(source, part) ** 2, count) - total(part**2) for part in moves)
            pairs, left, right = (np.maximum(part, 0.0) for part in sums)
            chance = left * right / np.maximum(pairs, 1.0)
        error = np.sqrt(spread * (n * yy - after**2) / (n - 1) / n**2 + chance)
        odd = ~(special.ndtr((before * after / n + step - both) / error) < _RELATED)
    odd &= np.minimum(before * after, (n - before) * (n - after)) >= np.maximum(_EXPECTED * n, 1.0)
    few, many = np.sort([total((one > 0.0) & (one < 1.0)) for one in (x, y)], axis=0)
    graded = once & (few <= 1) & (many > np.maximum(_IN_GRADES * n, _SEVERAL))
    for at, one in enumerate(found.strata):
        if graded[at] or (odd[at] and spread[at] > (n[at] * one.margin) ** 2):
            why = _GRADED if graded[at] else _UNRELATED
            strata[at] = replace(one, looks=(replace(one.looks[0], above_chance_p=1.0),), unusable=why)
    return replace(found, strata=tuple(strata))


def _copies(sides: Sequence[Outcomes], paths: Sequence[Path]) -> dict[str, str]:
    """Return the candidates that are another side, and why: its files, or scores and answers (scores may be equal)."""
    contents, found = [*map(_contents, paths)], dict[str, str]()
    for at, side in enumerate(sides[1:], start=1):
        first = contents.index(contents[at]) % at  # the side with these files, or else the baseline
        alike = ((one, *part) for one in range(at) for part in _repeated(sides[one], side, whole=one > 0))
        same = [(first, "", "byte for byte")] if contents[first] == contents[at] else alike
        for first, what, how in itertools.islice(same, 1):
            who = f"{side.name} for {what}" if what else side.name
            text = f"{side.sources.get(what, (paths[at],))[0]}: the results of {who} are "
            text += f"{'the ' * (not first)}{sides[first].name}'s ({paths[first]}), {how}, so there is nothing to "
            found[side.name] = f"{text}compare: give the candidate's own, or --allow-identical for an A/A comparison"
    return found


def _repeated(base: Outcomes, side: Outcomes, *, whole: bool) -> Iterator[tuple[str, str]]:
    """Give the parts of a side that repeat `base`, nameless if it is all, and how that shows. whole: all or nothing."""
    for task, (_, made) in side.sources.items() if not whole else ():
        if made and made == base.sources.get(task, ("", ""))[1]:
            yield task, "by model, arguments and revision, or by the log's id or time"
    own, theirs = joined(base, side)
    scores, after, slices = base.score[own], side.score[theirs], base.slice.codes[own].astype(np.int64)
    other = (scores != after) & ~(np.isnan(scores) & np.isnan(after))
    cells = slices * len(base.stratum.names) + base.stratum.codes[own]
    told: list[Mapping[str, set[Said]]] = []  # the side first that may lack a column of answers
    # Two honest candidates, unlike one and its baseline, may give all short answers alike.
    for level, codes in ({3: 0 * slices} if whole else {0: 0 * slices, 1: slices, 2: cells}).items():
        sizes, odd = np.bincount(codes), np.bincount(codes, other)
        for part in np.flatnonzero((odd == 0.0) & (sizes >= (_GRADES if level else 1))):
            rows = np.flatnonzero(codes == part)
            told = told or sorted((base.said(), side.said()), key=lambda one: max(map(len, one.values()), default=0))
            few, many = ([one.get(base.items[at], set()) for at in own[rows] if told[0]] for one in told)
            said, at = {one for one in set[Said]().union(*few) if not FAILURE.fullmatch(one[0])}, own[rows[0]]
            graded = np.unique(scores[rows]).size >= (_GRADES_IN_PART if level else _GRADES)
            files = [Path(one.sources.get(base.slice[at], ("",))[0]).resolve().name for one in (base, side)]
            same = said and level == 1 and files[0] == files[1] and _MOMENT.search(files[0]) is not None
            if (graded or (said and not level) or same or _certain(said)) and all(map(set.issubset, few, many)):
                name = ("", base.slice[at], f"{base.slice[at]}/{base.stratum[at]}", "")[level]
                yield name, "every score and every answer" if said else "every score"


def _certain(said: set[Said]) -> bool:
    """Whether no other build gives the same answers: likelihoods, or many long texts, but no letters."""
    long = [len(text) for text, measured in said if not measured and len(text) >= _LONG]
    return sum(measured for _, measured in said) >= _GRADES or (len(long) >= _GRADES and sum(long) >= _IN_ALL)


def _contents(path: Path) -> frozenset[str]:
    """Return the digests of all files but lm_eval's summaries (``results_*``), which hold times, as names do."""
    files = [one for one in (path, *below(path, "*")) if one.is_file()]
    told = [one for one in files if not one.name.startswith("results_")] or files
    data = (np.memmap(one, np.uint8, "r").data if one.stat().st_size else b"" for one in told)
    return frozenset(hashlib.sha256(one).hexdigest() for one in data)
