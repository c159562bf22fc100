"""Judgements and evidence as a real run gives them, made by hand from a seed: what the report tests read."""

from __future__ import annotations

import dataclasses
import random

from harness.judge.verdicts import Average, CandidateVerdict, Cliff, Judgement, StratumVerdict, TailRate, Verdict
from harness.report.evidence import Divergence, Evidence, FlipPair, PowerRow, TailEvent

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
    rng: random.Random | None = None,
) -> StratumVerdict:
    """A stratum whose limits and counts fit its drop, by a normal approximation that is good enough to look at."""
    lost = round(max(drop, 0) * n) + (rng.randrange(3) if rng else 1)
    gained = lost - round(drop * n)
    delta = (gained - lost) / n
    half = 1.645 * max(((lost + gained) / n - delta**2) / n, 1 / n**2) ** 0.5
    low, high = max(-1.0, delta - half), min(1.0, delta + half)
    if verdict is None:
        verdict = "pass" if low > -margin else "fail" if high < -margin else "inconclusive"
    if verdict == "inconclusive" and need is None:
        need = 3 * n
    return StratumVerdict(
        slice=label,
        stratum=",".join(f"{axis}={level}" for axis, level in levels.items()) or "all",
        n=n,
        clusters=max(1, n // 4),
        baseline_mean=base,
        candidate_mean=base + delta,
        delta=delta,
        low=low,
        high=high,
        lost=lost,
        gained=gained,
        mid_p=0.5 if drop <= 0 else 0.04,
        p_pass=0.5,
        p_fail=0.5,
        p_adjusted=0.003 if verdict == "fail" else 1.0,
        margin=margin,
        gating=gating,
        verdict=verdict,
        items_to_decide=need if verdict == "inconclusive" else None,
        chance=chance,
        levels=levels,
        items_planned=n + n // 2,
        method="Tango score",
        floor_delta=None if rng is None else rng.choice((0.0, 0.0, 1 / n, -1 / n)),
        floor_flips=None if rng is None else rng.choice((0, 0, 1, 2)),
    )


def strata(severity: float, rng: random.Random) -> tuple[StratumVerdict, ...]:
    """A suite's strata under a damage from 0 (none) to 1 (heavy): worst at long contexts, hops and rare languages."""
    made = []
    for step, context in enumerate(CONTEXTS):
        for depth in DEPTHS:
            drop = severity * (0.02 + 0.1 * step) * (1.3 if depth == "0.5" else 1.0)
            levels = {"context_tokens": str(context), "depth": depth}
            made.append(stratum("long_context", levels, n=400, base=0.9 - 0.05 * step, drop=drop, margin=0.05, rng=rng))
    for step, hops in enumerate(HOPS):
        if hops == HOPS[-1]:
            levels = {"hops": str(hops)}
            made.append(stratum("multi_hop_math", levels, n=300, base=0.01, drop=0.0, margin=0.05, verdict="no_signal"))
            continue
        drop = severity * 0.06 * (step + 1)
        base = 0.85 - 0.15 * step
        made.append(stratum("multi_hop_math", {"hops": str(hops)}, n=300, base=base, drop=drop, margin=0.05, rng=rng))
    for code, (script, resources, *_) in LANGUAGES.items():
        drop = severity * {"high": 0.03, "mid": 0.1, "low": 0.35}[resources]
        levels = {"language": code, "script": script, "resources": resources}
        made.append(
            stratum("low_resource_languages", levels, n=250, base=0.7, drop=drop, margin=0.06, chance=0.25, rng=rng)
        )
    made.append(stratum("code", {}, n=164, base=0.6, drop=severity * 0.09, margin=0.05, rng=rng))
    made.append(stratum("typical", {}, n=2000, base=0.82, drop=severity * 0.01, margin=0.02, gating=False, rng=rng))
    return tuple(made)


def averages(found: tuple[StratumVerdict, ...]) -> tuple[Average, ...]:
    """The plain averages over the given strata: all first, then by slice."""
    labels = list(dict.fromkeys(one.slice for one in found))

    def one_average(label: str, part: list[StratumVerdict]) -> Average:
        n = sum(one.n for one in part)
        base = sum(one.n * one.baseline_mean for one in part) / n
        cand = sum(one.n * one.candidate_mean for one in part) / n
        worst = min(part, key=lambda one: one.delta)
        name = worst.stratum if label != "all" else f"{worst.slice}/{worst.stratum}"
        return Average(label, n, base, cand, cand - base, worst.delta, name)

    return (one_average("all", [*found]), *(one_average(la, [s for s in found if s.slice == la]) for la in labels))


def cliffs(found: tuple[StratumVerdict, ...], severity: float) -> tuple[Cliff, ...]:
    """The curves along context tokens and hops."""
    hops = [one for one in found if one.slice == "multi_hop_math"]
    context = [[one for one in found if one.levels.get("context_tokens") == str(c)] for c in CONTEXTS]
    along = Cliff(
        slice="long_context",
        axis="context_tokens",
        group="",
        levels=tuple(float(c) for c in CONTEXTS),
        baseline=tuple(sum(one.baseline_mean for one in part) / len(part) for part in context),
        candidate=tuple(sum(one.candidate_mean for one in part) / len(part) for part in context),
        at=4096.0 if severity > 0.3 else None,
        at_low=1024.0 if severity > 0.3 else None,
        at_high=8192.0 if severity > 0.3 else None,
        effective_baseline=16384.0,
        effective_candidate=4096.0 if severity > 0.3 else 16384.0,
        score=0.7,
    )
    other = Cliff(
        slice="multi_hop_math",
        axis="hops",
        group="",
        levels=tuple(float(h) for h in HOPS),
        baseline=tuple(one.baseline_mean for one in hops),
        candidate=tuple(one.candidate_mean for one in hops),
        at=2.0 if severity > 0.3 else None,
        at_low=1.0 if severity > 0.3 else None,
        at_high=4.0 if severity > 0.3 else None,
        effective_baseline=4.0,
        effective_candidate=1.0 if severity > 0.3 else 4.0,
        score=0.5,
    )
    return (along, other)


def candidate(name: str, severity: float, rng: random.Random) -> CandidateVerdict:
    """A candidate over the whole suite, its verdict taken from its strata."""
    found = strata(severity, rng)
    gating = [one for one in found if one.gating]
    verdicts = {one.verdict for one in gating}
    verdict = next((v for v in ("fail", "inconclusive", "no_signal") if v in verdicts), "pass")
    worse = sum(one.verdict == "fail" for one in found)
    means = averages(found)
    return CandidateVerdict(
        name=name,
        verdict=verdict,
        reasons=tuple(f"{one.slice}/{one.stratum} is {one.verdict}" for one in gating if one.verdict != "pass"),
        strata=found,
        averages=means,
        cliffs=cliffs(found, severity),
        worse=worse,
        better=0,
        hidden=f"mean {100 * means[0].delta:+.1f} points hides {worse} strata significantly worse and 0 better",
    )


def judgement(*, seed: int = 7, with_missing: bool = True) -> Judgement:
    """int8 nearly unharmed, nf4 broken on the tail, one candidate that could not be judged."""
    rng = random.Random(seed)
    candidates = [candidate("int8", 0.0, rng), candidate("nf4", 0.8, rng)]
    if with_missing:
        reason = "gptqmodel is not installed: pip install 'quantcliff[gptq]'"
        candidates.append(CandidateVerdict(name="gptq-int4", verdict="not_judged", reasons=(reason,), strata=()))
    return Judgement(
        verdict="fail",
        exit_code=4 if with_missing else 1,
        policy={"alpha": 0.05, "inconclusive": "hold"},
        candidates=tuple(candidates),
        baseline="bf16",
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
        tail_events=tuple(TailEvent("nf4", "repetition", pair) for pair in pairs[:4]),
        divergence=tuple(
            Divergence(name, one.slice, one.stratum, position, 4000, scale * (1 + rng.random()), 1 - scale)
            for name, scale in (("int8", 0.004), ("nf4", 0.08))
            for one in cells[::4]
            for position in ("0-255", "256-1023", "1024-4095")
        ),
        power=tuple(PowerRow(one.slice, one.stratum, one.items_planned, 0.04, 480) for one in cells),
        items_spent=9800,
        items_planned=14700,
    )
