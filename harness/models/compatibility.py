"""Whether a loaded candidate may be compared with its baseline, judged from what each proved of itself."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.methods import same_method
from harness.config.schema import Variant
from harness.errors import NotComparable
from harness.models.served import served_reasons
from harness.records import Proof

__all__ = ["check_candidate", "partly_quantized"]

ALMOST_ALL = 0.9  # a smaller share of quantized weights is said with the verdict
HALF = 0.5  # a smaller one is refused, unless the config allows it


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
        reasons = served_reasons(baseline, candidate, variant, cross_engine=cross_engine)
    else:
        reasons = [*_quantization_reasons(candidate, variant), *_pair_reasons(baseline, candidate, variant)]
        reasons += _end_reasons(baseline, candidate) if writes else ()
    if reasons:
        raise NotComparable(f"{variant.name}: " + "; ".join(reasons))


def _quantization_reasons(candidate: Proof, variant: Variant) -> Iterator[str]:
    wanted, loaded, share = variant.quantization.method, candidate.method, candidate.quantized_share
    if wanted != "none" and not same_method(loaded, wanted):
        yield f"the config says {wanted} and what was loaded is {loaded}"
    if (wanted, loaded) != ("none", "none") and candidate.quantized_modules == 0:
        yield (
            f"none of its {candidate.linear_modules} linear modules is quantized, though the method is"
            f" {wanted if wanted != 'none' else loaded}"
        )
    partly = loaded != "none" and candidate.quantized_modules > 0 and not variant.allow_partial
    if partly and share is not None and share < HALF:
        yield (
            f"{partly_quantized(share)}: {loaded} does not reach the others (experts that are no linear modules, say);"
            " set allow_partial: true on the candidate to judge it as it is"
        )


def _pair_reasons(baseline: Proof, candidate: Proof, variant: Variant) -> Iterator[str]:
    if candidate.vocabulary != baseline.vocabulary:
        yield f"its vocabulary has {candidate.vocabulary} rows and the baseline's {baseline.vocabulary}"
    if candidate.tokenizer_digest != baseline.tokenizer_digest:
        hint = " (put the baseline's tokenizer.json beside the GGUF file)" if candidate.method == "gguf" else ""
        yield f"its tokenizer reads texts otherwise than the baseline's{hint}"
    about_dtype = variant.dtype is not None and candidate.method == "none"
    if candidate.compute_dtype != baseline.compute_dtype and not about_dtype:
        yield (
            f"it computes in {candidate.compute_dtype} and the baseline in {baseline.compute_dtype}, so the comparison"
            " would measure the dtype: set execution.dtype to one that both can use"
        )


def _end_reasons(baseline: Proof, candidate: Proof) -> Iterator[str]:
    """An end token that one side lacks lets its answers run on: their scores then differ by it, not by the weights."""
    before, own = (sorted(set(one.end_tokens)) for one in (baseline, candidate))
    if before and own and before != own:
        yield (
            f"its answers end at the tokens {own} and the baseline's at {before}: give both the same eos_token_id in"
            " generation_config.json"
        )
