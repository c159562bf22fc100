"""For which traffic a candidate may be used, and how it was measured: what a reader asks first, in words and counts.

Counts verdicts that the gate gave, of scores and of tail events, and computes none. Kinds of cost are
`harness.report.costs`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.judge.summaries import TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report import tail, words
from harness.report.evidence import Evidence

__all__ = ["Share", "measured", "shares"]

_SAMPLED = ("temperature", "top_p", "samples")


@dataclass(frozen=True, slots=True)
class Share:
    """What one candidate may take of one slice."""

    slice: str
    """The slice's label."""
    passed: int
    """Strata that passed, in their scores and in every gated rate of tail events."""
    failed: int
    """Strata that failed by either."""
    silent: int
    """Strata in which no damage could be seen, because the baseline has no signal there."""
    strata: int
    """All strata of the slice, advisory ones too."""
    open: tuple[str, ...]
    """The strata that did not pass, by their levels, with the tail events that alone held them back."""
    by_events: bool
    """Whether tail events alone held any of them back."""

    @property
    def verdict(self) -> Verdict:
        """The sign that fits: pass if all passed, fail if any failed, no signal if there is none in any."""
        if self.passed == self.strata:
            return "pass"
        if self.silent == self.strata:
            return "no_signal"
        return "fail" if self.failed else "inconclusive"


def shares(judgement: Judgement) -> list[tuple[str, list[Share | None]]]:
    """Give, by slice, what each judged candidate passed there; None if it has no stratum of the slice."""
    judged = [one for one in judgement.candidates if one.strata]
    labels = list(dict.fromkeys(stratum.slice for one in judged for stratum in one.strata))
    return [(label, [_share(one, label) for one in judged]) for label in labels]


def _share(candidate: CandidateVerdict, label: str) -> Share | None:
    strata = [one for one in candidate.strata if one.slice == label]
    if not strata:
        return None
    open_ = [(one, tail.holding_back(candidate, one)) for one in strata if not tail.passes(candidate, one)]
    return Share(
        slice=label,
        passed=len(strata) - len(open_),
        failed=sum("fail" in {one.verdict, *(rate.verdict for rate in rates)} for one, rates in open_),
        silent=sum(one.verdict == "no_signal" and not rates for one, rates in open_),
        strata=len(strata),
        open=tuple(_name(one, rates) for one, rates in open_),
        by_events=any(one.verdict == "pass" and rates for one, rates in open_),
    )


def _name(stratum: StratumVerdict, rates: Sequence[TailRate]) -> str:
    """Name an open stratum, with the tail events that hold it back if its scores do not."""
    name = words.short_name(stratum.stratum)
    kinds = dict.fromkeys(one.kind for one in rates)
    if not kinds or stratum.verdict != "pass":
        return name
    return ", ".join(kinds) if stratum.stratum == "all" else f"{name} ({', '.join(kinds)})"


def measured(judgement: Judgement, evidence: Evidence) -> list[str]:
    """Return how the figures were made, as far as the files know it, in a few sentences."""
    strata = {(one.slice, one.stratum): one for candidate in judgement.candidates for one in candidate.strata}
    if not strata:
        return []
    slices = len({label for label, _ in strata})
    names = ", ".join(_variant(one.name, evidence) for one in judgement.candidates)
    count = sum(one.n for one in strata.values())
    where = f"{len(strata)} strat{'um' if len(strata) == 1 else 'a'} of {slices} slice{'' if slices == 1 else 's'}"
    base = _variant(judgement.baseline, evidence)
    sentences = [f"{names} answered the same {count:,} items as {base}, compared item by item in {where}"]
    facts = evidence.provenance
    devices = dict.fromkeys(str(one) for one in _mapping(facts.get("devices")).values())
    if devices:
        sentences.append(f"device: {', '.join(devices)}")
    sampling = _mapping(facts.get("sampling"))
    if sampling:
        greedy = sampling.get("temperature") == 0
        how = "greedily" if greedy else ", ".join(f"{key} {sampling[key]}" for key in _SAMPLED if key in sampling)
        sentences.append(f"answers chosen {how}" if greedy else f"answers sampled with {how}")
    if (seed := facts.get("seed", judgement.provenance.get("seed"))) is not None:
        sentences.append(f"seed {seed}")
    return sentences


def _variant(name: str, evidence: Evidence) -> str:
    facts = evidence.provenance
    about = [_mapping(facts.get(key)).get(name) for key in ("quantization", "dtype")]
    known = ", ".join(str(one) for one in about if one)
    return f"{name} ({known})" if known else name


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
