"""Whether a loaded candidate may be compared with its baseline, judged from what each proved of itself.

Needs the two `harness.records.Proof` and the candidate's config, no model and no torch.
"""

from __future__ import annotations

from harness.config import Variant
from harness.errors import NotComparable
from harness.records import Proof

__all__ = ["check_candidate", "same_method"]

_ALIASES = {"auto-gptq": "gptq"}


def same_method(one: str, other: str) -> bool:
    """Whether two method names mean the same weights: AutoGPTQ and GPTQ are one format."""
    return _ALIASES.get(one, one) == _ALIASES.get(other, other)


def check_candidate(baseline: Proof, candidate: Proof, variant: Variant) -> None:
    """Raise `NotComparable` where the candidate is not what its config says, or cannot be paired with the baseline.

    All reasons are given at once: nothing quantized though a method is named, another method, another vocabulary,
    another tokenizer, another compute dtype (allowed only where the dtype is what the candidate is about).
    """
    reasons = [
        *_method_reasons(candidate, variant),
        *_vocabulary_reasons(baseline, candidate),
        *_dtype_reasons(baseline, candidate, variant),
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


def _vocabulary_reasons(baseline: Proof, candidate: Proof) -> list[str]:
    reasons = []
    if candidate.vocabulary != baseline.vocabulary:
        reasons.append(f"its vocabulary has {candidate.vocabulary} rows and the baseline's {baseline.vocabulary}")
    if candidate.tokenizer_digest != baseline.tokenizer_digest:
        hint = " (put the baseline's tokenizer.json beside the GGUF file)" if candidate.method == "gguf" else ""
        reasons.append(f"its tokenizer reads texts otherwise than the baseline's{hint}")
    return reasons


def _dtype_reasons(baseline: Proof, candidate: Proof, variant: Variant) -> list[str]:
    about_dtype = variant.dtype is not None and candidate.method == "none"
    if about_dtype or candidate.compute_dtype == baseline.compute_dtype:
        return []
    reason = (
        f"it computes in {candidate.compute_dtype} and the baseline in {baseline.compute_dtype}, so the comparison"
        " would measure the dtype: set execution.dtype to one that both can use"
    )
    return [reason]
