"""Judgements by the judge and evidence as a run gathers it, made from a seed: what the report tests read."""

from __future__ import annotations

import dataclasses
import functools
import random

from harness import stats
from harness.config.schema import SliceSpec
from harness.judge import compare, gate
from harness.judge.decisions import Decision, decide
from harness.judge.outcomes import Outcomes, build
from harness.judge.rules import Rules
from harness.judge.summaries import Average, Comparisons, Look, StratumNumbers, TailRate, Verdict
from harness.judge.verdicts import CandidateVerdict, Judgement, StratumVerdict
from harness.report.evidence import DivergenceRow, Evidence, FlipPair
from harness.stats.divergence import Summary

LANGUAGES = {
    "en": ("Latn", "high", "What is the capital of France?", "Paris", "Lyon"),
    "ar": ("Arab", "high", "ما هي عاصمة فرنسا؟", "باريس هي العاصمة", "باريس ليست العاصمة، بل ليون"),
    "hi": ("Deva", "mid", "फ़्रांस की राजधानी क्या है?", "फ़्रांस की राजधानी पेरिस है", "फ़्रांस की राजधानी लियोन है"),
    "am": ("Ethi", "low", "የፈረንሳይ ዋና ከተማ ማን ናት?", "ፓሪስ ናት", "ፓሪስ Paris Paris Paris"),
    "he": ("Hebr", "mid", "מהי בירת צרפת?", "פריז", "ליון 42"),
    "ja": ("Jpan", "high", "フランスの首都は?", "パリです", "リヨンです"),
}
CONTEXTS = (256, 1024, 4096, 8192, 16384)
DEPTHS = ("0.0", "0.5", "1.0")
HOPS = (1, 2, 4, 8, 12)

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202egnp\u2066 | @team `x` \x00 &amp; ]]> \ud800 $x$ {{ 7*7 }}"
"""One text with most of what harms a terminal, a page, a Markdown comment or an XML file."""


def _numbers(label, levels, *, lost, gained, n, base, margin, gating=True, chance=0.0):  # noqa: PLR0913 - a figure each
    """The numbers of a stratum with these counts, tested as the judge tests them."""
    result = stats.paired_counts_test(lost, gained, n, margin, 0.05)
    look = Look(1, (1.0,), 0.05, 0.05, result, base, base + result.delta, 0.0)
    return StratumNumbers(
        slice=label,
        stratum=",".join(f"{axis}={level}" for axis, level in levels.items()) or "all",
        margin=margin,
        gating=gating,
        looks=(look,),
        planned=n + n // 2,
        asked=n,
        unanswered=0,
        unmatched=0,
        one_sided=0,
        excessive=False,
        flips=lost + gained,
        chance=chance,
        weight=float(n),
        levels=levels,
    )


def stratum(  # noqa: PLR0913 - a stratum has that many figures
    label: str,
    levels: dict[str, str],
    *,
    n: int,
    base: float,
    drop: float,
    margin: float,
    gating: bool = True,
    verdict: Verdict | None = None,
    chance: float = 0.0,
    need: int | None = None,
) -> StratumVerdict:
    """A stratum that loses `drop` of its items and one more, which it gains again; judged, or with a given verdict."""
    lost = round(max(drop, 0) * n) + 1
    counts = {"lost": lost, "gained": lost - round(drop * n), "n": n}
    numbers = _numbers(label, levels, base=base, margin=margin, gating=gating, chance=chance, **counts)
    if verdict is None:
        return StratumVerdict(numbers, decide([numbers], 0.05)[0])
    reasons = {"fail": "fail", "inconclusive": "undecided", "no_signal": "no_signal", "not_judged": "unanswered"}
    return StratumVerdict(numbers, Decision(verdict, numbers.looks[0], None, reasons.get(verdict), need))


def decided(stratum: StratumVerdict, **changes: object) -> StratumVerdict:
    """The stratum with another verdict, reason or number of items to decide."""
    return dataclasses.replace(stratum, decision=dataclasses.replace(stratum.decision, **changes))


def numbered(found: StratumVerdict, /, **changes: object) -> StratumVerdict:
    """The stratum with other numbers: a name, a weight."""
    return dataclasses.replace(found, numbers=dataclasses.replace(found.numbers, **changes))


@dataclasses.dataclass
class Place:
    """One stratum of the suite: its items, and how many of them the baseline gets right."""

    slice: str
    levels: dict[str, str]
    n: int
    base: float
    drop: float
    """Drop of a candidate that is wholly damaged."""
    chance: float = 0.0


def suite() -> list[Place]:
    """The suite's strata: damage is worst at long contexts, many hops and rare languages."""
    made = []
    for step, context in enumerate(CONTEXTS):
        for depth in DEPTHS:
            levels = {"context_tokens": str(context), "depth": depth}
            drop = (0.02 + 0.1 * step) * (1.3 if depth == "0.5" else 1.0)
            made.append(Place("long_context", levels, 400, 0.9 - 0.05 * step, drop))
    for step, hops in enumerate(HOPS):
        at_chance = hops == HOPS[-1]
        base, drop = (0.01, 0.0) if at_chance else (0.85 - 0.15 * step, 0.06 * (step + 1))
        made.append(Place("multi_hop_math", {"hops": str(hops)}, 300, base, drop))
    for code, (script, resources, *_) in LANGUAGES.items():
        levels = {"language": code, "script": script, "resources": resources}
        drop = {"high": 0.03, "mid": 0.1, "low": 0.35}[resources]
        made.append(Place("low_resource_languages", levels, 250, 0.7, drop, 0.25))
    return [*made, Place("code", {}, 164, 0.6, 0.09), Place("typical", {}, 2000, 0.82, 0.01)]


MARGINS = {"long_context": 0.05, "multi_hop_math": 0.05, "low_resource_languages": 0.06, "code": 0.05, "typical": 0.02}


def answered(name: str, severity: float, noise: random.Random | None) -> Outcomes:
    """One side's scores over the suite: `severity` of each stratum's drop, and as many items of noise either way."""
    rows = []
    for place in suite():
        drop, extra = round(severity * place.drop * place.n), noise.randrange(3) if noise else 0
        right = round(place.base * place.n)
        lost, gained = min(drop + extra, right), extra
        scores = [0.0] * lost + [1.0] * (right - lost) + [1.0] * gained + [0.0] * (place.n - right - gained)
        stratum = ",".join(f"{axis}={level}" for axis, level in place.levels.items()) or "all"
        rows += [(f"{place.slice}/{stratum}/{at}", one, stratum, place) for at, one in enumerate(scores)]
    ids, scores, strata, places = zip(*rows, strict=True)
    axes = dict.fromkeys(axis for place in places for axis in place.levels)
    return build(
        name,
        ids,
        scores,
        slices=[place.slice for place in places],
        strata=strata,
        chance=[place.chance for place in places],
        levels={axis: [place.levels.get(axis, "") for place in places] for axis in axes},
    )


@functools.cache
def _compared(seed: int) -> tuple[Comparisons, Rules]:
    """The suite's numbers for int8, nearly unharmed, nf4, broken on the tail, and the baseline's repetition."""
    rng = random.Random(seed)
    slices = {name: SliceSpec(name="s", margin=margin, gating=name != "typical") for name, margin in MARGINS.items()}
    rules = Rules(slices=slices)
    sides = [answered("int8", 0.0, rng), answered("nf4", 0.8, rng)]
    return compare.compare(answered("bf16", 0.0, None), sides, rules, control=answered("control", 0.0, rng)), rules


def judgement(*, seed: int = 7, with_missing: bool = True) -> Judgement:
    """The judge's own verdicts: int8 nearly unharmed, nf4 broken on the tail, one candidate that was not judged."""
    numbers, rules = _compared(seed)
    missing = {"gptq-int4": "gptqmodel is not installed: pip install 'quantcliff[gptq]'"} if with_missing else {}
    return gate.judge(
        numbers,
        rules,
        not_judged=missing,
        order=("int8", "nf4", "gptq-int4"),
        warnings=("3 items of the candidate had no partner and were left out: math/17, math/18, math/19",),
        provenance={"run": "suite", "config_digest": "0123456789abcdef", "seed": 7},
    )


def rate(
    label: str,
    stratum: str,
    kind: str,
    events: int,
    n: int,
    *,
    tolerance: float | None = None,
    verdict: Verdict | None = None,
    baseline: float = 0.0,
) -> TailRate:
    """A rate of tail events whose limits fit it, by an approximation that is good enough to look at."""
    share = events / n
    half = 1.645 * ((share * (1 - share) + 1 / n) / n) ** 0.5
    low, high = max(0.0, share - half), min(1.0, share + half)
    if tolerance is not None and verdict is None:
        verdict = "pass" if high < tolerance else "fail" if low > tolerance else "inconclusive"
    need = 4 * n if verdict == "inconclusive" else None
    return TailRate(
        label, stratum, kind, events, n, share, low, high, tolerance, verdict, baseline, items_to_decide=need
    )


def with_tail_events(judged: Judgement) -> Judgement:
    """The judgement with gated and other rates of tail events: nf4 answers Amharic in Latin letters."""

    def rates(severity: int) -> tuple[TailRate, ...]:
        made = []
        for code, (script, resources, *_) in LANGUAGES.items():
            place = f"language={code},script={script},resources={resources}"
            events = {"low": 9 * severity, "mid": 2 * severity}.get(resources, 0)
            made.append(rate("low_resource_languages", place, "wrong_script", events, 250, tolerance=0.02))
            made.append(rate("low_resource_languages", place, "repetition", severity, 250, baseline=0.004))
            made.append(rate("low_resource_languages", place, "empty", 0, 250, tolerance=0.02))
        made.append(rate("code", "all", "code_syntax", 3 * severity, 164, baseline=0.03))
        made.append(rate("code", "all", "truncated", severity, 164, tolerance=0.01, baseline=0.01))
        return tuple(made)

    known = {"int8": 0, "nf4": 4}
    candidates = tuple(
        dataclasses.replace(one, tail_events=rates(known[one.name])) if one.name in known else one
        for one in judged.candidates
    )
    control = dataclasses.replace(judged.candidates[0], name="control", tail_events=rates(0))
    return dataclasses.replace(judged, candidates=candidates, control=control)


def passing() -> Judgement:
    """One candidate that passes everywhere."""
    made = stratum("typical", {}, n=4000, base=0.8, drop=0.0, margin=0.02)
    return Judgement(
        verdict="pass",
        exit_code=0,
        policy={"alpha": 0.05},
        candidates=(CandidateVerdict(name="int8", verdict="pass", reasons=(), strata=(made,)),),
        baseline="bf16",
    )


def hostile() -> Judgement:
    """A judgement whose every name and sentence is hostile."""
    levels = {"axis": HOSTILE}
    made = tuple(
        stratum(HOSTILE, {**levels, "i": str(i)}, n=50, base=0.5, drop=0.1 * i, margin=0.05, verdict=verdict)
        for i, verdict in enumerate(("pass", "fail", "inconclusive", "no_signal", "not_judged"))
    )
    one = CandidateVerdict(
        name=HOSTILE,
        verdict="fail",
        reasons=(HOSTILE,),
        strata=made,
        averages=(Average(HOSTILE, 250, 0.5, 0.4, -0.1, -0.4, HOSTILE),),
        hidden=HOSTILE,
        cost={"load_seconds": 1.0, "weight_bytes": 1000},
    )
    return Judgement(
        verdict="fail",
        exit_code=1,
        policy={"alpha": 0.05},
        candidates=(one,),
        baseline=HOSTILE,
        warnings=(HOSTILE,),
        provenance={HOSTILE: HOSTILE},
    )


def flips(rng: random.Random, count: int = 24) -> tuple[FlipPair, ...]:
    """Pairs in six languages, right-to-left ones among them."""
    made = []
    codes = list(LANGUAGES)
    for index in range(count):
        code = codes[index % len(codes)]
        script, resources, question, right, wrong = LANGUAGES[code]
        lost = rng.random() < 0.8
        made.append(
            FlipPair(
                candidate="nf4" if index % 5 else "int8",
                slice="low_resource_languages",
                stratum=f"language={code},script={script},resources={resources}",
                item_id=f"facts_{code}/{index}",
                prompt=f"{question}\n",
                target=right,
                baseline_text=right if lost else wrong,
                candidate_text=wrong if lost else right,
                baseline_score=1.0 if lost else 0.0,
                candidate_score=0.0 if lost else 1.0,
                language=code,
            )
        )
    return tuple(made)


def _diverged(kl: float, same_top: float) -> Summary:
    """Means over 4,000 tokens of 40 answers."""
    return Summary(4000, kl, kl / 4, 1.1 * kl, same_top, 0.01, -kl)


def evidence(judged: Judgement, *, seed: int = 11) -> Evidence:
    """Evidence as a finished run gathers it, for `judgement`."""
    rng = random.Random(seed)
    keys = ("load_seconds", "weight_bytes", "peak_bytes", "tokens_per_second")
    costs = {
        "bf16": dict(zip(keys, (3.1, 269_000_000, 1_100_000_000, 812.0), strict=True)),
        "int8": dict(zip(keys, (4.4, 163_000_000, 990_000_000, 401.5), strict=True)),
        "nf4": dict(zip(keys, (5.0, 112_000_000, 870_000_000, 522.0), strict=True)),
    }
    proofs = {
        name: {
            "method": method,
            "kernel": kernel,
            "quantized_modules": 0 if name == "bf16" else 210,
            "linear_modules": 211,
            "bits_per_weight": bits,
            "weight_bytes": costs[name]["weight_bytes"],
            "compute_dtype": "bfloat16",
            "notes": (),
        }
        for name, method, kernel, bits in (
            ("bf16", "none", "Linear", 16.0),
            ("int8", "bnb-int8", "Linear8bitLt", 8.06),
            ("nf4", "bnb-nf4", "Linear4bit", 4.13),
        )
    }
    pairs = flips(rng)
    cells = judged.candidates[0].strata
    return Evidence(
        name="suite",
        path="results/suite-7",
        description="Everything that a rollout of the small model touches.",
        notes=("The reference was itself restored from a 4-bit file: its damage is in both sides.",),
        costs=costs,
        proofs=proofs,
        provenance={
            "command": "quantcliff run configs/suite.yaml",
            "device": "NVIDIA H100 80GB HBM3",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
            "digests": {"config": "0123456789abcdef", "tokenizer": "fedcba9876543210"},
        },
        flips=pairs,
        flips_left_out=310,
        tail_events=tuple(dataclasses.replace(one, candidate="nf4", kinds=("repetition",)) for one in pairs[:4]),
        divergence=tuple(
            DivergenceRow(name, label, "all", position, _diverged(scale * (1 + rng.random()), 1 - scale))
            for name, scale in (("int8", 0.004), ("nf4", 0.08))
            for label in dict.fromkeys(one.slice for one in cells[::4])
            for position in ("0-255", "256-1023", "1024-4095")
        ),
        items_spent=9800,
        items_planned=14700,
    )
