"""Whether the sides of a run may be compared: each loaded as its config says, and none the baseline renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config.methods import same_method
from harness.config.schema import Variant
from harness.errors import Incomplete, NotComparable, StoreError
from harness.models.compatibility import check_candidate, same_server
from harness.records import Generation, Proof, Response, Scored, proof_from_json
from harness.store.record import CONTROL, RunRecord

__all__ = ["check_sides"]


def check_sides(run: RunRecord, *, allow_identical: bool) -> None:
    """Refuse a variant without a proof that fits its config, and a candidate that is the baseline.

    The proofs of a rehearsal are made up and are not compared. Raises Incomplete, NotComparable, StoreError.
    """
    baseline = run.experiment.baseline
    control = [baseline.model_copy(update={"name": CONTROL})] if CONTROL in run.answers else []
    variants = [one for one in (baseline, *control, *run.experiment.candidates) if one.name not in run.failures]
    for variant in variants:
        if variant.name not in run.identities:
            path = run.directory.path / variant.name / "variant.json"
            raise Incomplete(f"{path}: is missing, so nothing shows what answered: give `quantcliff run` again")
    if run.experiment.execution.rehearsal is not None or baseline.name in run.failures:
        return
    base = _proof(run, baseline.name)
    for variant in variants:
        proof, path = _proof(run, variant.name), run.directory.path / variant.name / "variant.json"
        try:
            writes, cross = any(item.kind == "generate" for item in run.items), run.experiment.execution.cross_engine
            check_candidate(base, proof, variant, writes=writes, cross_engine=cross)
        except NotComparable as error:
            raise NotComparable(f"{path}: {error}") from error
        same = _same_model(run, variant)
        if variant.name == CONTROL and not same:
            raise NotComparable(f"{path}: the control is not the baseline, whose repetition it should be")
        if variant.name not in {CONTROL, baseline.name} and same and not allow_identical:
            text = f"{variant.name} is the baseline itself ({same}), so there is nothing to compare"
            raise NotComparable(f"{path}: {text}: give the quantized model, or --allow-identical for an A/A comparison")


def _proof(run: RunRecord, name: str) -> Proof:
    record = run.identities[name]
    try:
        return proof_from_json(record["proof"])
    except (KeyError, TypeError) as error:
        path = run.directory.path / name / "variant.json"
        raise StoreError(f"{path}: holds no proof of what was loaded: {error}") from error


def _same_model(run: RunRecord, variant: Variant) -> str:
    """Return in what respect a variant equals the baseline; empty if model, method, bits or dtype differ."""
    baseline = run.experiment.baseline
    one, other = _proof(run, baseline.name), _proof(run, variant.name)
    if not run.experiment.execution.cross_engine and (shown := same_server(one, other)):
        return shown
    if not same_method(one.method, other.method):
        return ""
    if (baseline.kv_cache, baseline.decoding) != (variant.kv_cache, variant.decoding):
        return ""  # "is it really the same answer?" is what such a run asks
    if (one.bits_per_weight, one.compute_dtype) != (other.bits_per_weight, other.compute_dtype):
        return ""
    weights = [run.identities[name].get("weights") for name in (baseline.name, variant.name)]
    asked_alike = (baseline.quantization, baseline.engine.asked()) == (variant.quantization, variant.engine.asked())
    if weights[0] == weights[1] and asked_alike:
        return "the same weights, method and dtype"
    before, after = (_said(run.of(name)) for name in (baseline.name, variant.name))
    # The baseline may have been asked more, see `harness.judge.asked`.
    alike = bool(after) and all(before.get(key) == response for key, response in after.items())
    return "the same method and dtype, and every answer is the same" if alike else ""


def _said(answers: list[Scored]) -> Mapping[tuple[str, int], Response]:
    """Return the answers that were stored with what shows a model: tokens of a text, or probabilities of choices."""
    stored: dict[tuple[str, int], Any] = {}
    for one in answers:
        response = one.response
        if response.type == "choice_logprobs" or (isinstance(response, Generation) and response.token_ids):
            stored[one.item_id, response.sample] = response
    return stored
