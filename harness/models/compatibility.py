"""Whether a loaded candidate may be compared with its baseline, judged from what each proved of itself."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.config.engines import UNDER_TEST
from harness.config.methods import same_method
from harness.config.schema import Experiment, Variant
from harness.errors import NotComparable
from harness.records import Proof

ALMOST_ALL = 0.9  # a smaller share of quantized weights is said with the verdict
HALF = 0.5  # a smaller one is refused, unless the config allows it
# What of two servers must be equal, and the sentence if it is not.
_EQUAL: dict[str, str] = json.loads(Path(__file__).with_name("server_differences.json").read_text("utf-8"))
SURE = -0.1  # log-probability above which a token shows little of the weights
UNCERTAIN_TOKENS = 4  # tokens below it that show whether two models are the same
SAME_LOGPROB = 1e-3  # largest difference between log-probabilities of the same weights on the same engine
OTHER_LOGPROB = 0.3  # a larger one shows other weights behind one name: bfloat16 logits of 16 to 32 are 0.125 apart
# What servers take of `generation_config.json` if a request does not say: vLLM the first row, `transformers serve` all.
_SERVER_DEFAULTS = Path(__file__).with_name("server_defaults.txt").read_text("utf-8").split()


def partly_quantized(share: float | None) -> str:
    """Give a sentence if less than nine tenths of the weights in matrices are quantized, else nothing."""
    if share is None or share >= ALMOST_ALL:
        return ""
    return f"only {share:.0%} of the weights in its matrices are quantized"


def check_candidate(
    baseline: Proof, candidate: Proof, variant: Variant, *, writes: bool = True, cross_engine: bool = False
) -> None:
    """Raise `NotComparable` where the candidate is not what its config says, or cannot be paired with the baseline.

    writes: answers are in free text, so that end tokens must be equal. cross_engine: of servers, nothing must be equal;
    else engine, version, dtype and flags must: a change of one alone changes as many answers as int8 does.
    """
    if baseline.served is not None or candidate.served is not None:
        reasons = _served_reasons(baseline, candidate, variant, cross_engine=cross_engine)
    else:
        reasons = [*_reasons(baseline, candidate, variant)]
    # An end token that one side lacks lets its answers run on: their scores then differ by it, not by the weights.
    before, own = (sorted(set(one.end_tokens)) for one in (baseline, candidate))
    if writes and before and own and before != own:
        remedy = "give both the same eos_token_id in generation_config.json"
        reasons.append(f"its answers end at the tokens {own} and the baseline's at {before}: {remedy}")
    if reasons:
        raise NotComparable(f"{variant.name}: " + "; ".join(reasons))


def _reasons(baseline: Proof, candidate: Proof, variant: Variant) -> Iterator[str]:
    wanted, loaded, share = variant.quantization.method, candidate.method, candidate.quantized_share
    if wanted != "none" and not same_method(loaded, wanted):
        yield f"the config says {wanted} and what was loaded is {loaded}"
    if (wanted, loaded) != ("none", "none") and candidate.quantized_modules == 0:
        method = wanted if wanted != "none" else loaded
        yield f"none of its {candidate.linear_modules} linear modules is quantized, though the method is {method}"
    partly = loaded != "none" and candidate.quantized_modules > 0 and not variant.allow_partial
    if partly and share is not None and share < HALF:
        remedy = "set allow_partial: true on the candidate to judge it as it is"
        others = "does not reach the others (experts that are no linear modules, say)"
        yield f"{partly_quantized(share)}: {loaded} {others}; {remedy}"
    if candidate.vocabulary != baseline.vocabulary:
        yield f"its vocabulary has {candidate.vocabulary} rows and the baseline's {baseline.vocabulary}"
    if candidate.tokenizer_digest != baseline.tokenizer_digest:
        hint = " (put the baseline's tokenizer.json beside the GGUF file)" if candidate.method == "gguf" else ""
        yield f"its tokenizer reads texts otherwise than the baseline's{hint}"
    about_dtype = variant.dtype is not None and candidate.method == "none"
    if candidate.compute_dtype != baseline.compute_dtype and not about_dtype:
        dtypes = f"it computes in {candidate.compute_dtype} and the baseline in {baseline.compute_dtype}"
        yield f"{dtypes}, so the comparison would measure the dtype: set execution.dtype to one that both can use"


def _served_reasons(baseline: Proof, candidate: Proof, variant: Variant, *, cross_engine: bool) -> list[str]:
    """Compare two servers: what only one says is not shown to be equal; flags that quantize something may differ."""
    wanted, reasons = variant.quantization.method, []
    if wanted != "none" and not same_method(candidate.method, wanted):
        reasons.append(f"the config says {wanted} and what is served is {candidate.method}")
    if cross_engine:
        return reasons
    given = (proof.served or {"engine": "transformers"} for proof in (candidate, baseline))
    own, base = ({**one, "canary": "some" if one.get("canary") else "no"} for one in given)
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


def check_software(baseline: Mapping[str, Any], own: Mapping[str, Any], name: str) -> None:
    """Raise `NotComparable` if the engine, or a package that both used, was another when a variant answered here."""
    before, now = ({**one["versions"], "engine": one["engine"]} for one in (baseline, own))
    differ = [f"{one} {now[one]}, not {before[one]}" for one in sorted({*before} & {*now}) if before[one] != now[one]]
    if differ:
        raise NotComparable(f"{name} answered with {', '.join(differ)} as the baseline: run both in another --output")


def same_server(baseline: Proof, candidate: Proof) -> str:
    """Say in what respect two servers serve the same model; empty if they do not, or do not show it."""
    sides = [proof.served or {} for proof in (baseline, candidate)]
    places = [(side.get("url"), (side.get("reported") or {}).get("root")) for side in sides]  # `root`: vLLM's weights
    one, other = (side.get("canary") or [] for side in sides)
    if len(one) != len(other) or sum(weight < SURE for weight in one) < UNCERTAIN_TOKENS:
        alike = all(places[0]) and places[0] == places[1]  # one gateway may mount all models at one place
        return f"its address, the same, serves both from {places[0][1]}" if alike else ""
    same = all(abs(own - base) <= SAME_LOGPROB for own, base in zip(one, other, strict=True))
    return f"{len(one)} log-probabilities that its server gives are those of the other's" if same else ""


def replaced(before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether a canary is gone or shows other weights, by its first token: behind it rounding may change all others."""
    return bool(before) and (not now or abs(before[0] - now[0]) > OTHER_LOGPROB)


def cross_engine_note(experiment: Experiment) -> str:
    """Say what a comparison across engines measures."""
    names = ", ".join(f"{one.name} on {one.engine.name}" for one in experiment.variants)
    why = "a difference may come from the engine, its version, its dtype or its flags, and not from the weights"
    return f"This run compares engines ({names}): {why}."


def serving_notes(baseline: str, paths: Mapping[str, str]) -> list[str]:
    """Say which candidates' folders hold what servers apply, and a run does not. baseline: its name in `paths`."""
    own, notes = _server_defaults(Path(paths[baseline])), list[str]()
    for name, path in paths.items():
        theirs = _server_defaults(Path(path)) if Path(path, "config.json").is_file() else own  # a GGUF file has its own
        if keys := sorted(key for key in {*own, *theirs} if own.get(key) != theirs.get(key)):
            said = f"{', '.join(keys)} of its folder are not the baseline's: servers apply them to its answers"
            notes.append(f"{name}: {said}, this run asks both by its own sampling and the baseline's chat template")
    return notes


def _server_defaults(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # a damaged one is refused when the model is loaded
        said = json.loads((folder / "generation_config.json").read_text("utf-8"))
        found |= {key: said[key] for key in _SERVER_DEFAULTS if key in said}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found["chat_template"] = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))["chat_template"]
    with contextlib.suppress(OSError, ValueError):
        found["chat_template"] = (folder / "chat_template.jinja").read_text("utf-8")
    return found
