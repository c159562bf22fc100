"""Whether two served models may be compared: what their servers must have in common.

Changing the engine, its version, its dtype or its flags alone changes as many answers as int8 does, so they must be
equal unless the change of engine is the question.
"""

from __future__ import annotations

from pathlib import Path

from harness.config.engines import UNDER_TEST
from harness.config.methods import same_method
from harness.config.schema import Experiment, Variant
from harness.records import Proof

__all__ = ["cross_engine_note", "same_server", "served_reasons", "tokenizer_place"]

_EQUAL = {
    "engine": "its engine is {} and the baseline's {}",
    "version": "its server's version is {} and the baseline's {}",
    "dtype": "its server computes in {} and the baseline's in {}",
    "prompts": "its prompts are sent as {} and the baseline's as {}",
    "prompt_offset": "its server counts {} tokens more than are sent in a prompt, and the baseline's {}",
    "logprob_method": "its choices are scored by {} and the baseline's by {}",
    "hardware": "it runs on {} and the baseline on {}, where kernels may compute other numbers",
}
"""What of two servers must be equal, and the sentence if it is not."""

SURE = -0.1  # log-probability above which a token shows little of the weights
UNCERTAIN_TOKENS = 4  # tokens below it that show whether two models are the same
SAME_LOGPROB = 1e-3
"""Largest difference between log-probabilities of the same weights on the same engine, asked one at a time."""


def tokenizer_place(path: Path) -> tuple[Path, dict[str, str]]:
    """Give the folder of a model's tokenizer and config, and how transformers is told to read them.

    Those of a GGUF file are in the file, unless both are next to it.
    """
    if not path.is_file():
        return path, {}
    beside = all((path.parent / name).is_file() for name in ("tokenizer.json", "config.json"))
    return path.parent, {} if beside else {"gguf_file": path.name}


def served_reasons(baseline: Proof, candidate: Proof, variant: Variant, *, cross_engine: bool) -> list[str]:
    """Give the reasons why a served candidate cannot be compared with its baseline; empty if it can.

    What only one of two servers says is not shown to be equal. Flags that quantize something may differ: they are what
    the candidate is about.
    """
    wanted = variant.quantization.method
    reasons = []
    if wanted != "none" and not same_method(candidate.method, wanted):
        reasons.append(f"the config says {wanted} and what is served is {candidate.method}")
    if cross_engine:
        return reasons
    own, base = (proof.served or {"engine": "transformers"} for proof in (candidate, baseline))
    same_engine, found = own["engine"] == base["engine"], []
    for key in _EQUAL if same_engine else ("engine",):
        sides = [None if one.get(key) == "" else one.get(key) for one in (own, base)]
        if sides[0] != sides[1]:
            found.append(_EQUAL[key].format(*("unknown" if one is None else one for one in sides)))
    if same_engine and own["engine"] != "lm_eval":  # whose arguments name the model
        flags = [one.get("flags") or {} for one in (own, base)]
        for name in sorted({*flags[0], *flags[1]} - UNDER_TEST):
            mine, theirs = (one.get(name) for one in flags)
            if mine != theirs:
                found.append(f"its flag {name} is {mine} and the baseline's {theirs}")
    if found:
        found.append("give both the same, or set execution.cross_engine: true if that difference is the question")
    return reasons + found


def same_server(baseline: Proof, candidate: Proof) -> str:
    """Say in what respect what two servers serve is the same model; empty if it is not, or if they do not show it.

    Their log-probabilities of one text must agree as only the same weights do, int8 being the closest other ones, and
    enough of its tokens must be uncertain.
    """
    one, other = ((proof.served or {}).get("canary") or [] for proof in (baseline, candidate))
    if len(one) != len(other) or sum(weight < SURE for weight in one) < UNCERTAIN_TOKENS:
        return ""
    same = all(abs(own - base) <= SAME_LOGPROB for own, base in zip(one, other, strict=True))
    return f"{len(one)} log-probabilities that its server gives are those of the baseline's server" if same else ""


def cross_engine_note(experiment: Experiment) -> str:
    """Say what a comparison across engines measures."""
    names = ", ".join(f"{one.name} on {one.engine.name}" for one in experiment.variants)
    return (
        f"This run compares engines ({names}): a difference may come from the engine, its version, its dtype or its"
        " flags, and not from the weights."
    )
