"""Whether a loaded candidate may be compared with its baseline, judged from what each proved of itself.

Needs the two `harness.records.Proof` and the candidate's config, no model and no torch.
"""

from __future__ import annotations

from harness.config.methods import same_method
from harness.config.schema import Variant
from harness.errors import NotComparable
from harness.models.served import served_reasons
from harness.records import Proof

__all__ = ["check_candidate", "partly_quantized"]

ALMOST_ALL = 0.9
"""A smaller share of quantized weights is said with the verdict."""
HALF = 0.5
"""A smaller one is refused, unless the config allows it."""


def partly_quantized(share: float | None) -> str:
    """Give a sentence if less than nine tenths of the weights in matrices are quantized, else nothing."""
    if share is None or share >= ALMOST_ALL:
        return ""
    return f"only {share:.0%} of the weights in its matrices are quantized"


def check_candidate(
    baseline: Proof, candidate: Proof, variant: Variant, *, writes: bool = True, cross_engine: bool = False
) -> None:
    """Raise `NotComparable` where the candidate is not what its config says, or cannot be paired with the baseline.

    All reasons are given at once: nothing or less than half quantized though a method is named, another method,
    another vocabulary, another tokenizer, another compute dtype (allowed only if the candidate is about the dtype),
    other end tokens (allowed unless it writes answers in free text). If another program serves one of them, its layers
    cannot be counted, and `harness.models.served.served_reasons` says what must be equal; cross_engine: nothing must.
    """
    if baseline.served is not None or candidate.served is not None:
        if reasons := served_reasons(baseline, candidate, variant, cross_engine=cross_engine):
            raise NotComparable(f"{variant.name}: " + "; ".join(reasons))
        return
    reasons = [
        *_method_reasons(candidate, variant),
        *_share_reasons(candidate, variant),
        *_vocabulary_reasons(baseline, candidate),
        *_dtype_reasons(baseline, candidate, variant),
        *(_end_reasons(baseline, candidate) if writes else ()),
    ]
    if reasons:
        raise NotComparable(f"{variant.name}: " + "; ".join(reasons))


def _method_reasons(candidate: Proof, variant: Variant) -> list[str]:
    wanted = variant.quantization.method
    reasons = []
    if wanted != "none" and not same_method(candidate.method, wanted):
        reasons.append(f"the config says {wanted} and what was loaded is {candidate.method}")
    if (wanted != "none" or candidate.method != "none") and candidate.quantized_modules == 0:
        reasons.append(
            f"none of its {candidate.linear_modules} linear modules is quantized, though the method is"
            f" {wanted if wanted != 'none' else candidate.method}",
        )
    return reasons


def _share_reasons(candidate: Proof, variant: Variant) -> list[str]:
    share = candidate.quantized_share
    if candidate.method == "none" or not candidate.quantized_modules or variant.allow_partial:
        return []
    if share is None or share >= HALF:
        return []
    reason = (
        f"{partly_quantized(share)}: {candidate.method} does not reach the others (experts that are no linear modules,"
        " say); set allow_partial: true on the candidate to judge it as it is"
    )
    return [reason]


def _vocabulary_reasons(baseline: Proof, candidate: Proof) -> list[str]:
    reasons = []
    if candidate.vocabulary != baseline.vocabulary:
        reasons.append(f"its vocabulary has {candidate.vocabulary} rows and the baseline's {baseline.vocabulary}")
    if candidate.tokenizer_digest != baseline.tokenizer_digest:
        hint = " (put the baseline's tokenizer.json beside the GGUF file)" if candidate.method == "gguf" else ""
        reasons.append(f"its tokenizer reads texts otherwise than the baseline's{hint}")
    return reasons


def _end_reasons(baseline: Proof, candidate: Proof) -> list[str]:
    """An end token that one side lacks lets its answers run on: their scores then differ by it, not by the weights."""
    sides = [set(one.end_tokens) for one in (baseline, candidate)]
    if sides[0] == sides[1] or not all(sides):
        return []
    reason = (
        f"its answers end at the tokens {sorted(sides[1])} and the baseline's at {sorted(sides[0])}: give both the same"
        " eos_token_id in generation_config.json"
    )
    return [reason]


def _dtype_reasons(baseline: Proof, candidate: Proof, variant: Variant) -> list[str]:
    about_dtype = variant.dtype is not None and candidate.method == "none"
    if about_dtype or candidate.compute_dtype == baseline.compute_dtype:
        return []
    reason = (
        f"it computes in {candidate.compute_dtype} and the baseline in {baseline.compute_dtype}, so the comparison"
        " would measure the dtype: set execution.dtype to one that both can use"
    )
    return [reason]
